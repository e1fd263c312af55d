"""Affine forms of the input, carried forward from node to node (docs/mathematics.md, §3.7).

Each entry of a node is an affine function of the input x and of some numbers e in [-1, 1], up to a rest.  The numbers e
stand for what relaxations lose: two entries that read the same loss can cancel it.  What has no number of its own is
part of the rest, of which only the size is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Interval, concatenate
from recurjac.operators import AbstractOperator
from recurjac.operators.interval import interval_image
from recurjac.region import BoundRegion
from recurjac.relaxations import LinearRelaxation

_COPIES = 6
"""How many tensors of forms exist at once while an operator is applied."""


_LARGE = 0.02
"""The share of a range above which a rest is large."""
_PART = 3
"""A node may use one of so many parts of the noises that are left, if all of its large rests then become noises."""
ROOM = 2**28
"""How many bytes the forms of a node may take where the memory of the arithmetic is not chosen by the caller."""


@final
@dataclass(frozen=True)
class AffineForms:
    """|v - rows · (1, x, e)| <= rest for the entries v of a node, for each x of the region and some e in [-1, 1].

    rows: (B, 1 + inputs + noises, *entries), exact as stored and finite; noises that are missing at the end are 0.
    rest: (B, *entries), not negative; it may be infinite.
    """

    rows: Tensor
    rest: Tensor


@final
@dataclass
class Symbols:
    """What forms over a region are made of: 1, the inputs, and as many noises as were introduced so far.

    limit: the largest number of noises.
    """

    region: BoundRegion
    arithmetic: AbstractArithmetic
    limit: int
    noises: int = 0

    @classmethod
    def fitting(
        cls, region: BoundRegion, arithmetic: AbstractArithmetic, most: int, entries: int, room: int = 0
    ) -> Symbols | None:
        """At most `most` noises, and so few that forms of `entries` entries fit in memory; None if none do.

        room: the least number of bytes for them, where the caller has not chosen the memory of the arithmetic.
        """
        memory = arithmetic.memory_on(region.x.device)
        memory = memory if arithmetic.memory is not None else max(memory, room)
        fit = _rows_within(memory, region, entries) - 1 - prod(region.x.shape[1:])
        return None if fit < 0 else cls(region, arithmetic, min(most, fit))

    @property
    def inputs(self) -> int:
        return prod(self.region.x.shape[1:])

    @cached_property
    def _box(self) -> Interval:
        return self.region.box(self.arithmetic)

    @cached_property
    def unknown(self) -> Tensor:
        """True for samples over which forms are not bounded: (batch,)."""
        return self.region.unbounded | self._box.magnitude.isinf().flatten(1).any(1)

    @cached_property
    def _sizes(self) -> Tensor:
        """Upper bounds of 1 and of |x|, at least 1, so that no product with them underflows: (batch, 1 + inputs)."""
        sizes = self._box.magnitude.flatten(1).detach().clamp(min=1)
        sizes = torch.where(self.unknown.unsqueeze(1), 1.0, sizes)
        return torch.cat([torch.ones_like(sizes[:, :1]), sizes], 1)

    def start(self) -> AffineForms:
        """The forms of the input itself."""
        x, n = self.region.x, self.inputs
        rows = torch.eye(n + 1, dtype=x.dtype, device=x.device)[:, 1:].reshape(1, n + 1, *x.shape[1:])
        return AffineForms(rows.expand(len(x), *rows.shape[1:]), torch.zeros_like(x))

    def image(self, terms: Sequence[tuple[AbstractOperator, AffineForms]], bias: Ball) -> AffineForms:
        """The forms of Σ A h + b, for h given by forms and b of shape (*entries) or (B, *entries)."""
        exact = self.arithmetic.exact
        longest = max((f.rows.shape[1] for _, f in terms), default=1)
        first = bias.map(lambda t: t.unsqueeze(0).unsqueeze(0).expand(self.region.batch, *[-1] * (t.dim() + 1)))
        rest = torch.zeros_like(first.mid[:, 0])
        for operator, form in terms:
            if bool((form.rest > 0).any()):
                width = interval_image(operator, Interval.unchecked(-form.rest, form.rest), self.arithmetic)
                rest = (exact(rest) + exact(torch.maximum(width.upper, -width.lower))).upper()
        widest = max((form.rest[0].numel() for _, form in terms), default=1)
        memory = self.arithmetic.memory_on(self.region.x.device) // _COPIES
        size = max(1, _rows_within(memory, self.region, max(widest, rest[0].numel())))
        parts: list[Tensor] = []
        for begin in range(0, longest, size):
            count = min(size, longest - begin)
            total = _long(first, count) if begin == 0 else exact(torch.zeros_like(rest).unsqueeze(1))
            for operator, form in terms:
                some = form.rows[:, begin : begin + count]
                if some.shape[1]:
                    total = _plus(total, operator.push(exact(some)))
            part = self.settled(total, rest, begin)
            parts.append(part.rows)
            rest = part.rest
        rows = torch.cat([_long(exact(r), min(size, longest - i * size)).mid for i, r in enumerate(parts)], 1)
        return AffineForms(torch.where(rest.isinf().unsqueeze(1), 0.0, rows), rest)

    def settled(self, value: Ball, rest: Tensor, begin: int = 0) -> AffineForms:
        """The forms with these rows, whose rounding errors become part of the rest; where rows overflow, nothing holds.

        begin: the number of the first row, if earlier rows are settled elsewhere.
        """
        rows, arithmetic = value.mid, self.arithmetic
        if value.rad is not None and not value.exact:
            with torch.no_grad():
                count, known = rows.shape[1], self._sizes[:, begin : begin + rows.shape[1]]
                sizes = torch.cat([known, known.new_ones(len(known), count - known.shape[1])], 1)
                lost = torch.einsum("bs,bsn->bn", sizes, value.rad.expand_as(rows).flatten(2))
                lost = arithmetic.at_least(lost, count + 1).reshape(rest.shape)
            rest = (arithmetic.exact(rest) + arithmetic.exact(lost)).upper()
        broken = ~(rows.isfinite().all(1) & (rest < torch.inf))
        if bool(broken.any()):
            rows = torch.where(broken.unsqueeze(1), 0.0, rows)
            rest = torch.where(broken, torch.inf, rest)
        return AffineForms(rows, rest)

    def bounds(self, form: AffineForms) -> Interval:
        """Bounds of the entries over the region, (B, *entries); infinite for samples that are `unknown`."""
        flat, rest, length = form.rows.flatten(2), form.rest.flatten(1), form.rows.shape[1]
        memory = self.arithmetic.memory_on(self.region.x.device) // _COPIES
        size = max(1, _rows_within(memory, self.region, length))
        lots = [
            self._bounds(AffineForms(flat[:, :, i : i + size], rest[:, i : i + size]))
            for i in range(0, max(1, rest.shape[1]), size)
        ]
        low, high = (torch.cat(ends, 1) for ends in zip(*((b.lower, b.upper) for b in lots), strict=True))
        return Interval.unchecked(low.reshape(form.rest.shape), high.reshape(form.rest.shape))

    def _bounds(self, form: AffineForms) -> Interval:
        """The same for entries (B, n)."""
        exact, n = self.arithmetic.exact, self.inputs
        flat, shape = form.rows, self.region.x.shape
        noises = flat[:, n + 1 :]
        spread = self.arithmetic.at_least(noises.abs().sum(1), noises.shape[1])
        half, middle = exact(spread) + exact(form.rest), exact(flat[:, 0])
        high, low = middle + half, half - middle
        if flat.shape[1] > 1:
            inputs = flat[:, 1 : n + 1].mT.reshape(len(flat), 1, -1, *shape[1:])
            high = high + self._support(inputs.clone())
            low = low + self._support(-inputs)
        lower, upper, unknown = -low.upper(), high.upper(), self.unknown.unsqueeze(1)
        return self.arithmetic.enclose(torch.where(unknown, -torch.inf, lower), torch.where(unknown, torch.inf, upper))

    def _support(self, forms: Tensor) -> Ball:
        found = self.region.support_function_(self.arithmetic.exact(forms), self.arithmetic)
        return found.map(lambda t: t[:, 0])

    def between(self, form: AffineForms, band: Band, values: Interval) -> AffineForms:
        """The forms of w with w - slope z in the band, for z given by a form and w in `values` (B, *entries).

        Where the values alone leave less of a rest, they are taken instead.
        """
        arithmetic, exact = self.arithmetic, self.arithmetic.exact
        slope = band.slope
        kept = torch.where(slope == 0, 0.0, form.rest)
        (middle, half), (centre, spread) = midrad_of(band.gap, arithmetic), midrad_of(values, arithmetic)
        rest = (exact(slope.abs()) * exact(kept) + exact(half)).upper()
        flat = ~(rest < spread)
        slope, middle, rest = (
            torch.where(flat, a, b) for a, b in ((torch.zeros_like(slope), slope), (centre, middle), (spread, rest))
        )

        def made(begin: int, end: int) -> Ball:
            rows = arithmetic.scaled(exact(form.rows[:, begin:end]), slope.unsqueeze(1))
            return shifted(rows, exact(middle)) if begin == 0 else rows

        return self.assembled(form.rows.shape[1], rest, made)

    def assembled(self, length: int, rest: Tensor, made: Callable[[int, int], Ball]) -> AffineForms:
        """The forms whose rows from `begin` to `end` are made(begin, end), in lots that fit in memory."""
        memory = self.arithmetic.memory_on(self.region.x.device) // _COPIES
        size = max(1, _rows_within(memory, self.region, rest[0].numel()))
        if size >= length:
            return self.settled(made(0, length), rest)
        parts: list[Tensor] = []
        for begin in range(0, length, size):
            part = self.settled(made(begin, min(begin + size, length)), rest, begin)
            parts, rest = [*parts, part.rows], part.rest
        rows, broken = torch.cat(parts, 1), rest.isinf()
        return AffineForms(torch.where(broken.unsqueeze(1), 0.0, rows) if bool(broken.any()) else rows, rest)

    def product(
        self, form: AffineForms, y: Interval, slope: AffineForms, delta: Interval, values: Interval
    ) -> AffineForms:
        """The forms of δ y, for y (B, R, *entries) and δ (B, *entries) given by forms, and in `y` and `delta`.

        With any numbers d and c, δ y = d y + c δ - c d + (δ - d) (y - c); the last product is part of the rest.
        `delta` has shape (B, 1, *entries); `values` bounds δ y.  Where they leave less of a rest, they are taken.
        """
        arithmetic, exact = self.arithmetic, self.arithmetic.exact
        (d, off), (c, far) = midrad_of(delta, arithmetic), midrad_of(y, arithmetic)
        centre, spread = midrad_of(values, arithmetic)
        left = exact(off.expand_as(far)) * exact(far)
        left = left + exact(d.abs()) * exact(form.rest) + exact(c.abs()) * exact(slope.rest.unsqueeze(1))
        rest = left.upper()
        flat = ~(rest < spread)
        d, c, rest = torch.where(flat, 0.0, d), torch.where(flat, 0.0, c), torch.where(flat, spread, rest)
        shift = exact(torch.where(flat, centre, 0.0)) - exact(d) * exact(c)

        def made(begin: int, end: int) -> Ball:
            own = arithmetic.scaled(exact(some_rows(form, begin, end)), d.unsqueeze(1))
            rows = own + exact(some_rows(slope, begin, end).unsqueeze(2)) * exact(c.unsqueeze(1))
            return shifted(rows, shift) if begin == 0 else rows

        return self.assembled(max(form.rows.shape[1], slope.rows.shape[1]), rest, made)

    def square(self, form: AffineForms, y: Interval, values: Interval) -> AffineForms:
        """The forms of y², for y (B, *entries) given by forms and in `y`; `values` bounds y².

        With any number c, y² = 2 c y - c² + (y - c)², whose last term is between 0 and a square.
        """
        arithmetic, exact = self.arithmetic, self.arithmetic.exact
        (c, far), (centre, spread) = midrad_of(y, arithmetic), midrad_of(values, arithmetic)
        half = (exact(far) * exact(far / 2)).upper()
        rest = (exact(2 * c.abs()) * exact(form.rest) + exact(half)).upper()
        flat = ~(rest < spread)
        c, rest = torch.where(flat, 0.0, c), torch.where(flat, spread, rest)
        rows = arithmetic.scaled(exact(form.rows), 2 * c.unsqueeze(1))
        shift = exact(torch.where(flat, centre, half)) - exact(c) * exact(c)
        first = rows.map(lambda t: t[:, :1]) + shift.map(lambda t: t.unsqueeze(1))
        return self.settled(concatenate([first, rows.map(lambda t: t[:, 1:])], 1), rest)

    def sum(self, forms: Sequence[AffineForms]) -> AffineForms:
        """The forms of sums of entries that are given by forms of the same shape."""
        exact = self.arithmetic.exact
        rows, rest = exact(forms[0].rows), exact(forms[0].rest)
        for form in forms[1:]:
            rows, rest = _plus(rows, exact(form.rows)), rest + exact(form.rest)
        return self.settled(rows, rest.upper())

    def spent_on(self, form: AffineForms, width: Tensor, share: int) -> int:
        """How many rests of a node become noises: `share`, or all that are large where those are few of what is left.

        width: of the ranges of its entries, (B, *entries).
        """
        with torch.no_grad():
            large = ((form.rest > _LARGE * width) & form.rest.isfinite()).flatten(1).any(0)
            count, left = int(large.sum()), self.limit - self.noises
        return max(share, count) if count <= left // _PART else share

    def named(self, form: AffineForms, least: Tensor, most: int) -> AffineForms:
        """The same forms, in which up to `most` of the largest rests above `least` (B, *entries) become noises."""
        rest = form.rest.flatten(1)
        worth = torch.where((rest > least.flatten(1)) & rest.isfinite(), rest.detach(), 0.0).amax(0)
        count = min(most, self.limit - self.noises, int((worth > 0).sum()))
        if count <= 0:
            return form
        index = worth.topk(count).indices
        known = torch.where(rest.index_select(1, index).isfinite(), rest.index_select(1, index), 0.0)
        new = torch.diag_embed(known)  # (B, count, count)
        more = torch.zeros(len(rest), count, rest.shape[1], dtype=rest.dtype, device=rest.device)
        more = more.index_copy(2, index, new).reshape(len(rest), count, *form.rest.shape[1:])
        length = 1 + self.inputs + self.noises
        rows = torch.cat([_long(self.arithmetic.exact(form.rows), length).mid, more], 1)
        left = rest.index_copy(1, index, rest.index_select(1, index) - known)
        self.noises += count
        return AffineForms(rows, torch.where(left.isnan(), torch.inf, left).reshape(form.rest.shape))


@final
@dataclass(frozen=True)
class Band:
    """slope z + gap: parallel lines on both sides of a function of z; slope (B, *entries), finite."""

    slope: Tensor
    gap: Interval


def band(z: Interval, choices: Sequence[LinearRelaxation], arithmetic: AbstractArithmetic) -> Band:
    """The narrowest of some bands around a function that lies between the lines of each choice, on z (B, *entries).

    The slopes that are tried are the means of the lines' slopes, then those themselves; the first of the narrowest is
    taken, because between the slopes of two lines all bands may be of the same width.  A line of slope s is above
    one of slope a on z if it is at both ends.  Where z is unbounded, the band is infinite.
    """
    bounded = z.lower.isfinite() & z.upper.isfinite()
    tried = [s for c in choices for s in (c.lower_slope / 2 + c.upper_slope / 2, c.lower_slope, c.upper_slope)]
    slopes = torch.stack([torch.broadcast_to(s[:, 0], z.shape) for s in tried])
    bottom, top = _beside(slopes, z, choices, arithmetic)
    width = (top - bottom).detach().nan_to_num(torch.inf, torch.inf)
    near = width <= width.amin(0) * (1 + torch.finfo(width.dtype).eps ** 0.5)  # several often tie
    places = torch.arange(len(width), device=width.device).reshape(-1, *[1] * z.lower.dim()).expand_as(near)
    best = torch.where(near, places, len(width) - 1).amin(0, keepdim=True)
    slope, high, low = (t.gather(0, best)[0] for t in (slopes, top, bottom))
    for c in choices:
        known = torch.broadcast_to(c.exact[:, 0], z.shape)
        slope = torch.where(known, c.upper_slope[:, 0], slope)
        high, low = (
            torch.where(known, 0.0, torch.where(bounded | known, t, s * torch.inf))
            for t, s in ((high, torch.ones_like(high)), (low, -torch.ones_like(low)))
        )
        bounded = bounded | known
    return Band(slope, arithmetic.enclose(low, high))


def some_rows(form: AffineForms, begin: int, end: int) -> Tensor:
    """The rows from `begin` to `end`, of which those that are missing are 0."""
    rows = form.rows[:, begin:end]
    missing = end - begin - rows.shape[1]
    return rows if missing == 0 else torch.cat([rows, rows.new_zeros(len(rows), missing, *rows.shape[2:])], 1)


def shifted(rows: Ball, shift: Ball) -> Ball:
    """The rows with a number (B, *entries) added to the first, which is that of 1."""
    first = rows.map(lambda t: t[:, :1]) + shift.map(lambda t: t.unsqueeze(1))
    return concatenate([first, rows.map(lambda t: t[:, 1:])], 1)


def gap_beside(
    slope: Tensor, z: Interval, choices: Sequence[LinearRelaxation], arithmetic: AbstractArithmetic
) -> Interval:
    """What a function that lies between the lines of each choice differs by from slope z on z, (B, *entries)."""
    bounded = z.lower.isfinite() & z.upper.isfinite()
    low, high = _beside(slope, z, choices, arithmetic)
    return arithmetic.enclose(torch.where(bounded, low, -torch.inf), torch.where(bounded, high, torch.inf))


def _beside(
    slopes: Tensor, z: Interval, choices: Sequence[LinearRelaxation], arithmetic: AbstractArithmetic
) -> tuple[Tensor, Tensor]:
    """Bounds of f(z) - slope z on bounded z (B, *entries), for slopes (…, B, *entries); where z is not, numbers."""
    exact, bounded = arithmetic.exact, z.lower.isfinite() & z.upper.isfinite()
    ends = [exact(torch.where(bounded, end, 0.0)) for end in (z.lower, z.upper)]
    top, bottom = torch.full_like(slopes, torch.inf), torch.full_like(slopes, -torch.inf)
    for c in choices:
        above, below = exact(c.upper_slope[:, 0]) - exact(slopes), exact(c.lower_slope[:, 0]) - exact(slopes)
        up = [above * end + exact(c.upper_intercept[:, 0]) for end in ends]
        down = [below * end + exact(c.lower_intercept[:, 0]) for end in ends]
        top = torch.minimum(top, torch.maximum(up[0].upper(), up[1].upper()))
        bottom = torch.maximum(bottom, torch.minimum(down[0].lower(), down[1].lower()))
    return bottom, top


def midrad_of(interval: Interval, arithmetic: AbstractArithmetic) -> tuple[Tensor, Tensor]:
    """The middle and an upper bound of the half-width; 0 and infinity where an end is infinite."""
    bounded = interval.lower.isfinite() & interval.upper.isfinite()
    middle, half = arithmetic.midrad(interval.map(lambda t: torch.where(bounded, t, 0.0)))
    return middle, torch.where(bounded, half.clamp(min=0), torch.inf)


def _rows_within(memory: int, region: BoundRegion, entries: int) -> int:
    """How many rows of forms of `entries` entries for each sample take that many bytes."""
    return memory // max(1, region.batch * entries * torch.finfo(region.x.dtype).bits // 8)


def _plus(a: Ball, b: Ball) -> Ball:
    length = max(a.shape[1], b.shape[1])
    return _long(a, length) + _long(b, length)


def _long(rows: Ball, length: int) -> Ball:
    """The rows padded with zeros up to `length`."""
    missing = length - rows.shape[1]
    if missing == 0:
        return rows
    return rows.map(lambda t: torch.cat([t, t.new_zeros(t.shape[0], missing, *t.shape[2:])], 1))
