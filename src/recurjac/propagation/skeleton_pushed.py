"""The exact skeleton: between its nonlinear neurons, a network is linear (docs/mathematics.md, §5.5).

z_k = E_k v.  The vector v consists of the input, the number 1, and the outputs of the *kept* neurons of earlier stages:
those that are not known multiples of their pre-activations.  The columns of E are pushed once, layer by layer, through
the linear part of the network; neurons of slope 0 drop out.  Sweeps for pre-activations and Jacobians then run over
kept neurons only.  Their results equal those on the whole network up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Interval, Loss, Sizes, common_radius, plus_at_, shares_memory
from recurjac.network import Edge, Network
from recurjac.operators import AbstractOperator
from recurjac.operators.compose import columns_in_common
from recurjac.operators.interval_matrix import IntervalMatrix
from recurjac.operators.part import part
from recurjac.propagation.chain_rule import ChainRule, Place
from recurjac.propagation.planning import AbstractPlanner
from recurjac.propagation.route import AbstractRoute, loss_of
from recurjac.region import BesideOne, BoundRegion, Convex
from recurjac.relaxations import Absorption, LinearRelaxation

_GROWN = 2**17
"""How much larger than rounding errors of the largest coefficients radii may be."""


@final
@dataclass(frozen=True)
class Affine:
    """E v for entries of one stage; v is the input, 1, and the kept neurons of the stages in order.

    columns: Eᵀ, (first entries of v, entries), with one radius in common for each entry: rounding then costs a product
    with one vector.  In memory, the rows of E are contiguous, because whole rows are copied.
    """

    columns: Ball

    def at(self, index: Tensor) -> Affine:
        """The same for the entries `index` only."""
        return Affine(self.columns.map_rows(lambda t: t.mT.index_select(0, index).mT))

    def times(self, slope: Tensor, arithmetic: AbstractArithmetic) -> Affine:
        """Each entry times its `slope`."""
        return Affine(arithmetic.scaled(self.columns, slope))

    def between(self, begin: int, end: int | None) -> IntervalMatrix:
        """The matrix of the entries of v from `begin` to `end`."""
        mid, rad = self.columns.mid[begin:end].mT, self.columns.rad
        rad = rad if rad is None or self.columns.exact or not self.columns.common else rad.mT
        return IntervalMatrix(Ball(mid, rad), (mid.shape[1],), (mid.shape[0],))


@final
@dataclass(frozen=True)
class _Post:
    """h_k in terms of v: its entries `reads` are `affine`, its entries `kept` are in v, from position `begin`.

    The others are 0; indices are flat positions.  affine: None for the input.
    bent: the number of kept neurons that are not known multiples of their pre-activations; the others are kept so that
    rounding errors start anew (`Skeleton._restarts`).
    first: no column before this position but that of 1 is other than 0.
    """

    reads: Tensor
    affine: Affine | None
    kept: Tensor
    begin: int
    bent: int = 0
    first: int = 0

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
        self.post.append(_Post(every[:0], None, every, 0))

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
            more = self._image(e.operator, self.post[e.source])
            if more is not None:
                columns = more if columns is None else _added(columns, more)
        if columns is None:
            columns = self.arithmetic.exact(torch.zeros(0, n, dtype=self.network.dtype, device=self.network.device))
        bias = stage.bias(self.arithmetic)
        return Affine(_long(columns if bias is None else self._shifted(columns, bias), self.length))

    def _image(self, operator: AbstractOperator, source: _Post) -> Ball | None:
        """The columns (entries of v, n) of the operator applied to h_k, in memory of their own; None if all are 0.

        Those of kept neurons are columns of the operator.
        """
        near = None if source.affine is None else part(operator, None, source.reads)
        images: list[Ball] = []
        if near is not None and source.affine is not None:
            images.append(self._pushed(near, source.affine.columns, source.first))
        if source.count:
            own = _flat(columns_in_common(operator, source.kept, self.network.dtype, self.arithmetic))
            if not images:
                images.append(own.map(lambda t: t.new_zeros(source.begin, t.shape[1])))
            images = [_long(images[0], source.begin), own]
        if not images:
            return None
        if len(images) == 1 and source.affine is not None and shares_memory(source.affine.columns, images[0]):
            return images[0].map_rows(torch.clone)  # the operator only moves numbers
        return _stacked(images) if len(images) > 1 else images[0]

    def _pushed(self, near: AbstractOperator, columns: Ball, first: int) -> Ball:
        """The operator applied to all columns, of which those before position `first` are 0 but for that of 1."""
        at = self.inputs
        if first <= at + 1:
            return _flat(near.push(columns))
        few = Ball(torch.cat([columns.mid[at : at + 1].mT, columns.mid[first:].mT], 1).mT, columns.rad)
        pushed = _flat(near.push(few.in_common))
        mid = pushed.mid.mT
        before, between = mid.new_zeros(len(mid), at), mid.new_zeros(len(mid), first - at - 1)
        return Ball(torch.cat([before, mid[:, :1], between, mid[:, 1:]], 1).mT, pushed.in_common.rad)

    def _first(self, k: int) -> int:
        """The least `first` of what stage k reads; kept neurons of a stage with nothing else begin at their own."""
        sources = [self.post[e.source] for e in self.network.stages[k - 1].edges]
        return min((p.first if p.affine is not None and len(p.reads) else p.begin for p in sources), default=0)

    def _restarts(self, z: Affine) -> bool:
        """Whether all neurons of a stage are kept, because the radii of their coefficients have grown.

        They grow with the product of |A|, which exceeds that of the coefficients more and more with depth.  Beyond kept
        neurons they start anew: sweeps pay for the radii there, and go on with exact coefficients.
        """
        columns = z.columns
        if columns.rad is None or columns.exact or not columns.common:
            return False
        size, limit = columns.largest.mid.amax(), _GROWN * torch.finfo(columns.mid.dtype).eps
        return columns.mid.shape[1] > 0 and not bool(columns.rad.amax() <= limit * size)

    def _shifted(self, columns: Ball, bias: Ball) -> Ball:
        """The columns with `bias` added at the position where v is 1."""
        row = bias.map(lambda t: t.reshape(1, -1))
        if len(columns.mid) <= self.inputs:
            return _stacked([_long(columns, self.inputs), row])
        return plus_at_(columns.in_common, self.inputs, row)

    def append_stage(self, k: int, z: Affine, slope: Tensor, exact: Tensor) -> None:
        """Append stage k, whose output is `slope` (entries,) times z where `exact`; the other neurons are kept."""
        bent, live = ~exact, slope != 0
        restarts = not bool((bent | ~live).all()) and self._restarts(z)
        kept = (bent | live if restarts else bent).nonzero().flatten()
        reads = kept[:0] if restarts else (exact & live).nonzero().flatten()
        affine, steep = Affine(z.at(reads).columns.in_common), slope.index_select(0, reads)
        if not bool((steep == 1).all()):
            affine = affine.times(steep, self.arithmetic)
        if len(kept):
            rows = z.at(kept)
            self.kept_paths[k] = self.paths(rows, next(reversed(self.kept_rows), 0))
            self.kept_rows[k] = rows
        self.post.append(_Post(reads, affine, kept, self.length, int(bent.sum()), self._first(k)))

    def paths(self, entries: Affine, before: int) -> Sequence[tuple[int, IntervalMatrix]]:
        """The edges for forms of `entries`: to all kept neurons of stages up to `before`, joined, and to (input, 1)."""
        first = self.inputs + 1
        own = (0, entries.between(0, first).transpose())
        if before == 0:
            return [own]
        return [(before, entries.between(first, None).transpose()), own]

    def chain(self, whole: ChainRule, output: Affine) -> ChainRule:
        """The chain rule of the same J restricted to kept neurons; `output` is the last stage, which has no slopes."""
        groups = [0, *self.kept_rows]
        shapes = [whole.shapes[0], *((self.post[g].count,) for g in groups[1:]), whole.shapes[-1]]
        ends = [*self.kept_rows.values(), output]
        edges = [
            tuple(
                Edge(s, replace(end.between(self.post[g].begin, self.post[g].end), inputs=shapes[s], outputs=shapes[i]))
                for s, g in enumerate(groups[:i])
            )
            for i, end in enumerate(ends, 1)
        ]
        slopes = [None, *(_slopes(whole, g, self.post[g].kept) for g in groups[1:]), None]
        places = (Place(0, None), *(Place(g, self.post[g].kept) for g in groups[1:]), Place(whole.end, None))
        return replace(
            whole, shapes=tuple(shapes), edges=((), *edges), slopes=tuple(slopes), skeleton=None, places=places
        )


def _slopes(whole: ChainRule, node: int, kept: Tensor) -> Interval | None:
    slopes = whole.slopes[node]
    return None if slopes is None else slopes.map(lambda t: t.flatten(1)[:, kept])


def _flat(columns: Ball) -> Ball:
    return columns.map_rows(lambda t: t.flatten(1) if t.dim() > 1 else t.unsqueeze(1))


def _long(columns: Ball, length: int) -> Ball:
    """The columns padded with zeros for the next entries of v, up to `length`."""
    missing = length - len(columns.mid)
    if missing == 0:
        return columns
    return _stacked([columns, columns.map(lambda t: t.new_zeros(missing, t.shape[1]))])


def _stacked(columns: Sequence[Ball]) -> Ball:
    """The columns concatenated; in memory, the rows of E are contiguous.  A radius is in common."""
    mid = torch.cat([c.mid.mT for c in columns], 1).mT
    return Ball(mid, common_radius(columns))


def _added(a: Ball, b: Ball) -> Ball:
    if not len(a.mid):
        return b
    length = max(len(a.mid), len(b.mid))
    return _long(a.in_common, length) + _long(b.in_common, length)


@final
@dataclass(frozen=True)
class SkeletonRoute(AbstractRoute):
    """A route from the entries `z` of stage `start` back to the input, through kept neurons.

    Nodes are numbered like the stages; the lines of a stage are those of its kept neurons.  The forms of all earlier
    kept neurons are joined.  Every node has an edge to the input.

    ranges: for each stage upper bounds of |z| and |h| at its kept neurons, (1, 1, count) each.
    absorptions: those of the stages that were needed so far.
    """

    skeleton: Skeleton
    start: int
    z: Affine
    found: Mapping[int, LinearRelaxation]
    inputs: BoundRegion
    ranges: Mapping[int, tuple[Tensor, Tensor]]
    absorptions: dict[int, Absorption]

    @property
    def dense(self) -> bool:
        return True

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

    def loss(self, node: int) -> Loss:
        """All forms that arrive anywhere are sums of products with columns of kept neurons of later stages."""
        sums = sum(self.skeleton.network.sizes)
        images = [o.absorb(Sizes.of(self.sizes(target), 1, sums)) for target, o in self.edges(node)]
        return loss_of(images, None, None if node == self.start else self.ranges[node][0], 1)

    def absorption(self, node: int) -> Absorption:
        if node not in self.absorptions:
            self.absorptions[node] = Absorption(self.lines(node), self.loss(node))
        return self.absorptions[node]

    def sizes(self, node: int) -> Tensor:
        """Of the input and 1 at node 0; elsewhere of the kept neurons of all stages up to `node`."""
        if node == 0:
            size = self.inputs.box(self.arithmetic).magnitude.detach().flatten(1).unsqueeze(1)
            return torch.cat([size, torch.ones_like(size[..., :1])], 2)
        return torch.cat([self.ranges[g][1] for g in self.skeleton.kept_rows if g <= node], 2)

    def floats(self) -> int:
        return self.widest()

    def widest(self) -> int:
        return self.skeleton.length
