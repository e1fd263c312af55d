"""`Auto` on several samples: together first, then one by one if there is time for each.  No real clock decides."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import final

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac import testing
from recurjac.arithmetic import Interval
from recurjac.auto import AbstractStep, ForwardStep, NormStep, Progress
from recurjac.auto.batch import Pace
from recurjac.auto.conditions import where_smooth
from recurjac.auto.work import Question, Work
from recurjac.deadline import Deadline
from recurjac.network import Network
from recurjac.propagation.planning import PlainOnly, Planner, Thresholds
from recurjac.search import point_jacobian

QUIET = rj.Search(work=0)
TOGETHER = (NormStep(rj.JacobianNorm(rj.XLinear()), where=where_smooth), ForwardStep(rj.Reversed(rj.RecurJac())))
"""Some steps that bound many samples at once."""


class Clock:
    """A clock that goes on by `pace` seconds whenever it is looked at."""

    def __init__(self, pace: float) -> None:
        self.now, self.pace = 0.0, pace

    def monotonic(self) -> float:
        self.now += self.pace
        return self.now

    perf_counter = monotonic


def clock(monkeypatch: pytest.MonkeyPatch, pace: float) -> Clock:
    monkeypatch.setattr("recurjac.auto.batch._WORK", 1e5)
    found = Clock(pace)
    for module in ("recurjac.deadline", "recurjac.preactivation.state"):
        monkeypatch.setattr(f"{module}.time", found)
    return found


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return clock(monkeypatch, 0.0)


@final
@dataclass(frozen=True)
class Recorded(AbstractStep):
    """A step that notes the upper bounds of the samples that it is asked about."""

    seen: list[list[float]]
    interrupts: int = 2**20

    @property
    def title(self) -> str:
        return "recorded"

    @property
    def rungs(self) -> int:
        return 1

    def suits(self, work: Work) -> bool:
        return True

    def run(self, work: Work, rung: int, seconds: float) -> float | None:
        if len(self.seen) >= self.interrupts:
            raise KeyboardInterrupt
        self.seen.append(work.tops.tolist())
        return None


def lots(of: int, network: Network) -> Planner:
    """Lots of so many samples."""
    return Planner(Thresholds(lot_work=of * network.cost))


def batch(count: int, network: Network, radius: float = 0.3, p: float = inf) -> rj.LpBall:
    x = torch.randn(count, *network.input_shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return rj.LpBall(x, radius, p)


def gains(network: Network, region: rj.LpBall, p: float, q: float) -> Tensor:
    """The largest norm of the Jacobian at some points of each ball, for equal norms or q = inf."""
    bound = region.bind(network.input_shape, torch.float64, torch.device("cpu"))
    points = bound.sample(60, torch.Generator().manual_seed(1))
    jacobian = point_jacobian(network, points.flatten(0, 1))
    if p == q == 2:
        found: Tensor = torch.linalg.matrix_norm(jacobian, 2)
    else:
        found = torch.linalg.vector_norm(jacobian, {inf: 1, 1: inf, 2: 2}[p], dim=2).amax(1)
    return found.reshape(points.shape[:2]).amax(1)


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize(("p", "q", "kind"), [(inf, inf, "tanh"), (2, 2, "relu"), (1, inf, "falling")])
def test_every_sample_has_its_own_bound(kind: str, p: float, q: float) -> None:
    """In two lots: above what is sampled, not above one pass; the same as alone."""
    network = testing.random_network(kind, 3, residual=True)
    region = batch(3, network, p=p)
    truth = gains(network, region, p, q)
    each = [rj.lipschitz(network, rj.LpBall(x, 0.3, p), p=p, q=q, method=rj.Auto(10, TOGETHER), search=QUIET)
            for x in region.x]  # fmt: skip
    problem = rj.Problem(network, region, planner=lots(2, network))
    found = rj.lipschitz(problem, p=p, q=q, method=rj.Auto(10, TOGETHER, alone=9), search=QUIET)
    assert bool((truth <= found.upper * (1 + 1e-12)).all())
    assert bool((found.lower <= found.upper).all())
    for method in (rj.JacobianNorm(), rj.ProductOfNorms(), rj.JacobianNorm(rj.Reversed(rj.RecurJac()))):
        plain = rj.lipschitz(network, region, p=p, q=q, method=method, search=QUIET)
        assert bool((found.upper <= plain.upper * (1 + 1e-9)).all()), method.title
    assert len(found.steps) == 3
    for i, line in enumerate(found.steps):
        assert float(found.upper[i]) <= float(each[i].upper) * 1.02
        assert f"product of norms {each[i].steps[0].split()[3].rstrip(';')}" in line
        x = found.witness[i : i + 1]
        assert bool(((x - region.x[i]).flatten().norm(p) <= 0.3 * (1 + 1e-9)).all())


def test_samples_alone_come_by_their_gaps_if_there_is_time(still: Clock) -> None:
    network = testing.random_network("tanh", 1, residual=False)
    region = batch(4, network)
    for of in (1, 3, 4):
        problem, seen = rj.Problem(network, region, planner=lots(of, network)), list[list[float]]()
        found = rj.lipschitz(problem, method=rj.Auto(10, (Recorded(seen),), alone=1.0), search=QUIET)
        assert sorted(one for (one,) in seen) == pytest.approx(sorted(found.upper.tolist()))
        ratios = {round(float(u), 9): float(u / a) for u, a in zip(found.upper, found.lower, strict=True)}
        order = [ratios[round(one, 9)] for (one,) in seen]
        assert order == pytest.approx(sorted(order, reverse=True), rel=0.02)  # the search goes on before them
        assert found.status == "stuck"
        assert not any("too little time" in line for line in found.steps)
    assert still.now == 0


def test_what_is_known_of_a_sample_is_its_own() -> None:
    network = testing.random_network("relu", 3, residual=True)
    whole = rj.Problem(network, batch(3, network))
    work = Work(Question(lambda method, known: method.norm(known, inf, inf), (inf, inf)), rj.Gradients(whole),
                Deadline.after(inf), whole)  # fmt: skip
    work.tighten(rj.JacobianNorm(), "entries")
    assert work.upper is not None
    for i in range(3):
        one = work.sample(i)
        assert torch.equal(one.gradients.state.region.x, work.gradients.state.region.x[i : i + 1])
        assert torch.equal(one.tops, work.upper[i : i + 1])
        for k in range(1, network.depth):
            mine, its = one.gradients.state.pre(k), work.gradients.state.pre(k)
            assert torch.equal(mine.lower, its.lower[i : i + 1])
            assert torch.equal(mine.upper, its.upper[i : i + 1])


@pytest.mark.usefixtures("still")
def test_without_time_for_each_they_are_only_bounded_together() -> None:
    network, seen = testing.random_network("tanh", 1, residual=False), list[list[float]]()
    method = rj.Auto(10, (Recorded(seen), NormStep(rj.JacobianNorm(rj.XLinear()))), alone=9.0)
    found = rj.lipschitz(network, batch(3, network), method=method, search=QUIET)
    assert not seen
    assert found.status == "time"
    assert all(line.endswith("too little time for each sample alone") and "x-linear" in line for line in found.steps)
    one = rj.lipschitz(network, batch(1, network), method=method, search=QUIET)
    assert one.status == "stuck"
    assert len(seen) == 1


@pytest.mark.usefixtures("still")
def test_samples_that_are_met_are_finished() -> None:
    network, seen = testing.random_network("tanh", 2, residual=False), list[list[float]]()
    x = torch.randn(3, *network.input_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    radius = torch.tensor([0.3, 1e-9, 0.3], dtype=torch.float64).reshape(3, *[1] * (x.dim() - 1))
    found = rj.lipschitz(network, rj.Box(x - radius, x + radius), method=rj.Auto(10, (Recorded(seen),)), search=QUIET)
    assert len(seen) == 2
    assert found.status in ("stuck, exact", "exact, stuck")
    assert float(found.upper[1]) <= float(found.lower[1]) * (1 + 1e-6)


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("after", range(1, 12))
def test_an_interruption_anywhere_keeps_what_is_proved(after: int) -> None:
    network = testing.random_network("relu", 4, residual=True)
    region, calls = batch(4, network), list[float]()

    def stop(now: Progress) -> None:
        calls.append(now.upper)
        if len(calls) == after:
            raise KeyboardInterrupt

    problem = rj.Problem(network, region, planner=lots(2, network))
    method = rj.Auto(10, (NormStep(rj.QuadraticNorm(3), matrices=True),), progress=stop)
    if after < 2:  # not all products of norms are known
        with pytest.raises(KeyboardInterrupt):
            rj.lipschitz(problem, method=method, search=QUIET)
        return
    found = rj.lipschitz(problem, method=method, search=QUIET)
    assert "interrupted" in found.status
    product = rj.lipschitz(network, region, method=rj.ProductOfNorms(), search=QUIET).upper
    assert bool((found.upper <= product * (1 + 1e-12)).all())
    assert bool((gains(network, region, inf, inf) <= found.upper).all())
    assert calls[1:] == sorted(calls[1:], reverse=True)


@pytest.mark.usefixtures("still")
def test_an_interruption_of_one_sample_keeps_the_others() -> None:
    network, seen = testing.random_network("tanh", 4, residual=True), list[list[float]]()
    steps = (NormStep(rj.QuadraticNorm(3), matrices=True), Recorded(seen, 1))
    found = rj.lipschitz(network, batch(3, network), method=rj.Auto(10, steps), search=QUIET)
    assert found.status in ("stuck, interrupted", "interrupted, stuck")
    assert sum("P-chain" in line for line in found.steps) == 2


@pytest.mark.parametrize("seconds", [1.0, 300.0, 3000.0, 30000.0])
def test_a_batch_keeps_its_limit(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """The clock counts operations, as networks count as large."""
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 6), nn.ReLU(), nn.Linear(6, 2))
    for parameter in module.double().parameters():
        parameter.requires_grad_(False)
    network = rj.load(module, torch.zeros(1, 1, 5, 5, dtype=torch.float64))
    region, looks = batch(5, network), clock(monkeypatch, 1.0)
    planner = Planner(Thresholds(watched_work=0, batch_work=0))
    steps = (NormStep(rj.QuadraticNorm(2), matrices=True), ForwardStep(rj.Reversed(rj.Chords())))
    found = rj.lipschitz(rj.Problem(network, region, planner=planner), method=rj.Auto(seconds, steps), search=QUIET)
    assert looks.now < 1.2 * seconds + 600
    assert bool((gains(network, region, inf, inf) <= found.upper).all())
    assert bool((found.lower <= found.upper).all())
    product = rj.lipschitz(network, region, method=rj.ProductOfNorms(), search=QUIET).upper
    assert bool((found.upper <= product * (1 + 1e-12)).all())


def test_entries_share_the_time_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    network, looks = testing.random_network("relu", 1, residual=False), clock(monkeypatch, 0.0)
    asked: list[float] = []
    plain = rj.AutoEntries.within

    def within(self: rj.AutoEntries, seconds: float) -> rj.AutoEntries:
        asked.append(seconds)
        looks.now += 1.0
        return plain(self, seconds)

    monkeypatch.setattr(rj.AutoEntries, "within", within)
    problem = rj.Problem(network, batch(4, network, 1e-3), planner=Planner(Thresholds(batch_work=0)))
    parts = len(problem.batches())
    rj.jacobian_bounds(problem, method=rj.AutoEntries(10.0))
    assert len(asked) == (parts if parts > 1 else 0)
    assert asked == [] or asked == pytest.approx([2.5, 3.0, 4.0, 7.0])


def test_the_pace_of_lots() -> None:
    assert Pace().expected(3) == inf
    assert Pace(2.0).after(4, 2.0).expected(2) == 1.0  # a guess counts no longer
    assert Pace(1.0, 3).after(1, 5.0) == Pace(2.0, 4)


def test_lots_fit_the_memory_and_the_time() -> None:
    network = testing.random_network("relu", 1, residual=False)
    planner = Planner()
    assert planner.lot(network, 50, 2**26) == 50
    assert planner.lot(network, 1, 2**26) == 1
    assert planner.lot(network, 50, 1) == 1
    assert 1 < planner.lot(network, 10**9, 2**26) < 10**9
    assert planner.wide_lot(network, 1) == 1


@pytest.mark.parametrize("kind", ["tanh", "relu"])
def test_lots_of_samples_are_bounded_as_all_of_them_together(kind: str) -> None:
    """Up to rounding; constraints and the rows of a part go with their samples."""
    network = testing.random_network(kind, 2, residual=True)
    region = batch(7, network)
    whole = rj.Problem(network, region)
    few = rj.Problem(network, region, planner=Planner(Thresholds(lot_forms=2**26 // (3 * 8 * 3 * max(network.sizes)))))
    assert [part.bound.batch for part in few.batches()] == [3, 3, 1]
    assert [part.rows for part in few.batches()] == [(0, 1, 2), (3, 4, 5), (6,)]
    a, b = rj.jacobian_bounds(whole), rj.jacobian_bounds(few)
    assert torch.allclose(a.lower, b.lower, rtol=1e-11, atol=1e-13)
    assert torch.allclose(a.upper, b.upper, rtol=1e-11, atol=1e-13)
    each = [rj.Problem(network, rj.LpBall(x.unsqueeze(0), 0.3), planner=PlainOnly()) for x in region.x]
    alone = [rj.jacobian_bounds(one) for one in each]
    assert torch.allclose(b.upper, torch.cat([one.upper for one in alone]), rtol=1e-11, atol=1e-13)
    end = torch.arange(7.0, dtype=torch.float64).reshape(7, 1).expand(7, *network.shape(1)) + 1
    for problem in (few.constrained(1, Interval(-end, end)), few.constrained(1, Interval(-end[:1], end[:1]))):
        known = [part.known[1] for part in problem.batches()]
        assert [len(k.lower) for k in known] == ([3, 3, 1] if len(problem.known[1].lower) == 7 else [1, 1, 1])
        assert torch.equal(known[-1].upper[-1], problem.known[1].upper[-1])


def test_a_batch_is_divided_where_its_forms_do_not_fit_the_memory() -> None:
    network = testing.random_network("tanh", 2, residual=False)
    planner = Planner()
    assert planner.samples_together(network, 50, 2**26) == 50
    assert planner.samples_together(network, 50, 1) == 1
    assert 100 < planner.samples_together(network, 10**9, 2**26) < 10**6
    ends = [torch.ones(50, *network.shape(k), dtype=torch.float64) for k in range(1, network.depth)]
    held = rj.Given([-end for end in ends], ends)
    problem = rj.Problem(network, batch(50, network), pre=held, arithmetic=rj.Rigorous(1))
    assert len(problem.batches()) == 1  # its rule holds numbers for each sample


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_no_time_alone_is_refused(seconds: float) -> None:
    with pytest.raises(rj.InvalidRequest, match="alone="):
        rj.Auto(alone=seconds)
