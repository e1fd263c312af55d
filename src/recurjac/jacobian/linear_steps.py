"""A network of single steps, such as products of matrices, with a linear map in place of each function.

The stages in between, such as the products of all entries of two matrices, are not read.  Where some entries of a node
reach little of what follows, vectors of these entries are pushed through that part alone.
Source: docs/mathematics.md, §5.15.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.activations import NormalisedRows
from recurjac.arithmetic import Fast
from recurjac.jacobian.near_linear import AbstractNearLinear, Activated, Multiplied, NearPart, OfRows
from recurjac.jacobian.near_normalised import Normalised
from recurjac.jacobian.pushed_sizes import AbstractLinearNetwork, AbstractLinearPart, Place
from recurjac.jacobian.steps import Steps, sources
from recurjac.network import Edge, Stage
from recurjac.operators import AbstractOperator, Reshape
from recurjac.operators.part import part

_LITTLE = 4
"""Entries that reach less than one part in so many of the network are pushed through that part alone."""
_FEW = 16
"""Lots of fewer entries are not pushed alone."""
_PASSES = 8
"""How many multiply-adds take as long as one entry of a node."""

_BUILT = 2e7
"""How many multiply-adds take as long as finding the part that a lot reaches."""

_Key = tuple[int, tuple[tuple[int, bytes], ...]]
"""A stage, and positions in the nodes that it reads."""


def read_by(stage: Stage) -> list[tuple[Edge, ...]]:
    """What the function of a stage reads: the edges of each of its tensors."""
    if stage.closed is not None:
        return [(Edge(stage.closed.source, stage.closed.rows),)]
    if stage.matrices is not None:
        return [(stage.matrices.first,), (stage.matrices.second,)]
    return [stage.edges]


def given_by(stage: Stage) -> AbstractOperator | None:
    """The operator from the values of the function to those of the stage; None if they are the same."""
    if stage.closed is not None:
        return stage.closed.back
    return None if stage.matrices is None else Reshape(stage.matrices.out_shape, stage.shape)


@final
@dataclass(frozen=True)
class LinearSteps(AbstractLinearNetwork):
    """Steps with a linear map in place of each function; `near` has the functions that are not linear themselves."""

    steps: Steps
    near: Mapping[int, AbstractNearLinear]
    device: torch.device
    _some: dict[_Key, _Some | None] = field(default_factory=dict)
    _parts: dict[int, tuple[Part, ...]] = field(default_factory=dict)

    @classmethod
    def at(cls, steps: Steps, x: Tensor) -> LinearSteps:
        """With the derivatives at a point x (*input)."""
        values, near = {0: x}, dict[int, AbstractNearLinear]()
        for k, stage in steps.stages.items():
            arrived: list[Tensor] = []
            for edges in read_by(stage):
                bias = stage.bias(Fast()) if edges is stage.edges else None
                total = _total([(e.operator, values[e.source]) for e in edges])
                total = x.new_zeros(stage.shape) if total is None else total
                arrived.append(total if bias is None else total + bias.mid)
            found = _near(stage, arrived)
            value = arrived[0] if found is None else found.value(arrived)
            values[k] = _given(value, given_by(stage))
            if found is not None:
                near[k] = found
        return cls(steps, near, x.device)

    def shape(self, node: int) -> Shape:
        return self.steps.shape(node)

    @cached_property
    def _last(self) -> dict[int, int]:
        return self.steps.last_reads()

    def pushed(self, node: int, vectors: Tensor) -> Iterator[tuple[Place, Tensor]]:
        pushed = {node: vectors}
        for k, stage in self.steps.stages.items():
            if k <= node:
                continue
            arrived: list[Tensor | None] = []
            for i, edges in enumerate(read_by(stage)):
                total = _total([(e.operator, pushed[e.source]) for e in edges if e.source in pushed])
                arrived.append(total)
                if total is not None:
                    yield (k, i), total
            near = self.near.get(k)
            measured = None if near is None else _measured(near, arrived[0])
            if measured is not None:
                yield (k, len(arrived)), measured
            found = arrived[0] if near is None or all(a is None for a in arrived) else near.carried(arrived)
            if found is not None:
                pushed[k] = _given(found, given_by(stage))
            for done in [n for n in pushed if self._last.get(n, 0) <= k]:
                del pushed[done]

    def parts(self, node: int) -> Sequence[Part]:
        """Those of slices along the axis of the node along which entries reach least, if that is little."""
        if node not in self._parts:
            self._parts[node] = self._found_parts(node)
        return self._parts[node]

    def _found_parts(self, node: int) -> tuple[Part, ...]:
        shape = self.shape(node)
        every = torch.arange(prod(shape), device=self.device)
        best, found = sum(prod(self.shape(k)) for k in self.steps.stages if k > node) / _LITTLE, tuple[Part, ...]()
        for axis, size in enumerate(shape):
            if len(every) < _FEW * size:
                continue
            parts = tuple(Part(self, node, i.flatten()) for i in every.reshape(shape).unbind(axis))
            reach = parts[size // 2].size
            if reach < best:
                best, found = reach, parts
        return found

    def size(self, place: Place) -> int:
        k, i = place
        read, near = read_by(self.steps.stages[k]), self.near.get(k)
        if i == len(read) and near is not None and near.measures is not None:
            return prod(near.measures.shape[:2])
        return prod(read[i][0].operator.out_shape if read[i] else self.steps.shape(k))

    def some(self, k: int, known: Mapping[int, Tensor]) -> _Some | None:
        """The entries of a stage that are reached from the positions `known` of earlier nodes; kept for other lots."""
        stage = self.steps.stages[k]
        key = k, tuple((i, known[i].cpu().numpy().tobytes()) for i in sources(stage) if i in known)
        if key not in self._some:
            self._some[key] = _Some.of(stage, self.near.get(k), known)
        return self._some[key]

    def cost(self, node: int) -> float:
        """About how many multiply-adds the unit vectors of all entries of a node take."""
        behind = [k for k in self.steps.stages if k > node]
        count, parts = prod(self.shape(node)), self.parts(node)
        whole = float(sum(self._work[k] for k in behind))
        if not parts:
            return count * whole
        reach = parts[0].size / sum(prod(self.shape(k)) for k in behind)
        return count * whole * reach + _BUILT * len(parts)

    @cached_property
    def _work(self) -> dict[int, int]:
        """For each node, the multiply-adds of its step, and its entries as so many."""
        found = {}
        for k, stage in self.steps.stages.items():
            edges = sum(e.operator.multiply_adds() for place in read_by(stage) for e in place)
            near = self.near.get(k)
            entries = prod(stage.shape)
            found[k] = edges + entries * (_PASSES + (0 if near is None else near.products))
        return found


@final
@dataclass(frozen=True)
class _Some:
    """Some entries of a stage: the positions at each of its places, the terms there, and what it gives from them."""

    reads: tuple[Tensor | None, ...]
    terms: tuple[tuple[tuple[int, AbstractOperator], ...], ...]
    near: NearPart | None
    out: AbstractOperator | None
    gives: Tensor

    @property
    def measured(self) -> Tensor:
        """The positions of what is measured of the rows."""
        first, near = self.reads[0], self.near
        if near is None or near.near.measures is None or first is None:
            raise ValueError("nothing is measured")
        _, count, n = near.near.measures.shape
        rows = first[::n] // n
        return (rows.unsqueeze(1) * count + torch.arange(count, device=rows.device)).flatten()

    @classmethod
    def of(cls, stage: Stage, near: AbstractNearLinear | None, known: Mapping[int, Tensor]) -> _Some | None:
        """What is reached from the positions `known` of earlier nodes; None if nothing is."""
        places = [[(e.source, e.operator) for e in edges if e.source in known] for edges in read_by(stage)]
        reads = [_union([o.transpose().rows(known[i])[1] for i, o in place]) for place in places]
        if all(r is None for r in reads):
            return None
        few = None if near is None else near.part(reads)
        reads = reads if few is None else list(few.reads)
        terms = tuple(
            tuple((i, p) for i, o in place if (p := part(o, read, known[i])) is not None)
            for place, read in zip(places, reads, strict=True)
        )
        gives, out = reads[0] if few is None else few.gives, given_by(stage)
        if gives is None:
            raise ValueError("a stage that is linear has one place")
        if out is None:
            return cls(tuple(reads), terms, few, None, gives)
        met = out.transpose().rows(gives)[1]
        return cls(tuple(reads), terms, few, part(out, met, gives), met)


def _union(indices: Sequence[Tensor]) -> Tensor | None:
    """All positions of several lists, in ascending order; None if there are none."""
    found = torch.cat([torch.zeros(0, dtype=torch.long), *indices]).unique()
    return found if len(found) else None


@final
@dataclass(frozen=True)
class Part(AbstractLinearPart):
    """What some entries of a node reach."""

    linear: LinearSteps
    node: int
    index: Tensor

    @cached_property
    def _steps(self) -> dict[int, _Some]:
        """By node; found when it is used, as finding it takes time."""
        known, steps = {self.node: self.index}, dict[int, _Some]()
        for k in self.linear.steps.stages:
            some = self.linear.some(k, known) if k > self.node else None
            if some is not None:
                steps[k], known[k] = some, some.gives
        return steps

    @property
    def size(self) -> int:
        """How many entries are computed for one vector."""
        return sum(len(s.gives) for s in self._steps.values())

    def pushed(self, vectors: Tensor) -> Iterator[tuple[Place, Tensor, Tensor]]:
        pushed = {self.node: vectors}
        for k, some in self._steps.items():
            arrived: list[Tensor | None] = []
            for i, (read, terms) in enumerate(zip(some.reads, some.terms, strict=True)):
                total = _total([(operator, pushed[source]) for source, operator in terms])
                arrived.append(total)
                if total is not None and read is not None:
                    yield (k, i), read, total
            if some.near is not None and (first := arrived[0]) is not None:
                measured = _measured(some.near.near, first.reshape(-1, *some.near.shapes[0]))
                if measured is not None:
                    yield (k, len(arrived)), some.measured, measured.flatten(1)
            found = arrived[0] if some.near is None else some.near.carried(arrived)
            if found is not None:
                pushed[k] = _given(found, some.out)


def _near(stage: Stage, z: Sequence[Tensor]) -> AbstractNearLinear | None:
    """The function of a stage and its linear map at a point; None if it is linear."""
    if stage.closed is not None:
        function = stage.closed.function
        return Normalised.at(function, z[0]) if isinstance(function, NormalisedRows) else OfRows.at(function, z[0])
    if stage.matrices is not None:
        return Multiplied(*z)
    return None if stage.linear else Activated.at(stage.activation, z[0])


def _total(terms: Sequence[tuple[AbstractOperator, Tensor]]) -> Tensor | None:
    """The sum of images, in plain floating point; None without terms."""
    found = [operator.push(Fast().exact(t)).mid for operator, t in terms]
    return sum(found[1:], found[0]) if found else None


def _measured(near: AbstractNearLinear, rows: Tensor | None) -> Tensor | None:
    """What measures of rows (N, rows, n) give, (N, rows, p)."""
    if rows is None or near.measures is None:
        return None
    return torch.einsum("Nrj,rpj->Nrp", rows, near.measures)


def _given(value: Tensor, out: AbstractOperator | None) -> Tensor:
    return value if out is None else out.push(Fast().exact(value)).mid
