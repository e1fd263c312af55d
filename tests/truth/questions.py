"""Questions about a case, and what their answers claim at points of the region."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from flint import arb
from torch import Tensor

import recurjac as rj
from recurjac.arithmetic import AbstractArithmetic
from recurjac.errors import InvalidRequest
from recurjac.jacobian import AbstractJacobianMethod
from recurjac.jacobian.hessian import check_smooth
from recurjac.network import Network
from recurjac.norms import AbstractNormMethod
from recurjac.preactivation import AbstractPreactivation
from tests.fuzz import cases as fuzzed
from tests.truth import measures
from tests.truth.cases import Case
from tests.truth.claims import Claim
from tests.truth.regions import Point

METHODS: tuple[AbstractJacobianMethod, ...] = (
    *fuzzed.METHODS, rj.GradientForms(5), rj.WithTangents(rj.FastLip()), rj.ClosedForms(rj.Chords()),
    rj.WithTangents(rj.Cut(rj.ClosedForms(rj.Intersection(rj.Chords(), rj.RecurJac())))),
)  # fmt: skip
RULES: tuple[AbstractPreactivation, ...] = fuzzed.RULES
NORMS: tuple[AbstractNormMethod | AbstractJacobianMethod, ...] = (
    *fuzzed.NORMS, rj.TurnedNorm(), rj.JacobianNorm(rj.FastLip(), rj.PlainSum()), rj.ProductOfNorms(),
    rj.QuadraticNorm(3),
)  # fmt: skip
QUICK: tuple[AbstractNormMethod | AbstractJacobianMethod, ...] = (
    rj.Chords(), rj.ProductOfNorms(), rj.JacobianNorm(rj.FastLip(), rj.PlainSum()),
    rj.JacobianNorm(rj.RecurJac(), rj.SignSum()), rj.LinearNetworkNorm(),
)  # fmt: skip
CHEAP: tuple[AbstractJacobianMethod, ...] = (
    rj.FastLip(), rj.RecurJac(), rj.Chords(), rj.Reversed(rj.RecurJac()), rj.ForwardTangents(5),
)  # fmt: skip


_DEEP = 30
"""Networks of more stages are only asked what takes a time that is linear in them."""


def _methods(case: Case, draw: random.Random) -> tuple[AbstractJacobianMethod, ...]:
    return CHEAP if case.network.depth > _DEEP or draw.random() < 0.5 else METHODS


def _rules(case: Case, draw: random.Random) -> tuple[AbstractPreactivation, ...]:
    """Mostly those that take little."""
    if case.network.depth > _DEEP:
        return RULES[:3]
    return RULES[:5] if draw.random() < 0.75 else RULES


def _norms(case: Case, draw: random.Random) -> tuple[AbstractNormMethod | AbstractJacobianMethod, ...]:
    return QUICK if case.network.depth > _DEEP or draw.random() < 0.5 else NORMS


@dataclass(frozen=True)
class Answer:
    """What was asked, whether the answer covers rounding, and what it claims."""

    title: str
    rigorous: bool
    claims: list[Claim]


Question = Callable[[Case, random.Random, AbstractArithmetic | None], Iterator[Answer]]


def flat(tensor: Tensor) -> list[float]:
    return tensor.detach().double().flatten().tolist()


def _sides(lower: Tensor, upper: Tensor) -> tuple[list[float], list[float]]:
    return flat(lower), flat(upper)


def _near(case: Case, sample: int, values: Tensor, claim: Claim) -> list[Claim]:
    """The claim at some points of a sample's region whose numbers (N, m) are near the bounds."""
    low, high = (torch.tensor(end, dtype=torch.float64) for end in (claim.lower, claim.upper))
    return [replace(claim, point=point) for point in case.nearest(sample, values, low, high)]


def _largest(case: Case, sample: int, claim: Claim) -> list[Claim]:
    """The claim at some points of a sample's region where the Jacobian is large."""
    sizes = case.computed[sample][1].flatten(1).abs().amax(1)
    finite = torch.where(sizes.isfinite(), sizes, torch.inf)
    order = finite.argsort(descending=True).tolist()[:2]
    chosen = dict.fromkeys([*order, case.draw.randrange(len(order))])
    return [replace(claim, point=case.points[sample][i]) for i in chosen]


