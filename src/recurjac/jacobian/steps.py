"""The nodes of a network that are read where matrix products, softmax and normalisations are single steps.

Rows of them that nothing reads are left out, such as those of all tokens but the one whose last value is the output.
Source: docs/mathematics.md, §5.13.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.network import Closed, Constant, Edge, MatrixProduct, Network, Stage
from recurjac.operators import AbstractOperator, Gather, Reshape, compose
from recurjac.operators.part import part

_NARROW = 2
"""Nodes of up to this many times the median number of entries are narrow, and those with fewer than the input."""


@final
@dataclass(frozen=True)
class Steps:
    """Stages by node, in order, with the last one; each of them reads those before it, and node 0 is the input."""

    input_shape: Shape
    stages: Mapping[int, Stage]

    @classmethod
    def of(cls, network: Network) -> Steps | None:
        """None if no stage is a single step.  Functions of rows whose rounding is not covered are none."""
        stages = tuple(s if s.closed is None or s.closed.function.rigorous else replace(s, closed=None)
                       for s in network.stages)  # fmt: skip
        if all(s.closed is None and s.matrices is None for s in stages):
            return None
        return _Read(replace(network, stages=stages)).steps()

    @property
    def end(self) -> int:
        """The node of the output."""
        return max(self.stages)

    def shape(self, k: int) -> Shape:
        return self.input_shape if k == 0 else self.stages[k].shape

    @cached_property
    def sizes(self) -> dict[int, int]:
        """How many entries each node has."""
        return {k: prod(self.shape(k)) for k in (0, *self.stages)}

    @property
    def widest(self) -> int:
        return max(self.sizes.values())

    @cached_property
    def _narrow(self) -> list[int]:
        """The nodes that get noises: narrow ones that are no linear functions of those that they read."""
        bent = [k for k, s in self.stages.items() if not (s.linear and s.closed is None and s.matrices is None)]
        usual = sorted(self.sizes[k] for k in bent)[len(bent) // 2] if bent else 0
        return [k for k in bent if self.sizes[k] <= max(_NARROW * usual, self.sizes[0])]

    @property
    def most(self) -> int:
        """The largest number of entries that get noises at once."""
        return max((self.sizes[k] for k in self._narrow), default=0)

    def entries(self, first: int, end: int) -> int:
        """How many entries the narrow ones of the nodes from `first` to before `end` have."""
        return sum(self.sizes[k] for k in self._narrow if first <= k < end)

    def last_reads(self) -> dict[int, int]:
        """For each node, the last one that reads it."""
        return {source: k for k, stage in self.stages.items() for source in sources(stage)}


def sources(stage: Stage) -> Iterator[int]:
    """The nodes that a stage reads as a single step."""
    if stage.closed is not None:
        yield stage.closed.source
    elif stage.matrices is not None:
        yield from (stage.matrices.first.source, stage.matrices.second.source)
    else:
        yield from (e.source for e in stage.edges)


@final
class _Read:
    """Which entries of each node are read, found from the output to the input.

    read: flat positions, in ascending order, by node; those of a product of matrices or of a function of rows are all
    entries of some rows and columns.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.masks: dict[int, Tensor] = {network.depth: self._blank(network.depth) | True}
        for k in range(network.depth, 0, -1):
            if k in self.masks:
                self._visit(k, network.stages[k - 1])

    def steps(self) -> Steps:
        kept = {k: self._kept(k, self.network.stages[k - 1]) for k in sorted(self.masks) if k > 0}
        return Steps(self.network.input_shape, kept)

    def _visit(self, k: int, stage: Stage) -> None:
        mask = self.masks[k]
        if stage.factor is not None:
            mask |= self._mask(k + stage.factor.other)
            self.masks[k + stage.factor.other] = mask
        if any(isinstance(v, Tensor) for v in vars(stage.activation).values()):
            mask.fill_(True)
        if stage.closed is not None:
            rows = self._rows(k, stage.closed)
            mask[stage.closed.back.transpose().rows(rows)[1]] = True
            self._reads(stage.closed.source, stage.closed.rows, rows)
        elif stage.matrices is not None:
            first, second, both = self._matrices(k, stage.matrices)
            mask[both] = True
            self._reads(stage.matrices.first.source, stage.matrices.first.operator, first)
            self._reads(stage.matrices.second.source, stage.matrices.second.operator, second)
        else:
            for e in stage.edges:
                self._reads(e.source, e.operator, self._index(k))

    def _mask(self, k: int) -> Tensor:
        return self.masks.setdefault(k, self._blank(k))

    def _blank(self, k: int) -> Tensor:
        return torch.zeros(self.network.sizes[k], dtype=torch.bool, device=self.network.device)

    def _reads(self, source: int, operator: AbstractOperator, index: Tensor) -> None:
        self._mask(source)[operator.rows(index)[1]] = True

    def _index(self, k: int) -> Tensor:
        return self.masks[k].nonzero().flatten()

    def _rows(self, k: int, closed: Closed) -> Tensor:
        """The positions of all entries of rows of which some entry is read."""
        shape = closed.rows.out_shape
        found = torch.zeros(prod(shape), dtype=torch.bool, device=self.network.device)
        found[closed.back.rows(self._index(k))[1]] = True
        whole = found.reshape(shape).any(-1, keepdim=True).expand(shape)
        return whole.reshape(-1).nonzero().flatten()

    def _matrices(self, k: int, product: MatrixProduct) -> tuple[Tensor, Tensor, Tensor]:
        """The positions of rows that are read, of both factors and of the product."""
        found = self.masks[k].reshape(product.out_shape)
        left, right = found.any(2).any(0), found.any(1).any(0)
        shapes = product.first.operator.out_shape, product.second.operator.out_shape
        factors = [
            m.reshape(1, -1, 1).expand(s).reshape(-1).nonzero().flatten()
            for m, s in zip((left, right), shapes, strict=True)
        ]
        both = (left.unsqueeze(1) & right).expand(product.out_shape).reshape(-1).nonzero().flatten()
        return factors[0], factors[1], both

    def _some(self, k: int) -> Tensor | None:
        """The entries that are read; None if all are."""
        return None if k == 0 or bool(self.masks[k].all()) else self._index(k)

    def _kept(self, k: int, stage: Stage) -> Stage:
        """The stage of the entries that are read."""
        some = self._some(k)
        shape = stage.shape if some is None else (len(some),)
        if stage.closed is not None:
            rows = self._rows(k, stage.closed)
            read, back = self._given(stage.closed.rows, stage.closed.source, rows), self._back(stage.closed, rows, some)
            count = stage.closed.rows.out_shape[-1]
            function = stage.closed.function.of_rows(rows[::count] // count)
            closed = replace(stage.closed, rows=read, back=back, function=function)
            return replace(stage, edges=(), constants=(), closed=closed, shape=shape)
        if stage.matrices is not None:
            first, second, _ = self._matrices(k, stage.matrices)
            pairs = ((stage.matrices.first, first), (stage.matrices.second, second))
            edges = (Edge(e.source, self._given(e.operator, e.source, rows)) for e, rows in pairs)
            return replace(stage, edges=(), constants=(), matrices=MatrixProduct(*edges), shape=shape)
        terms = [(e.source, part(e.operator, some, self._some(e.source))) for e in stage.edges]
        constants = stage.constants
        if some is not None:
            constants = tuple(Constant(compose(Gather.of(some, stage.shape), c.operator), c.tensor) for c in constants)
        left = tuple(Edge(source, operator) for source, operator in terms if operator is not None)
        return replace(stage, edges=left, constants=constants, shape=shape, extremes=None)

    def _given(self, operator: AbstractOperator, source: int, index: Tensor) -> AbstractOperator:
        """Some rows of an operator to (groups, rows, n) or (rows, n), all of the last axis."""
        shape = operator.out_shape
        if len(index) == prod(shape) and self._some(source) is None:
            return operator
        found = part(operator, index, self._some(source))
        if found is None:
            raise ValueError("a step reads nothing")
        few = len(index) // prod((*shape[:-2], shape[-1]))
        return compose(Reshape((len(index),), (*shape[:-2], few, shape[-1])), found)

    def _back(self, closed: Closed, rows: Tensor, some: Tensor | None) -> AbstractOperator:
        """From the rows that are read to the entries of the stage that are."""
        count = closed.rows.out_shape[-1]
        if some is None and len(rows) == prod(closed.rows.out_shape):
            return closed.back
        found = part(closed.back, some, rows)
        if found is None:
            raise ValueError("a step that nothing reads")
        return compose(found, Reshape((len(rows) // count, count), (len(rows),)))
