"""Contraction rates over regions that are divided: the largest matrix measure of all parts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, final

import torch
from torch import Tensor

from recurjac.applications.contraction import (
    MatrixMeasure,
    matrix_measure,
    measure_of,
    quotient_above,
    scaled_by,
)
from recurjac.applications.limits import Limits, searched
from recurjac.arithmetic import AbstractArithmetic, Fast, Interval, Rigorous, round_up_to, summed
from recurjac.branching import AbstractBrancher, Branching, InputBisection, Limit
from recurjac.branching.branched import points_within
from recurjac.branching.pool import Bounded, Goals
from recurjac.branching.search import AbstractBounds
from recurjac.deadline import check_time_limit
from recurjac.jacobian import (
    AbstractJacobianMethod,
    Gradients,
    JacobianBounds,
    RecurJac,
    as_jacobian_method,
    default_method,
    jacobian_bounds,
)
from recurjac.loading import Source
from recurjac.preactivation import IBP, RuleLike
from recurjac.problem import Problem, as_problem, as_region
from recurjac.region import AbstractRegion, LpBall, Numbers
from recurjac.search import Attained, point_jacobian

_MORE = 1e-9
"""How much larger a measure must seem for a proof, relative to what is known."""


def contraction_rate(
    network: Source | Problem,
    region: AbstractRegion | Numbers | None = None,
    *,
    radius: Numbers | None = None,
    norm: float | None = None,
    p: float = 2,
    weights: Any = None,
    method: AbstractJacobianMethod | None = None,
    pre: RuleLike | None = None,
    arithmetic: AbstractArithmetic | None = None,
    limit: Limit | None = None,
    time_limit: float | None = None,
) -> MatrixMeasure:
    """Upper bounds of the matrix measure μ_p of the Jacobian of x' = f(x) over a region, for each sample.

    network, region, radius, norm: as in `lipschitz`; the network has as many outputs as inputs, f in x' = f(x).
    p, weights: as in `matrix_measure`.  method, pre, arithmetic: as in `jacobian_bounds`, for the whole region.
    limit: if given, bounded regions of up to 64 inputs are divided until what is attained and what is proved meet
    within its tolerance, or the limit is reached.  By default, the whole region is bounded once.
    time_limit: seconds for all samples together, in place of a method and a limit: half of them for bounds of the
    whole region, the rest for its parts.
    Raises InvalidRegion if the region does not fit the network, InvalidRequest if the Jacobian is not square, for norms
    and weights that do not fit, and for a time limit beside a method or a limit.

    Source: docs/mathematics.md, §7.7.
    """
    check_time_limit(time_limit, method=method)
    problem = as_problem(network, as_region(region, radius, norm), pre, arithmetic)
    limits = Limits.of(limit, time_limit, problem.bound.batch)
    how = as_jacobian_method(method, None if time_limit is None else time_limit / 2)
    with torch.no_grad():
        bounds = jacobian_bounds(problem, method=how)
        return measure_over(problem, bounds, p, weights, limits)


def measure_over(problem: Problem, bounds: JacobianBounds, p: float, weights: Any, limits: Limits) -> MatrixMeasure:
    """The measure of bounds over whole regions, and of parts of these within the limits."""
    whole = matrix_measure(bounds, p=p, weights=weights)
    if limits.none:
        return whole
    states: list[Branching] = []
    with torch.no_grad():
        for i, sample in enumerate(problem.samples()):
            over = MeasureOver(float(p), whole.weights, sample, whole.upper[i])
            states.append(searched(sample, over, limits.next(), states))
    title = f"{whole.method} by {InputBisection().title}" if any(s.parts > 1 for s in states) else whole.method
    return replace(
        whole,
        upper=torch.stack([s.uppers[0] for s in states]), lower=torch.stack([s.attained.gain[0] for s in states]),
        status=tuple(s.status for s in states), parts=tuple(s.parts for s in states),
        provenance=replace(whole.provenance, method=title),
    )  # fmt: skip


@final
@dataclass(frozen=True)
class MeasureOver(AbstractBounds):
    """The largest matrix measure of the Jacobian over a region.

    weights: those of a `MatrixMeasure`.  within: the problem of one sample whose region attained points must lie
    in.  whole: an upper bound over all of it, a number.  method: bounds the Jacobian over each part.
    """

    p: float
    weights: Tensor | None
    within: Problem
    whole: Tensor
    method: AbstractJacobianMethod = field(default_factory=default_method)
    brancher: AbstractBrancher = field(default_factory=InputBisection)

    def bounded(self, problem: Problem, goals: Goals) -> Bounded:
        uppers, effects = list[Tensor](), list[Tensor]()
        for part in problem.batches():
            gradients = Gradients(part)
            entries = self._matrices(self.method.prepare(gradients).push_all(), part.bound.batch)
            upper = torch.minimum(measure_of(entries, self.p, self.weights, self._arithmetic), self.whole)
            uppers.append(torch.where(gradients.state.empty, -inf, upper))
            found = self.brancher.effects(gradients.state, self._shares(entries))
            effects += [] if found is None else [found]
        return Bounded(torch.cat(uppers).unsqueeze(1), torch.cat(effects) if effects else None)

    def found(self, parts: Problem, known: Attained | None) -> Attained:
        """From the point, of the centres and some random points of parts, at which the measure seems to be largest."""
        points = points_within(self.within, parts)
        before = self._nothing(parts) if known is None else known
        if len(points) == 0:
            return before
        jacobian = point_jacobian(parts.network, points).reshape(len(points), *self._shape)
        best = self._seeming(jacobian.nan_to_num(0.0, 0.0, 0.0)).max(0)
        gain = float(before.gain[0])
        if not float(best.values) > gain + _MORE * abs(gain) and gain > -inf:
            return before
        point = points[best.indices].unsqueeze(0)
        at = self.within.over(LpBall(point, 0.0)).by(IBP())
        entries = self._matrices(RecurJac().prepare(Gradients(at)).push_all(), 1)
        lower = self._at_least(entries)
        inside = self.within.holds(point.unsqueeze(0))[0] & lower.isfinite()
        return Attained(lower, point, before.direction) if bool(inside) and float(lower) > gain else before

    def goals(self, attained: Attained, tolerance: float) -> Goals:
        """Within a relative tolerance of what is attained."""
        size = attained.gain.abs().clamp(min=torch.finfo(attained.gain.dtype).tiny)
        size = torch.where(size.isfinite(), size, 1.0)
        return Goals(attained.gain + tolerance * size, size)

    @property
    def _arithmetic(self) -> AbstractArithmetic:
        return Rigorous() if self.within.arithmetic.rigorous else Fast()

    @property
    def _shape(self) -> tuple[int, int]:
        (n,) = self.within.network.input_shape
        return n, n

    def _matrices(self, entries: Interval, batch: int) -> Interval:
        return entries.map(lambda t: t.expand(batch, *self._shape))

    @property
    def _matrix(self) -> Tensor | None:
        """P of the norm √(xᵀ P x), (n, n); None for other norms."""
        return self.weights if self.weights is not None and self.weights.dim() == 2 else None

    def _ratio(self) -> Tensor | float:
        """d_i / d_j for the weights d, (n, n), in plain floating point."""
        return 1.0 if self.weights is None else self.weights[:, None] / self.weights[None, :]

    def _sums(self, matrices: Tensor) -> Tensor:
        """The sums of which μ_1 or μ_∞ is the largest, (batch, n), in plain floating point."""
        scaled = matrices * self._ratio()
        rows = scaled if self.p == inf else scaled.mT
        own = rows.diagonal(dim1=-2, dim2=-1)
        return own + rows.abs().sum(-1) - own.abs()

    def _ways(self, matrices: Tensor) -> tuple[Tensor, Tensor]:
        """μ_2 of matrices (batch, n, n), and the x (batch, n) for which it is attained, in plain floating point.

        These are μ_2(M) and the x with the largest xᵀ M x / xᵀ x for M = D J D⁻¹; with a matrix P = L Lᵀ, M = Lᵀ J L⁻ᵀ,
        and x is L⁻ᵀ times that.
        """
        root = None if self._matrix is None else torch.linalg.cholesky(self._matrix)
        if root is None:
            turned = matrices * self._ratio()
        else:
            turned = torch.linalg.solve_triangular(root.mT, root.mT @ matrices.to(root), upper=True, left=False)
        values, vectors = torch.linalg.eigh((turned / 2 + turned.mT / 2).nan_to_num(0.0, 0.0, 0.0))
        x = vectors[:, :, -1:]
        return values[:, -1], (x if root is None else torch.linalg.solve_triangular(root.mT, x, upper=True))[:, :, 0]

    def _seeming(self, matrices: Tensor) -> Tensor:
        """About the measures of matrices (batch, n, n)."""
        return self._ways(matrices)[0] if self.p == 2 else self._sums(matrices).amax(1)

    def _shares(self, entries: Interval) -> Tensor:
        """How much each entry matters to the bound, (batch, n, n); no proof depends on it."""
        middle = (entries.lower / 2 + entries.upper / 2).nan_to_num(0.0, 0.0, 0.0)
        if self.p == 2:
            x = self._ways(middle)[1]
            left = x if self._matrix is None else x @ self._matrix
            shares = left.abs().unsqueeze(2) * x.abs().unsqueeze(1)
            return (shares * self._ratio() if self._matrix is None else shares).to(middle)
        sums = self._sums(middle + (entries.width / 2).nan_to_num(0.0, 0.0, 0.0) * middle.sign())
        worst = torch.zeros_like(sums).scatter(1, sums.argmax(1, keepdim=True), 1.0)
        shares = worst.unsqueeze(2 if self.p == inf else 1).expand_as(middle)
        return (shares * self._ratio()).to(middle)

    def _at_least(self, entries: Interval) -> Tensor:
        """A proved lower bound of the measure of every matrix within an interval (1, n, n): (1,)."""
        arithmetic = self._arithmetic
        if not bool((entries.lower.isfinite() & entries.upper.isfinite()).all()):
            return entries.lower.new_full((1,), -inf)
        scale = self.weights
        known = entries if scale is None else entries.map(lambda t: t.to(scale))
        ways = self._ways(known.lower / 2 + known.upper / 2)[1] if self.p == 2 else None
        if scale is not None and self._matrix is None:
            known = scaled_by(known, scale, arithmetic)
        if ways is not None:
            found = _quotient(known, Interval.point(ways.unsqueeze(1)), self._matrix, arithmetic)
        else:
            own = torch.eye(known.shape[-1], dtype=torch.bool, device=known.lower.device)
            terms = torch.where(own, known.lower, known.mignitude)
            found = summed([arithmetic.exact(t) for t in terms.unbind(2 if self.p == inf else 1)]).lower().amax(-1)
        return -round_up_to(-found, entries.lower.dtype)

    def _nothing(self, parts: Problem) -> Attained:
        point = parts.bound.x[:1]
        return Attained(point.new_full((1,), -inf), point, torch.zeros_like(point))


def _quotient(matrices: Interval, x: Interval, metric: Tensor | None, arithmetic: AbstractArithmetic) -> Tensor:
    """A lower bound of xᵀ P M x / xᵀ P x, which is at most μ_2 of M, for any x (1, 1, n); P = I without a metric."""
    left = x if metric is None else arithmetic.matmul(x, Interval.point(metric.unsqueeze(0)))
    image = arithmetic.matmul(matrices, x).map(lambda t: t.mT)
    form, size = (arithmetic.matmul(left, other).map(lambda t: t[:, 0, 0]) for other in (image, x))
    return -quotient_above(-form.lower, size.lower, size.upper, arithmetic)
