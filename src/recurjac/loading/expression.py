"""Building the normal form: expressions that are affine in the stages built so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf, prod
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.activations import AbstractActivation, AbstractRowFunction, Factor
from recurjac.activations import Identity as NoActivation
from recurjac.arithmetic import Rigorous
from recurjac.network import Closed, Constant, Edge, Extremes, MatrixProduct, Network, Selection, Stage, Watched
from recurjac.operators import AbstractOperator, Compose, Identity, Reshape, compose
from recurjac.operators.gather import Gather, gather, gather_positions
from recurjac.tensors import broadcast_shape, cast

_MOST_TERMS = 24
"""An expression with more terms becomes a separate stage, so that sums of sums do not grow exponentially."""
LARGEST = 2**22
"""The maximum number of entries of a tensor between two operations: 32 MiB in float64."""
_TOGETHER = 2**26
"""The maximum total of numbers in a network's stages, its tables of positions and its computed constants."""
_DEEPEST = 64
"""After this many operations in a row that cannot be merged into one, their result becomes a separate stage."""


@final
@dataclass
class Builder:
    """The stages built so far; node 0 is the input of shape `input_shape`.

    batched: whether the tensors of the foreign network have a leading batch axis of one entry, which stages leave out.
    rounded: whether constants were computed in floating point; the bounds do not cover their rounding errors.
    spent: the number of entries counted so far (`spend`).
    taken: tensors whose values were copied into activations or folded constants; the network does not follow them.
    comparisons: what was compared so far (`rewrites.pairs`).
    sizes: the stages that are sizes of rows, by their numbers (`rewrites.sizes`).
    otherwise: what a program in floating point computes in another way (`Network.otherwise`).
    """

    input_shape: Shape
    batched: bool
    dtype: torch.dtype
    device: torch.device
    stages: list[Stage] = field(default_factory=list)
    rounded: bool = False
    spent: int = 0
    taken: list[Tensor] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    sizes: dict[int, Squares] = field(default_factory=dict)
    otherwise: list[str] = field(default_factory=list)

    def spend(self, entries: int) -> None:
        """Count entries that the network keeps.  Raises ValueError if it needs too much memory."""
        self.spent += entries
        if self.spent > _TOGETHER:
            raise ValueError(f"the network has {self.spent} numbers up to here; at most {_TOGETHER} are read")

    def input(self) -> Expression:
        """The input in the shape that the foreign network uses."""
        shape = (1, *self.input_shape) if self.batched else self.input_shape
        return self._seen(0, self.input_shape, shape)

    def _seen(self, node: int, stored: Shape, shape: Shape) -> Expression:
        """The output of a node in the shape that the foreign network uses."""
        operator = Identity(shape) if stored == shape else Reshape(stored, shape)
        return Expression(self, (Edge(node, operator),), (), shape)

    def add(self, expression: Expression, activation: AbstractActivation) -> Expression:
        """Add the stage σ(expression), which has at least one dimension, and return its output as an expression."""
        shape, least = expression.shape, (1, 1) if self.batched else (1,)
        short = len(shape) < len(least) and prod(shape) == 1
        stage = self._stage(expression.apply(Reshape(shape, least)) if short else expression, activation)
        self.spend(4 * prod(stage.shape))  # its sums and values, here and in the original, during the comparison
        self.stages.append(stage)
        return self._seen(len(self.stages), stage.shape, shape)

    def multiply(self, one: Expression, other: Expression) -> Expression:
        """The product of two expressions of the same shape, which has at least one dimension.

        Both factors are stages, and a third one adds up what they give, so that they are always read together.
        """
        return self.add(other, Factor(1)).plus(self.add(one, Factor(-1))).as_node()

    def _stage(self, expression: Expression, activation: AbstractActivation) -> Stage:
        shape = expression.shape
        if self.batched and len(shape) > 0 and shape[0] == 1:
            expression = expression.followed(Reshape(shape, shape[1:]))
        return Stage(expression.edges, expression.constants, activation, expression.shape)

    def constant(self, tensor: Tensor) -> Expression:
        """A tensor that does not depend on the input."""
        shape = tuple(tensor.shape)
        return Expression(self, (), (Constant(Identity(shape), cast(tensor, self.dtype, self.device)),), shape)

    def finish(self, output: Expression) -> Network:
        """The network with this output; stages that it does not need are left out."""
        stages = [*self.stages, self._stage(output, NoActivation())]
        needed = {len(stages)}
        for k in range(len(stages), 0, -1):
            if k in needed:
                needed.update(e.source for e in stages[k - 1].edges)  # among them what is selected from
        number = {old: new for new, old in enumerate(sorted(needed | {0}))}
        kept = tuple(renumbered(s, number) for k, s in enumerate(stages, 1) if k in needed)
        copied = tuple(Watched.now(t) for t in self.taken)
        otherwise = tuple(dict.fromkeys(self.otherwise))
        return Network(self.input_shape, kept, self.dtype, self.device, self.rounded, copied, otherwise)


