"""Time limits: work is given up at any point, and every bound that is returned holds.  The clock counts operations."""

from __future__ import annotations

from contextlib import suppress
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac import testing
from recurjac.applications.robustness import certified_radius
from recurjac.auto import ForwardStep, NormStep, RangeStep
from recurjac.deadline import NEVER, Budget, Deadline, until
from recurjac.errors import OutOfTime
from recurjac.jacobian import Gradients, InTime
from recurjac.jacobian.in_time import While
from recurjac.lipschitz_constants import nested
from recurjac.preactivation import CrownLines, SecantRanges
from recurjac.preactivation.anytime import Within, in_time
from recurjac.propagation.forms import DenseForms
from recurjac.propagation.planning import Planner, Thresholds
from recurjac.search import point_jacobian

WATCHED = Planner(Thresholds(watched_work=0))
"""Small networks are treated like large ones."""
FORMS = Planner(Thresholds(watched_work=0, forms_share=1e9, forms_work=0))
"""Affine forms are carried forward to every stage with an unstable neuron, too."""
QUIET = rj.Search(work=0)
BRIEF = (RangeStep(SecantRanges(2)), NormStep(rj.QuadraticNorm(2)), ForwardStep(rj.Reversed(rj.Chords())))
"""Steps that take little time."""


