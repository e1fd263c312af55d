"""Radii by splitting: against mixed-integer programmes, samples and adversaries."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, milp
from torch import Tensor

import recurjac as rj
from recurjac import testing
from recurjac.applications.dividing import given_up, ranges_around
from recurjac.applications.proofs import MarginBalls, RadiusFacts
from recurjac.applications.radii import RadiusBound
from recurjac.branching import BranchAndBound
from recurjac.branching.margins import MarginByPieces, RangeBisection
from recurjac.branching.pool import Goals
from recurjac.deadline import NEVER
from recurjac.extend import AbstractRadiusProof
from recurjac.jacobian import Gradients

BOTH = (rj.MarginBound(), rj.LipschitzIntegral())
QUIET = rj.RadiusSearch(attack=rj.Attack(rounds=0))
NORMS = (1, 2, inf)
ACTIVATIONS = ("relu", "tanh", "sigmoid", "relu6", "softplus", "gelu", "elu")


def layers(seed: int, sizes: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(b, a, generator=g).double() / a**0.5, torch.randn(b, generator=g).double() / 2)
            for a, b in pairwise(sizes)]  # fmt: skip


def net(seed: int, sizes: tuple[int, ...], activation: str = "relu") -> rj.Network:
    return rj.load(layers(seed, sizes), activation=activation)


def inputs(seed: int, size: int, count: int = 1) -> Tensor:
    return torch.rand(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_splitting(inputs: int, parts: int = 500) -> tuple[AbstractRadiusProof, ...]:
    return (*BOTH, rj.BranchedMargin(rj.Limit(seconds=inf, parts=parts), inputs))


def smallest(chain: list[tuple[Tensor, Tensor]], row: Tensor, x: Tensor, p: float) -> float:
    """The least l1 or l∞ distance of a point of [0, 1]^n at which row · f is at most 0 for a ReLU network f.

    Variables: x', the distances of its entries, their bound r, then z, h and the signs of all neurons.
    """
    weights = [(w.numpy(), b.numpy()) for w, b in chain]
    weights[-1] = (row.numpy() @ weights[-1][0], row.numpy() @ weights[-1][1])
    n, hidden = x.numel(), sum(len(b) for _, b in weights[:-1])
    total, c = 2 * n + 1 + 3 * hidden, x.flatten().numpy()
    rows, low, high = list[np.ndarray](), list[float](), list[float]()

    def state(terms: dict[int, float], least: float, most: float) -> None:
        row = np.zeros(total)
        for i, v in terms.items():
            row[i] += v
        rows.append(row)
        low.append(least)
        high.append(most)

    for i in range(n):
        state({i: 1.0, n + i: 1.0}, c[i], np.inf)
        state({i: 1.0, n + i: -1.0}, -np.inf, c[i])
        state({2 * n: 1.0, n + i: -1.0}, 0.0, np.inf)
    before, ends, at = list(range(n)), (np.zeros(n), np.ones(n)), 2 * n + 1
    for w, b in weights[:-1]:
        big = np.abs(w) @ np.maximum(np.abs(ends[0]), np.abs(ends[1])) + np.abs(b) + 1.0
        for j in range(len(b)):
            z, h, s = at + 3 * j, at + 3 * j + 1, at + 3 * j + 2
            state({z: 1.0, **{v: -w[j, i] for i, v in enumerate(before)}}, b[j], b[j])
            state({h: 1.0, z: -1.0}, 0.0, np.inf)
            state({h: 1.0, z: -1.0, s: big[j]}, -np.inf, big[j])
            state({h: 1.0, s: -big[j]}, -np.inf, 0.0)
        before, at, ends = [at + 3 * j + 1 for j in range(len(b))], at + 3 * len(b), (np.zeros(len(b)), big)
    w, b = weights[-1]
    state({v: w[0, i] for i, v in enumerate(before)}, -np.inf, -b[0])
    least, most, whole = np.full(total, -np.inf), np.full(total, np.inf), np.zeros(total)
    least[:n], most[:n], least[n : 2 * n + 1] = 0.0, 1.0, 0.0
    for j in range(hidden):
        least[2 * n + 2 + 3 * j], whole[2 * n + 3 + 3 * j] = 0.0, 1
        least[2 * n + 3 + 3 * j], most[2 * n + 3 + 3 * j] = 0.0, 1.0
    goal = np.zeros(total)
    goal[n : 2 * n] = 1.0 if p == 1 else 0.0
    goal[2 * n] = 1.0 if p == inf else 0.0
    from_to = LinearConstraint(np.array(rows), np.array(low), np.array(high))
    found = milp(goal, constraints=from_to, integrality=whole, bounds=(least, most), options={"mip_rel_gap": 1e-9})
    return float(found.fun) if found.success else inf


SMALLEST = ((2, 1, 6), (2, 1, 0), (2, inf, 6), (2, inf, 0), (3, 1, 6))
MORE = [pytest.param(s, p, 6, marks=pytest.mark.slow) for s in range(4, 12) for p in (1, inf)]


@pytest.mark.parametrize(("seed", "p", "few"), [*SMALLEST, *MORE])
def test_the_radius_meets_the_smallest_adversary(seed: int, p: float, few: int) -> None:
    chain, x = layers(seed, (3, 6, 5, 2)), inputs(seed, 3)
    shift = torch.tensor([0.3, 0.0]) - rj.load(chain, activation="relu")(x)[0]
    chain[-1] = (chain[-1][0], chain[-1][1] + shift)
    network = rj.load(chain, activation="relu")
    truth = smallest(chain, torch.tensor([[1.0, -1.0]], dtype=torch.float64), x, p)
    found = rj.certified_radius(network, rj.LpBall(x, 0.0, p, (0, 1)), label=0, proofs=by_splitting(few))
    radius = float(found.radius)
    assert radius <= truth * (1 + 1e-7)
    assert float(found.attack) >= truth * (1 - 1e-7)
    if seed < 4:
        assert radius >= truth * (1 - 2e-3)
        assert found.status == ("exact",)


def check_no_adversary_within(activation: str, few: int, seed: int, p: float, parts: int) -> None:
    network, x = net(seed, (3, 6, 6, 3), activation), inputs(seed, 3)
    search = rj.RadiusSearch(4, 2.0)
    found = rj.certified_radius(
        network, rj.LpBall(x, 0.0, p), target="all", proofs=by_splitting(few, parts), search=search
    )
    quiet = rj.RadiusSearch(4, 2.0, rj.Attack(rounds=0))
    alone = rj.certified_radius(network, rj.LpBall(x, 0.0, p), target="all", search=quiet)
    assert bool((found.radius >= alone.radius).all())
    ball = rj.LpBall(x, found.radius.unsqueeze(1), p).bind(network.input_shape, torch.float64, x.device)
    outputs = network(ball.sample(4000, torch.Generator().manual_seed(seed))[0])
    assert bool((outputs.argmax(1) == found.label).all())
    if float(found.attack) < inf:
        y = network(found.adversary)[0]
        assert int(y.argmax()) != int(found.label) or float(y.sort().values.diff()[-1]) == 0
        assert float((found.adversary - x).norm(p)) <= float(found.attack)


@pytest.mark.parametrize("few", [6, 0], ids=["inputs", "pieces"])
@pytest.mark.parametrize(
    "number", [0, 1, 2, *(pytest.param(k, marks=pytest.mark.slow) for k in range(3, len(ACTIVATIONS)))]
)
def test_no_adversary_within(number: int, few: int) -> None:
    check_no_adversary_within(ACTIVATIONS[number], few, number, NORMS[number % 3], 8)


@pytest.mark.slow
@pytest.mark.parametrize("few", [6, 0], ids=["inputs", "pieces"])
@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_no_adversary_within_more_networks(activation: str, p: float, few: int) -> None:
    for seed in range(10, 15):
        check_no_adversary_within(activation, few, seed, p, 300)


@pytest.mark.slow
@pytest.mark.parametrize("few", [6, 0], ids=["inputs", "pieces"])
def test_what_it_states_is_true(few: int) -> None:
    testing.check_radius_proof(rj.BranchedMargin(rj.Limit(seconds=inf, parts=8), few, steps=3))


@pytest.mark.parametrize("few", [6, 0], ids=["inputs", "pieces"])
@pytest.mark.parametrize("p", NORMS)
def test_a_ball_with_an_adversary_is_refuted(p: float, few: int) -> None:
    network, x = net(3, (3, 8, 8, 2)), inputs(3, 3)
    label = int(network(x)[0].argmax())
    margin = network.margin(label, 1 - label)
    radius = 1.05 * float(rj.certified_radius(network, x, p=p).attack)
    assert radius < inf
    problem = rj.Problem(margin, rj.LpBall(x, radius, p))
    proof = rj.BranchedMargin(rj.Limit(seconds=inf, parts=500), few)
    facts = proof.facts(MarginBalls(problem, Gradients(problem), torch.tensor([radius]), p))
    assert facts.margins is not None
    assert facts.adversaries is not None
    assert float(facts.margins) <= 0
    assert float(margin(facts.adversaries)) <= 0
    assert float((facts.adversaries - x).norm(p)) <= radius * (1 + 1e-12)


@pytest.mark.parametrize(
    ("activation", "divisions"),
    [("relu", 2), ("relu6", 2), ("tanh", 1), pytest.param("tanh", 2, marks=pytest.mark.slow)],
)
def test_the_parts_cover_the_region(activation: str, divisions: int) -> None:
    network, x = net(4, (5, 6, 6, 1), activation), inputs(4, 5)
    whole = rj.Problem(network, rj.LpBall(x, 2.0))
    bound = MarginByPieces.of(whole, whole.preactivations(), 3, NEVER)
    parts, points = [whole], whole.bound.sample(300, torch.Generator().manual_seed(0))
    for _ in range(divisions):
        found = [(p, bound.bounded(p, Goals.none(x)).effects) for p in parts]
        parts = [half for p, effects in found for half in RangeBisection().divided(p, effects)]
    z = network.preactivations(points[0])
    held = torch.zeros(300, dtype=torch.bool)
    for part in parts:
        inside = torch.ones(300, dtype=torch.bool)
        for k, known in part.known.items():
            inside = inside & ((known.lower <= z[k - 1]) & (z[k - 1] <= known.upper)).flatten(1).all(1)
        least = -bound.bounded(part, Goals.none(x)).upper
        assert bool((network(points[0][inside]) >= least - 1e-9).all())
        held = held | inside
    assert len(parts) > 4**divisions / 2
    assert bool(held.all())


def test_an_interruption_keeps_what_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    network, x = net(5, (3, 8, 8, 3)), inputs(5, 3, 2)
    alone = rj.certified_radius(network, x, proofs=BOTH)
    monkeypatch.setattr(BranchAndBound, "last", interrupted)
    found = rj.certified_radius(network, x, proofs=by_splitting(6))
    assert found.status == ("interrupted", "interrupted")
    assert found.radius.tolist() == alone.radius.tolist()


def test_at_the_end_of_the_limit_less_is_stated() -> None:
    network, x = net(6, (3, 8, 8, 3)), inputs(6, 3)
    alone = rj.certified_radius(network, x, search=QUIET)
    brief, longer = (rj.certified_radius(network, x, proofs=by_splitting(6, parts), search=QUIET) for parts in (1, 500))
    assert float(alone.radius) <= float(brief.radius) < float(longer.radius)
    assert brief.status == ("parts",)


def rung(radius: float, why: str = "", ranges: tuple[rj.Interval, ...] = ()) -> RadiusBound:
    margin = 1.0 if radius <= 1 else -1.0
    return RadiusBound(radius, (margin,), (inf,), given_up=why, ranges=ranges)


def test_the_reason_is_that_of_the_smallest_ball_that_is_left() -> None:
    assert given_up([rung(0.0), rung(1.0)]) == "bounded"
    assert given_up([rung(0.0), rung(1.0, "time"), rung(2.0, "parts"), rung(4.0, "time")]) == "parts"
    assert given_up([rung(0.0), rung(8.0, "stuck"), rung(1.0)]) == "stuck"


def test_a_search_that_ends_at_its_limit_is_bounded() -> None:
    network, x = net(6, (3, 8, 8, 3)), inputs(6, 3)
    search = rj.RadiusSearch(limit=1e-3, attack=rj.Attack(rounds=0))
    found = rj.certified_radius(network, x, proofs=by_splitting(6), search=search)
    assert float(found.radius) == 1e-3
    assert found.status == ("bounded",)


def test_ranges_are_those_of_the_next_larger_ball() -> None:
    near, far = ((rj.Interval(torch.zeros(1), torch.ones(1) * r),) for r in (2.0, 4.0))
    rungs = [rung(4.0, ranges=far), rung(2.0, ranges=near), rung(1.0)]
    assert ranges_around(rungs, 1.5) == near
    assert ranges_around(rungs, 2.0) == near
    assert ranges_around(rungs, 3.0) == far
    assert ranges_around(rungs, 5.0) == ()


@pytest.mark.parametrize("seed", range(2))
def test_ranges_of_a_larger_ball_hold_and_only_help(seed: int) -> None:
    network, x = net(seed, (6, 10, 10, 2)), inputs(seed, 6)
    margin = network.margin(0, 1)
    proof = rj.BranchedMargin(rj.Limit(seconds=inf, parts=1), 0, steps=5)

    def asked(radius: float, ranges: tuple[tuple[rj.Interval, ...], ...]) -> tuple[RadiusFacts, rj.Problem]:
        problem = rj.Problem(margin, rj.LpBall(x, radius))
        return proof.facts(MarginBalls(problem, Gradients(problem), torch.tensor([radius]), inf, ranges)), problem

    (larger, _), (alone, of) = asked(0.5, ()), asked(0.45, ())
    known = larger.ranges[0]
    found, _ = asked(0.45, larger.ranges)
    assert alone.margins is not None
    assert found.margins is not None
    points = of.bound.sample(500, torch.Generator().manual_seed(0))[0]
    assert float(found.margins) <= float(margin(points).min())
    if not known:  # the margin of the larger ball is proved by the rule
        assert float(found.margins) > 0
        return
    plain = of.preactivations()
    for k, (z, wide, values) in enumerate(zip(found.ranges[0], known, margin.preactivations(points), strict=False), 1):
        assert bool(((z.lower >= wide.lower) & (z.upper <= wide.upper)).all())
        assert bool(((z.lower >= plain.pre(k).lower) & (z.upper <= plain.pre(k).upper)).all())
        assert bool(((z.lower <= values + 1e-12) & (values - 1e-12 <= z.upper)).all())


@pytest.mark.parametrize("p", NORMS)
def test_closer_adversaries(p: float) -> None:
    for seed in range(5):
        network, x = net(seed, (4, 8, 8, 1)), inputs(seed, 4)
        network = network if float(network(x)) > 0 else network.combine(-torch.ones(1, 1))
        ball = rj.LpBall(x, 0.0, p, (-4, 4))
        far = rj.LpBall(x, 3.0, p, (-4, 4)).bind((4,), torch.float64, x.device)
        points = far.sample(3000, torch.Generator().manual_seed(seed))[0]
        points = points[network(points)[:, 0] < 0][:1]
        if len(points):
            found = rj.Attack().closer(network, ball, points, rj.Rigorous())
            assert float(found.distance) <= float((points - x).norm(p)) * (1 + 1e-9)
            assert float(network(found.point)) <= 0
            assert float((found.point - x).norm(p)) <= float(found.distance)


@pytest.mark.parametrize(("inputs_", "steps"), [(-1, 20), (6, -1)])
def test_settings_that_are_refused(inputs_: int, steps: int) -> None:
    with pytest.raises(ValueError, match="negative numbers"):
        rj.BranchedMargin(inputs=inputs_, steps=steps)


def test_a_neuron_is_not_cut_again_at_its_kink() -> None:
    chain = net(4, (3, 4, 4, 2)).margin(0, 1)
    problem = rj.Problem(chain, rj.LpBall(torch.zeros(1, 3, dtype=torch.float64), 3.0, inf))
    state = problem.preactivations()
    unstable = sum(int(state.unstable(k, state.pre(k)).sum()) for k in range(1, chain.depth))
    bound = MarginByPieces.of(problem, state, 5, NEVER)
    worst, parts, divided = Goals.none(problem.bound.x), [problem], 0
    for _ in range(unstable):
        found = [bound.bounded(p, worst) for p in parts]
        left = [(p, f.effects) for p, f in zip(parts, found, strict=True) if f.effects is not None]
        able = [(p, e) for p, e in left if bool(RangeBisection().able(p, e))]
        if not able:
            break
        costs = able[0][1][:, 0] > 0
        half = RangeBisection().divided(*able[0])[-1]
        after = bound.bounded(half, worst).effects
        assert after is not None
        assert int((after[:, 0] > 0).sum()) < int(costs.sum())
        parts, divided = [half], divided + 1
    assert divided > 0