def preactivations(case: Case, draw: random.Random, arithmetic: AbstractArithmetic | None) -> Iterator[Answer]:
    """Ranges of some stages, among them the last."""
    rule = draw.choice(_rules(case, draw))
    found = rj.preactivation_bounds(case.network, case.region, pre=rule, arithmetic=arithmetic)
    last = len(found.stages) - 1
    claims = []
    for k in sorted({last, *draw.sample(range(last + 1), min(last + 1, 4))}):
        z, title = found.stages[k], f"{rule!r}, stage {k + 1}"
        for s in range(len(case.points)):
            claim = Claim(title, (), 0, measures.stage(k), *_sides(z.lower[s], z.upper[s]))
            claims += _near(case, s, case.computed[s][0][k], claim)
    yield Answer(f"preactivations by {rule!r}", found.rigorous, claims)


def entries(case: Case, draw: random.Random, arithmetic: AbstractArithmetic | None) -> Iterator[Answer]:
    for _ in range(1 if case.network.depth > _DEEP else 2):
        method, rule = draw.choice(_methods(case, draw)), draw.choice(_rules(case, draw))
        found = rj.jacobian_bounds(case.network, case.region, method=method, pre=rule, arithmetic=arithmetic)
        title = f"entries by {method!r} by {rule!r}"
        yield Answer(title, found.rigorous, _entry_claims(case, found.lower, found.upper, title))


def _entry_claims(case: Case, lower: Tensor, upper: Tensor, title: str) -> list[Claim]:
    claims: list[Claim] = []
    for s, (low, high) in enumerate(zip(lower, upper, strict=True)):
        claims += _near(
            case, s, case.computed[s][1].flatten(1), Claim(title, (), 1, measures.entries, *_sides(low, high))
        )
    return claims


def directions(case: Case, draw: random.Random, arithmetic: AbstractArithmetic | None) -> Iterator[Answer]:
    way = torch.tensor([draw.choice((1.0, -1.0, 0.0, draw.gauss(0, 1))) for _ in range(case.network.input_shape[0])])
    way = way.float().double()
    if not bool(way.any()):
        return
    method = draw.choice(CHEAP)
    found = rj.directional_bounds(
        case.network,
        case.region,
        direction=way,
        method=method,
        pre=draw.choice(_rules(case, draw)[:6]),
        arithmetic=arithmetic,
    )
    title, claims = f"directions by {method!r}", []

    for s, (low, high) in enumerate(zip(found.lower, found.upper, strict=True)):
        claim = Claim(title, (), 1, measures.along(way.tolist()), *_sides(low, high))
        claims += _near(case, s, case.computed[s][1] @ way, claim)
    yield Answer(title, found.rigorous, claims)


def constants(case: Case, draw: random.Random, arithmetic: AbstractArithmetic | None) -> Iterator[Answer]:
    """The norm at points is at most `upper`, and `lower` is attained at a point of the region."""
    p, q = draw.choice((1, 2, rj.inf)), draw.choice((1, 2, rj.inf))
    method, rule = draw.choice(_norms(case, draw)), draw.choice(_rules(case, draw)[:7])
    search = rj.Search(work=draw.choice((0, 0, 1e6)))
    try:
        found = rj.lipschitz(
            case.network, case.region, p=p, q=q, method=method, pre=rule, arithmetic=arithmetic, search=search
        )
    except InvalidRequest:  # a norm that the method does not support
        return
    title, claims = f"l{p:g} to l{q:g} by {method!r} by {rule!r}", []
    for s in range(len(case.points)):
        upper, lower = float(found.upper[s]), float(found.lower[s])
        claims += _largest(case, s, Claim(title, (), 1, measures.norm(p, q), [-math.inf], [upper]))
        if lower > 0:
            way, witness = tuple(flat(found.direction[s])), tuple(flat(found.witness[s]))
            claims += _attained(case, s, witness, f"attained {title}")
            gain = measures.gain(way, p, q)
            claims.append(Claim(f"attained {title}", witness, 1, gain, [lower], [math.inf], anywhere=False))
    yield Answer(title, found.rigorous, claims)


def _attained(case: Case, sample: int, point: Point, title: str) -> list[Claim]:
    """That a point is in the region, which is known without the network."""
    inside = float(case.exact[sample].holds(point))
    return [Claim(f"{title}: a point of the region", point, 0, lambda jet: [arb(inside)], [1.0], [1.0])]


