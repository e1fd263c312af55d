"""Signs of entries by signs of neurons and by inputs in turns, against enumeration of all cells."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac.activations import Abs, AbstractActivation, LeakyReLU, ReLU
from recurjac.branching import EntriesOver, EntrySigns, Signs
from recurjac.branching.pool import Bounded, Goals
from recurjac.branching.signs import divisible, influences, with_signs
from recurjac.jacobian import Gradients
from recurjac.problem import join
from recurjac.testing.networks import true_jacobians
from tests.test_exact_norms import cells

LONG = rj.Limit(seconds=3600, parts=20000)
FEW_POINTS = rj.Probe(count=4)
Layers = list[tuple[Tensor, Tensor]]
ACTIVATIONS: dict[str, tuple[AbstractActivation, float]] = {
    "relu": (ReLU(), 0.0), "leaky": (LeakyReLU(0.2), 0.2), "falling": (LeakyReLU(-0.5), -0.5), "abs": (Abs(), -1.0),
}  # fmt: skip


def bent(seed: int, sizes: tuple[int, ...]) -> Layers:
    """Random layers, and beside them every input + 9, which passes all kinks on their right, without a last weight."""
    g = torch.Generator().manual_seed(seed)
    n, found = sizes[0], []
    for i, (before, after) in enumerate(pairwise(sizes)):
        more, last = (0 if i == 0 else n), i == len(sizes) - 2
        rows = torch.randn(after, before, generator=g, dtype=torch.float64) * 1.5 / before**0.5
        bias = 0.5 * torch.randn(after, generator=g, dtype=torch.float64)
        eye = torch.eye(n, dtype=torch.float64)
        whole = torch.zeros(after + (0 if last else n), before + more, dtype=torch.float64)
        whole[:after, :before] = rows
        if not last:
            whole[after:, before if i else 0 :] = eye
            bias = torch.cat([bias, torch.full((n,), 0.0 if i else 9.0, dtype=torch.float64)])
        found.append((whole, bias))
    return found


def tilted(layers: Layers, slopes: Tensor) -> Layers:
    """The same plus slopes · x."""
    weight, bias = layers[-1]
    more = weight.clone()
    more[0, -len(slopes) :] += slopes
    return [*layers[:-1], (more, bias)]


def unit_box(n: int) -> rj.Box:
    return rj.Box(torch.full((1, n), -1.0).double(), torch.full((1, n), 1.0).double())


def extremes(net: Layers, slope: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest value of each entry over all cells in the box from -1 to 1."""
    every = np.array([j[0] for j in cells(net, slope, (-np.ones(n), np.ones(n)))])
    return every.min(0), every.max(0)


