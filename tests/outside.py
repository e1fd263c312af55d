"""Classes that a user might write outside the package: one of every kind that can be added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf, prod
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from recurjac import Problem
from recurjac.activations import AbstractActivation
from recurjac.extend import (
    AbstractArithmetic,
    AbstractBrancher,
    AbstractConvex,
    AbstractJacobianMethod,
    AbstractLineRule,
    AbstractNormMethod,
    AbstractPreactivation,
    AbstractPrepared,
    AbstractSeeds,
    ChainRule,
    Gradients,
    Interval,
    LinearRelaxation,
    vector_norm,
)


@final
@dataclass(frozen=True)
class SquaredReLU(AbstractConvex):
    """max(z, 0)²."""

    name: ClassVar[str] = "outside_squared_relu"

    def value(self, z: Tensor) -> Tensor:
        infinite = z == torch.inf  # apart: the derivative of inf² times 0 is NaN
        return torch.where(infinite, torch.inf, z.masked_fill(infinite, 0.0).clamp(min=0).square())

    def slope(self, z: Tensor) -> Tensor:
        return 2 * z.clamp(min=0)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]


@final
@dataclass(frozen=True)
class Magnitudes(AbstractJacobianMethod):
    """|J| <= |A_K| D_K … D_1 |A_1|: one matrix of magnitudes is propagated instead of lines.  Wide, but a bound."""

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {}

    @property
    def title(self) -> str:
        return "magnitudes"

    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        chain = gradients.chain
        arithmetic, found = chain.arithmetic, dict[int, Tensor]()
        for node in range(chain.end - 1, -1, -1):
            total = arithmetic.exact(torch.zeros(1, dtype=chain.dtype, device=chain.device))
            for e in chain.successors(node):
                if e.source == chain.end:
                    rows = chain.gradient_rows(e.operator)
                    size = arithmetic.between(rows, rows).magnitude
                    total = total + arithmetic.exact(size)
                elif e.source in found:
                    back = e.operator.transpose().push(arithmetic.exact(found[e.source]))
                    # |A|ᵀ m is at least Aᵀ m for m >= 0; the magnitudes of columns are found by pushing units
                    total = total + arithmetic.exact(_absolute(e.operator, found[e.source], arithmetic, back.shape))
            slopes = chain.slopes[node]
            size = total.upper()
            if slopes is not None:
                size = (arithmetic.exact(size) * arithmetic.exact(slopes.magnitude.unsqueeze(1))).upper()
            found[node] = size
        return _Sized(chain, found[0])


def _absolute(operator: Any, sizes: Tensor, arithmetic: AbstractArithmetic, shape: torch.Size) -> Tensor:
    """|A|ᵀ times non-negative numbers (B, K, *out): (B, K, *in), rounded upwards."""
    n = prod(operator.in_shape)
    columns = operator.columns(torch.arange(n, device=sizes.device), sizes.dtype, arithmetic)
    size = arithmetic.between(columns, columns).magnitude.flatten(1)
    lead = sizes.shape[:2]
    total = sizes.reshape(*lead, -1) @ size.mT
    return arithmetic.at_least(total, size.shape[1] + 2).reshape(shape)


@final
@dataclass(frozen=True)
class _Sized(AbstractPrepared):
    whole: ChainRule
    size: Tensor

    @property
    def chain(self) -> ChainRule:
        return self.whole

    def push(self, tangents: AbstractSeeds) -> Interval:
        arithmetic = self.whole.arithmetic
        forms = tangents.tensor().abs().flatten(3)
        size = self.size.flatten(2)
        sums = (forms * size.unsqueeze(2)).sum(-1)
        end = arithmetic.at_least(sums, size.shape[-1] + 2)
        end = torch.where(end.isnan(), torch.inf, end)  # 0 times an unbounded slope
        return self._whole(Interval(-end, end))


@final
@dataclass(frozen=True)
class Frobenius(AbstractNormMethod):
    """‖J‖_{2→2} <= ‖J‖_F, from another method's bounds of the entries."""

    method: AbstractJacobianMethod = Magnitudes()

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractNormMethod]:
        return {}

    @property
    def title(self) -> str:
        return f"Frobenius norm of {self.method.title}"

    def supports(self, p: float, q: float) -> bool:
        return p == 2 and q in (2, inf)

    def norm(self, gradients: Gradients, p: float, q: float) -> Tensor:
        return vector_norm(self.rows(gradients, p), 2, gradients.chain.arithmetic)

    def rows(self, gradients: Gradients, p: float) -> Tensor:
        entries = self.method.prepare(gradients).push_all().magnitude
        return vector_norm(entries, 2, gradients.chain.arithmetic)

    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        return []


@final
@dataclass(frozen=True)
class FlatLines(AbstractLineRule):
    """Constants where the slope is not known, whatever the activation: interval propagation, substituted back."""

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {}

    @property
    def title(self) -> str:
        return "flat lines"

    def lines(self, activation: AbstractActivation, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        crown, values = activation.lines(z, arithmetic), activation.value_range(z, arithmetic)
        exact = crown.exact
        return replace(
            crown,
            lower_slope=torch.where(exact, crown.lower_slope, 0.0),
            lower_intercept=torch.where(exact, crown.lower_intercept, values.lower.unsqueeze(1)),
            upper_slope=torch.where(exact, crown.upper_slope, 0.0),
            upper_intercept=torch.where(exact, crown.upper_intercept, values.upper.unsqueeze(1)),
        )


@final
@dataclass(frozen=True)
class SignBrancher(AbstractBrancher):
    """Halves of the pre-activations of the first stage's neuron that is unstable in most samples."""

    @property
    def title(self) -> str:
        return "signs of the first stage"

    def supports(self, problem: Problem) -> bool:
        return bool(self._unstable(problem).any())

    def _unstable(self, problem: Problem) -> Tensor:
        z = problem.preactivations().pre(1)
        return (z.lower < 0) & (z.upper > 0)

    def divide(self, problem: Problem) -> list[Problem]:
        neuron = int(self._unstable(problem).double().sum(0).flatten().argmax())
        parts = []
        for sign in (1, -1):
            end = torch.full((1, *problem.network.shape(1)), inf, dtype=problem.network.dtype)
            low, high = -end, end.clone()
            (low if sign > 0 else high).view(-1)[neuron] = 0.0
            parts.append(problem.constrained(1, Interval(low, high)))
        return parts


magnitudes = Magnitudes()
"""For `--method tests.outside:magnitudes`."""