@final
@dataclass(frozen=True)
class Expression:
    """Σ A_i h_i + Σ B_j c_j, a tensor of `shape`; a batch axis is included and has one entry."""

    builder: Builder
    edges: tuple[Edge, ...]
    constants: tuple[Constant, ...]
    shape: Shape

    @property
    def terms(self) -> int:
        return len(self.edges) + len(self.constants)

    @property
    def dtype(self) -> torch.dtype:
        return self.builder.dtype

    @property
    def device(self) -> torch.device:
        return self.builder.device

    def apply(self, operator: AbstractOperator) -> Expression:
        """operator(self); a sum first becomes a stage if the operator multiplies, so that it is applied only once."""
        if operator.in_shape != self.shape:
            raise ValueError(f"an operation on tensors of shape {operator.in_shape} got one of shape {self.shape}")
        check_size(operator.out_shape)
        if operator.multiply_adds() > prod(self.shape) and len(self.edges) > 1:
            return self.as_node().apply(operator)
        operators = [e.operator for e in self.edges] + [c.operator for c in self.constants]
        if any(_depth(o) >= _DEEPEST for o in operators):
            return self.builder.add(self, NoActivation()).apply(operator)
        if isinstance(operator, Gather):
            self.builder.spend(2 * operator.table.numel())  # and its transpose
        return self.followed(operator)

    def followed(self, operator: AbstractOperator) -> Expression:
        """operator(self), applied term by term."""
        edges = tuple(Edge(e.source, compose(operator, e.operator)) for e in self.edges)
        constants = tuple(Constant(compose(operator, c.operator), c.tensor) for c in self.constants)
        return Expression(self.builder, edges, constants, operator.out_shape)

    def broadcast(self, shape: Shape) -> Expression:
        """self repeated along axes of one entry to the shape `shape`."""
        if shape == self.shape:
            return self
        check_size(shape)
        return self.apply(gather(lambda t: t.expand(shape), self.shape))

    def plus(self, other: Expression) -> Expression:
        """self + other, each broadcast to the other."""
        try:
            shape = broadcast_shape(self.shape, other.shape)
        except ValueError as error:
            raise ValueError(f"a sum of branches of shapes {self.shape} and {other.shape}") from error
        a, b = self.broadcast(shape), other.broadcast(shape)
        if a.terms + b.terms > _MOST_TERMS:
            a, b = a.as_node(), b.as_node()
        return replace(a, edges=a.edges + b.edges, constants=a.constants + b.constants)

    def times(self, other: Expression) -> Expression:
        """self * other, entry by entry, each broadcast to the other."""
        try:
            shape = broadcast_shape(self.shape, other.shape)
        except ValueError as error:
            raise ValueError(f"a product of branches of shapes {self.shape} and {other.shape}") from error
        return self.builder.multiply(self.broadcast(shape), other.broadcast(shape))

    def as_node(self) -> Expression:
        """The same value as a single term; if it has several terms, it becomes a separate stage."""
        return self if self.terms <= 2 and len(self.edges) <= 1 else self.builder.add(self, NoActivation())

    def settled(self) -> Expression:
        """The same value, cheap to read many times: a separate stage if computing it needs multiplications or sums."""
        return self if self.is_settled else self.builder.add(self, NoActivation())

    def selected_from(self, source: Expression, most: int) -> Expression:
        """The same value as a stage of its own, known to select among the entries of `source`, a settled expression.

        Every entry must be a convex combination of those of `source`, for all slopes in between, and no entry of
        `source` may have more than `most` in total in them.
        """
        (edge,) = source.edges
        exact = Rigorous()
        rows, columns = (float(edge.operator.norm(p, exact)) for p in (inf, 1.0))
        settled = self.builder.add(self, NoActivation())
        chosen = Selection(edge.source, rows, columns * most)  # of small whole numbers, without rounding
        self.builder.stages[-1] = replace(self.builder.stages[-1], selection=chosen)
        return settled

    def known_extremes(
        self, source: Expression, most: Tensor, less: Tensor | None = None, holds: Tensor | None = None
    ) -> Expression:
        """The same value, of the stage that was added last, whose z is a maximum of entries of `source`, less another.

        source: a settled expression.  most, less: the positions of the entries, from 1, (entries, *self).  holds: where
        it is so, (*self).
        """
        (edge,), stages = source.edges, self.builder.stages
        chosen = [rows if rows is None else rows.reshape(len(rows), -1) for rows in (most, less)]
        first, second = (
            None if rows is None else compose(gather_positions(rows, source.shape), edge.operator) for rows in chosen
        )
        if first is not None:
            where = None if holds is None else holds.reshape(stages[-1].shape).to(self.device)
            stages[-1] = replace(stages[-1], extremes=Extremes(edge.source, first, second, where))
        return self

    @property
    def is_settled(self) -> bool:
        """Whether it is cheap to read: entries of one stage or of the input."""
        cheap = all(e.operator.multiply_adds() == 0 for e in self.edges)
        return len(self.edges) <= 1 and cheap and not self.constants

    def known_as(
        self, function: AbstractRowFunction, source: Expression, index: Tensor, given: Tensor | None = None
    ) -> Expression:
        """The same value as a stage of its own, known to be a function of rows of a settled expression.

        index: (rows, n), where the entries of the rows are among all of them.  given: where the entries of the value
        are among those of the function, row by row; by default they are all of them, in the order of the source.
        """
        if len(source.edges) != 1:
            return self
        (edge,) = source.edges
        whole = self if self._is_last_stage else self.builder.add(self, NoActivation())
        stages, shape = self.builder.stages, tuple(index.shape)
        rows = compose(Gather(index.reshape(1, -1), source.shape, shape), edge.operator)
        places = index.flatten().argsort() if given is None else given
        back = Gather(places.unsqueeze(0), shape, stages[-1].shape)
        stages[-1] = replace(stages[-1], closed=Closed(edge.source, rows, function, back))
        return whole

    def known_as_product(self, first: Expression, second: Expression) -> Expression:
        """The same value as a stage of its own, known to be A Bᵀ for settled A (…, m, n) and B (…, k, n)."""
        if len(first.edges) != 1 or len(second.edges) != 1:
            return self
        whole = self if self._is_last_stage else self.builder.add(self, NoActivation())
        stages = self.builder.stages
        edges = (
            replace(x.edges[0], operator=compose(_in_groups(x.shape), x.edges[0].operator)) for x in (first, second)
        )
        stages[-1] = replace(stages[-1], matrices=MatrixProduct(*edges))
        return whole

    @property
    def _is_last_stage(self) -> bool:
        """Whether it is all of the last stage, which has no activation, and is not known as anything else."""
        stages = self.builder.stages
        if not stages or len(self.edges) != 1 or self.constants or not stages[-1].linear:
            return False
        plain = isinstance(self.edges[0].operator, Identity | Reshape) and self.edges[0].source == len(stages)
        known = (stages[-1].selection, stages[-1].closed, stages[-1].matrices)
        return plain and all(k is None for k in known)

    def shift(self, constant: Tensor) -> Expression:
        """self + constant, each broadcast to the other."""
        try:
            shape = broadcast_shape(self.shape, constant.shape)
        except ValueError as error:
            raise ValueError(
                f"a constant of shape {tuple(constant.shape)} is added to a tensor of shape {self.shape}"
            ) from error
        whole = self.broadcast(shape)
        term = Constant(Identity(shape), cast(constant, self.dtype, self.device).expand(shape))
        return replace(whole, constants=(*whole.constants, term))

    def constant(self, tensor: Tensor) -> Expression:
        """A tensor that does not depend on the input, as an expression of the same network."""
        return self.builder.constant(tensor)

    def activate(self, activation: AbstractActivation) -> Expression:
        """activation(self), a new stage."""
        return self.builder.add(self, activation)


