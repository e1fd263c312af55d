"""One stage of a network: its edges, constants and activation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.activations import AbstractActivation, AbstractRowFunction, Factor
from recurjac.activations import Identity as NoActivation
from recurjac.arithmetic import AbstractArithmetic, Ball
from recurjac.operators import AbstractOperator
from recurjac.tensors import cast


@final
@dataclass(frozen=True)
class Edge:
    """A term A h_source of a stage."""

    source: int
    operator: AbstractOperator


@final
@dataclass(frozen=True)
class Constant:
    """A term A c of a stage's bias; the terms are kept separate because computing their sum would round."""

    operator: AbstractOperator
    tensor: Tensor


@final
@dataclass(frozen=True)
class Selection:
    """A stage that selects among entries of node `source`, as a maximum or a sort does, whatever lies in between.

    For all choices of slopes in between, its Jacobian with respect to that node has absolute row sums up to
    `row_sum` and absolute column sums up to `column_sum`.  Source: docs/mathematics.md, §6.3.
    """

    source: int
    row_sum: float
    column_sum: float


@final
@dataclass(frozen=True)
class Extremes:
    """A stage whose z is a maximum of entries of node `source`, less another one, whatever lies in between.

    most, less: the operators from that node to the entries of both, (entries, size of the stage); nothing is taken away
    if `less` is None.  holds: where it is so, of the stage's shape; everywhere if None.
    Source: docs/mathematics.md, §3.12.
    """

    source: int
    most: AbstractOperator
    less: AbstractOperator | None = None
    holds: Tensor | None = None

    def to(self, dtype: torch.dtype, device: torch.device) -> Extremes:
        """The same with its tensors in `dtype` on `device`."""
        less, holds = self.less, self.holds
        return replace(
            self, most=self.most.to(dtype, device), less=None if less is None else less.to(dtype, device),
            holds=None if holds is None else holds.to(device=device),
        )  # fmt: skip


@final
@dataclass(frozen=True)
class Closed:
    """A stage that is a known function of rows of entries of node `source`, whatever lies in between.

    rows: the operator from that node to the rows, of shape (rows, n).  back: from values of that shape to the stage.
    Source: docs/mathematics.md, §3.11.
    """

    source: int
    rows: AbstractOperator
    function: AbstractRowFunction
    back: AbstractOperator


@final
@dataclass(frozen=True)
class MatrixProduct:
    """A stage that is A Bᵀ for matrices A (groups, m, n) and B (groups, k, n), whatever lies in between.

    first, second: the edges that give A and B.  The entries of the stage are those of (groups, m, k), in this order.
    Source: docs/mathematics.md, §5.13.
    """

    first: Edge
    second: Edge

    @property
    def out_shape(self) -> Shape:
        """(groups, m, k)."""
        return (*self.first.operator.out_shape[:2], self.second.operator.out_shape[1])

    def to(self, dtype: torch.dtype, device: torch.device) -> MatrixProduct:
        """The same product with its tensors in `dtype` on `device`."""
        edges = (Edge(e.source, e.operator.to(dtype, device)) for e in (self.first, self.second))
        return MatrixProduct(*edges)


@final
@dataclass(frozen=True)
class Stage:
    """h = σ(Σ constants + Σ edges).

    selection, closed, matrices: what is known besides of a stage without an activation.  extremes: of any stage.
    """

    edges: tuple[Edge, ...]
    constants: tuple[Constant, ...]
    activation: AbstractActivation
    shape: Shape
    selection: Selection | None = None
    closed: Closed | None = None
    matrices: MatrixProduct | None = None
    extremes: Extremes | None = None

    @property
    def linear(self) -> bool:
        """Whether the stage has no activation."""
        return isinstance(self.activation, NoActivation)

    @property
    def factor(self) -> Factor | None:
        """What the stage is of a product; None if it is a stage of one argument."""
        return self.activation if isinstance(self.activation, Factor) else None

    def bias(self, arithmetic: AbstractArithmetic) -> Ball | None:
        """The bias b with its rounding error, in the stage's shape; None if there is none."""
        total: Ball | None = None
        for c in self.constants:
            term = c.operator.push(arithmetic.exact(c.tensor))
            total = term if total is None else total + term
        return total

    def to(self, dtype: torch.dtype, device: torch.device) -> Stage:
        """The same stage with its tensors in `dtype` on `device`."""
        edges = tuple(Edge(e.source, e.operator.to(dtype, device)) for e in self.edges)
        constants = tuple(Constant(c.operator.to(dtype, device), cast(c.tensor, dtype, device)) for c in self.constants)
        known = self.closed
        if known is not None:
            known = replace(known, rows=known.rows.to(dtype, device), back=known.back.to(dtype, device))
        matrices = None if self.matrices is None else self.matrices.to(dtype, device)
        return replace(
            self, edges=edges, constants=constants, activation=self.activation.to(dtype, device), closed=known,
            matrices=matrices, extremes=None if self.extremes is None else self.extremes.to(dtype, device),
        )  # fmt: skip


def count(tensors: Iterable[Tensor]) -> int:
    """The number of entries of some tensors; each tensor is counted once."""
    return sum(count for _, count in {(t.data_ptr(), _stored(t)) for t in tensors})


def _stored(tensor: Tensor) -> int:
    """The number of entries in memory: an expanded axis counts as one entry."""
    return prod(n for n, step in zip(tensor.shape, tensor.stride(), strict=True) if step or n == 0)


def stage_tensors(stage: Stage) -> Iterable[Tensor]:
    """Every tensor that a stage holds."""
    for edge in stage.edges:
        yield from edge.operator.tensors()
    for constant in stage.constants:
        yield constant.tensor
        yield from constant.operator.tensors()
    yield from (v for v in vars(stage.activation).values() if isinstance(v, Tensor))
