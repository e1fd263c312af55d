"""The exact skeleton: between its nonlinear neurons, a network is linear (docs/mathematics.md, §5.5).

z_k = E_k v.  The vector v consists of the input, the number 1, and the outputs of the *kept* neurons of earlier stages:
those that are not known multiples of their pre-activations.  The columns of E are pushed once, layer by layer, through
the linear part of the network; neurons of slope 0 drop out.  Sweeps for pre-activations and Jacobians then run over
kept neurons only.  Their results equal those on the whole network up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Interval, concatenate, plus_at_, shares_memory
from recurjac.network import Edge, Network
from recurjac.operators import AbstractOperator
from recurjac.operators.base import one_hot
from recurjac.operators.interval_matrix import IntervalMatrix
from recurjac.operators.part import part
from recurjac.propagation.chain_rule import ChainRule, Place
from recurjac.propagation.planning import AbstractPlanner
from recurjac.propagation.route import AbstractRoute
from recurjac.region import BesideOne, BoundRegion, Convex
from recurjac.relaxations import LinearRelaxation


@final
@dataclass(frozen=True)
class Affine:
    """E v for entries of one stage; v is the input, 1, and the kept neurons of the stages in order.

    columns: Eᵀ, (first entries of v, entries).  In memory, the rows of E are contiguous, because whole rows are copied.
    """

    columns: Ball

    def at(self, index: Tensor) -> Affine:
        """The same for the entries `index` only."""
        return Affine(self.columns.map(lambda t: t.mT.index_select(0, index).mT))

    def times(self, slope: Tensor, arithmetic: AbstractArithmetic) -> Affine:
        """Each entry times its `slope`."""
        return Affine(arithmetic.scaled(self.columns, slope))


@final
@dataclass(frozen=True)
class _Post:
    """h_k in terms of v: its entries `reads` are `affine`, the others are 0; indices are flat positions.

    kept: the kept neurons of the stage; they are in v from position `begin`.
    """

    reads: Tensor
    affine: Affine | None
    kept: Tensor
    begin: int

    @cached_property
    def count(self) -> int:
        """The number of kept neurons."""
        return len(self.kept)

    @cached_property
    def end(self) -> int:
        return self.begin + self.count


@final
@dataclass
class Skeleton:
    """The skeleton of the stages that were appended so far, for one sample."""

    network: Network
    arithmetic: AbstractArithmetic
    planner: AbstractPlanner
    post: list[_Post] = field(default_factory=list)
    kept_rows: dict[int, Affine] = field(default_factory=dict)
    kept_paths: dict[int, Sequence[tuple[int, IntervalMatrix]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        every = torch.arange(self.network.sizes[0], device=self.network.device)
        self.post.append(_Post(every, None, every, 0))

    @cached_property
    def inputs(self) -> int:
        """The number of inputs; v is 1 at this position."""
        return self.post[0].end

    @property
    def length(self) -> int:
        """The length of v so far."""
        return max(self.post[-1].end, self.inputs + 1)

    def pre(self, k: int) -> Affine:
        """z_k in terms of the kept neurons of earlier stages, all of which must have been appended."""
        stage, n = self.network.stages[k - 1], self.network.sizes[k]
        columns: Ball | None = None
        for e in stage.edges:
            source = self.post[e.source]
            if source.affine is None:
                more = e.operator.columns(source.reads, self.network.dtype, self.arithmetic)
            else:
                near = part(e.operator, None, source.reads)
                if near is None:
                    continue
                more = near.push(source.affine.columns)
                if source.count and more.rad is not None:
                    units = torch.searchsorted(source.reads, source.kept)
                    own = near.columns(units, self.network.dtype, self.arithmetic)
                    more = more.known_from(source.begin) if own.exact else more
                if shares_memory(source.affine.columns, more):  # the operator only moves numbers
                    more = more.map(torch.clone)
            more = more.map(lambda t: t.reshape(len(t), n))
            columns = more if columns is None else _added(columns, more)
        if columns is None:
            columns = self.arithmetic.exact(torch.zeros(0, n, dtype=self.network.dtype, device=self.network.device))
        bias = stage.bias(self.arithmetic)
        return Affine(_long(columns if bias is None else self._shifted(columns, bias), self.length))

    def _shifted(self, columns: Ball, bias: Ball) -> Ball:
        """The columns with `bias` added at the position where v is 1."""
        row = bias.map(lambda t: t.reshape(1, -1))
        if len(columns.mid) <= self.inputs:
            return _stacked([_long(columns, self.inputs), row])
        return plus_at_(columns, slice(self.inputs, self.inputs + 1), row)

    def append_stage(self, k: int, z: Affine, slope: Tensor, exact: Tensor) -> None:
        """Append stage k, whose output is `slope` (entries,) times z where `exact`; the other neurons are kept."""
        bent = ~exact
        kept, reads = bent.nonzero().flatten(), (bent | (slope != 0)).nonzero().flatten()
        affine, steep = z.at(reads), slope.masked_fill(bent, 1.0).index_select(0, reads)
        if not bool((steep == 1).all()):
            affine = affine.times(steep, self.arithmetic)
        if len(kept):
            units = torch.searchsorted(reads, kept)
            own = self.arithmetic.exact(one_hot(units, tuple(reads.shape), self.network.dtype))
            others = affine.columns.map(lambda t: t.index_fill_(1, units, 0.0))  # made by `at`
            affine = replace(affine, columns=_stacked([others, own]))
            rows = z.at(kept)
            self.kept_paths[k] = self.paths(rows, next(reversed(self.kept_rows), 0))
            self.kept_rows[k] = rows
        self.post.append(_Post(reads, affine, kept, self.length))

    def paths(self, entries: Affine, before: int) -> Sequence[tuple[int, IntervalMatrix]]:
        """The edges for forms of `entries`: to all kept neurons of stages up to `before`, joined, and to (input, 1)."""
        (m, n), first = entries.columns.shape, self.inputs + 1
        own = (0, IntervalMatrix(entries.columns.map(lambda t: t[:first]), (n,), (first,)))
        if before == 0:
            return [own]
        return [(before, IntervalMatrix(entries.columns.map(lambda t: t[first:]), (n,), (m - first,))), own]

    def chain(self, whole: ChainRule, output: Affine) -> ChainRule:
        """The chain rule of the same J restricted to kept neurons; `output` is the last stage, which has no slopes."""
        groups = [0, *self.kept_rows]
        shapes = [whole.shapes[0], *((self.post[g].count,) for g in groups[1:]), whole.shapes[-1]]
        ends = [*self.kept_rows.values(), output]
        edges = [
            tuple(
                Edge(s, IntervalMatrix(end.columns.map(partial(_rows_of, self.post[g])), shapes[s], shapes[i]))
                for s, g in enumerate(groups[:i])
            )
            for i, end in enumerate(ends, 1)
        ]
        slopes = [None, *(_slopes(whole, g, self.post[g].kept) for g in groups[1:]), None]
        places = (Place(0, None), *(Place(g, self.post[g].kept) for g in groups[1:]), Place(whole.end, None))
        return replace(
            whole, shapes=tuple(shapes), edges=((), *edges), slopes=tuple(slopes), skeleton=None, places=places
        )


def _rows_of(post: _Post, columns: Tensor) -> Tensor:
    return columns[post.begin : post.end].mT


def _slopes(whole: ChainRule, node: int, kept: Tensor) -> Interval | None:
    slopes = whole.slopes[node]
    return None if slopes is None else slopes.map(lambda t: t.flatten(1)[:, kept])


def _long(columns: Ball, length: int) -> Ball:
    """The columns padded with zeros for the next entries of v, up to `length`."""
    if len(columns.mid) == length:
        return columns
    return columns.map(lambda t: torch.cat([t.mT, t.new_zeros(t.shape[1], length - len(t))], 1).mT)


def _stacked(columns: Sequence[Ball]) -> Ball:
    """The columns concatenated; in memory, the rows of E are contiguous."""
    return concatenate([c.map(lambda t: t.mT) for c in columns], 1).map(lambda t: t.mT)


def _added(a: Ball, b: Ball) -> Ball:
    if not len(a.mid):
        return b
    length = max(len(a.mid), len(b.mid))
    return _long(a, length) + _long(b, length)


@final
@dataclass(frozen=True)
class SkeletonRoute(AbstractRoute):
    """A route from the entries `z` of stage `start` back to the input, through kept neurons.

    Nodes are numbered like the stages; the lines of a stage are those of its kept neurons.  The forms of all earlier
    kept neurons are joined.  Every node has an edge to the input.
    """

    skeleton: Skeleton
    start: int
    z: Affine
    found: Mapping[int, LinearRelaxation]
    inputs: BoundRegion

    @property
    def arithmetic(self) -> AbstractArithmetic:
        return self.skeleton.arithmetic

    @property
    def planner(self) -> AbstractPlanner:
        return self.skeleton.planner

    def nodes(self, start: int) -> Sequence[int]:
        return [start, *reversed([g for g in self.skeleton.kept_rows if g < start]), 0]

    def edges(self, node: int) -> Sequence[tuple[int, AbstractOperator]]:
        if node == self.start:
            return self.skeleton.paths(self.z, self.nodes(node)[1])
        return self.skeleton.kept_paths[node]

    def split_passthrough(self, node: int, forms: Ball) -> tuple[Ball, Ball | None]:
        if node == 0:
            return forms, None
        begin = self.skeleton.post[node].begin - self.skeleton.inputs - 1
        here = forms.map(lambda t: t[..., begin:])
        return here, forms.map(lambda t: t[..., :begin]) if begin else None

    def lines(self, node: int) -> LinearRelaxation | None:
        return None if node == 0 else self.found[node]

    def rows(self, node: int) -> Ball | None:
        return None

    def region(self, node: int) -> Convex | None:
        return BesideOne(self.inputs) if node == 0 else None

    def floats(self) -> int:
        return self.widest()

    def widest(self) -> int:
        return self.skeleton.length
