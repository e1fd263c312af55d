"""Proofs of radius are objects, alone or together, also from outside the package; a problem may ask for radii."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from math import inf, isfinite, nan
from typing import Any, final

import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac import testing
from recurjac.applications.radii import RadiusBound
from recurjac.applications.radius_search import _smaller, answered, bracket_radius, few_radii
from recurjac.extend import AbstractRadiusProof, MarginBalls, RadiusFacts
from recurjac.propagation.planning import Planner, Thresholds
from tests.marks import some_kinds

QUIET = rj.RadiusSearch(attack=rj.Attack(rounds=0))
NORMS = (1, 2, inf)


def net(seed: int, activation: str = "relu") -> rj.Network:
    g = torch.Generator().manual_seed(seed)
    sizes = [(7, 3), (7, 7), (4, 7)]
    layers = [(torch.randn(n, m, generator=g).double(), torch.randn(n, generator=g).double() / 2) for n, m in sizes]
    return rj.load(layers, activation=activation)


def inputs(seed: int, count: int = 3) -> Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@final
@dataclass(frozen=True)
class ProductMargin(AbstractRadiusProof):
    """A margin that is known at the input falls by no more than the product of norms times the radius."""

    def title(self, problem: rj.Problem) -> str:
        return "margin by a product of norms"

    def facts(self, balls: MarginBalls) -> RadiusFacts:
        centre = balls.problem.over(rj.LpBall(balls.problem.bound.x, 0.0))
        at = centre.output(centre.preactivations()).lower.double()
        product = rj.ProductOfNorms().rows(balls.known, balls.p).double()
        lost = torch.where(balls.radius > 0, balls.radius, 0.0).unsqueeze(1) * product * (1 + 1e-12)
        return RadiusFacts(margins=at - lost - 1e-12 * at.abs())


@final
@dataclass(frozen=True)
class Constant(AbstractRadiusProof):
    """Numbers that are stated everywhere."""

    margin: float | None = None
    slope: float | None = None
    rows: int = 0

    def title(self, problem: rj.Problem) -> str:
        return "constant"

    def facts(self, balls: MarginBalls) -> RadiusFacts:
        shape = (balls.shape[0], self.rows or balls.shape[1])
        margins, slopes = (
            None if n is None else torch.full(shape, n, dtype=torch.float64) for n in (self.margin, self.slope)
        )
        return RadiusFacts(margins, slopes)

    def supports(self, p: float) -> bool:
        return p != 1

    def unproved_rounding(self, p: float) -> list[str]:
        return []


@pytest.mark.parametrize("p", NORMS)
def test_a_proof_from_outside_the_package(p: float) -> None:
    network, x = net(0), inputs(0)
    found = rj.certified_radius(network, x, p=p, proofs=(ProductMargin(),), target="all")
    assert bool((found.radius > 0).all())
    assert bool((found.radius < found.attack).all())
    assert found.by_integral.tolist() == [0.0] * 3
    assert set(found.proof) == {"margin by a product of norms"}
    assert found.method == "margin by a product of norms"
    assert (found.rigorous, "ProductMargin" in found.reason) == (False, True)
    alone = rj.certified_radius(network, x, p=p, target="all", search=QUIET, proofs=(rj.MarginBound(),))
    both = rj.certified_radius(network, x, p=p, target="all", search=QUIET, proofs=(rj.MarginBound(), ProductMargin()))
    assert bool((both.radius >= 0.9 * torch.maximum(alone.radius, found.radius)).all())
    assert set(both.proof) == {"CROWN or margin by a product of norms"}


@pytest.mark.parametrize("p", NORMS)
def test_each_proof_alone(p: float) -> None:
    network, x = net(1), inputs(1)
    both = rj.certified_radius(network, x, p=p, search=QUIET)
    slopes = rj.certified_radius(network, x, p=p, search=QUIET, proofs=(rj.LipschitzIntegral(),))
    margins = rj.certified_radius(network, x, p=p, search=QUIET, proofs=(rj.MarginBound(),))
    assert slopes.radius.tolist() == slopes.by_integral.tolist()
    assert margins.radius.tolist() == margins.by_margin.tolist()
    assert slopes.by_margin.tolist() == margins.by_integral.tolist() == [0.0] * 3
    assert set(slopes.proof) <= {"integral of Chords", "none"}
    assert set(margins.proof) <= {"CROWN", "none"}
    assert both.margin.tolist() == slopes.margin.tolist() == margins.margin.tolist()
    for one in (slopes, margins):
        assert bool((both.radius >= 0.9 * one.radius).all())
    fast = rj.LipschitzIntegral(rj.FastLip())
    several = rj.certified_radius(network, x, p=p, search=QUIET, proofs=(fast, rj.LipschitzIntegral()))
    assert several.radius.tolist() == pytest.approx(slopes.radius.tolist(), rel=1e-9)
    assert several.provenance.method == "integral of Fast-Lip, integral of Chords"


@some_kinds
@pytest.mark.parametrize(
    "proof", [rj.MarginBound(), rj.LipschitzIntegral(), rj.SecantMargin(3), ProductMargin()], ids=repr
)
def test_what_proofs_state_is_true(proof: AbstractRadiusProof, kinds: tuple[str, ...]) -> None:
    testing.check_radius_proof(proof, 0, kinds)


@pytest.mark.parametrize("wrong", [Constant(margin=0.0), Constant(slope=0.1)], ids=repr)
def test_what_is_false_is_told(wrong: AbstractRadiusProof) -> None:
    with pytest.raises(AssertionError, match=r"constant: a (margin|gradient)"):
        testing.check_radius_proof(wrong)


def test_what_says_nothing_hides_nothing() -> None:
    """NaN, and infinities on the wrong side, are no statements; nor are those of a proof that is silent."""
    network, x = net(2), inputs(2)
    want = rj.certified_radius(network, x, search=QUIET)
    for silent in (Constant(), Constant(nan, nan), Constant(inf, -inf), Constant(-inf, inf)):
        for proofs in (
            (rj.MarginBound(), rj.LipschitzIntegral(), silent),
            (silent, rj.LipschitzIntegral(), rj.MarginBound()),
        ):
            found = rj.certified_radius(network, x, search=QUIET, proofs=proofs)
            assert found.radius.tolist() == want.radius.tolist()
            assert found.rigorous
    nothing = rj.certified_radius(network, x, search=QUIET, proofs=(Constant(),))
    assert nothing.radius.tolist() == [0.0] * 3
    assert bool((nothing.margin > 0).all())


def test_a_slope_of_0_proves_every_input() -> None:
    network = rj.load([(torch.zeros(2, 3, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64))])
    found = rj.certified_radius(network, torch.zeros(3), proofs=(Constant(slope=0.0),))
    assert (float(found.radius), found.proof) == (inf, ("constant",))


def test_a_wrong_statement_is_caught_by_an_adversary() -> None:
    with pytest.raises(rj.UnsoundBounds):
        rj.certified_radius(net(0), inputs(0), proofs=(Constant(margin=1.0),))


@pytest.mark.parametrize(
    ("proofs", "p", "words"),
    [
        ((), inf, "not proofs of radius"),
        ((Constant(slope=1.0),), 1, "constant does not support the norm l1"),
        ((Constant(slope=-1.0),), 2, "constant states a negative slope"),
        ((Constant(slope=1.0, rows=5),), 2, r"constant states bounds of shape \(3, 5\)"),
    ],
)
def test_proofs_that_make_no_sense(proofs: Any, p: float, words: str) -> None:
    with pytest.raises(rj.InvalidRequest, match=words):
        rj.certified_radius(net(0), inputs(0), p=p, proofs=proofs)


# A problem in place of network and inputs


@pytest.mark.parametrize("p", NORMS)
def test_a_problem_asks_the_same(p: float) -> None:
    network, x = net(3), inputs(3)
    for clip in (None, (0, 1)):
        want = rj.certified_radius(network, rj.LpBall(x, 0, p, clip))
        calm = rj.stationary_free_radius(network, rj.LpBall(x, 0, p, clip), output=1, tolerance=0.1)
        for radius in (0.0, 3.0, inf):
            problem = rj.Problem(network, rj.LpBall(x, radius, p, clip))
            found = rj.certified_radius(problem)
            assert (found.radius.tolist(), found.p) == (want.radius.tolist(), p)
            assert found.provenance == want.provenance
            free = rj.stationary_free_radius(problem, output=1, tolerance=0.1)
            assert (free.radius.tolist(), free.p) == (calm.radius.tolist(), p)
            assert free.provenance == calm.provenance


def test_rule_and_arithmetic_come_through_the_problem() -> None:
    network, x = net(3), inputs(3)
    problem = rj.Problem(network, rj.LpBall(x, 0.1), pre=rj.IBP(), arithmetic=rj.Fast())
    found = rj.certified_radius(problem, search=QUIET, proofs=(rj.MarginBound(),))
    assert (found.method, found.provenance.pre, found.rigorous) == ("IBP", "IBP", False)
    tight = rj.certified_radius(network, x, search=QUIET, proofs=(rj.MarginBound(),))
    assert bool((found.radius <= tight.radius).all())
    calm = rj.stationary_free_radius(problem, output=0, tolerance=0.5)
    assert (calm.provenance.pre, calm.rigorous) == ("IBP", False)


def _wrong(case: str) -> tuple[Any, dict[str, Any], str]:
    network, x = net(0), inputs(0)
    problem, end = rj.Problem(network, rj.LpBall(x, 0.1)), torch.ones(1, 7, dtype=torch.float64)
    given = rj.Problem(network, rj.LpBall(x, 0.1), pre=rj.Given([], []))
    cases: dict[str, tuple[Any, dict[str, Any], str]] = {
        "inputs": (problem, {"x": x}, "its own inputs"),
        "norm": (problem, {"p": inf}, "its own inputs"),
        "box": (rj.Problem(network, rj.Box(x, x + 1)), {}, "not a ball"),
        "constraint": (problem.constrained(1, rj.Interval(-end, end)), {}, "belong to one region"),
        "given": (given, {}, "belong to one region"),
        "nothing": (network, {}, "inputs are missing"),
    }
    return cases[case]


@pytest.mark.parametrize("case", ["inputs", "norm", "box", "constraint", "given", "nothing"])
def test_a_problem_that_is_no_question_of_radii(case: str) -> None:
    request, settings, words = _wrong(case)
    for call in (rj.certified_radius, lambda *a, **k: rj.stationary_free_radius(*a, output=0, **k)):
        with pytest.raises(rj.InvalidRequest, match=words):
            call(request, **settings)


@pytest.mark.parametrize("name", [n for n in rj.__all__ if inspect.isfunction(getattr(rj, n))])
def test_no_function_has_more_than_seven_parameters(name: str) -> None:
    """Those that exclude each other count as one.

    A `Problem` is in place of a network with its region, which is a region or an input with its radius and norm; a
    method is in place of a time limit, and a node to cut at in place of an output.
    """
    parameters = inspect.signature(getattr(rj, name)).parameters
    question = parameters.keys() & {"network", "region", "x", "radius", "norm"}
    how = parameters.keys() & {"method", "time_limit"}
    end = parameters.keys() & {"output_name", "cut_at"}
    others = parameters.keys() - question - how - end
    assert len(others) + bool(question) + bool(how) + bool(end) <= 7


# The search


@pytest.mark.parametrize("lost", [0.0, 1.0, 5.0, 63.0, 65.0, 1e6, 1e300, inf, nan])
@pytest.mark.parametrize("radius", [1e-300, 1.0, 1e300, inf])
def test_after_a_radius_without_proof_comes_a_smaller_one(lost: float, radius: float) -> None:
    """A quarter; after a great loss, nearly where a loss that is proportional to the radius leaves a margin."""
    centre, failed = (RadiusBound(r, (2.0, 1.0), (1.0, 1.0)) for r in (0.0, radius))
    smaller = _smaller(centre, replace(failed, margins=(2.0, 1.0 - lost)), radius)
    assert 0 < smaller < inf
    if radius < inf:
        few = 64 * 0.9 < lost < inf
        assert smaller == pytest.approx(max(0.9 * radius / lost, 5e-324) if few else radius / 4) or smaller == 1.0


def test_margins_by_intervals_if_the_rule_takes_too_long() -> None:
    g = torch.Generator().manual_seed(0)
    layers = [(torch.randn(b, a, generator=g).double(), torch.zeros(b).double()) for a, b in ((4, 8), (8, 8), (8, 3))]
    network, x = rj.load(layers, activation="relu").margin(0, 1), torch.rand(2, 4, generator=g).double()
    problem = rj.Problem(network, rj.LpBall(x, 0.05), planner=Planner(Thresholds(watched_work=0)))
    balls = MarginBalls(problem, rj.Gradients(problem), torch.tensor([0.05, 0.05]), inf)
    by_rule = rj.MarginBound().facts(balls).margins
    brief, longer = (rj.MarginBound(seconds).facts(balls).margins for seconds in (1e-9, 1e9))
    assert by_rule is not None
    assert brief is not None
    assert longer is not None
    assert torch.equal(brief, rj.IBP().output(balls.known.state).lower)
    assert torch.equal(longer, torch.fmax(brief, by_rule))
    assert bool((brief < by_rule).any())
    with pytest.raises(rj.InvalidRequest, match="has no time"):
        rj.MarginBound(0.0)


@pytest.mark.parametrize("tolerance", [0.5, 1e-3, 1e-6])
def test_brackets_close_in_on_every_threshold(tolerance: float) -> None:
    truth = {0: 1e-200, 1: 0.3, 2: 1.0, 3: 7e150, 4: inf, 5: 0.0}
    limit, asked = 1e300, list[float]()
    best = dict.fromkeys(truth, 0.0)

    def bound(keys: Any, radii: Any) -> list[bool]:
        asked.append(len(keys))
        for i, r in zip(keys, radii, strict=True):
            if r < truth[i]:
                best[i] = max(best[i], r)
        return [r < truth[i] for i, r in zip(keys, radii, strict=True)]

    searches = {i: bracket_radius(limit, torch.float64, tolerance) for i in truth}
    assert answered(searches, bound) == dict.fromkeys(truth)
    assert asked == sorted(asked, reverse=True)  # one call a round, for all that still search
    assert len(asked) < 100
    for i, end in truth.items():
        assert best[i] <= end
        assert best[i] * (1 + 2 * tolerance) >= min(end, limit) or not isfinite(end)


def test_nothing_is_asked_where_nothing_is_searched() -> None:
    assert answered({}, lambda *_: pytest.fail("there is nothing to bound")) == {}
    assert answered({3: bracket_radius(0.0, torch.float64, 0.1)}, lambda *_: pytest.fail("no radius is left")) == {
        3: None
    }


# Proofs that are asked on few balls


def wider(seed: int) -> tuple[rj.Network, Tensor]:
    """A network of which CROWN knows little, and two inputs."""
    g = torch.Generator().manual_seed(seed)
    sizes = [(40, 20), (40, 40), (40, 40), (3, 40)]
    layers = [(torch.randn(n, m, generator=g).double() / m**0.5, torch.zeros(n).double()) for n, m in sizes]
    return rj.load(layers, activation="relu"), torch.rand(2, 20, generator=g, dtype=torch.float64)


@pytest.mark.parametrize(("p", "clip"), [(1, None), (2, (0, 1)), (inf, (0, 1))])
def test_secants_only_add(p: float, clip: Any) -> None:
    network, x = wider(0)
    search = rj.RadiusSearch(8, attack=rj.Attack(steps=4, starts=2, rounds=3))
    both = (rj.MarginBound(), rj.LipschitzIntegral(rj.FastLip()))
    before, found, again = (
        rj.certified_radius(network, rj.LpBall(x, 0, p, clip), target="all", proofs=proofs, search=search)
        for proofs in (both, (*both, rj.SecantMargin(5)), (*both, rj.SecantMargin(5)))
    )
    assert found.rigorous
    assert bool((found.radius >= before.radius).all())
    assert bool((found.radius < found.attack).all())
    assert again.radius.tolist() == found.radius.tolist()
    assert "secants" in found.method


def test_secants_prove_more_of_wide_networks() -> None:
    network, x = wider(1)
    search = rj.RadiusSearch(8, attack=rj.Attack(rounds=0))
    alone = rj.certified_radius(network, x, search=search)
    found = rj.certified_radius(network, x, search=search, proofs=(rj.MarginBound(), rj.SecantMargin()))
    assert float((found.radius / alone.radius).log().mean()) > 0.05
    assert set(found.proof) == {"CROWN or secants"}
    only = rj.certified_radius(network, x, search=search, proofs=(rj.SecantMargin(),))
    assert only.radius.tolist() == pytest.approx(found.radius.tolist(), rel=0.1)


def test_limits_and_the_whole_box_end_the_search() -> None:
    flat = rj.load([(torch.zeros(2, 3, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64))])
    secants = (rj.SecantMargin(),)
    assert float(rj.certified_radius(flat, rj.LpBall(torch.zeros(3), 0, clip=(0, 1)), proofs=secants).radius) == inf
    limited = rj.RadiusSearch(limit=0.25, attack=rj.Attack(rounds=0))
    assert float(rj.certified_radius(flat, torch.zeros(3), proofs=secants, search=limited).radius) == 0.25


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("end", [1e-6, 0.3, 1.0, 1e5])
@pytest.mark.parametrize("known", [0.0, 0.2, 0.7])
def test_few_radii_come_near_the_end(power: float, end: float, known: float) -> None:
    """The margin is 1 - (r / end)^power, and nothing can be stated from twice the end on."""
    start = RadiusBound(0.0, (1.0,), (1.0 / end,))
    rungs = [start] if known == 0 else [start, RadiusBound(known * end, (0.1,), (inf,))]
    asked: list[float] = []

    def bound(_: Any, radii: Any) -> list[RadiusBound]:
        asked.extend(radii)
        shares = [r / end for r in radii]
        return [RadiusBound(r, (1 - s**power if s < 2 else -inf,), (inf,)) for r, s in zip(radii, shares, strict=True)]

    rungs = answered({0: few_radii(rungs, rj.RadiusSearch(), inf)}, bound)[0]
    best = max(r.radius for r in rungs if r.margins[0] > 0)
    assert 0.95 * end < best <= end
    assert len(asked) <= 5
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("margin", [nan, -inf, inf, -1e308, 1.0, 2.0])
def test_few_radii_of_odd_margins_end(margin: float) -> None:
    for known in (1e-200, 1.0):
        rungs = [RadiusBound(0.0, (1e-300,), (inf,)), RadiusBound(known, (1e-300,), (inf,))]
        asked: list[float] = []

        def bound(_: Any, radii: Any, asked: Any = asked) -> list[RadiusBound]:
            asked.extend(radii)
            return [RadiusBound(r, (margin,), (inf,)) for r in radii]

        answered({0: few_radii(rungs, rj.RadiusSearch(), inf)}, bound)
        assert 1 <= len(asked) <= 8
        assert all(isfinite(r) and r > 0 for r in asked)
