"""Questions about a case; each check yields a line for every statement that sampled truth contradicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor

import recurjac as rj
from recurjac.jacobian.hessian import check_smooth
from tests.fuzz.cases import METHODS, NORMS, RULES, Case
from tests.fuzz.rational import rational_jacobian
from tests.fuzz.truth import climbed, hessians, jacobians
from tests.helpers import misses

Check = Callable[[Case], Iterator[str]]
_DUAL = {1: rj.inf, 2: 2, rj.inf: 1}
"""The norm of a gradient that bounds the change over an l_p distance of 1."""

_EXACT = 1e-6
"""The accuracy of cases whose second derivatives are compared."""


def outside(lower: Tensor, true: Tensor, upper: Tensor, accuracy: float = 1e-9, size: float = 0.0) -> str | None:
    """Which finite truth is outside the bounds, beyond rounding; None if none is.

    lower, upper: (batch, …); true: (batch, N, …).  accuracy: relative to the largest truth and to `size`.
    """
    if bool((lower.isnan() | upper.isnan()).any()):
        return "a bound is NaN"
    low, high = lower.unsqueeze(1), upper.unsqueeze(1)
    known = true.isfinite()
    scale = torch.where(known, true.abs(), 0.0).flatten(1).amax(1).reshape(-1, *[1] * (true.dim() - 1))
    slack = accuracy * scale.clamp(min=size) + 1e-13 * (scale > 0)
    wrong = known & ((true < low - slack) | (true > high + slack))
    if not bool(wrong.any()):
        return None
    worst = torch.where(wrong, torch.maximum(low - true, true - high), 0.0)
    at = int(worst.argmax())
    low, high = low.expand_as(true), high.expand_as(true)
    return f"{true.flatten()[at]:.17g} is outside [{low.flatten()[at]:.17g}, {high.flatten()[at]:.17g}]"


def attacked(case: Case, lower: Tensor, upper: Tensor) -> Iterator[str]:
    """Entries of the Jacobian that are nearest to their bounds are driven towards them by gradients."""
    if bool(case.bound.unbounded.any()):
        return
    part, true = case.bound.at(torch.tensor([0])), case.jacobians[0].nan_to_num(0.0)
    high, low = true.amax(0), true.amin(0)
    gaps = torch.stack([upper[0] - high, low - lower[0]])
    side, k, i = (int(v) for v in torch.unravel_index(gaps.argmin(), gaps.shape))
    sign = -1.0 if side else 1.0
    start = case.points[0, int((sign * true[:, k, i]).argmax())]

    def value(x: Tensor) -> Tensor:
        x = x if x.requires_grad else x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(case.value(x)[:, k].sum() + 0 * x.sum(), x, create_graph=True)
        return sign * slope[:, i]

    found = climbed(part, start, value)
    size = float(true.abs().max())  # slopes of saturated activations round to 0
    said = outside(lower[:1], jacobians(case.value, found).unsqueeze(0), upper[:1], case.accuracy, size)
    if said is not None:
        yield f"attacked: {said}"


def preactivations(case: Case) -> Iterator[str]:
    rule = case.draw.choice(RULES)
    found = rj.preactivation_bounds(case.network, case.region, pre=rule).stages
    true = case.network.preactivations(case.points.flatten(0, 1))
    size = 0.0
    for k, (z, bounds) in enumerate(zip(true, found, strict=True), 1):
        z = z.reshape(*case.points.shape[:2], *z.shape[1:])
        size = max(size, float(bounds.magnitude.nan_to_num(0.0, 0.0, 0.0).max()))
        said = outside(bounds.lower, z, bounds.upper, case.accuracy, size)
        if said is not None:
            yield f"{rule!r}, stage {k}: {said}"


def entries(case: Case) -> Iterator[str]:
    for _ in range(2):
        method, rule = case.draw.choice(METHODS), case.draw.choice(RULES)
        found = rj.jacobian_bounds(case.network, case.region, method=method, pre=rule)
        said = outside(found.lower, case.jacobians, found.upper, case.accuracy)
        for line in [said] if said is not None else attacked(case, found.lower, found.upper):
            yield f"{method!r} by {rule!r}: {line}"


def constants(case: Case) -> Iterator[str]:
    p, q = case.draw.choice(list(product((1, 2, rj.inf), repeat=2)))
    rule = case.draw.choice(RULES[:7])
    for method in case.draw.sample(NORMS, 1):
        try:
            found = rj.lipschitz(
                case.network, case.region, p=p, q=q, method=method, pre=rule, search=rj.Search(work=1e4)
            )
        except rj.InvalidRequest:
            continue
        for i, true in enumerate(case.jacobians):
            gain = gains(true, p, q)
            if bool(gain.isfinite().any()):
                most = float(gain[gain.isfinite()].max())
                if not most <= float(found.upper[i]) * (1 + case.accuracy) + 1e-13:
                    yield f"{method!r} by {rule!r}, l{p} to l{q}: {most:.17g} above {float(found.upper[i]):.17g}"
            here = jacobians(case.value, found.witness[i : i + 1])[0]
            move = found.direction[i].flatten()
            got = torch.linalg.vector_norm(here @ move, q) / torch.linalg.vector_norm(move, p).clamp(min=1e-300)
            if bool(got.isfinite()) and not float(found.lower[i]) <= float(got) * (1 + case.accuracy) + 1e-12:
                yield f"{method!r}: {float(found.lower[i]):.17g} is not attained, but {float(got):.17g}"


def gains(jacobian: Tensor, p: float, q: float) -> Tensor:
    """At each point, a gain that is attained by some direction: (N,)."""
    g = torch.Generator().manual_seed(0)
    n = jacobian.shape[-1]
    ways = torch.cat([torch.eye(n, dtype=jacobian.dtype), torch.randn(8, n, generator=g, dtype=jacobian.dtype)])
    ways = torch.cat([ways.expand(len(jacobian), -1, -1), jacobian.sign(), jacobian], 1)
    length = torch.linalg.vector_norm(ways, p, dim=-1)
    size = torch.linalg.vector_norm(ways @ jacobian.mT, q, dim=-1)
    return torch.where(length > 1e-200, size / length.clamp(min=1e-200), 0.0).amax(1)


def trends(case: Case) -> Iterator[str]:
    limit = rj.Limit(60, case.draw.choice((1, 1, 4)))
    found = rj.monotone(case.network, case.region, method=case.draw.choice(METHODS[:6]), limit=limit)
    true = case.jacobians.nan_to_num(0.0)
    slack = 1e-12 * (1 + true.abs().amax(1))
    if bool((found.increasing & (true.amin(1) < -slack)).any()) or bool(
        (found.decreasing & (true.amax(1) > slack)).any()
    ):
        yield "a trend does not hold"
    said = outside(found.lower, case.jacobians, found.upper, case.accuracy)
    if said is not None:
        yield f"monotone: {said}"


def radii(case: Case) -> Iterator[str]:
    ball = case.region
    if not isinstance(ball, rj.LpBall) or case.network.output_shape[0] < 2:
        return
    whole = (rj.MarginBound(), rj.LipschitzIntegral(case.draw.choice(METHODS[:6])), rj.SecantMargin())
    proofs = (case.draw.choice(whole), rj.BranchedMargin(rj.Limit(60, 4)))
    search = rj.RadiusSearch(5, 4.0, rj.Attack(3, 2, 2))
    found = rj.certified_radius(case.network, ball, proofs=proofs, search=search)
    for i, radius in enumerate(found.radius.tolist()):
        if radius > 0:
            inner = rj.LpBall(ball.x[i : i + 1], min(radius, 1e3) * (1 - 1e-9), ball.p, ball.clip)
            points = _sampled(case, inner)
            values = case.value(points)
            margin = values[:, int(found.label[i])] - values[:, int(found.target[i])]
            if bool((margin < -case.accuracy * 1e-3 * values.abs().amax()).any()):
                yield f"an input within {radius:.17g} of sample {i} has the margin {float(margin.min()):.17g}"


def _sampled(case: Case, ball: rj.LpBall) -> Tensor:
    bound = ball.bind(case.network.input_shape, torch.float64, torch.device("cpu"))
    return bound.sample(60, torch.Generator().manual_seed(case.seed))[0]


def calm(case: Case) -> Iterator[str]:
    ball = case.region
    if not isinstance(ball, rj.LpBall):
        return
    limit = rj.Limit(60, 4) if case.draw.random() < 0.3 else None
    found = rj.stationary_free_radius(case.network, ball, output=0, method=rj.Chords(), tolerance=0.5, limit=limit)
    for i, radius in enumerate(found.radius.tolist()):
        if radius > 0:
            inner = rj.LpBall(ball.x[i : i + 1], min(radius, 1e3) * (1 - 1e-9), ball.p, ball.clip)
            points = _sampled(case, inner)
            slopes = jacobians(case.value, points)[:, 0]
            at = int(found.witness[i])
            if at >= 0 and (
                said := outside(found.lower[i : i + 1], slopes[None, :, at], found.upper[i : i + 1], case.accuracy)
            ):
                yield f"the entry {at} of the gradient: {said}"
            flat = points[(slopes == 0).all(1)]
            if len(flat) and _may_be_stationary(case, flat):
                yield f"a stationary point within {radius:.17g}"


def _may_be_stationary(case: Case, points: Tensor) -> bool:
    """Whether gradients that are computed as 0 may be 0: those of saturated neurons are not."""
    found = rj.jacobian_bounds(case.network, rj.LpBall(points, 0.0), method=rj.Chords())
    lower, upper = found.lower.flatten(2)[:, 0], found.upper.flatten(2)[:, 0]
    return bool(((lower <= 0) & (upper >= 0)).all(1).any())


def measures(case: Case) -> Iterator[str]:
    if case.network.output_shape != case.network.input_shape:
        return
    bounds = rj.jacobian_bounds(case.network, case.region, method=rj.Chords())
    n = case.network.input_shape[0]
    weights = case.draw.choice((None, torch.rand(n).double() + 0.1))
    for p in (1, 2, rj.inf):
        found = rj.matrix_measure(bounds, p=p, weights=weights)
        scale = torch.ones(n, dtype=torch.float64) if weights is None else weights
        true = scale[:, None] * case.jacobians / scale
        if p == 2:
            mu = torch.linalg.eigvalsh((true + true.mT).nan_to_num(0.0, 0.0, 0.0) / 2)[..., -1]
        else:
            own = true.diagonal(dim1=-2, dim2=-1)
            mu = (true.abs().sum(-1 if p == rj.inf else -2) - own.abs() + own).amax(-1)
        said = outside(torch.full_like(found.upper, -torch.inf), mu, found.upper, case.accuracy)
        if said is not None:
            yield f"μ_{p}: {said}"


def second(case: Case) -> Iterator[str]:
    """Hessians, residuals and the curvature of smooth networks."""
    try:
        check_smooth(case.network)
    except rj.InvalidRequest:
        return
    output = case.draw.randrange(case.network.output_shape[0])
    flat = hessians(case.value, case.points.flatten(0, 1), output)
    if case.accuracy > _EXACT:  # PyTorch's own second derivatives are wrong by per cents for numbers of 1e15
        flat = torch.full_like(flat, torch.nan)
    true = flat.reshape(*case.points.shape[:2], *flat.shape[1:])
    method = case.draw.choice(METHODS[:6])
    found = rj.hessian_bounds(case.network, case.region, output=output, method=method)
    if (said := outside(found.lower, true, found.upper, case.accuracy)) is not None:
        yield f"Hessian by {method!r}: {said}"
    if (
        said := outside(found.gradient_lower, case.jacobians[:, :, output], found.gradient_upper, case.accuracy)
    ) is not None:
        yield f"gradient by {method!r}: {said}"
    n = case.network.input_shape[0]
    a, b = case.draw.randrange(n), case.draw.randrange(n)
    u, d, h = rj.partial(output=output), rj.partial(a, output=output), rj.partial(a, b, output=output)
    values = case.value(case.points.flatten(0, 1))[:, output].reshape(case.points.shape[:2])
    slope, bend = case.jacobians[:, :, output, a], true[:, :, a, b]
    asked, wanted = [h, d - 0.3 * h, u * d - h], [bend, slope - 0.3 * bend, values * slope - bend]
    limit = None if case.draw.random() < 0.8 else rj.Limit(60, 4)
    residuals = rj.residual_bounds(case.network, case.region, residuals=asked, limit=limit)
    if (said := outside(residuals.lower, torch.stack(wanted, 2), residuals.upper, case.accuracy)) is not None:
        yield f"residuals: {said}"
    curved = rj.curvature(case.network, case.region, output=output)
    norms = torch.linalg.matrix_norm(true.nan_to_num(0.0, 0.0, 0.0), 2)
    if (said := outside(torch.full_like(curved.upper, -torch.inf), norms, curved.upper, case.accuracy)) is not None:
        yield f"curvature: {said}"


def rational(case: Case) -> Iterator[str]:
    """Without any tolerance, where rounding is covered."""
    if case.network.unproved_rounding():
        return
    truths = [[rational_jacobian(case.network, x) for x in points[:3]] for points in case.points]
    for _ in range(2):
        method, rule = case.draw.choice(METHODS), case.draw.choice(RULES)
        found = rj.jacobian_bounds(case.network, case.region, method=method, pre=rule)
        if not found.rigorous:
            yield f"{method!r} by {rule!r} does not cover rounding: {found.reason}"
        for lower, upper, each in zip(found.lower, found.upper, truths, strict=True):
            for true in each:
                wrong = [] if true is None else misses(lower, upper, [entry for row in true for entry in row])
                if wrong:
                    yield f"{method!r} by {rule!r}, exactly: {float(wrong[0][1])!r} is outside {wrong[0][0::2]}"


CHECKS: dict[Check, float] = {
    preactivations: 0.7, entries: 1.0, constants: 0.6, trends: 0.3, radii: 0.1, calm: 0.1, measures: 1.0, second: 1.0,
    rational: 1.0,
}  # fmt: skip
"""How often each question is asked; those that take longest are asked of some networks only."""
