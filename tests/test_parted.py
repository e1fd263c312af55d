"""Balls without stationary points whose parts have derivatives that keep their signs."""

from __future__ import annotations

import json
from itertools import pairwise
from math import inf, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac.applications.parted import parted_radii
from recurjac.branching.some_sign import SomeSign
from recurjac.cli import main
from recurjac.jacobian import Chords
from recurjac.search import point_jacobian

NORMS = (1, 2, inf)


def net(seed: int, sizes: tuple[int, ...], activation: str) -> rj.Network:
    g = torch.Generator().manual_seed(seed)
    layers = [(torch.randn(b, a, generator=g).double() / a**0.5, torch.randn(b, generator=g).double() / 2)
              for a, b in pairwise(sizes)]  # fmt: skip
    return rj.load(layers, activation=activation)


def inputs(seed: int, size: int, count: int = 1) -> Tensor:
    return torch.rand(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def divided(parts: int) -> rj.Limit:
    return rj.Limit(seconds=inf, parts=parts)


def bowl(n: int) -> rj.Network:
    """Σ x_i², whose one stationary point is 0."""
    return rj.load([(torch.eye(n).double(), None), (torch.ones(1, n).double(), None)], activation="square")


# The truth is known


@pytest.mark.parametrize(("n", "p"), [(2, 1), (2, 2), (3, inf), pytest.param(3, 2, marks=pytest.mark.slow)])
def test_the_distance_to_the_bottom_of_a_bowl(n: int, p: float) -> None:
    """No single entry keeps its sign beyond radius 1, where a ball meets the planes x_i = 0."""
    x, truth = torch.ones(1, n).double(), n ** (1 / p)
    found = rj.stationary_free_radius(bowl(n), x, output=0, p=p, tolerance=0.03, limit=divided(300))
    assert found.radius.item() < truth
    assert found.radius.item() >= truth * 0.9
    if p != inf:
        assert found.parts.item() > 1
        assert found.witness.item() == -1
        assert (found.lower.item(), found.upper.item()) == (-inf, inf)
        assert "parts" in repr(found)


@pytest.mark.parametrize(("p", "extra"), [(1, 0), (2, 0), (inf, 0), (2, 6)])
def test_a_crease_between_two_gradients_is_stationary(p: float, extra: int) -> None:
    """|x_0 - x_1| has the gradients ±(1, -1), both without zeros: Clarke's gradient at the crease contains 0."""
    row = torch.tensor([[1.0, -1.0] + [0.0] * extra]).double()
    crease = rj.load([(torch.cat([row, -row]), None), (torch.ones(1, 2).double(), None)], activation="relu")
    x = torch.tensor([[1.0, 0.0] + [0.0] * extra]).double()
    truth = {1: 1.0, 2: 1 / sqrt(2), inf: 0.5}[p]
    found = rj.stationary_free_radius(crease, x, output=0, p=p, tolerance=0.05, limit=divided(50))
    assert truth * 0.95 <= found.radius.item() < truth
    on_it = rj.stationary_free_radius(crease, 0 * x, output=0, p=p, limit=divided(50))
    assert (on_it.radius.item(), on_it.parts.item(), on_it.witness.item()) == (0, 0, -1)


@pytest.mark.parametrize("extra", [0, 6], ids=["inputs", "signs"])
def test_a_crease_whose_sides_are_close_to_0_in_different_entries(extra: int) -> None:
    """The gradients are (-9, 1) and (1, -1/9): in each, the other entry is farther from 0."""
    rows = torch.tensor([[1.0, -1 / 9], [-9.0, 1.0]]).double()
    rows = torch.cat([rows, torch.zeros(2, extra).double()], 1)
    net_ = rj.load([(rows, None), (torch.ones(1, 2).double(), None)], activation="relu")
    x = torch.tensor([[1.0, 0.0] + [0.0] * extra]).double()
    found = rj.stationary_free_radius(net_, x, output=0, p=2, tolerance=0.05, limit=divided(50))
    assert found.radius.item() < 1 / sqrt(1 + 1 / 81)


@pytest.mark.parametrize("activation", ["relu", "tanh", "relu6"])
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(k, marks=pytest.mark.slow) for k in range(2, 12))])
def test_no_slope_of_one_input_turns_within(seed: int, activation: str) -> None:
    network = net(seed, (1, 7, 6, 1), activation)
    x = 4 * inputs(seed, 1, 2) - 2
    plain = rj.stationary_free_radius(network, x, output=0, tolerance=0.1)
    found = rj.stationary_free_radius(network, x, output=0, tolerance=0.1, limit=divided(60))
    assert (found.radius >= plain.radius).all()
    for i in (found.parts > 0).nonzero().flatten().tolist():
        r = min(found.radius[i].item(), 50.0)
        points = x[i] + r * torch.linspace(-1, 1, 4001, dtype=torch.float64).unsqueeze(1)
        slopes = point_jacobian(network, points).flatten()
        assert len(slopes.sign().unique()) == 1
        assert found.witness[i] == 0
        assert (found.lower[i] > 0) == (slopes[0] > 0)
        assert found.lower[i] <= slopes.min()
        assert slopes.max() <= found.upper[i]


