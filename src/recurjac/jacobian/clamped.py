"""Bounds of the gradient that are clamped by a bound of its norm, node by node (docs/mathematics.md, §5.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Protocol, final, runtime_checkable

from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.jacobian.base import AbstractJacobianMethod, AbstractNodewise, AbstractPrepared
from recurjac.jacobian.combine import All
from recurjac.jacobian.gradients import Gradients
from recurjac.propagation.forms import AbstractSeeds


@runtime_checkable
class BoundsRows(Protocol):
    """The part of a norm method (`norms.AbstractNormMethod`) that is used here."""

    @property
    def title(self) -> str: ...
    def rows(self, gradients: Gradients, p: float) -> Tensor: ...
    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]: ...


@final
@dataclass(frozen=True)
class Clamped(AbstractJacobianMethod):
    """`method` with the bounds [L, U] of g at each node clamped to ±c, where `norm` proves ‖g‖_∞ <= c.

    |g_i| <= max_i |g_i| = ‖g‖_∞, which is the norm of a covector's row as a functional of ‖·‖₁.  `norm` bounds it on
    the chain rule that starts at the node.  Clamping is not monotone: tighter bounds at a node can give worse lines.
    Therefore the result is intersected with the result of `method` without clamping.  If the arithmetic is rigorous
    and `norm` does not cover rounding, nothing is clamped.
    """

    method: AbstractNodewise
    norm: BoundsRows

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {}

    @property
    def title(self) -> str:
        return f"{self.method.title}, clamped by the {self.norm.title}"

    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        whole, chain = self.method.prepare(gradients), gradients.chain
        if chain.arithmetic.rigorous and self.norm.unproved_rounding(1, inf, chain.rows):
            return whole
        return All(chain, (whole, _Cut(self.method, self.norm).prepare(gradients)))


@final
@dataclass(frozen=True)
class _Cut(AbstractNodewise):
    """`method` with clamped bounds, without the intersection of `Clamped`."""

    method: AbstractNodewise
    norm: BoundsRows

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {}

    @property
    def title(self) -> str:
        return f"{self.method.title}, clamped"

    def view(self, gradients: Gradients) -> Gradients:
        return self.method.view(gradients)

    def node(self, known: Gradients, node: int) -> Interval | None:
        bounds = self.method.node(known, node)
        if bounds is None:
            return None
        size = self.norm.rows(Gradients(given=known.chain.starting_at(node)), 1)
        ends = size.reshape(*size.shape, *[1] * (bounds.lower.dim() - 2))  # bounds that all rows share have one row
        return known.chain.arithmetic.intersect(bounds, Interval(-ends, ends))

    def pushed(self, known: Gradients, tangents: AbstractSeeds) -> Interval:
        return self.method.pushed(known, tangents)
