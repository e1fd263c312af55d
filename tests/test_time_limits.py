"""`time_limit=` of every question: what it stands for, what it excludes, and that samples share it.  No real clock."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac.branching import BranchAndBound
from recurjac.search import Attained

Ask = Callable[..., Any]
QUIET = rj.RadiusSearch(4, attack=rj.Attack(1, 1, 1))


def smooth(seed: int = 0) -> tuple[rj.Network, Tensor]:
    """A network of 2 inputs and 2 outputs, and two inputs."""
    g = torch.Generator().manual_seed(seed)
    layers = [
        (torch.randn(b, a, generator=g).double(), torch.randn(b, generator=g).double()) for a, b in ((2, 4), (4, 2))
    ]
    return rj.load(layers, activation="tanh"), torch.randn(2, 2, generator=g).double()


def ball(x: Tensor) -> rj.LpBall:
    return rj.LpBall(x, 0.1)


WAYS = torch.eye(2).double()
ASKS: dict[str, Ask] = {
    "lipschitz": lambda n, x, **how: rj.lipschitz(n, ball(x), **how),
    "jacobian_bounds": lambda n, x, **how: rj.jacobian_bounds(n, ball(x), **how),
    "directional_bounds": lambda n, x, **how: rj.directional_bounds(n, ball(x), direction=WAYS[0], **how),
    "preactivation_bounds": lambda n, x, **how: rj.preactivation_bounds(n, ball(x), **how),
    "deployed_error": lambda n, x, **how: rj.deployed_error(n, ball(x), **how),
    "hessian_bounds": lambda n, x, **how: rj.hessian_bounds(n, ball(x), **how),
    "residual_bounds": lambda n, x, **how: rj.residual_bounds(n, ball(x), residuals=rj.laplacian(0, 1), **how),
    "contraction_rate": lambda n, x, **how: rj.contraction_rate(n, ball(x), **how),
    "second_derivative": lambda n, x, **how: rj.second_derivative(n, ball(x), directions=WAYS, **how),
    "curvature": lambda n, x, **how: rj.curvature(n, ball(x), **how),
    "monotone": lambda n, x, **how: rj.monotone(n, ball(x), **how),
    "certified_radius": lambda n, x, **how: rj.certified_radius(n, x, **how),
    "stationary_free_radius": lambda n, x, **how: rj.stationary_free_radius(n, x, output=0, **how),
    "stationary_points": lambda n, x, **how: rj.stationary_points(n, ball(x), output=0, **how),
}
BESIDE: list[tuple[str, str, Any]] = [
    ("lipschitz", "method", rj.Auto(3)), ("lipschitz", "method", rj.Chords()),
    ("jacobian_bounds", "method", rj.Chords()),
    ("directional_bounds", "method", rj.AutoEntries()), ("preactivation_bounds", "pre", rj.Crown()),
    ("deployed_error", "pre", rj.IBP()),
    ("residual_bounds", "limit", rj.Limit()), ("second_derivative", "limit", rj.Limit()),
    ("curvature", "limit", rj.Limit()), ("contraction_rate", "limit", rj.Limit()),
    ("contraction_rate", "method", rj.Chords()), ("monotone", "limit", rj.Limit()), ("monotone", "method", rj.Chords()),
    ("certified_radius", "search", rj.RadiusSearch(time_limit=2)), ("stationary_free_radius", "limit", rj.Limit()),
    ("stationary_free_radius", "method", rj.AutoEntries(1)),
]  # fmt: skip
"""What has a limit of its own, or none."""
every = pytest.mark.parametrize("name", ASKS)


def test_every_question_has_a_limit() -> None:
    questions = {
        name
        for name in rj.__all__
        if inspect.isfunction(found := getattr(rj, name))
        and {"region", "x"} & inspect.signature(found).parameters.keys()
    }
    assert questions == ASKS.keys()
    for name in questions:
        assert inspect.signature(getattr(rj, name)).parameters["time_limit"].default is None


@every
@pytest.mark.parametrize("limit", [0, -1.0, nan, True])
def test_no_time_is_refused(name: str, limit: Any) -> None:
    with pytest.raises(rj.InvalidRequest, match="is not a positive number of seconds; give one"):
        ASKS[name](*smooth(), time_limit=limit)


@every
def test_hardly_any_time_gives_something(name: str) -> None:
    ASKS[name](*smooth(), time_limit=1e-12)


@pytest.mark.parametrize(("name", "argument", "value"), BESIDE)
def test_two_limits_are_refused(name: str, argument: str, value: Any) -> None:
    with pytest.raises(rj.InvalidRequest, match=f"time_limit=5 is for the defaults, but {argument}="):
        ASKS[name](*smooth(), time_limit=5, **{argument: value})


CLOCKED = ("deadline", "preactivation.state", "branching.search", "branching.turns")
"""The modules that look at the clock."""


class Clock:
    """A clock that goes on by `pace` seconds whenever it is looked at."""

    def __init__(self, pace: float) -> None:
        self.now, self.pace = 0.0, pace

    def monotonic(self) -> float:
        self.now += self.pace
        return self.now

    perf_counter = monotonic


@pytest.fixture(params=[0.0, 0.05])
def clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that stands still, or at which the time is soon over."""
    found = Clock(request.param)
    monkeypatch.setattr("recurjac.auto.batch._WORK", 1e5)
    for module in CLOCKED:
        monkeypatch.setattr(f"recurjac.{module}.time", found)
    return found