def judged(net: Layers, kind: str, seed: int) -> None:
    """Verdicts are those of the enumeration, and witnesses are in the box and have the derivatives that they should."""
    activation, slope = ACTIVATIONS[kind]
    n = net[0][0].shape[1]
    network = rj.load(net, activation=activation)
    low, high = extremes(net, slope, n)
    found = rj.monotone(network, unit_box(n), probe=replace(FEW_POINTS, seed=seed), limit=LONG)
    for r in range(n):
        want: rj.Trend | None
        if low[r] > 1e-9:
            want = rj.Trend.INCREASING
        elif high[r] < -1e-9:
            want = rj.Trend.DECREASING
        else:
            want = rj.Trend.VIOLATED if low[r] < -1e-9 and high[r] > 1e-9 else None
        assert want is None or found.trend(0, 0, r) is want
        assert float(found.lower[0, 0, r]) <= low[r] + 1e-9
        assert float(found.upper[0, 0, r]) >= high[r] - 1e-9
        if want is rj.Trend.VIOLATED:
            up, down = found.witnesses(0, 0, r)
            pair = torch.stack([up, down])
            assert bool((pair.abs() <= 1).all())
            slopes = true_jacobians(network, pair)[:, 0, r]
            assert float(slopes[0]) > 0 > float(slopes[1])


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("shift", [1e-3, -1e-3])
def test_networks_that_are_barely_monotone_or_barely_not(kind: str, shift: float) -> None:
    """Every entry is shifted so that it is a little above 0, or below 0, in the one cell where it is least."""
    for seed, sizes in enumerate(((2, 4, 1), (2, 3, 3, 1), (3, 4, 1))):
        net, slope = bent(seed, sizes), ACTIVATIONS[kind][1]
        if kind == "abs" and len(sizes) == 4:
            continue  # |x + 9| is x + 9, but cells of three layers take too long to enumerate
        low, _ = extremes(net, slope, sizes[0])
        judged(tilted(net, torch.from_numpy(shift - low)), kind, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_many_networks_are_judged_by_enumeration(seed: int) -> None:
    sizes = ((2, 4, 1), (2, 3, 3, 1), (3, 4, 1), (2, 5, 1), (1, 3, 2, 2, 1))[seed % 5]
    kind = list(ACTIVATIONS)[seed // 5 % 4]
    net = bent(100 + seed, sizes)
    judged(net, kind, seed)
    low, high = extremes(net, ACTIVATIONS[kind][1], sizes[0])
    for shift in (1e-2, -1e-2, 1e-5, -1e-5):
        judged(tilted(net, torch.from_numpy(shift - low)), kind, seed)
        judged(tilted(net, torch.from_numpy(shift - high)), kind, seed)


@pytest.mark.parametrize("seed", [1])
def test_many_kinks_that_meet_are_decided(seed: int) -> None:
    """Of eight inputs, which halves of inputs would not separate."""
    net = bent(seed, (8, 10, 8, 1))
    points = 2 * torch.rand(4000, 8, generator=torch.Generator().manual_seed(9), dtype=torch.float64) - 1
    low = true_jacobians(rj.load(net, activation="relu"), points)[:, 0].amin(0)
    network = rj.load(tilted(net, 0.3 - low), activation="relu")
    found = rj.monotone(network, unit_box(8), limit=rj.Limit(seconds=3600, parts=4000))
    assert not bool(found.undecided.any())
    assert "sign bisection" in found.method
    slopes = true_jacobians(network, points)[:, 0]
    assert not bool((found.increasing[0, 0] & (slopes < 0).any(0)).any())
    for entry in found.violated.nonzero().tolist():
        slopes = true_jacobians(network, torch.stack(found.witnesses(*entry)))[:, 0, entry[2]]
        assert float(slopes[0]) > 0 > float(slopes[1])


def test_a_violation_in_a_small_cell_is_found() -> None:
    """x_0 + … falls only where three half-spaces meet in a corner of volume 1e-9."""
    n, far = 6, 0.995
    first = torch.cat([torch.eye(n), torch.ones(1, n)]).double()
    bias = torch.cat([torch.full((n,), 9.0), torch.tensor([-far * n])]).double()
    last = torch.cat([torch.ones(n), torch.tensor([-3.0])]).double().unsqueeze(0)
    network = rj.load([(first, bias), (last, None)], activation="relu")
    found = rj.monotone(network, unit_box(n), probe=rj.Probe(count=0), limit=LONG)
    assert bool(found.violated.all())
    assert float(found.witnesses(0, 0, 0)[1].sum()) > far * n


def test_dead_regions_do_not_hide_a_sign() -> None:
    """relu(x + y - 1) is constant in half of the box, and rises in the other."""
    network = rj.load(
        [(torch.ones(1, 2).double(), torch.tensor([-1.0]).double()), (torch.ones(1, 1).double(), None)],
        activation="relu",
    )
    assert bool(rj.monotone(network, unit_box(2)).increasing.all())


# Ways


def test_smooth_networks_are_divided_by_inputs_only() -> None:
    torch.manual_seed(0)
    layers = [(torch.randn(6, 2).double(), torch.randn(6).double()), (torch.randn(1, 6).double(), None)]
    found = rj.monotone(rj.load(layers, activation="gelu"), unit_box(2), probe=rj.Probe(count=0), limit=LONG)
    assert "sign" not in found.method


def test_what_is_left_when_parts_run_out_is_still_proved() -> None:
    net = bent(1, (3, 6, 5, 1))
    network = rj.load(net, activation="relu")
    problem = rj.Problem(network, unit_box(3))
    wanted = torch.ones(3, dtype=torch.bool)
    undivided = EntrySigns(rj.Limit(seconds=3600, parts=1)).decided(problem, wanted, 0.0)
    sums = []
    for parts in (2, 10, 40):
        found = EntrySigns(rj.Limit(seconds=3600, parts=parts)).decided(problem, wanted, 0.0)
        assert found.parts <= parts + 2
        assert bool((found.attained.gain <= found.uppers).all())
        assert bool((found.uppers <= torch.maximum(undivided.uppers, found.attained.gain)).all())
        sums.append(float(found.uppers.sum()))
        assert not found.interrupted
    assert sums[-1] < 0.96 * float(undivided.uppers.sum())


def test_limits_that_have_passed_leave_a_proved_state() -> None:
    network = rj.load(bent(1, (3, 6, 5, 1)), activation="relu")
    found = rj.monotone(network, unit_box(3), probe=rj.Probe(count=0), limit=rj.Limit(seconds=1e-9))
    slopes = true_jacobians(network, 2 * torch.rand(500, 3).double() - 1)[:, 0]
    assert bool((found.lower[0, 0] <= slopes.amin(0) + 1e-9).all())
    assert bool((found.upper[0, 0] >= slopes.amax(0) - 1e-9).all())
    assert bool(found.undecided.any())


def test_an_interruption_ends_all_ways_and_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    net = bent(1, (3, 6, 5, 1))
    network = rj.load(net, activation="relu")
    bounded, calls = EntriesOver.bounded, list[int]()

    def third_is_interrupted(self: Any, problem: rj.Problem, goals: Goals) -> Bounded:
        calls.append(len(calls))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return bounded(self, problem, goals)

    monkeypatch.setattr(EntriesOver, "bounded", third_is_interrupted)
    region = rj.LpBall(torch.zeros(2, 3).double(), 1.0)
    found = rj.monotone(network, region, probe=rj.Probe(count=0), limit=LONG)
    assert len(calls) == 3
    assert "interrupted" in found.provenance.notes
    slopes = true_jacobians(network, 2 * torch.rand(500, 3).double() - 1)[:, 0]
    assert bool((found.lower[:, 0] <= slopes.amin(0) + 1e-9).all())


# Parts


def two_blocks() -> rj.Network:
    """relu(x_0) and relu(x_1): two outputs that do not depend on each other."""
    eye = torch.eye(2, dtype=torch.float64)
    return rj.load([(eye, None), (eye, None)], activation="relu")


def test_neurons_count_by_the_open_entries() -> None:
    state = rj.Problem(two_blocks(), unit_box(2)).preactivations()
    for k in range(2):
        weights = torch.zeros(1, 2, 2, dtype=torch.float64)
        weights[0, k, k] = 1
        found = influences(state, weights)[1][0]
        assert float(found[k]) == 1
        assert float(found[1 - k]) < 1e-20
    assert float(influences(state)[1].min()) > 0.5


def test_each_part_is_divided_its_own_way() -> None:
    """By the sign of an unstable neuron, or by an input where there is none."""
    problem = rj.Problem(
        two_blocks(), rj.Box([[-1.0, 1.0], [1.0, 1.0], [1.0, -1.0]], [[1.0, 2.0], [2.0, 2.0], [2.0, 1.0]])
    )
    brancher = rj.SignBisection()
    parts = brancher.divided(problem, brancher.effects(problem.preactivations()))
    assert len(parts) == 2
    grid = torch.rand(1, 500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    box = problem.bound.box(problem.arithmetic)
    points = box.lower.unsqueeze(1) + grid * box.width.unsqueeze(1)
    inside = torch.zeros(3, 500, dtype=torch.bool)
    for part in parts:
        own = part.bound.box(part.arithmetic)
        held = ((points >= own.lower.unsqueeze(1)) & (points <= own.upper.unsqueeze(1))).all(2)
        known = part.known[1]
        held &= ((points >= known.lower.unsqueeze(1)) & (points <= known.upper.unsqueeze(1))).all(2)
        inside |= held
        assert bool((held.sum(1) < 400).all())
        assert torch.equal(own.lower[::2], box.lower[::2])  # the first and the last by signs
    assert bool(inside.all())


def test_cells_are_proved_empty_or_have_a_point() -> None:
    """z = (x, -x - 1/2): both cannot be positive; x alone can."""
    layers = [
        (torch.tensor([[1.0], [-1.0]]).double(), torch.tensor([0.0, -0.5]).double()),
        (torch.ones(1, 2).double(), None),
    ]
    problem = rj.Problem(rj.load(layers, activation="relu"), unit_box(1))
    each = join([problem, problem])
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double()
    parts = with_signs(each, divisible(each), signs)
    bound = EntriesOver(
        rj.Chords(), Gradients(problem).chain.basis(0), Signs(torch.ones(1, dtype=torch.bool), 0.0), problem
    )
    goals = Goals(torch.full((2,), -9.0).double(), torch.ones(2).double())
    found = bound.bounded(parts, goals)
    assert found.upper[0].tolist() == [-inf, -inf]
    assert bool((found.upper[1] > -inf).all())
    assert found.points is not None
    assert bool((found.points > 0).all())
