"""Polynomials in the outputs of a network and their derivatives, such as the residual u_t + u u_x - ν u_xx."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from sys import float_info
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Fast, Interval
from recurjac.errors import InvalidRequest, expect_whole
from recurjac.jacobian.base import AbstractJacobianMethod
from recurjac.jacobian.hessian import derivatives
from recurjac.jacobian.jets import Algebra, Enclosed, Jet, Ways, jet_of, joined
from recurjac.network import Network
from recurjac.problem import Problem

_FAST = Fast()


@final
@dataclass(frozen=True)
class Partial:
    """An output, by its row-major number, or its derivative along one or two directions, by their numbers."""

    output: int
    along: tuple[int, ...]


@final
@dataclass(frozen=True)
class Term:
    """A number times a product of derivatives.  Raises InvalidRequest for a number that is not finite."""

    coefficient: float
    factors: tuple[Partial, ...]

    def __post_init__(self) -> None:
        if not isfinite(self.coefficient):
            raise InvalidRequest(f"a term of a residual has the factor {self.coefficient!r}; give smaller numbers")


@final
@dataclass(frozen=True)
class Residual:
    """A sum of terms; `partial` makes its parts, and sums, differences and products of residuals are residuals."""

    terms: tuple[Term, ...]

    def __add__(self, other: Residual | float) -> Residual:
        return Residual(self.terms + _residual(other).terms)

    __radd__ = __add__

    def __neg__(self) -> Residual:
        return Residual(tuple(replace(t, coefficient=-t.coefficient) for t in self.terms))

    def __sub__(self, other: Residual | float) -> Residual:
        return self + -_residual(other)

    def __rsub__(self, other: Residual | float) -> Residual:
        return _residual(other) + -self

    def __mul__(self, other: Residual | float) -> Residual:
        pairs = ((a, b) for a in self.terms for b in _residual(other).terms)
        return Residual(tuple(Term(a.coefficient * b.coefficient, a.factors + b.factors) for a, b in pairs))

    __rmul__ = __mul__

    @property
    def partials(self) -> tuple[Partial, ...]:
        """All derivatives that occur."""
        return tuple(dict.fromkeys(f for t in self.terms for f in t.factors))


def _residual(value: Residual | float) -> Residual:
    if isinstance(value, Residual):
        return value
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not abs(value) <= float_info.max or float(value) != value:
        raise InvalidRequest(f"{value!r} is no part of a residual; give a finite number of float64, or partial(…)")
    return Residual((Term(float(value), ()),))


def partial(*inputs: int, output: int = 0) -> Residual:
    """An output, or its derivative by one or two inputs, by row-major numbers: partial(), partial(0), partial(1, 1).

    Raises InvalidRequest for more than two inputs, and for negative numbers.
    """
    expect_whole("a derivative", output=output, **{f"input {i}": n for i, n in enumerate(inputs)})
    if len(inputs) > 2 or min(output, *inputs, 0) < 0:
        raise InvalidRequest(f"partial{inputs} of output {output}; give at most two inputs, and no negative numbers")
    return Residual((Term(1.0, (Partial(output, tuple(sorted(inputs))),)),))


def laplacian(*inputs: int, output: int = 0) -> Residual:
    """The sum of the second derivatives of an output by each of these inputs."""
    if not inputs:
        raise InvalidRequest("a Laplacian needs inputs; give their numbers, as laplacian(0, 1)")
    return Residual(tuple(t for i in inputs for t in partial(i, i, output=output).terms))


@final
@dataclass(frozen=True)
class Differentials:
    """Residuals whose derivatives are along given directions, (D, *input)."""

    residuals: tuple[Residual, ...]
    directions: Tensor

    @classmethod
    def of(cls, network: Network, residuals: Sequence[Residual]) -> Differentials:
        """Residuals whose derivatives are by inputs.  Raises InvalidRequest for inputs or outputs that do not exist."""
        used = [p for r in residuals for p in r.partials]
        inputs, outputs = network.sizes[0], network.sizes[-1]
        for p in used:
            if p.output >= outputs or any(i >= inputs for i in p.along):
                raise InvalidRequest(
                    f"partial{p.along} of output {p.output}: there are {inputs} inputs, {outputs} outputs"
                )
        needed = sorted({i for p in used for i in p.along}) or [0]
        moved = tuple(
            Residual(tuple(
                replace(t, factors=tuple(replace(f, along=tuple(map(needed.index, f.along))) for f in t.factors))
                for t in r.terms
            ))
            for r in residuals
        )  # fmt: skip
        like = torch.zeros(len(needed), inputs, dtype=network.dtype, device=network.device)
        like[range(len(needed)), needed] = 1
        return cls(moved, like.reshape(len(needed), *network.input_shape))

    @property
    def _pairs(self) -> list[tuple[int, int]]:
        found = {p.along for r in self.residuals for p in r.partials}
        return sorted((a[0], a[1]) for a in found if len(a) == 2)

    @property
    def ways(self) -> Ways:
        """The directions and the pairs of them that occur."""
        pairs = torch.tensor(self._pairs, dtype=torch.long, device=self.directions.device).reshape(-1, 2).T
        return Ways(self.directions, pairs)

    def enclosed(
        self, problem: Problem, noises: int, method: AbstractJacobianMethod | None
    ) -> tuple[Algebra, Enclosed]:
        """The residuals over the region, (B, residuals).

        method: bounds second derivatives in another way, too; None if that is left out.
        """
        algebra, jet = jet_of(problem.preactivations(), self.ways, noises)
        used = dict.fromkeys(p for r in self.residuals for p in r.partials)
        parts = {p: self._part(jet, p) for p in used}
        if method is not None:
            for output in sorted({p.output for p in used if p.along}):
                found = derivatives(problem.of(problem.network.output(output)), method, self.directions)
                for p in [p for p in used if p.output == output and p.along]:
                    more = (found.gradient if len(p.along) == 1 else found.hessian)[(slice(None), *p.along, None)]
                    both = problem.arithmetic.intersect(parts[p].bounds, more)
                    parts[p] = Enclosed(parts[p].forms, both)
        return algebra, joined([self._evaluated(algebra, r, parts) for r in self.residuals])

    def _part(self, jet: Jet, p: Partial) -> Enclosed:
        """One derivative of one output, (B, 1)."""
        if not p.along:
            return _entry(jet.value, (p.output,), 1)
        if len(p.along) == 1:
            return _entry(jet.first, (p.along[0], p.output), 2)
        return _entry(jet.second, (self._pairs.index((p.along[0], p.along[1])), p.output), 2)

    def _evaluated(self, algebra: Algebra, residual: Residual, parts: dict[Partial, Enclosed]) -> Enclosed:
        terms = []
        for t in residual.terms:
            if not t.factors:
                terms.append(algebra.number(t.coefficient))
                continue
            found = parts[t.factors[0]]
            for i, factor in enumerate(t.factors[1:]):
                same = i == 0 and factor == t.factors[0]
                found = algebra.square(found) if same else algebra.times(found, parts[factor])
            terms.append(found if t.coefficient == 1 else algebra.scaled(found, t.coefficient))
        return algebra.sum(terms)

    def at(self, network: Network, points: Tensor) -> Tensor:
        """The residuals at points (N, *input) in plain floating point: (N, residuals)."""
        value, first, second = point_jets(network, points, self.ways)
        found = []
        for residual in self.residuals:
            total = torch.zeros_like(value[:, 0])
            for t in residual.terms:
                product = torch.tensor(t.coefficient, dtype=torch.float64).to(total).expand_as(total)
                for p in t.factors:
                    where = (value, first, second)[len(p.along)]
                    place = () if not p.along else p.along if len(p.along) == 1 else (self._pairs.index(p.along[:2]),)  # type: ignore[arg-type]
                    product = product * where[(slice(None), *place, p.output)]
                total = total + product
            found.append(total)
        return torch.stack(found, 1)


def _entry(a: Enclosed, place: tuple[int, ...], axes: int) -> Enclosed:
    """One entry of what is enclosed, where the last of `axes` axes is the flattened output: (B, 1)."""
    at = (slice(None), *place, None)
    rows, rest = a.forms.rows.flatten(axes + 1)[(slice(None), *at)], a.forms.rest.flatten(axes)[at]
    return Enclosed(type(a.forms)(rows, rest), a.bounds.map(lambda t: t.flatten(axes)[at]))


def point_jets(network: Network, points: Tensor, ways: Ways) -> tuple[Tensor, Tensor, Tensor]:
    """Values and derivatives at points, in plain floating point: (N, out), (N, R, out) and (N, P, out).

    Where they overflow, they are NaN or have no meaning.
    """
    n, (left, right) = len(points), ways.pairs
    along = ways.tangents.unsqueeze(0).expand(n, *ways.tangents.shape)
    after = {0: (points, along, along.new_zeros(n, len(left), *points.shape[1:]))}
    last = {e.source: k for k, stage in enumerate(network.stages, 1) for e in stage.edges}
    before = after
    for k, stage in enumerate(network.stages, 1):
        blank = points.new_zeros(stage.shape)
        bias = stage.bias(_FAST)
        z, y, w = (
            sum((e.operator.push(_FAST.exact(after[e.source][i])).mid for e in stage.edges), start)
            for i, start in enumerate((
                (blank if bias is None else bias.mid).expand(n, *stage.shape),
                blank.expand(n, along.shape[1], *stage.shape), blank.expand(n, len(left), *stage.shape),
            ))
        )  # fmt: skip
        before = {**{i: b for i, b in before.items() if i == k - 1}, k: (z, y, w)}
        after[k] = (z, y, w)
        if stage.factor is not None and not stage.factor.first:
            u, du, ddu = before[k - 1]
            one, two = u.unsqueeze(1), z.unsqueeze(1)
            crossed = du[:, left] * y[:, right] + du[:, right] * y[:, left]
            after[k] = (u * z, du * two + y * one, ddu * two + w * one + crossed)
            after[k - 1] = tuple(torch.zeros_like(t) for t in after[k])  # type: ignore[assignment]
        elif stage.factor is None and not stage.linear and k < network.depth:
            activation, at = stage.activation, Interval.point(z.nan_to_num(0.0, torch.inf, -torch.inf))
            bend = activation.curvature_range(at, _FAST)
            slope = activation.slope_range(at, _FAST).lower.unsqueeze(1)
            bend_at = torch.zeros_like(slope) if bend is None else bend.lower.unsqueeze(1)
            after[k] = (activation.value(z), slope * y, slope * w + bend_at * y[:, left] * y[:, right])
        after = {i: a for i, a in after.items() if last.get(i, 0) > k or i >= k - 1}
    z, y, w = after[network.depth]
    return z.flatten(1), y.flatten(2), w.flatten(2)