@pytest.mark.parametrize(
    ("seed", "p"),
    [(0, 1), (1, 2), (2, inf), *(pytest.param(k, NORMS[k % 3], marks=pytest.mark.slow) for k in range(3, 20))],
)
def test_proved_stationary_points_lie_outside(seed: int, p: float) -> None:
    network, x = net(seed, (2, 8, 1), "tanh"), inputs(seed, 2)
    plain = rj.stationary_free_radius(network, x, output=0, p=p, tolerance=0.1)
    found = rj.stationary_free_radius(network, x, output=0, p=p, tolerance=0.1, limit=divided(200))
    assert found.radius.item() >= plain.radius.item()
    around = rj.stationary_points(network, rj.LpBall(x, 4 * found.radius, p), output=0)
    for point in around.points[0]:
        distance = torch.linalg.vector_norm(point.point - x[0], p).item()
        assert found.radius.item() <= distance + 1e-9


@pytest.mark.slow
def test_more_is_proved_than_without_parts() -> None:
    for activation, least in (("tanh", 1.5), ("relu", 1.1)):
        network, x = net(3, (2, 10, 10, 1), activation), inputs(1, 2)
        plain = rj.stationary_free_radius(network, x, output=0, tolerance=0.2)
        found = rj.stationary_free_radius(network, x, output=0, tolerance=0.2, limit=divided(100))
        assert found.radius.item() >= least * plain.radius.item()


# Parts, signs, and what is asked


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "square", "relu6"])
@pytest.mark.parametrize("p", NORMS)
def test_a_part_with_a_proof_has_an_entry_of_one_sign(p: float, activation: str) -> None:
    network = net(5, (3, 6, 5, 1), activation)
    parts = rj.Problem(network, rj.LpBall(inputs(2, 3), 0.4, p))
    for axis in (0, 1, 2, 0, 1, 2):
        halves = parts.bound.halves(torch.full((parts.bound.batch,), axis))
        parts = rj.problem.join([parts.part(half) for half in halves])
    bound = SomeSign(Chords(), 0.0, parts.bound.x[0] * 0)
    known = bound.found(parts, None)
    found = bound.bounded(parts, bound.goals(known, 1e-3)).upper
    points = parts.bound.sample(30, torch.Generator().manual_seed(0))
    slopes = point_jacobian(network, points.flatten(0, 1)).reshape(*points.shape[:2], -1)
    assert (found[:, 1:4] >= slopes.amax(1) - 1e-12).all()
    assert (found[:, 4:] >= (-slopes).amax(1) - 1e-12).all()
    kept = ((slopes > 0).all(1) | (slopes < 0).all(1)).any(1)
    assert kept[found[:, 0] < 0].all()
    least = torch.minimum(slopes.amax(1), (-slopes).amax(1)).amin(1)
    assert (found[:, 0] >= least - 1e-12).all()


def test_what_proves_a_sign() -> None:
    bound = SomeSign(Chords(), 0.0, torch.zeros(2))
    rows = torch.tensor([
        [3.0, -1.0, 2.0, 4.0],  # the second entry is in [-4, -1]
        [3.0, 5.0, -2.0, 4.0],  # the first is in [2, 3]
        [3.0, 5.0, 2.0, 4.0],
        [inf, -inf, inf, inf],
        [inf, 1.0, -2.0, inf],
        [0.0, 1.0, 1.0, 1.0],
    ])  # fmt: skip
    assert bound.least(rows).tolist() == [-1.0, -2.0, 2.0, 0.0, -2.0, 0.0]
    assert SomeSign(Chords(), 0.5, torch.zeros(2)).least(rows[:2]).tolist() == [0.0, 0.0]
    assert bound.least(torch.full((1, 4), torch.nan)).tolist() == [inf]


