"""Enclosures of the gradient and the Hessian of one output over a region.

In the normal form, an output f is a function of the stages z_k = b_k + Σ A_ki h_i and h_k = σ_k(z_k).  In its gradient
g = Σ_paths …, only the slopes σ'(z_k) depend on x, so that

    H  =  Σ_k  V_kᵀ diag(σ''(z_k) ∂f/∂h_k) V_k,      V_k = ∂z_k/∂x,

and a product h = u ⊙ v adds V_uᵀ diag(∂f/∂h) V_v and its transpose.  ∂f/∂h_k and V_k are total derivatives: of the
output with respect to a stage, and of pre-activations with respect to the input.  A Jacobian method bounds each of them
over the region, on a part of the chain rule and on a part of its reverse.  With tangents T as rows, it bounds V_k Tᵀ,
from which T H Tᵀ follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Fast, Interval
from recurjac.errors import InvalidRequest
from recurjac.jacobian.base import AbstractJacobianMethod
from recurjac.jacobian.gradients import Gradients
from recurjac.jacobian.jets import square
from recurjac.network import Network
from recurjac.preactivation import PreactivationState
from recurjac.problem import Problem
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import DenseForms
from recurjac.provenance import AbstractResult, Provenance


@final
@dataclass(frozen=True)
class Derivatives:
    """Enclosures of the gradient (batch, n_in) and of the Hessian (batch, n_in, n_in) of one output over a region.

    Along R tangents, T ∂f/∂x and T H Tᵀ, with R in place of n_in.  The bounds of the Hessian are symmetric.  If
    rounding is not covered, the bounds of each entry are widened by √eps times the sum of the absolute values of its
    terms over all stages; rounding is rarely that large.
    """

    gradient: Interval
    hessian: Interval


def check_smooth(network: Network) -> None:
    """Raise InvalidRequest unless every activation is known to be twice continuously differentiable."""
    for k, stage in enumerate(network.stages, 1):
        if stage.factor is not None:
            continue
        zero = Interval.point(torch.zeros(1, *stage.shape, dtype=network.dtype, device=network.device))
        if stage.activation.curvature_range(zero, Fast()) is None:
            raise InvalidRequest(
                f"stage {k} has the activation {stage.activation.name}, whose second derivative is not continuous; "
                "a Hessian needs smooth ones such as tanh, softplus or gelu"
            )


@final
@dataclass(frozen=True, repr=False, eq=False)
class HessianBounds(AbstractResult):
    """lower <= ∂²f_k/∂x² <= upper for every x in the region, for one output k of a smooth network.

    lower, upper: (batch, *input, *input), symmetric.
    gradient_lower, gradient_upper: (batch, *input), bounds of ∂f_k/∂x.
    output: the row-major index k.  status: for each sample how the division of its region ended, or "one pass".
    """

    lower: Tensor
    upper: Tensor
    gradient_lower: Tensor
    gradient_upper: Tensor
    output: int
    status: tuple[str, ...]
    provenance: Provenance

    def __repr__(self) -> str:
        most = float(torch.maximum(self.lower.detach().abs(), self.upper.detach().abs()).max())
        return (
            f"HessianBounds{tuple(self.lower.shape)} of output {self.output} by {self.method} ({self._kind()}): "
            f"largest entry at most {most:.4g}"
        )


def hessian_over(problem: Problem, output: int, method: AbstractJacobianMethod) -> HessianBounds:
    """Bounds of every entry of the Hessian of one output, from those of derivatives between stages by a method.

    Raises InvalidRequest for an output that does not exist, and for an activation whose second derivative is not
    continuous.
    """
    one = problem.of(problem.network.output(output))
    check_smooth(one.network)
    found = derivatives(one, method)
    shape = (problem.bound.batch, *problem.network.input_shape)
    hessian = [t.reshape(*shape, *shape[1:]) for t in (found.hessian.lower, found.hessian.upper)]
    gradient = [t.reshape(shape) for t in (found.gradient.lower, found.gradient.upper)]
    lower, upper, least, most = (problem.detached(t) for t in (*hessian, *gradient))
    return HessianBounds(
        lower, upper, least, most, output, ("one pass",) * problem.bound.batch, one.provenance(method.title)
    )


def derivatives(problem: Problem, method: AbstractJacobianMethod, tangents: Tensor | None = None) -> Derivatives:
    """Enclosures for a smooth network (`check_smooth`) with one output; the formula is in the module's docstring.

    tangents: (R, *input), along which derivatives are taken; by default the basis.
    """
    state = problem.preactivations()
    region, arithmetic, chain = problem.bound, problem.arithmetic, state.chain()
    ways = chain.basis(0) if tangents is None else DenseForms(tangents[None, None], arithmetic)
    steps = ways.tensor()[0, 0].flatten(1).abs()
    gradient = method.prepare(Gradients(problem, chain)).push(ways).map(lambda t: t[:, 0])
    zero = steps.new_zeros(region.batch, len(steps), len(steps))
    terms, sizes = [Interval.point(zero)], [(_direct(chain) @ steps.mT, zero)]
    probe, reach = _Probe(state, chain, method, tangents), state.post(0).magnitude.flatten(1)
    reach = reach if tangents is None else reach.amax(1, keepdim=True).expand(-1, len(steps))
    for k in range(1, problem.network.depth):
        factor = state.stage(k).factor
        if state.stage(k).linear or (factor is not None and factor.first):
            continue
        found = probe.bend(k) if factor is None else probe.product(k, k + factor.other)
        terms.append(found.hessian(arithmetic))
        sizes.append(found.sizes(reach))
    hessian = arithmetic.sum(terms)
    hessian = arithmetic.intersect(hessian, hessian.map(lambda t: t.mT))
    if arithmetic.rigorous:
        return Derivatives(gradient, hessian)
    slack = torch.finfo(problem.network.dtype).eps ** 0.5
    first, second = (reduce(torch.add, parts) * slack for parts in zip(*sizes, strict=True))
    return Derivatives(_wider(gradient, first), _wider(hessian, second))


def _wider(interval: Interval, by: Tensor) -> Interval:
    return Fast().enclose(interval.lower - by, interval.upper + by)


def _direct(chain: ChainRule) -> Tensor:
    """The absolute derivatives along edges from the input directly to the output: (batch or 1, n_in)."""
    size = torch.zeros(1, prod(chain.shapes[0]), dtype=chain.dtype, device=chain.device)
    for e in chain.edges[-1]:
        if e.source == 0:
            size = size + chain.gradient_rows(e.operator).mid.abs().flatten(2)[:, 0]
    return size


@final
@dataclass(frozen=True)
class _Probe:
    """Bounds the parts of the formula on a chain rule of one output."""

    state: PreactivationState
    chain: ChainRule
    method: AbstractJacobianMethod
    tangents: Tensor | None

    def bend(self, k: int) -> _Bend:
        """What is known of a stage with an activation."""
        state, activation = self.state, self.state.stage(k).activation
        curvature = activation.curvature_range(state.pre(k), state.arithmetic)
        if curvature is None:
            raise InvalidRequest(f"the second derivative of {activation.name} is not continuous")
        z, slope, bend = (i.map(lambda t: t.flatten(1)) for i in (state.pre(k), state.slopes(k), curvature))
        return _Bend(z, slope, bend, self._outer(k), self._inner(k))

    def product(self, k: int, other: int) -> _Product:
        """What is known of the factors of a product; both are read alike, so that ∂f/∂h is the same."""
        first, second = (self.state.pre(i).map(lambda t: t.flatten(1)) for i in (k, other))
        return _Product(first, second, self._outer(k), self._inner(k), self._inner(other))

    def _outer(self, k: int) -> Interval:
        """Bounds of ∂f/∂h_k, (batch, n)."""
        return self.method.prepare(Gradients(given=self.chain.starting_at(k))).push_all().map(lambda t: t[:, 0])

    def _inner(self, k: int) -> Interval:
        """Bounds of ∂z_k/∂x along each tangent, (batch, R, n)."""
        back = self.chain.reversed(None if self.tangents is None else self.tangents[None])
        return self.method.prepare(Gradients(given=back.starting_at(self.chain.end - k))).push_all()


@final
@dataclass(frozen=True)
class _Bend:
    """Bounds of z, σ', σ'' and ∂f/∂h at a stage of n neurons, (batch, n), and of ∂z/∂x, (batch, R, n)."""

    pre: Interval
    slope: Interval
    curvature: Interval
    outer: Interval
    inner: Interval

    def hessian(self, arithmetic: AbstractArithmetic) -> Interval:
        """Bounds of V diag(σ'' ∂f/∂h) Vᵀ for V in `inner`; a square on the diagonal has no sign to lose."""
        weights = arithmetic.product(self.curvature, self.outer).map(lambda t: t.unsqueeze(1))
        whole = arithmetic.matmul(arithmetic.product(weights, self.inner), self.inner)
        squares = arithmetic.product(weights, square(self.inner, arithmetic))
        ones = Interval.point(torch.ones_like(squares.lower[:, :1]))
        own = arithmetic.matmul(squares, ones).map(lambda t: t[..., 0])
        own = arithmetic.intersect(own, whole.map(lambda t: t.diagonal(dim1=1, dim2=2)))
        at = torch.eye(whole.shape[1], dtype=torch.bool, device=own.lower.device)
        low, high = (
            torch.where(at, e.unsqueeze(1), w) for e, w in ((own.lower, whole.lower), (own.upper, whole.upper))
        )
        return arithmetic.enclose(low, high)

    def sizes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The sums of absolute values of the terms that this stage contributes to the gradient and to the Hessian.

        The terms of z, about |z| + Σ |∂z/∂x| |x|, are weighted by their effect on σ'; `x` (batch, n_in) is the largest
        |x|, or (batch, R) along tangents.
        """
        outer, inner = self.outer.magnitude.unsqueeze(1), self.inner.magnitude
        bend = self.curvature.magnitude.unsqueeze(1)
        first = ((self.slope.magnitude.unsqueeze(1) + bend * _terms(self.pre, inner, x)) * outer * inner).sum(-1)
        return first, (bend * outer * inner) @ inner.mT


@final
@dataclass(frozen=True)
class _Product:
    """Bounds of u, v and ∂f/∂h for a product u v of n entries, (batch, n), and of ∂u/∂x and ∂v/∂x, (batch, R, n)."""

    first: Interval
    second: Interval
    outer: Interval
    inner: Interval
    other: Interval

    def hessian(self, arithmetic: AbstractArithmetic) -> Interval:
        """Bounds of U diag(∂f/∂h) Vᵀ and its transpose together."""
        weights = self.outer.map(lambda t: t.unsqueeze(1))
        half = arithmetic.matmul(arithmetic.product(weights, self.inner), self.other)
        return arithmetic.sum([half, half.map(lambda t: t.mT)])

    def sizes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As for `_Bend`; the slope at either factor is the other one."""
        outer, inner, other = self.outer.magnitude.unsqueeze(1), self.inner.magnitude, self.other.magnitude
        first = _terms(self.second, other, x) * inner + _terms(self.first, inner, x) * other
        half = (outer * inner) @ other.mT
        return (first * outer).sum(-1), half + half.mT


def _terms(pre: Interval, inner: Tensor, x: Tensor) -> Tensor:
    """About |z| + Σ |∂z/∂x| |x|: (batch, 1, n)."""
    return pre.magnitude.unsqueeze(1) + (inner * x.unsqueeze(-1)).sum(1, keepdim=True)