def trends(case: Case, draw: random.Random, arithmetic: AbstractArithmetic | None) -> Iterator[Answer]:
    limit = rj.Limit(60, draw.choice((1, 1, 4)))
    method = draw.choice(CHEAP)
    found = rj.monotone(case.network, case.region, method=method, limit=limit, arithmetic=arithmetic)
    title = f"trends by {method!r}"
    claims = _entry_claims(case, found.lower, found.upper, title)
    for s in range(len(case.points)):
        for where, sign in ((found.rising[s], 1.0), (found.falling[s], -1.0)):
            for k, i in (where >= 0).nonzero().tolist():
                point = tuple(flat(found.points[s][int(where[k, i])]))
                claims += _attained(case, s, point, title)
                held = ([1.0], [math.inf]) if sign > 0 else ([-math.inf], [-1.0])
                claims.append(Claim(f"{title}: a witness", point, 1, measures.entry_sign(k, i), *held, anywhere=False))
    yield Answer(title, found.rigorous, claims)


def radii(case: Case, draw: random.Random, arithmetic: AbstractArithmetic | None) -> Iterator[Answer]:
    ball = case.region
    if not isinstance(ball, rj.LpBall) or case.network.output_shape[0] < 2:
        return
    whole = (rj.MarginBound(), rj.LipschitzIntegral(draw.choice(CHEAP)), rj.SecantMargin())
    divided = (rj.BranchedMargin(rj.Limit(60, 2)),) if draw.random() < 0.1 else ()
    proofs = (draw.choice(whole), *divided)
    search = rj.RadiusSearch(2, 4.0, rj.Attack(1, 1, 0))
    found = rj.certified_radius(_problem(case.network, ball, arithmetic), proofs=proofs, search=search)
    title, claims = f"radii by {proofs!r}", []
    for s, radius in enumerate(found.radius.tolist()):
        if not radius > 0:
            continue
        a, b = int(found.label[s]), int(found.target[s])
        ahead = Claim(title, case.exact[s].centre, 0, measures.margin(a, b), [0.0], [math.inf])
        claims += [replace(ahead, point=point) for point in _inside(case, s, radius, draw)]
        claims.append(replace(ahead, title=f"{title}: at the centre", lower=[float(found.margin[s])]))
    yield Answer(title, found.rigorous, claims)


def _inside(case: Case, sample: int, radius: float, draw: random.Random, count: int = 3) -> list[Point]:
    """Points of a ball of another radius around the same centre; the first ones are on its boundary."""
    own = case.exact[sample]
    ball = type(own)(own.centre, (radius,) * len(own.radius), own.p, own.low, own.high)
    points = ball.points(6, draw)
    return points[1 : 1 + count] + points[-1:]


def _problem(network: Network, ball: rj.LpBall, arithmetic: AbstractArithmetic | None) -> rj.Problem:
    return rj.Problem(network, ball, arithmetic=arithmetic)


def calm(case: Case, draw: random.Random, arithmetic: AbstractArithmetic | None) -> Iterator[Answer]:
    """No stationary point within a radius, as one entry of the gradient is not 0."""
    ball = case.region
    if not isinstance(ball, rj.LpBall):
        return
    output = draw.randrange(case.network.output_shape[0])
    limit = rj.Limit(60, 4) if draw.random() < 0.3 else None
    asked, method = _problem(case.network, ball, arithmetic), draw.choice(CHEAP)
    found = rj.stationary_free_radius(asked, output=output, method=method, tolerance=0.5, limit=limit)
    title, claims = f"no stationary points by {method!r}", []
    for s, radius in enumerate(found.radius.tolist()):
        if not radius > 0:
            continue
        at, ends = int(found.witness[s]), ([float(found.lower[s])], [float(found.upper[s])])
        for point in _inside(case, s, radius, draw):
            claims.append(Claim(title, point, 1, measures.some_slope(output), [1.0], [1.0]))
            if at >= 0:
                claims.append(Claim(f"{title}, entry {at}", point, 1, measures.entry(output, at), *ends))
    yield Answer(title, found.rigorous, claims)