@pytest.mark.slow
def test_signs_of_neurons_with_many_inputs() -> None:
    network, x = net(3, (10, 12, 12, 1), "relu"), inputs(1, 10)
    plain = rj.stationary_free_radius(network, x, output=0, tolerance=0.1)
    found = rj.stationary_free_radius(network, x, output=0, tolerance=0.1, limit=divided(40))
    assert found.radius.item() > 1.1 * plain.radius.item()
    ball = rj.LpBall(x, found.radius.unsqueeze(1)).bind((10,), torch.float64, x.device)
    points = ball.sample(3000, torch.Generator().manual_seed(0))
    slopes = point_jacobian(network, points[0])[:, 0, int(found.witness)]
    assert (slopes >= found.lower).all()
    assert (slopes <= found.upper).all()
    assert found.lower.item() > 0 or found.upper.item() < 0


def test_nothing_is_divided_without_a_limit_or_parts() -> None:
    network, x = net(1, (2, 8, 8, 1), "tanh"), inputs(1, 2, 3)
    plain = rj.stationary_free_radius(network, x, output=0)
    none = rj.stationary_free_radius(network, x, output=0, limit=divided(1))
    assert plain.radius.tolist() == none.radius.tolist()
    assert (plain.parts <= 1).all()
    smooth = rj.stationary_free_radius(net(1, (8, 6, 1), "tanh"), inputs(1, 8), output=0, limit=divided(50))
    assert (smooth.parts <= 1).all()


def test_the_whole_clip_box_and_other_precision() -> None:
    network, x = net(3, (2, 10, 10, 1), "sigmoid"), inputs(1, 2)
    ball = rj.LpBall(x, 0, clip=(x[0] - 3.5, x[0] + 3.5))
    plain = rj.stationary_free_radius(network, ball, output=0, tolerance=0.2)
    found = rj.stationary_free_radius(network, ball, output=0, tolerance=0.2, limit=divided(200))
    assert not plain.everywhere.any()
    assert found.everywhere.all()
    one = torch.ones(1, 2)
    single = rj.stationary_free_radius(bowl(2).to(torch.float32), one, output=0, p=2, tolerance=0.1, limit=divided(99))
    assert single.radius.dtype == torch.float32
    assert 1.2 < single.radius.item() < sqrt(2)


def test_in_time_the_balls_are_divided_last() -> None:
    how = rj.AutoEntries(seconds=inf, rules=())
    found = rj.stationary_free_radius(
        bowl(2), torch.ones(2, 2).double(), output=0, p=2, method=how, tolerance=0.1, limit=divided(99)
    )
    assert (found.radius > 1.2).all()
    assert (found.radius < sqrt(2)).all()


def test_an_interruption_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    plain = bowl(2), torch.ones(1, 2).double()
    monkeypatch.setattr("recurjac.branching.search.join", stopped)
    with pytest.raises(KeyboardInterrupt):
        rj.stationary_free_radius(*plain, output=0, p=2, limit=divided(100))


@pytest.mark.parametrize("low", [0.0, 1.0, 3e-7])
def test_the_radii_that_are_tried(low: float) -> None:
    for truth in (low, 1.3 * low + 1e-3, 1e3):
        search, best = parted_radii(low, inf, torch.float32, 0.01), low
        asked = next(search)
        try:
            while True:
                (radius,) = asked
                assert radius > best
                assert torch.tensor(radius, dtype=torch.float32).item() == radius
                best = radius if radius <= truth else best
                asked = search.send([radius <= truth])
        except StopIteration:
            pass
        assert truth / 1.02 <= best <= truth
    whole = parted_radii(1.0, 2.0, torch.float64, 0.01)
    assert [next(whole), whole.send([True])] == [[1.5], [inf]]
    assert whole.send([False]) == [1.75]


@pytest.mark.slow
def test_the_command_divides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "bowl.npz", W0=np.eye(2), W1=np.ones((1, 2)), activation="square")
    np.save(tmp_path / "x.npy", np.ones((1, 2)))
    given = ("landscape", tmp_path / "bowl.npz", "--input", tmp_path / "x.npy", "--norm", "2", "--time-limit", "2")
    assert main([*map(str, given), "--json", "-", "--quiet"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["results"]
    assert 1 - 2e-3 < row["radius"] < sqrt(2)
    assert row["parts"] >= 1