@final
@dataclass(frozen=True)
class Comparison:
    """Two expressions a and b of one network, relu(b - a), and with it their maximum and minimum."""

    first: Expression
    second: Expression
    rise: Expression
    most: Expression
    least: Expression


@final
@dataclass(frozen=True)
class Squares:
    """Σ x² / divisor + eps over rows of entries of an expression x; rows: (rows, n), flat positions."""

    x: Expression
    rows: Tensor
    divisor: int
    eps: float


def renumbered(stage: Stage, number: Mapping[int, int]) -> Stage:
    """The stage with other numbers for the nodes that it names."""
    edges = tuple(Edge(number[e.source], e.operator) for e in stage.edges)
    old = stage.selection
    selection = None if old is None else replace(old, source=number[old.source])
    known = None if stage.closed is None else replace(stage.closed, source=number[stage.closed.source])
    product = stage.matrices
    if product is not None:
        parts = (Edge(number[e.source], e.operator) for e in (product.first, product.second))
        product = MatrixProduct(*parts)
    extremes = stage.extremes
    if extremes is not None:
        extremes = replace(extremes, source=number[extremes.source])
    return replace(stage, edges=edges, selection=selection, closed=known, matrices=product, extremes=extremes)


def _in_groups(shape: Shape) -> AbstractOperator:
    """The operator from matrices (…, m, n) to (groups, m, n)."""
    groups = (prod(shape[:-2]), *shape[-2:])
    return Identity(shape) if groups == shape else Reshape(shape, groups)


def _depth(operator: AbstractOperator) -> int:
    """The number of operators in a composition that is nested to the right."""
    depth = 1
    while isinstance(operator, Compose):
        depth, operator = depth + 1, operator.inner
    return depth


def check_size(shape: Shape) -> None:
    """Raise ValueError if a tensor of `shape` is too large."""
    if prod(shape) > LARGEST:
        raise ValueError(f"a tensor of shape {shape} with {prod(shape)} entries; at most {LARGEST} are read")
