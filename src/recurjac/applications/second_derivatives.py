"""Bounds of second derivatives along directions, of residuals of differential equations, and of the curvature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from recurjac.applications.limits import Limits, of_parts, searched
from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.branching import Branching, CurvatureOver, InputBisection, Limit, ResidualsOver
from recurjac.errors import InvalidRequest, expect
from recurjac.jacobian import AbstractJacobianMethod, Chords, as_jacobian_method
from recurjac.jacobian.differential import Differentials, Residual, Term, partial
from recurjac.jacobian.differential import Partial as _Partial
from recurjac.jacobian.hessian import HessianBounds, check_smooth, hessian_over
from recurjac.loading import Source
from recurjac.network import Network
from recurjac.preactivation import RuleLike
from recurjac.problem import Problem, as_problem, as_region
from recurjac.provenance import AbstractResult, Provenance
from recurjac.region import AbstractRegion, Numbers

_TITLE = "forward jets"
_NOISES = 256
"""The number of noises of the forms where a region is not divided."""
_METHOD = Chords()
"""What bounds second derivatives beside the forms, where a region is not divided."""


@final
@dataclass(frozen=True, repr=False, eq=False)
class ResidualBounds(AbstractResult):
    """lower <= residual <= upper for every x in the region, each (batch, residuals).

    status: for each sample how the division of its region ended, or "one pass".
    parts: for each sample how many parts of its region were bounded, the whole region included.
    """

    lower: Tensor
    upper: Tensor
    status: tuple[str, ...]
    provenance: Provenance
    parts: tuple[int, ...] = ()

    def __repr__(self) -> str:
        lower, upper = float(self.lower.min()), float(self.upper.max())
        size = f"ResidualBounds{tuple(self.lower.shape)}"
        return f"{size}({lower:.6g} … {upper:.6g}; {self.method}, {self._kind()}{of_parts(self.parts)})"


@final
@dataclass(frozen=True, repr=False, eq=False)
class SecondDerivatives(AbstractResult):
    """lower <= vᵀ H w <= upper for every x in the region, each (batch, pairs), for one output.

    status: for each sample how the division of its region ended, or "one pass".
    parts: for each sample how many parts of its region were bounded, the whole region included.
    """

    lower: Tensor
    upper: Tensor
    output: int
    status: tuple[str, ...]
    provenance: Provenance
    parts: tuple[int, ...] = ()

    def __repr__(self) -> str:
        lower, upper = float(self.lower.min()), float(self.upper.max())
        size = f"SecondDerivatives{tuple(self.lower.shape)}"
        return f"{size}({lower:.6g} … {upper:.6g}; {self.method}, {self._kind()}{of_parts(self.parts)})"


@final
@dataclass(frozen=True, repr=False, eq=False)
class Curvature(AbstractResult):
    """lower <= max ‖H‖₂ <= upper over the region of each sample, (batch,), for one output.

    `lower` is attained at the points `witness`, (batch, *input); it is 0 where none is known.
    status: for each sample how the division of its region ended.  parts: how many parts of it were bounded.
    """

    lower: Tensor
    upper: Tensor
    witness: Tensor
    output: int
    status: tuple[str, ...]
    provenance: Provenance
    parts: tuple[int, ...] = ()

    def __repr__(self) -> str:
        lower, upper = float(self.lower.max()), float(self.upper.max())
        return f"Curvature({lower:.6g} … {upper:.6g}; {self.method}, {self._kind()}{of_parts(self.parts)})"


def hessian_bounds(
    network: Source | Problem,
    region: AbstractRegion | Numbers | None = None,
    *,
    radius: Numbers | None = None,
    norm: float | None = None,
    output: int = 0,
    method: AbstractJacobianMethod | None = None,
    pre: RuleLike | None = None,
    arithmetic: AbstractArithmetic | None = None,
    time_limit: float | None = None,
) -> HessianBounds:
    """Bounds of every entry of the Hessian of one output of a smooth network over a region.

    network, region, radius, norm: as in `lipschitz`.
    output: the row-major index of the output.
    method, pre, arithmetic: as in `jacobian_bounds`; `method` bounds the derivatives between stages from which the
    Hessian is computed (docs/mathematics.md, §9).
    time_limit: seconds for all samples together, in which regions of up to 64 inputs are divided, as by
    `residual_bounds`.  By default, the whole region is bounded once.
    Raises InvalidRequest for an output that does not exist, and for an activation whose second derivative is not
    continuous; InvalidRegion if the region does not fit the network.
    """
    problem, how = as_problem(network, as_region(region, radius, norm), pre, arithmetic), as_jacobian_method(method)
    limits = Limits.of(None, time_limit, problem.bound.batch)
    whole = hessian_over(problem, output, how)
    if limits.none:
        return whole
    one = problem.of(problem.network.output(output))
    found, size = _bounded(one, hessian_entries(one.network), limits), one.network.sizes[0]
    places = torch.triu_indices(size, size)
    index = torch.zeros(size, size, dtype=torch.long)
    index[places[0], places[1]] = index[places[1], places[0]] = torch.arange(places.shape[1])
    parts = found.bounds.map(lambda end: end[:, index].reshape(whole.lower.shape))
    both = problem.arithmetic.intersect(Interval(whole.lower.detach(), whole.upper.detach()), parts)
    provenance = replace(whole.provenance, method=f"{whole.method}, {found.title}")
    return replace(whole, lower=both.lower, upper=both.upper, status=found.status, provenance=provenance)


def residual_bounds(
    network: Source | Problem,
    region: AbstractRegion | Numbers | None = None,
    *,
    radius: Numbers | None = None,
    norm: float | None = None,
    residuals: Residual | Sequence[Residual],
    pre: RuleLike | None = None,
    arithmetic: AbstractArithmetic | None = None,
    limit: Limit | None = None,
    time_limit: float | None = None,
) -> ResidualBounds:
    """Bounds of polynomials in the outputs of a smooth network and their first and second derivatives over a region.

    network, region, radius, norm: as in `lipschitz`.
    residuals: one or several, made of `partial` and `laplacian`: partial(0) - 0.01 * partial(1, 1) is u_t - 0.01 u_xx
    for the inputs t and x.
    limit: if given, the region of each sample is divided until the bounds are within the tolerance, relative to the
    range that is attained, or the limit is reached; for up to 64 inputs.  By default, the whole region is bounded once.
    time_limit: seconds for all samples together, in place of a limit for each: they share what is left.
    pre, arithmetic: as in `jacobian_bounds`.  Bounds carry no gradients.
    Raises InvalidRequest for inputs and outputs that do not exist, for an activation whose second derivative is not
    continuous, and for both limits; InvalidRegion if the region does not fit the network.
    Source: docs/mathematics.md, §9.1 and §9.2.
    """
    problem, asked = as_problem(network, as_region(region, radius, norm), pre, arithmetic), _sequence(residuals)
    limits = Limits.of(limit, time_limit, problem.bound.batch)
    check_smooth(problem.network)
    found = _bounded(problem, Differentials.of(problem.network, asked), limits)
    provenance = problem.provenance(found.title)
    return ResidualBounds(found.bounds.lower, found.bounds.upper, found.status, provenance, found.parts)


def second_derivative(
    network: Source | Problem,
    region: AbstractRegion | Numbers | None = None,
    *,
    radius: Numbers | None = None,
    norm: float | None = None,
    directions: Tensor,
    others: Tensor | None = None,
    output: int = 0,
    arithmetic: AbstractArithmetic | None = None,
    limit: Limit | None = None,
    time_limit: float | None = None,
) -> SecondDerivatives:
    """Bounds of vᵀ H w for the Hessian H of one output of a smooth network over a region.

    network, region, radius, norm: as in `lipschitz`.
    directions: the vectors v, (pairs, *input).  others: the vectors w, of the same shape; by default those of v.  With
    one v repeated, and the basis as w, these are the entries of H v.
    output: its row-major number.  arithmetic, limit, time_limit: as in `residual_bounds`.
    Raises as `residual_bounds` does, and InvalidRequest for directions that do not fit.
    """
    problem = as_problem(network, as_region(region, radius, norm), None, arithmetic)
    limits = Limits.of(limit, time_limit, problem.bound.batch)
    one = problem.of(problem.network.output(output))
    check_smooth(one.network)
    left = _vectors(directions, one.network)
    right = left if others is None else _vectors(others, one.network)
    if len(left) != len(right):
        raise InvalidRequest(f"there are {len(left)} directions and {len(right)} others; give as many of both")
    count = len(left)
    places = [(i, i if others is None else count + i) for i in range(count)]
    asked = tuple(Residual((Term(1.0, (_Partial(0, place),)),)) for place in places)
    ways = left if others is None else torch.cat([left, right])
    found = _bounded(one, Differentials(asked, ways), limits)
    provenance = one.provenance(found.title)
    return SecondDerivatives(found.bounds.lower, found.bounds.upper, output, found.status, provenance, found.parts)


def curvature(
    network: Source | Problem,
    region: AbstractRegion | Numbers | None = None,
    *,
    radius: Numbers | None = None,
    norm: float | None = None,
    output: int = 0,
    pre: RuleLike | None = None,
    arithmetic: AbstractArithmetic | None = None,
    limit: Limit | None = None,
    time_limit: float | None = None,
) -> Curvature:
    """Bounds of the largest spectral norm ‖H‖₂ of the Hessian of one output of a smooth network over a region.

    network, region, radius, norm: as in `lipschitz`.
    output, pre, arithmetic: as in `second_derivative`.  limit, time_limit: as in `residual_bounds`, with a tolerance
    relative to the attained norm; by default the whole region is bounded once.
    Raises as `residual_bounds` does.  Source: docs/mathematics.md, §9.2.
    """
    problem = as_problem(network, as_region(region, radius, norm), pre, arithmetic)
    limits = Limits.of(limit, time_limit, problem.bound.batch)
    one = problem.of(problem.network.output(output))
    check_smooth(one.network)
    entries = hessian_entries(one.network)
    states: list[Branching] = []
    with torch.no_grad():
        for sample in one.samples():
            over = CurvatureOver(entries, sample, entries.enclosed(sample, _NOISES, _METHOD)[1])
            states.append(searched(sample, over, limits.next(), states))
    title = _TITLE if limits.none else f"{_TITLE} by {InputBisection().title}"
    attained = torch.stack([s.attained.gain[0] for s in states]).clamp(min=0)
    upper = torch.stack([s.uppers[0] for s in states])
    return Curvature(
        _not_above(attained, upper), upper,
        torch.cat([s.attained.witness for s in states]), output,
        tuple("one pass" if limits.none else s.status for s in states), one.provenance(title),
        tuple(s.parts for s in states),
    )  # fmt: skip


def _not_above(attained: Tensor, upper: Tensor) -> Tensor:
    """What is attained, which plain floating point computes: at most `upper`, if it is above by rounding errors.

    Raises UnsoundBounds if it is above by more.
    """
    slack = torch.finfo(upper.dtype).eps ** 0.5
    lower = torch.where(attained <= upper * (1 + slack), torch.minimum(attained, upper), attained)
    return Interval(lower, upper).lower


def hessian_entries(network: Network) -> Differentials:
    """The entries of the Hessian of a network of one output on and above the diagonal, row by row."""
    n = network.sizes[0]
    return Differentials.of(network, [partial(i, j) for i in range(n) for j in range(i, n)])


@final
@dataclass(frozen=True)
class _Found:
    """Bounds of residuals, (batch, residuals), how they were found, and how the division of each region ended.

    parts: how many parts of each region were bounded.
    """

    bounds: Interval
    title: str
    status: tuple[str, ...]
    parts: tuple[int, ...]


def _bounded(problem: Problem, differentials: Differentials, limits: Limits) -> _Found:
    """Bounds over the whole regions, intersected with those over their parts if there are limits."""
    with torch.no_grad():
        plain = differentials.enclosed(problem, _NOISES, _METHOD)[1]
        if limits.none:
            batch = problem.bound.batch
            return _Found(plain.bounds, _TITLE, ("one pass",) * batch, (1,) * batch)
        states: list[Branching] = []
        for i, sample in enumerate(problem.samples()):
            over = ResidualsOver(differentials, sample, plain.sample(i))
            states.append(searched(sample, over, limits.next(), states))
        ends = [s.uppers.chunk(2) for s in states]
        most, least = torch.stack([e[0] for e in ends]), -torch.stack([e[1] for e in ends])
        bounds = problem.arithmetic.intersect(problem.arithmetic.enclose(least, most), plain.bounds)
    title = f"{_TITLE} by {InputBisection().title}"
    return _Found(bounds, title, tuple(s.status for s in states), tuple(s.parts for s in states))


def _sequence(residuals: Residual | Sequence[Residual]) -> list[Residual]:
    found = [residuals] if isinstance(residuals, Residual) else list(residuals)
    if not found or not all(isinstance(r, Residual) and r.terms for r in found):
        raise InvalidRequest(f"{residuals!r} are no residuals; give one such as partial(0) - partial(1, 1), or several")
    return found


def _vectors(vectors: Tensor, network: Network) -> Tensor:
    """Directions (count, *input) in the dtype and on the device of the network."""
    expect(vectors, Tensor, "the directions", "give a tensor (count, *input)")
    if tuple(vectors.shape[1:]) != network.input_shape or not len(vectors) or not bool(vectors.isfinite().all()):
        raise InvalidRequest(
            f"directions of shape {tuple(vectors.shape)} do not fit inputs of shape {network.input_shape}; "
            "give finite ones (count, *input), at least one"
        )
    exact = vectors.detach().to(network.dtype)
    if not bool((exact.double() == vectors.double()).all()):
        raise InvalidRequest(f"the directions are not exact in {network.dtype}; round them first")
    return exact.to(network.device)
