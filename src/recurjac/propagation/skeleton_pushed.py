"""The exact skeleton: between its nonlinear neurons, a network is linear (docs/mathematics.md, §5.5).

z_k = E_k v.  The vector v consists of the input, the number 1, and the outputs of the *kept* neurons of earlier stages:
those that are not known multiples of their pre-activations.  The columns of E are pushed once, layer by layer, through
the linear part of the network; neurons of slope 0 drop out.  Sweeps for pre-activations and Jacobians then run over
kept neurons only.  Their results equal those on the whole network up to rounding, which `skeleton_rounding.py` covers.
The interval of z over all values of v decides most signs, so that few rows need a sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial, reduce
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Interval, growth_of, shares_memory
from recurjac.network import Edge, Network
from recurjac.operators import AbstractOperator
from recurjac.operators.base import one_hot
from recurjac.operators.interval_matrix import IntervalMatrix
from recurjac.operators.part import part
from recurjac.propagation.chain_rule import ChainRule, Place
from recurjac.propagation.planning import AbstractPlanner
from recurjac.propagation.skeleton_rounding import VALUE, Ranges, Rounding, added, larger


@final
@dataclass(frozen=True)
class Affine:
    """E v for entries of one stage; v is the input, 1, and the kept neurons of the stages in order.

    columns: Eᵀ, (first entries of v, entries), exact as stored.  In memory, the rows of E are contiguous, because whole
    rows are copied.  rounding: what that costs; None where rounding is not covered.
    range: the interval of the entries over the region and all values of kept neurons, (1, entries); None if not known.
    """

    columns: Tensor
    rounding: Rounding | None
    range: Interval | None = None

    def at(self, index: Tensor) -> Affine:
        """The same for the entries `index` only."""
        rounding = None if self.rounding is None else self.rounding.at(index)
        return Affine(self.columns.mT.index_select(0, index).mT, rounding)

    def times(self, slope: Tensor, total: float) -> Affine:
        """Each entry times its `slope`; total: of the magnitudes of v."""
        rounding = None if self.rounding is None else self.rounding.times(slope, total)
        return Affine(self.columns * slope, rounding)


@final
@dataclass(frozen=True)
class _Post:
    """h_k in terms of v: its entries `reads` are `affine`, the others are 0; indices are flat positions.

    kept: the kept neurons of the stage; they are in v from position `begin`.  units: their positions among `reads`.
    """

    reads: Tensor
    affine: Affine | None
    kept: Tensor
    units: Tensor
    begin: int

    @cached_property
    def count(self) -> int:
        """The number of kept neurons."""
        return len(self.kept)

    @cached_property
    def end(self) -> int:
        return self.begin + self.count


@final
@dataclass(frozen=True)
class _Image:
    """A term of a stage: the operator from the entries that are read of node `source`."""

    operator: AbstractOperator
    source: int


@final
@dataclass(frozen=True)
class _Sum:
    """Columns (first entries of v, entries), and what they are off by; None if they are exact or it is not covered.

    first_exact: as in `Rounding`.
    """

    columns: Tensor
    errors: Tensor | None
    first_exact: int | None


@final
@dataclass
class Skeleton:
    """The skeleton of the stages that were appended so far, for one sample of a bounded region."""

    network: Network
    arithmetic: AbstractArithmetic
    planner: AbstractPlanner
    known: Ranges
    post: list[_Post] = field(default_factory=list)
    kept_rows: dict[int, Affine] = field(default_factory=dict)
    kept_paths: dict[int, Sequence[tuple[int, IntervalMatrix]]] = field(default_factory=dict)
    _images: dict[int, list[_Image]] = field(default_factory=dict)
    _structures: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        every = torch.arange(self.network.sizes[0], device=self.network.device)
        self.post.append(_Post(every, None, every, every, 0))

    @cached_property
    def inputs(self) -> int:
        """The number of inputs; v is 1 at this position."""
        return self.post[0].end

    @property
    def length(self) -> int:
        """The length of v so far."""
        return max(self.post[-1].end, self.inputs + 1)

    @cached_property
    def terms(self) -> int:
        """How many terms a coefficient of a form has at most: one for each neuron that may be kept, and its own."""
        return sum(self.network.sizes[1:-1]) + 1

    def pre(self, k: int) -> Affine:
        """z_k in terms of the kept neurons of earlier stages, all of which must have been appended."""
        n, bias = self.network.sizes[k], self.network.stages[k - 1].bias(self.arithmetic)
        images = self._images[k] = self._images_of(k)
        found: _Sum | None = None
        for image in images:
            more = self._image(image, n)
            found = more if found is None else self._plus(found, more)
        if found is None:
            found = _Sum(torch.zeros(0, n, dtype=self.network.dtype, device=self.network.device), None, 0)
        if bias is not None:
            found = self._shifted(found, bias)
        columns = _long(found.columns, self.length)
        centre, half, sizes = self.known.seen(columns, self.arithmetic)
        rounding = None
        if sizes is not None:
            errors = torch.zeros_like(sizes) if found.errors is None else found.errors
            rounding = Rounding(sizes, errors, found.first_exact)
        return Affine(columns, rounding, self.known.range(centre, half, rounding, self.arithmetic))

    def _images_of(self, k: int) -> list[_Image]:
        found = []
        for e in self.network.stages[k - 1].edges:
            source = self.post[e.source]
            near = e.operator if source.affine is None else part(e.operator, None, source.reads)
            if near is not None:
                found.append(_Image(near, e.source))
        return found

    def _image(self, image: _Image, n: int) -> _Sum:
        """The operator of an image applied to the rows that it reads."""
        source, near = self.post[image.source], image.operator
        if source.affine is None:
            value = near.columns(source.reads, self.network.dtype, self.arithmetic).map(lambda t: t.reshape(len(t), n))
            if value.rad is None or value.exact:
                return _Sum(value.mid, None, 0)
            return _Sum(value.mid, self.known.measured(value.rad.expand_as(value.mid)), None)
        columns, rounding = source.affine.columns, source.affine.rounding
        moved = near.push(Ball(columns, None))
        if shares_memory(Ball(columns, None), moved):  # the operator only moves numbers
            moved = moved.map(torch.clone)
        found = moved.mid.reshape(len(columns), n)
        if rounding is None:
            return _Sum(found, None, None)
        with torch.no_grad():
            own = near.columns(source.units, self.network.dtype, self.arithmetic) if source.count else None
            first = None if own is None or not own.exact else source.begin
            return _Sum(found, rounding.through(near, self.known.total), first)

    def _plus(self, a: _Sum, b: _Sum) -> _Sum:
        length = max(len(a.columns), len(b.columns))
        columns = _long(a.columns, length) + _long(b.columns, length)
        if not self.arithmetic.rigorous:
            return _Sum(columns, None, None)
        with torch.no_grad():
            sizes = self.known.measured(columns.detach().abs())
            before = [t.errors for t in (a, b) if t.errors is not None]
            return _Sum(columns, added(reduce(torch.add, before, torch.zeros_like(sizes)), sizes), None)

    def _shifted(self, found: _Sum, bias: Ball) -> _Sum:
        """The columns with `bias` added at the position where v is 1."""
        row, columns, errors = bias.map(lambda t: t.flatten()), found.columns, found.errors
        before = len(columns) > self.inputs
        if before:
            columns[self.inputs] += row.mid  # in the memory of the image
        else:
            columns = torch.cat([_long(columns, self.inputs).mT, row.mid.unsqueeze(1)], 1).mT
        if row.rad is not None and (before or not row.exact):
            with torch.no_grad():
                errors = columns.new_zeros(3, columns.shape[1]) if errors is None else errors.clone()
                lost = torch.add(row.rad, columns[self.inputs].abs(), alpha=torch.finfo(columns.dtype).eps / 2)
                errors[VALUE] = (errors[VALUE] + lost).mul_(growth_of(4, columns.dtype))
        return _Sum(columns, errors, found.first_exact)

    def append_stage(self, k: int, z: Affine, slope: Tensor, exact: Tensor, values: Interval) -> None:
        """Append stage k, whose output is `slope` (entries,) times z where `exact`; the other neurons are kept.

        values: the ranges of the outputs of all neurons, (entries,).  If one of a kept neuron is infinite, rounding is
        not covered from here on, and `known.total` is not finite.
        """
        bent = ~exact
        kept, reads = bent.nonzero().flatten(), (bent | (slope != 0)).nonzero().flatten()
        units, begin = torch.searchsorted(reads, kept), self.length
        affine, steep = z.at(reads), slope.masked_fill(bent, 1.0).index_select(0, reads)
        if not bool((steep == 1).all()):
            affine = affine.times(steep, self.known.total)
        if len(kept):
            self.kept_rows[k] = rows = z.at(kept)
            self.kept_paths[k] = self.paths(rows, next((g for g in reversed(self.kept_rows) if g != k), 0))
            values = values.map(lambda t: t.index_select(0, kept))
            self.known = self.known.followed_by(values, self.arithmetic)
            own = one_hot(units, (len(reads),), self.network.dtype)
            others = affine.columns.mT.index_fill_(0, units, 0.0)  # in the memory of `at` or `times`
            rounding = affine.rounding and affine.rounding.with_units(units, values.magnitude.detach())
            affine = Affine(torch.cat([others, own.mT], 1).mT, rounding)
        self.post.append(_Post(reads, affine, kept, units, begin))

    def paths(self, entries: Affine, before: int) -> Sequence[tuple[int, IntervalMatrix]]:
        """The edges for forms of `entries`: to all kept neurons of stages up to `before`, joined, and to (input, 1)."""
        (m, n), first = entries.columns.shape, self.inputs + 1
        own = (0, IntervalMatrix(Ball(entries.columns[:first], None), (n,), (first,)))
        if before == 0:
            return [own]
        return [(before, IntervalMatrix(Ball(entries.columns[first:], None), (n,), (m - first,))), own]

    def chain(self, whole: ChainRule, output: Affine) -> ChainRule:
        """The chain rule of the same J restricted to kept neurons; `output` is the last stage, which has no slopes."""
        groups = [0, *self.kept_rows]
        shapes = [whole.shapes[0], *((self.post[g].count,) for g in groups[1:]), whole.shapes[-1]]
        ends = [self._derivatives(g, self.post[g].kept, rows) for g, rows in self.kept_rows.items()]
        ends.append(self._derivatives(self.network.depth, None, output))
        edges = [
            tuple(
                Edge(s, IntervalMatrix(end.map(partial(_rows_of, self.post[g])), shapes[s], shapes[i]))
                for s, g in enumerate(groups[:i])
            )
            for i, end in enumerate(ends, 1)
        ]
        slopes = [None, *(_slopes(whole, g, self.post[g].kept) for g in groups[1:]), None]
        places = (Place(0, None), *(Place(g, self.post[g].kept) for g in groups[1:]), Place(whole.end, None))
        return replace(
            whole, shapes=tuple(shapes), edges=((), *edges), slopes=tuple(slopes), skeleton=None, places=places
        )

    def _derivatives(self, k: int, index: Tensor | None, rows: Affine) -> Ball:
        """The columns of entries `index` of stage k as derivatives: with their radii; what is 0 by structure is 0."""
        if rows.rounding is None:
            return Ball(rows.columns, None)
        with torch.no_grad():
            columns, (_, own, kept) = rows.columns.detach(), rows.rounding.errors
            rad = torch.empty_like(columns)
            rad[: self.inputs + 1], rad[self.inputs + 1 :] = own, kept
            if rows.rounding.first_exact is not None:
                rad[rows.rounding.first_exact :] = 0
            hidden = (columns == 0) & (rad > 0)
            if bool(hidden.any()):
                reached = self._structure(k)
                reached = reached if index is None else reached.index_select(1, index)
                rad = torch.where(hidden & ~_long(reached, len(rad)), 0.0, rad)
            return Ball(rows.columns, rad)

    def _structure(self, k: int) -> Tensor:
        """True where an entry of E of stage k, (first entries of v, entries), is not 0 for its structure."""
        if k not in self._structures:
            self._structures[k] = self._structure_of(k)
        return self._structures[k]

    def _structure_of(self, k: int) -> Tensor:
        found = torch.zeros(0, self.network.sizes[k], dtype=torch.bool, device=self.network.device)
        for image in self._images[k]:
            source = self.post[image.source]
            if source.affine is None:
                value = image.operator.columns(source.reads, self.network.dtype, self.arithmetic)
                more = (value.upper() != 0) | (value.lower() != 0)
            else:
                more = larger(image.operator, self._post_structure(image.source).to(self.network.dtype)) > 0
            more = more.reshape(len(more), self.network.sizes[k])
            length = max(len(found), len(more))
            found = _long(found, length) | _long(more, length)
        return found

    def _post_structure(self, k: int) -> Tensor:
        source = self.post[k]
        rows = _long(self._structure(k).index_select(1, source.reads), source.end if source.count else source.begin)
        rows = rows.index_fill(1, source.units, False)
        rows[source.begin + torch.arange(source.count, device=rows.device), source.units] = True
        return rows


def _rows_of(post: _Post, columns: Tensor) -> Tensor:
    return columns[post.begin : post.end].mT


def _slopes(whole: ChainRule, node: int, kept: Tensor) -> Interval | None:
    slopes = whole.slopes[node]
    return None if slopes is None else slopes.map(lambda t: t.flatten(1)[:, kept])


def _long(columns: Tensor, length: int) -> Tensor:
    """The columns padded with zeros for the next entries of v, up to `length`."""
    if len(columns) == length:
        return columns
    return torch.cat([columns.mT, columns.new_zeros(columns.shape[1], length - len(columns))], 1).mT
