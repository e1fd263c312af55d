"""Regions that are cut, and branch and bound: sound at every moment, exact on small networks."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from fractions import Fraction
from math import inf
from typing import Any, final

import pytest
import torch
from beartype.roar import BeartypeException
from torch import Tensor

import recurjac as rj
import recurjac.branching.search as branching_search
from recurjac.branching import AbstractBrancher, BranchAndBound
from recurjac.branching.branched import NormOver
from recurjac.branching.pool import Bounded, Goals
from recurjac.branching.search import AbstractBounds
from recurjac.problem import join
from recurjac.region import AbstractRegion
from recurjac.search import Attained
from recurjac.testing.networks import random_network, true_jacobians
from tests.helpers import refused

DTYPES = (torch.float32, torch.float64)
SHAPE = (2, 2)


def regions(dtype: torch.dtype) -> list[AbstractRegion]:
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=dtype)
    wide = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return [
        rj.LpBall(x, 0.5), rj.LpBall(x, 0.5, 2), rj.LpBall(x, 0.5, 1), rj.LpBall(x.clamp(0, 1), 0.7, 2, clip=(0, 1)),
        rj.LpBall(x, 0.0, 2), rj.Box(x - wide, x + wide), rj.LpBall(x, inf), rj.LpBall(x, inf, 2),
    ]  # fmt: skip


@final
@dataclass
class _Clocked(AbstractBounds):
    """The largest width of a part, which takes `once` seconds for each call and `each` for each part, on a clock."""

    once: float
    each: float
    now: float = 0.0
    most: int = 0

    def perf_counter(self) -> float:
        return self.now

    def bounded(self, problem: rj.Problem, goals: Goals) -> Bounded:
        self.now += self.once + self.each * problem.bound.batch
        self.most = max(self.most, problem.bound.batch)
        scale = problem.bound.scale.flatten(1)
        return Bounded(1 + scale.amax(1, keepdim=True), scale)

    def found(self, parts: rj.Problem, known: Attained | None) -> Attained:
        x = parts.bound.x[:1]
        return Attained(x.new_ones(1), x, torch.zeros_like(x))

    def goals(self, attained: Attained, tolerance: float) -> Goals:
        return Goals(attained.gain * (1 + tolerance), torch.ones_like(attained.gain))


@pytest.mark.parametrize(("once", "each", "least", "most"), [(1.0, 1e-4, 2000, 10**4), (0.0, 0.25, 40, 8)])
def test_rounds_grow_while_a_part_takes_less_time_than_before(
    once: float, each: float, least: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a call takes a second whatever the number of parts, many are bounded in each; otherwise few."""
    problem = rj.Problem(random_network("tanh", 0, False), rj.LpBall(torch.zeros(1, *SHAPE), 1.0))
    clock = _Clocked(once, each)
    monkeypatch.setattr(branching_search, "time", clock)
    state = BranchAndBound(rj.InputBisection(), rj.Limit(seconds=12, tolerance=1e-9)).last(problem, clock)
    assert state.parts >= least
    assert clock.most <= most
    assert state.status == "time"
    assert clock.now < 14


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", range(8))
def test_halves_cover_the_region_and_stay_in_it(number: int, dtype: torch.dtype) -> None:
    """Cut five times over: every point of the whole is in a part, all held points of parts are in the whole."""
    whole = regions(dtype)[number].bind(SHAPE, dtype, torch.device("cpu"))
    points = whole.sample(200, torch.Generator().manual_seed(3))
    parts = [whole]
    for cut in range(5):
        axis = torch.tensor([cut % 4, (cut + 1) % 4, 0])
        parts = [half for part in parts for half in part.halves(axis)]
    inside = torch.zeros(points.shape[:2], dtype=torch.bool)
    for part in parts:
        box = part.box(rj.Rigorous())
        inside |= ((box.lower.unsqueeze(1) <= points) & (points <= box.upper.unsqueeze(1))).flatten(2).all(2)
        own = part.sample(20, torch.Generator().manual_seed(4))
        held = part.holds(own)
        outer = whole.box(rj.Rigorous())
        fine = ((outer.lower.unsqueeze(1) <= own) & (own <= outer.upper.unsqueeze(1))).flatten(2).all(2)
        assert bool((fine | ~held).all())
        if number in (1, 2, 4):
            far = torch.linalg.vector_norm(
                (own - whole.x.unsqueeze(1)).double().flatten(2), (inf, 2, 1, 2, 2)[number], dim=2
            )
            assert bool((far <= whole.radius.double().unsqueeze(1) * (1 + 1e-6) + 1e-12)[held].all())  # type: ignore[attr-defined]
    assert bool(inside.all())
    joined = type(parts[0]).joined(parts[:4])
    assert joined.batch == 12
    assert torch.equal(torch.cat([p.x for p in joined.split(1)]), torch.cat([p.x for p in parts[:4]]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", range(6))
def test_support_functions_of_halves_hold_their_points(number: int, dtype: torch.dtype) -> None:
    whole = regions(dtype)[number].bind(SHAPE, dtype, torch.device("cpu"))
    forms = torch.randn(1, 1, 9, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=dtype)
    for half in whole.halves(torch.tensor([0, 1, 2])):
        for part in half.halves(torch.tensor([3, 3, 2])):
            most = part.support_function_(rj.Rigorous().exact(forms.clone()), rj.Rigorous()).upper()
            points = part.sample(100, torch.Generator().manual_seed(5))
            values = torch.einsum("brij,bnij->bnr", forms[0].double().expand(3, -1, -1, -1), points.double())
            values = torch.where(part.holds(points).unsqueeze(-1), values, -inf)
            assert bool((values.amax(1) <= most[:, 0].double() + 1e-15).all())


def sampled_constant(network: rj.Network, region: AbstractRegion) -> float:
    points = region.bind(network.input_shape, network.dtype, network.device).sample(
        4000, torch.Generator().manual_seed(1)
    )
    return float(true_jacobians(network, points[0]).flatten(2).abs().sum(-1).max())


@pytest.mark.parametrize(
    "kind", ["relu", "falling", "tanh", *(pytest.param(k, marks=pytest.mark.slow) for k in ("leaky", "gelu", "mixed"))]
)
def test_branched_constants_are_nearly_attained(kind: str) -> None:
    """On four inputs: far tighter than without parts, and above all samples, whatever the norm of the ball."""
    network = random_network(kind, 1, True)
    x = torch.randn(1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for radius, p in ((0.2, inf), (0.3, 2), (0.3, 1)):
        region = rj.LpBall(x, radius, p)
        plain = rj.lipschitz(network, region, search=rj.Search(work=0))
        found = rj.lipschitz(network, region, method=rj.Branched(limit=rj.Limit(seconds=60, parts=400)))
        assert float(found.lower) <= sampled_constant(network, region) * 1.3
        assert sampled_constant(network, region) <= float(found.upper) * (1 + 1e-12)
        assert float(found.upper) <= float(plain.upper)
        assert found.status in ("parts", "exact", "stuck")


def test_small_constants_are_exact() -> None:
    """|x| + |x - 1/2| + 3 relu(x - 0.8) in one input has slopes -2, 0, 2 and 5."""
    one, z = torch.ones(3, 1, dtype=torch.float64), torch.tensor([0.0, -0.5, -0.8], dtype=torch.float64)
    double = torch.cat([one, -one[:2]])
    bias = torch.cat([z, -z[:2]])
    last = torch.tensor([[1.0, 1.0, 3.0, 1.0, 1.0]], dtype=torch.float64)
    network = rj.load([(double, bias), (last, None)], activation="relu")
    for high, true in ((1.0, 5.0), (0.7, 2.0)):
        region = rj.Box(torch.tensor([-1.0]), torch.tensor([high]))
        found = rj.lipschitz(network, region, method=rj.Branched(limit=rj.Limit(seconds=30, tolerance=1e-6)))
        assert found.status == "exact"
        assert float(found.lower) == pytest.approx(true, rel=1e-12)
        assert float(found.upper) == pytest.approx(true, rel=1e-6)
        assert found.rigorous


def test_every_state_is_valid_and_bounds_only_fall() -> None:
    network = random_network("relu", 2, False)
    region = rj.LpBall(torch.zeros(1, 2, 2, dtype=torch.float64), 0.7)
    problem = rj.Problem(network, region)
    bound = NormOver(rj.JacobianNorm(rj.Chords()), inf, inf, problem)
    states = list(BranchAndBound(rj.InputBisection(), rj.Limit(seconds=60, parts=200)).states(problem, bound))
    uppers, lowers = [s.upper for s in states], [s.lower for s in states]
    assert len(states) > 5
    assert uppers == sorted(uppers, reverse=True)
    assert lowers == sorted(lowers)
    assert lowers[-1] <= uppers[-1]
    assert states[-1].status == "parts"


def test_an_interruption_keeps_what_is_proved() -> None:
    seen: list[rj.Branching] = []

    def third_interrupts(state: rj.Branching) -> None:
        seen.append(state)
        if len(seen) == 3:
            raise KeyboardInterrupt

    network = random_network("relu", 2, False)
    region = rj.LpBall(torch.zeros(1, 2, 2, dtype=torch.float64), 0.7)
    method = rj.Branched(limit=rj.Limit(seconds=60), progress=third_interrupts)
    found = rj.lipschitz(network, region, method=method)
    assert found.status == "interrupted"
    assert float(found.upper) == seen[-1].upper


def test_samples_of_a_batch_each_have_the_limit() -> None:
    network = random_network("relu", 2, False)
    x = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    method = rj.Branched(limit=rj.Limit(seconds=60, parts=40))
    both = rj.lipschitz(network, rj.LpBall(x, 0.3), method=method)
    for i in range(2):
        alone = rj.lipschitz(network, rj.LpBall(x[i : i + 1], 0.3), method=method)
        assert float(alone.upper) == pytest.approx(float(both.upper[i]), rel=1e-12)


@final
@dataclass(frozen=True)
class SignBrancher(AbstractBrancher):
    """Halves of the pre-activations of the first stage's neuron that is unstable in most samples."""

    @property
    def title(self) -> str:
        return "signs of the first stage"

    def supports(self, problem: rj.Problem) -> bool:
        return bool(self._unstable(problem).any())

    def _unstable(self, problem: rj.Problem) -> Tensor:
        z = problem.preactivations().pre(1)
        return (z.lower < 0) & (z.upper > 0)

    def divide(self, problem: rj.Problem) -> list[rj.Problem]:
        neuron = int(self._unstable(problem).double().sum(0).argmax())
        parts = []
        for sign in (1, -1):
            end = torch.full((1, *problem.network.shape(1)), inf, dtype=problem.network.dtype)
            low, high = -end, end.clone()
            (low if sign > 0 else high)[0, neuron] = 0.0
            parts.append(problem.constrained(1, rj.Interval(low, high)))
        return parts


def test_a_brancher_from_outside_divides_by_constraints() -> None:
    """Parts in which nothing is left vanish; what remains is above all samples and below the undivided bound."""
    network = random_network("relu", 3, False, depth=2)
    region = rj.LpBall(torch.zeros(1, 2, 2, dtype=torch.float64), 0.4)
    plain = rj.lipschitz(network, region)
    method = rj.Branched(brancher=SignBrancher(), limit=rj.Limit(seconds=60, parts=300))
    found = rj.lipschitz(network, region, method=method)
    assert sampled_constant(network, region) <= float(found.upper) * (1 + 1e-12)
    assert float(found.upper) < float(plain.upper)


def test_what_cannot_be_divided_is_refused() -> None:
    network = rj.load([(torch.ones(1, 99, dtype=torch.float64), None)], activation="relu")
    region = rj.LpBall(torch.zeros(1, 99, dtype=torch.float64), 1.0)
    refused(lambda: rj.lipschitz(network, region, method=rj.Branched()), rj.InvalidRequest, ["bisection", "99"])
    refused(lambda: rj.Limit(seconds=0), rj.InvalidRequest, ["positive"])


def test_problems_are_joined_with_their_constraints() -> None:
    network = random_network("relu", 0, False)
    problem = rj.Problem(network, rj.LpBall(torch.zeros(2, 2, 2, dtype=torch.float64), 0.5))
    first, second = problem.samples()
    end = torch.full((1, 7), inf, dtype=torch.float64)
    low = -end
    low[0, 2] = 0.25
    whole = join([first.constrained(1, rj.Interval(low, end)), second])
    state = whole.preactivations()
    free = problem.preactivations()
    assert float(state.pre(1).lower[0, 2]) >= 0.25
    torch.testing.assert_close(state.pre(1).lower[1], free.pre(1).lower[1], rtol=1e-13, atol=1e-13)


# What a search for counterexamples found


def net(inputs: int, activation: str, seed: int) -> rj.Network:
    g = torch.Generator().manual_seed(seed)
    sizes = ((8, inputs), (8, 8), (2, 8))
    layers = [(torch.randn(n, m, generator=g), torch.randn(n, generator=g)) for n, m in sizes]
    return rj.load(layers, activation=activation)


def interrupted_at(line: int, network: rj.Network, region: rj.Box) -> rj.Lipschitz | None:
    """A bound by branching that is interrupted before the line number `line` of its search is run."""
    count = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != branching_search.__file__:
            return None
        if event == "line":
            count += 1
            if count == line:
                raise KeyboardInterrupt
        return trace

    limit = rj.Limit(seconds=5, parts=200)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        method = rj.Branched(rj.JacobianNorm(rj.FastLip()), limit=limit)
        return rj.lipschitz(network, region, method=method, search=rj.Search(work=0))
    except KeyboardInterrupt:  # before there was a first state
        return None
    finally:
        sys.settrace(before)


def test_an_interruption_anywhere_leaves_a_valid_state() -> None:
    """Parts that had been taken to be divided were lost."""
    network, region = net(2, "relu", 0), rj.Box([[-2.0, -2.0]], [[2.0, 2.0]])
    truth = float(rj.lipschitz(network, region).lower)
    found = [interrupted_at(n, network, region) for n in range(30, 1500, 113)]
    assert {f.status for f in found if f is not None} >= {"interrupted"}
    assert all(float(f.upper) >= truth for f in found if f is not None)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_parts_of_balls_that_are_empty_are_dropped(p: float, seed: int) -> None:
    """Bounds over corners of the box around a ball cross, which is no error."""
    network, region = net(2, "relu", seed), rj.LpBall(torch.zeros(1, 2), 1.0, p)
    limit = rj.Limit(seconds=2, parts=600)
    found = rj.lipschitz(network, region, p=p, method=rj.Branched(limit=limit), search=rj.Search(work=10**7))
    plain = rj.lipschitz(network, region, p=p, search=rj.Search(work=10**7))
    assert float(plain.lower) <= float(found.upper) <= float(plain.upper) * (1 + 1e-12)


def test_witnesses_of_parts_lie_in_the_region_that_was_asked_about() -> None:
    """float32 has no 0.1 and no 0.7: the bound region is larger than the point, of which it has no input."""
    torch.manual_seed(0)
    layers = [(torch.randn(4, 2), torch.randn(4)), (torch.randn(1, 4), None)]
    network, region = rj.load(layers, activation="relu", dtype=torch.float32), rj.LpBall([[0.1, 0.7]], radius=0.0)
    for method in (None, rj.Branched()):
        found = rj.lipschitz(network, region, method=method)
        assert float(found.lower) == 0 or bool(region.holds(found.witness.unsqueeze(1)).all())
    wide = rj.LpBall([[0.1, 0.7], [0.3, 0.2]], radius=0.2)
    problem = rj.Problem(network, wide)
    points = problem.bound.x.unsqueeze(1)
    joined = join(problem.samples()[::-1])
    assert joined.rows == (1, 0)
    assert torch.equal(joined.holds(points.flip(0)), wide.holds(points).flip(0))


def test_an_interruption_ends_all_samples() -> None:
    network, calls = net(2, "relu", 1), list[str]()

    def stop(state: rj.Branching) -> None:
        calls.append(state.status)
        raise KeyboardInterrupt

    region = rj.Box(-torch.ones(3, 2), torch.ones(3, 2))
    found = rj.lipschitz(network, region, method=rj.Branched(progress=stop), search=rj.Search(work=0))
    assert (found.status, calls) == ("interrupted", ["running"])


WRONG: list[tuple[Any, dict[str, Any]]] = [
    (rj.Limit, {"seconds": "a"}), (rj.Limit, {"parts": None}), (rj.Branched, {"limit": 5}),
    (rj.Branched, {"norm_method": rj.Chords()}), (rj.Branched, {"brancher": "x"}),
]  # fmt: skip


@pytest.mark.parametrize(("make", "settings"), WRONG)
def test_settings_of_other_types_are_refused(make: Any, settings: dict[str, Any]) -> None:
    with pytest.raises((rj.InvalidRequest, BeartypeException)):
        make(**settings)


@pytest.mark.parametrize("seed", range(4))
def test_witnesses_at_rounded_ends_of_parts_are_in_the_ball(seed: int) -> None:
    """1 + 0.1 is no number, so the box around the ball is larger; the constant is largest at its corners."""
    g = torch.Generator().manual_seed(seed)
    shapes = ((5, 3), (2, 5))
    layers = [(torch.randn(*s, generator=g).double(), torch.randn(s[0], generator=g).double()) for s in shapes]
    ball = rj.LpBall(torch.tensor([[0.0, 1.0, 1.0]]).double(), 0.1)
    method = rj.Branched(limit=rj.Limit(parts=20))
    found = rj.lipschitz(rj.load(layers, activation="square"), ball, method=method, search=rj.Search(work=0))
    assert float(found.lower) > 0.9 * float(found.upper)
    for point, centre in zip(found.witness[0].tolist(), (0.0, 1.0, 1.0), strict=True):
        assert abs(Fraction(point) - Fraction(centre)) <= Fraction(0.1)