def contraction(case: Case, draw: random.Random, arithmetic: AbstractArithmetic | None) -> Iterator[Answer]:
    n = case.network.input_shape[0]
    if case.network.output_shape != case.network.input_shape:
        return
    bounds = rj.jacobian_bounds(case.network, case.region, method=rj.Chords(), arithmetic=arithmetic)
    weights = None if draw.random() < 0.5 else [2.0 ** draw.randint(-3, 3) * draw.choice((1.0, 1.25)) for _ in range(n)]
    p = draw.choice((1, 2, rj.inf))
    found = rj.matrix_measure(bounds, p=p, weights=None if weights is None else torch.tensor(weights).double())
    title, claims = f"matrix measure {p:g}", []
    for s, upper in enumerate(found.upper.tolist()):
        claims += _largest(case, s, Claim(title, (), 1, measures.matrix_measure(p, weights), [-math.inf], [upper]))
    yield Answer(title, found.rigorous, claims)


def second(case: Case, draw: random.Random, arithmetic: AbstractArithmetic | None) -> Iterator[Answer]:
    """The Hessian, the curvature or a second derivative of a smooth network."""
    try:
        check_smooth(case.network)
    except InvalidRequest:
        return
    how: SecondOrder = draw.choice((_hessian, _hessian, _curvature, _along))
    yield how(case, draw, draw.randrange(case.network.output_shape[0]), arithmetic)


SecondOrder = Callable[[Case, random.Random, int, AbstractArithmetic | None], Answer]


def _hessian(case: Case, draw: random.Random, output: int, arithmetic: AbstractArithmetic | None) -> Answer:
    method = draw.choice(CHEAP)
    found = rj.hessian_bounds(case.network, case.region, output=output, method=method, arithmetic=arithmetic)
    title, claims = f"Hessian by {method!r}", []

    def gradient(jet: Any) -> list[Any]:
        return list(jet.jacobian[output])

    for s in range(len(case.points)):
        bent = Claim(title, (), 2, measures.hessian(output), *_sides(found.lower[s], found.upper[s]))
        ends = _sides(found.gradient_lower[s], found.gradient_upper[s])
        for one in _near(case, s, case.computed[s][1][:, output], Claim(f"gradient, {title}", (), 2, gradient, *ends)):
            claims += [one, replace(bent, point=one.point)]
    return Answer(title, found.rigorous, claims)


def _some(case: Case) -> list[tuple[int, Point]]:
    """Three points of each sample's region."""
    return [(s, point) for s, all_ in enumerate(case.points) for point in all_[:: max(1, len(all_) // 2)]]


def _curvature(case: Case, draw: random.Random, output: int, arithmetic: AbstractArithmetic | None) -> Answer:
    found = rj.curvature(case.network, case.region, output=output, arithmetic=arithmetic)
    measured, upper = measures.spectral_of_hessian(output), flat(found.upper)
    claims = [Claim("curvature", point, 2, measured, [-math.inf], [upper[s]]) for s, point in _some(case)]
    return Answer("curvature", found.rigorous, claims)


def _along(case: Case, draw: random.Random, output: int, arithmetic: AbstractArithmetic | None) -> Answer:
    way = [draw.choice((1.0, -1.0, 0.5)) for _ in range(case.network.input_shape[0])]
    ways = torch.tensor([way], dtype=case.network.dtype)
    found = rj.second_derivative(case.network, case.region, directions=ways, output=output, arithmetic=arithmetic)
    measured = measures.bend(way, output)
    ends = [_sides(low, high) for low, high in zip(found.lower, found.upper, strict=True)]
    claims = [Claim("second derivative", point, 2, measured, *ends[s]) for s, point in _some(case)]
    return Answer("second derivative", found.rigorous, claims)


QUESTIONS: dict[Question, float] = {
    preactivations: 0.7, entries: 1.0, directions: 0.15, constants: 0.4, trends: 0.1, radii: 0.1, calm: 0.05,
    contraction: 0.2, second: 0.3,
}  # fmt: skip
"""How often each question is asked."""
PLAIN = (preactivations, entries, constants)
"""What is asked of networks of many stages."""


def asked_of(case: Case, draw: random.Random) -> list[Question]:
    """The questions about a case."""
    deep = case.network.depth > _DEEP
    return [q for q, share in QUESTIONS.items() if draw.random() < share and not (deep and q not in PLAIN)]