class Looks:
    """A clock that advances by a second whenever it is looked at, which `until` does before each operation."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now

    def perf_counter(self) -> float:
        return self.monotonic()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Looks:
    looks = Looks()
    for module in ("recurjac.deadline", "recurjac.preactivation.state"):
        monkeypatch.setattr(f"{module}.time", looks)
    return looks


def conv(seed: int, activation: type[nn.Module] = nn.ReLU) -> rj.Network:
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), activation(), nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4),
        activation(), nn.Flatten(), nn.Linear(16, 8), activation(), nn.Linear(8, 3),
    )  # fmt: skip
    for layer in module:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = torch.randn(layer.num_features) / 4
            layer.running_var = torch.rand(layer.num_features) + 0.5
    module = module.double().eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return rj.load(module, torch.zeros(1, 1, 5, 5, dtype=torch.float64))


def problem(network: rj.Network, radius: float, p: float = inf, planner: Planner = WATCHED) -> rj.Problem:
    x = torch.linspace(-1, 1, network.sizes[0], dtype=torch.float64).reshape(1, *network.input_shape)
    return rj.Problem(network, rj.LpBall(x, radius, p), planner=planner)


def jacobians(of: rj.Problem, count: int = 200) -> Tensor:
    points = of.bound.sample(count, torch.Generator().manual_seed(1))[0]
    return point_jacobian(of.network, points)


def holds(bounds: Any, of: rj.Problem) -> bool:
    found = jacobians(of)
    slack = 1e-12 * (1 + found.abs().max())
    lower, upper = (t.detach().reshape(1, *found.shape[1:]) for t in (bounds.lower, bounds.upper))
    return bool(((lower <= found + slack) & (found <= upper + slack)).all())


@pytest.mark.usefixtures("clock")
def test_work_is_given_up_at_the_deadline() -> None:
    done: list[Tensor] = []

    def work() -> None:
        for number in range(10000):
            done[len(done) : len(done) + 1] = [torch.ones(2) + number]

    def nested(first: float, second: float) -> None:
        with until(Deadline.after(first)), until(Deadline.after(second)):
            work()

    with pytest.raises(OutOfTime):
        nested(inf, 10.0)
    assert 0 < len(done) < 11
    with until(NEVER):
        work()
    for first, second in ((1e6, 20.0), (20.0, 1e6)):
        begun = len(done)
        with pytest.raises(OutOfTime):
            nested(first, second)
        assert begun < len(done) < begun + 21


def test_gradients_are_recorded_again_after_the_end_of_the_time() -> None:
    """The end of `torch.no_grad()` is an operation for a mode that watches all operations, and must not be given up."""
    one = torch.ones(1)
    with pytest.raises(OutOfTime), until(Deadline.after(1e-9)), torch.no_grad():
        one + one
    assert torch.is_grad_enabled()


@pytest.mark.usefixtures("clock")
def test_questions_share_what_is_left() -> None:
    budget = Budget.of(1000.0, 4)
    first = budget.share()
    assert 240 < first <= 250
    for _ in range(600):
        assert budget.deadline.left >= 0
    assert 120 < budget.share() < 140  # a third of the four hundred that are left
    assert budget.share(2) > 350
    assert budget.share() == pytest.approx(budget.deadline.left, abs=3)  # more questions than were announced
    for _ in range(1000):
        assert budget.deadline.left >= 0
    assert 0 < budget.share() < 0.01
    assert Budget.of(inf, 3).share() == inf


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("planner", [WATCHED, FORMS], ids=["lines", "forms"])
@pytest.mark.parametrize("limit", [1.0, 30.0, 60.0, 100.0, 130.0, 200.0, 350.0, 1000.0, 1e9])
def test_ranges_in_time_lie_between_intervals_and_the_rule(limit: float, planner: Planner) -> None:
    network = conv(0)
    asked = problem(network, 0.2, planner=planner)
    plain, ibp = (asked.by(rule).preactivations() for rule in (rj.Crown(), rj.IBP()))
    timed = asked.by(in_time(rj.Crown(), Deadline.after(limit))).preactivations()
    for k in range(1, network.depth):
        own, wide, tight = timed.pre(k), ibp.pre(k), plain.pre(k)
        assert bool((own.lower >= wide.lower - 1e-12).all() and (own.upper <= wide.upper + 1e-12).all())
        if limit == 1e9:
            assert torch.allclose(own.lower, tight.lower)
            assert torch.allclose(own.upper, tight.upper)
        values = torch.stack([z[0] for x in timed.region.sample(50, torch.Generator())[0]
                              for z in [network.preactivations(x.unsqueeze(0))[k - 1]]])  # fmt: skip
        assert bool((values >= own.lower - 1e-12).all() and (values <= own.upper + 1e-12).all())


@pytest.mark.usefixtures("clock")
def test_forms_that_were_interrupted_state_nothing_more() -> None:
    """What is half done at the end of the time must not be taken up again."""
    network, interrupted = conv(0), 0
    k = network.depth - 1
    for limit in range(1, 400, 7):
        state = problem(network, 0.2).by(rj.IBP()).preactivations()
        with suppress(OutOfTime), until(Deadline.after(float(limit))):
            rj.ForwardForms().bound(state, k, None)
        again = rj.ForwardForms().bound(state, k, None)
        interrupted += bool(again.lower.isinf().all())
        values = network.preactivations(state.region.sample(20, torch.Generator().manual_seed(0))[0])[k - 1]
        assert bool((values >= again.lower - 1e-12).all() and (values <= again.upper + 1e-12).all())
    assert interrupted > 10


@pytest.mark.usefixtures("clock")
def test_neurons_are_bounded_in_lots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recurjac.preactivation.anytime._LOT", 4)
    network, known = conv(1), []
    state = problem(network, 0.3).preactivations()
    whole = CrownLines().bound(state, 2, None)
    for limit in (1.0, 300.0, 1000.0, 3000.0, 1e9):
        some = Within(CrownLines(), Deadline.after(limit)).bound(state, 2, None)
        done = some.lower.isfinite()
        assert torch.allclose(some.lower[done], whole.lower[done])
        assert torch.allclose(some.upper[done], whole.upper[done])
        known.append(int(done.sum()))
    assert known == sorted(known)
    assert known[0] == 0
    assert known[-1] == whole.lower.numel()
    assert any(0 < some < known[-1] for some in known), known


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("radius", [0.0, 0.3, inf])
def test_entries_in_time_hold_whenever_they_are_given_up(radius: float, activation: type[nn.Module]) -> None:
    of = problem(conv(2, activation), radius)
    quick, widths = rj.jacobian_bounds(of, method=rj.FastLip()), []
    for limit in (1.0, 100.0, 400.0, 2000.0, 1e9):
        found = rj.jacobian_bounds(of, method=InTime(seconds=limit))
        assert radius == inf or holds(found, of)
        assert bool((found.lower >= quick.lower - 1e-12).all() and (found.upper <= quick.upper + 1e-12).all())
        widths.append(float((found.upper - found.lower).sum()))
    best = rj.jacobian_bounds(of, method=rj.Chords())
    assert widths[-1] <= float((best.upper - best.lower).sum()) * (1 + 1e-9)


@pytest.mark.parametrize("limit", [1.0, 50.0, 300.0, 1500.0, 10000.0])
def test_auto_entries_keep_their_limit(clock: Looks, limit: float) -> None:
    of = problem(conv(3), 0.3)
    for how in (rj.AutoEntries(limit), InTime(seconds=limit)):
        began = clock.now
        found = rj.jacobian_bounds(of, method=how)
        assert clock.now - began < 1.2 * limit + _QUICK
        assert holds(found, of)


_QUICK = 100
"""The looks at the clock of what is always done."""


@pytest.mark.parametrize(("p", "q"), [(inf, inf), (2, 2), (1, inf)])
def test_auto_keeps_its_limit_and_does_not_get_looser_with_time(clock: Looks, p: float, q: float) -> None:
    of, uppers = problem(conv(4), 0.3, p), []
    gains = torch.linalg.matrix_norm(jacobians(of), {inf: inf, 1: 1, 2: 2}[p]) if p == q else torch.zeros(1)
    product = rj.lipschitz(of, p=p, q=q, method=rj.ProductOfNorms(), search=QUIET).upper
    for limit in (1.0, 100.0, 1000.0, 10000.0, 1e6):
        began = clock.now
        found = rj.lipschitz(of, p=p, q=q, method=rj.Auto(limit, BRIEF), search=rj.Search(work=1e5, seconds=limit / 7))
        assert clock.now - began < 1.2 * limit + _QUICK
        assert found.lower <= found.upper
        assert p != q or float(gains.max()) <= float(found.upper) * (1 + 1e-12)
        uppers.append(float(found.upper))
    assert uppers == sorted(uppers, reverse=True)
    assert uppers[-1] < 0.9 * float(product)


@pytest.mark.usefixtures("clock")
def test_products_of_norms_in_time() -> None:
    network = conv(5)
    best = rj.lipschitz(problem(network, 0.1, 2), p=2, q=2, method=rj.ProductOfNorms(), search=QUIET).upper
    quick = rj.lipschitz(problem(network, 0.1, 2), p=2, q=2, method=rj.ProductOfNorms(1.0), search=QUIET).upper
    assert float(best) < float(quick) < 30 * float(best)
    for p in (1, inf):
        limited, plain = (
            rj.lipschitz(problem(network, 0.1, p), p=p, q=p, method=rj.ProductOfNorms(s), search=QUIET).upper
            for s in (1.0, inf)
        )
        assert float(limited) == float(plain)
    light = problem(network, 0.1, 2, Planner())
    assert float(rj.lipschitz(light, p=2, q=2, method=rj.ProductOfNorms(1.0), search=QUIET).upper) == float(best)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("radius", [0.0, 0.2, inf])
def test_unit_tangents_are_bounded_as_others_are(seed: int, radius: float) -> None:
    for network in (conv(seed), testing.random_network("relu", seed, bool(seed % 2))):
        of = problem(network.flattened_output(), radius, planner=Planner())
        prepared = rj.FastLip().prepare(Gradients(of))
        units = prepared.push_all()
        n = units.shape[2]
        rows = torch.eye(n, dtype=torch.float64).reshape(1, 1, n, *network.input_shape)
        dense = prepared.push(DenseForms(rows, of.arithmetic))
        assert torch.allclose(units.lower, dense.lower, atol=1e-12)
        assert torch.allclose(units.upper, dense.upper, atol=1e-12)
        assert radius == inf or holds(units, of)


def test_results_on_nested_balls_share_what_they_prove() -> None:
    network = testing.random_network("relu", 1, False)
    methods: tuple[Any, ...] = (
        rj.Chords(),
        rj.FastLip(),
        rj.ProductOfNorms(),
    )  # the smallest ball gets the loosest bound
    x = torch.full((1, 2, 2), 0.4)
    found = [
        rj.lipschitz(network, rj.LpBall(x, radius), method=method, search=rj.Search(work=1e5 * (i == 2)))
        for i, (radius, method) in enumerate(zip((0.5, 0.2, 0.1), methods, strict=True))
    ]
    both = nested(found)
    assert [float(r.upper) for r in both] == [min(float(f.upper) for f in found[: i + 1]) for i in range(3)]
    assert [float(r.lower) for r in both] == [max(float(f.lower) for f in found[i:]) for i in range(3)]
    assert "larger region" in both[2].note
    assert not found[2].note
    for result in both:
        assert float(result.lower) <= float(result.upper)
    quick = rj.lipschitz(network, rj.LpBall(x, 0.6), arithmetic=rj.Fast(), method=rj.Chords(), search=QUIET)
    alone = nested([quick, found[2]])
    assert float(alone[1].upper) == float(found[2].upper)  # a bound that does not cover rounding proves nothing here


def digits() -> tuple[rj.Network, Tensor]:
    network = testing.random_network("relu", 5, False)
    return network, torch.randn(2, *network.input_shape, generator=torch.Generator().manual_seed(2)).double()


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("limit", [1.0, 1000.0, 1e9])
def test_radii_in_time_are_valid_and_never_less_with_more_proofs(limit: float) -> None:
    network, x = digits()
    proofs = (rj.MarginBound(), rj.LipschitzIntegral(), rj.SecantMargin(3))
    attack = rj.Attack(2, 1, 2)
    once = certified_radius(network, x, search=rj.RadiusSearch(8, attack=attack))
    seen: list[float] = []
    how = rj.RadiusSearch(8, attack=attack, time_limit=limit, progress=lambda now: seen.append(now.radius))
    found = certified_radius(rj.Problem(network, rj.LpBall(x, 0.0), planner=WATCHED), proofs=proofs, search=how)
    assert bool((found.radius <= found.attack).all())
    if limit == 1e9:
        assert bool((found.radius >= once.radius).all())
        assert seen
        assert max(seen) == pytest.approx(float(found.radius[found.radius.isfinite()].max()), rel=1e-9)
    if limit == 1.0:
        assert bool((found.radius <= once.radius).all())


@pytest.mark.usefixtures("clock")
def test_balls_without_stationary_points_are_never_smaller_in_time() -> None:
    network = testing.random_network("relu", 5, False, width=4)
    x = torch.randn(2, *network.input_shape, generator=torch.Generator().manual_seed(2)).double()
    once = rj.stationary_free_radius(network, x, output=0, tolerance=0.1)
    for limit in (1.0, 200.0):
        how = rj.AutoEntries(limit, rules=(SecantRanges(2),))
        found = rj.stationary_free_radius(network, x, output=0, method=how, tolerance=0.1)
        assert found.method == "auto"
        assert limit < 200.0 or bool((found.radius >= once.radius).all())
        for i, radius in enumerate(found.radius.tolist()):
            of = rj.Problem(network.output(0), rj.LpBall(x[i : i + 1], min(radius, 1e3)))
            slopes = jacobians(of).flatten(1)[:, int(found.witness[i])]
            assert int(found.witness[i]) < 0 or bool((slopes > 0).all() or (slopes < 0).all())


def test_while_keeps_the_quick_bound(clock: Looks) -> None:
    of = problem(conv(6), 0.2)
    gradients = Gradients(of)
    quick, other = rj.FastLip().prepare(gradients), rj.Chords().prepare(gradients)
    over = Deadline(0.0, clock.now)
    assert torch.equal(While(quick, (other,), gradients.chain, over).push_all().upper, quick.push_all().upper)
    both = While(quick, (other,), gradients.chain, Deadline.after(1e9)).push_all()
    assert bool((both.upper <= torch.minimum(quick.push_all().upper, other.push_all().upper) + 1e-12).all())