def test_a_rule_of_a_problem_is_not_replaced() -> None:
    network, x = smooth()
    with pytest.raises(rj.InvalidRequest, match="time_limit=5 is for the defaults, but pre="):
        rj.preactivation_bounds(rj.Problem(network, ball(x), pre=rj.IBP()), time_limit=5)


def jacobian(network: rj.Network, x: Tensor) -> Tensor:
    """At random points of the balls: (batch, N, outputs, inputs)."""
    points = x.unsqueeze(1) + 0.1 * (2 * torch.rand(2, 50, 2, generator=torch.Generator().manual_seed(1)) - 1).double()
    found: Tensor = torch.func.vmap(torch.func.vmap(torch.func.jacrev(lambda v: network(v[None])[0])))(points)
    return found.detach()


@pytest.mark.usefixtures("clock")
def test_what_is_proved_in_time_is_true() -> None:
    network, x = smooth()
    true = jacobian(network, x)
    lip = rj.lipschitz(network, ball(x), search=rj.Search(work=0), time_limit=3)
    assert lip.method == "auto"
    assert bool((lip.upper.unsqueeze(1) >= true.abs().sum(3).amax(2)).all())
    entries = rj.jacobian_bounds(network, ball(x), time_limit=3)
    along = rj.directional_bounds(network, ball(x), direction=WAYS[0], time_limit=3)
    trends = rj.monotone(network, ball(x), time_limit=3)
    assert entries.method == along.method == "auto"
    for low, high, values in (
        (entries.lower, entries.upper, true), (along.lower, along.upper, true[..., 0]),
        (trends.lower, trends.upper, true),
    ):  # fmt: skip
        assert bool((low.unsqueeze(1) <= values).all())
        assert bool((values <= high.unsqueeze(1)).all())
    once = rj.jacobian_bounds(network, ball(x))
    assert bool((entries.upper <= once.upper).all())
    ranges = rj.preactivation_bounds(rj.Problem(network, ball(x)), time_limit=3)
    assert ranges.method == "auto"
    assert bool((ranges.lower[-1] <= network(x)).all())
    assert bool((network(x) <= ranges.upper[-1]).all())


@pytest.mark.parametrize("clock", [0.05], indirect=True)
@pytest.mark.usefixtures("clock")
def test_second_derivatives_in_time_are_true() -> None:
    network, x = smooth()
    one, x = network.output(0), x[:1]
    small = rj.LpBall(x, 0.02)
    plain, found = (rj.hessian_bounds(one, small, time_limit=limit) for limit in (None, 3))
    true = torch.func.vmap(torch.func.jacrev(torch.func.jacrev(lambda v: one(v[None])[0, 0])))(x)
    assert plain.status == ("one pass",)
    assert all(status in ("exact", "time") for status in found.status)
    for bounds in (plain, found):
        assert bool((bounds.lower <= true).all())
        assert bool((true <= bounds.upper).all())
    assert bool((found.upper - found.lower <= plain.upper - plain.lower).all())
    bend = rj.curvature(one, small, time_limit=3)
    assert bool((torch.linalg.matrix_norm(true, 2) <= bend.upper * (1 + 1e-12)).all())
    both = rj.residual_bounds(one, small, residuals=rj.laplacian(0, 1), time_limit=3)
    trace = true.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
    assert bool(((both.lower <= trace) & (trace <= both.upper)).all())


@pytest.mark.parametrize("clock", [0.05], indirect=True)
@pytest.mark.usefixtures("clock")
def test_radii_in_time_are_not_beyond_what_was_attacked() -> None:
    network, x = smooth()
    found = rj.certified_radius(network, x, search=QUIET, time_limit=3)
    assert bool((found.radius <= found.attack).all())
    assert "branched margin" in found.provenance.method  # it is part of the default in time
    calm = rj.stationary_free_radius(network, x, output=0, time_limit=3)
    assert calm.method == "auto"
    rj.stationary_points(network, ball(x), output=0, time_limit=3)


def test_samples_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples that take no time leave it to those after them."""
    given: list[float] = []
    last = BranchAndBound.last

    def noted(search: BranchAndBound, *what: Any) -> Any:
        given.append(search.limit.seconds)
        return last(BranchAndBound(search.brancher, rj.Limit(parts=1)), *what)

    monkeypatch.setattr(BranchAndBound, "last", noted)
    monkeypatch.setattr("recurjac.deadline.time", Clock(0.0))
    network, x = smooth()
    rj.residual_bounds(network.output(0), ball(x), residuals=rj.laplacian(0, 1), time_limit=6)
    rj.curvature(network.output(0), ball(x), time_limit=8)
    rj.curvature(network.output(0), ball(x), limit=rj.Limit(seconds=5))
    assert given == [3.0, 6.0, 4.0, 8.0, 5.0, 5.0]


def test_a_search_has_half_of_the_time_and_the_method_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr("recurjac.deadline.time", Clock(0.0))

    def searched(search: rj.Search, question: Any, *_: Any) -> Any:
        seen.append(search.seconds)
        x = question.bound.x
        return Attained(x.new_zeros(len(x)), x, torch.zeros_like(x))

    monkeypatch.setattr(sys.modules["recurjac.lipschitz_constants"], "_searched", searched)
    network, x = smooth()
    bounds = sys.modules["recurjac.lipschitz_constants"]._bounds
    methods: list[Any] = []

    def quick(how: Any, *what: Any) -> Any:
        methods.append(how)
        return bounds(rj.TightestNorm(rj.JacobianNorm()), *what)

    monkeypatch.setattr(sys.modules["recurjac.lipschitz_constants"], "_bounds", quick)
    rj.lipschitz(network, ball(x), search=rj.Search(work=0), time_limit=4)
    rj.lipschitz(network, ball(x), search=rj.Search(work=0, seconds=1), time_limit=4)
    rj.lipschitz(network, ball(x), search=rj.Search(work=0), method=rj.Chords())
    assert seen == [2.0, 1.0, inf]
    assert [m.seconds for m in methods[:2]] == [4.0, 4.0]


def test_the_end_of_a_time_ends_the_search_for_stationary_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function with a proved point, of which nothing is said when there is no time."""
    monkeypatch.setattr("recurjac.deadline.time", Clock(1.0))
    layers = [
        (torch.tensor([[1.0], [-1.0]]).double(), torch.zeros(2).double()),
        (torch.ones(1, 2).double(), torch.zeros(1).double()),
    ]
    bowl, x = rj.load(layers, activation="softplus"), torch.tensor([[0.1]]).double()
    assert rj.stationary_points(bowl, rj.LpBall(x, 0.5), output=0).count == (1,)
    assert rj.stationary_points(bowl, rj.LpBall(x, 0.5), output=0, time_limit=1e-3).count == (0,)
