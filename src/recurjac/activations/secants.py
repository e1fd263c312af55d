"""The slopes of all secants from one point of a smooth activation (docs/mathematics.md, §3.4 and §8.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from recurjac.activations.proofs import MOVED, AbstractFacts, Pieces, around, scaled
from recurjac.arithmetic import Enclosure, Interval, no_nan

_HALVINGS = 60
"""The number of halvings of a bracket in the search for a point of contact."""
_ULPS = 8
"""The error of a value, in units of its last place, for which the ranges have room in plain arithmetic."""


def secants_from(facts: AbstractFacts, z: Interval, c: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest slope of a secant from c to a point v of z, both finite, in plain arithmetic.

    The slope is extreme at an end, where σ' jumps, at v = c, or where σ'(v) = (σ(v) - σ(c)) / (v - c).  The
    difference of the two, times v - c, has the derivative σ''(v) (v - c), so that it vanishes at most once between
    two turning points of σ' on one side of c.  The slopes σ' at the ends of a bracket of that point enclose the one
    there.
    """
    at = torch.minimum(torch.maximum(c, z.lower), z.upper)
    cuts = torch.cat([torch.stack([z.lower, at, z.upper]), facts.slope_turns(z.lower, z.upper)]).sort(0).values
    values, start, run = facts.value(cuts), facts.value(c), cuts - c
    beside = facts.slopes_beside(c)
    info, length = torch.finfo(c.dtype), torch.where(run == 0, 1.0, run)
    secant = (values - start) / length
    error = (_ULPS * info.eps * (values.abs() + start.abs()) + info.tiny) / length.abs() + info.eps * secant.abs()
    outside = torch.where(z.contains(c), 0.0, torch.inf)
    low = torch.cat([torch.where(run == 0, torch.inf, secant - error), torch.stack(beside) + outside])
    high = torch.cat([torch.where(run == 0, -torch.inf, secant + error), torch.stack(beside) - outside])
    turned, point_a, point_b = _contacts(facts, cuts, c)
    if bool(turned.any()):
        for slope in (facts.slopes_beside(point_a)[1], facts.slopes_beside(point_b)[0]):
            low = torch.cat([low, torch.full_like(run[1:], torch.inf).masked_scatter(turned, slope)])
            high = torch.cat([high, torch.full_like(run[1:], -torch.inf).masked_scatter(turned, slope)])
    return low.amin(0), high.amax(0)


def _contacts(facts: AbstractFacts, cuts: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which pieces seem to have a point whose tangent goes through (c, σ(c)), and both ends of its bracket there."""
    run, rise = cuts - c, facts.value(cuts) - facts.value(c)
    before, after = facts.slopes_beside(cuts)
    left, right = (after * run - rise)[:-1].sign(), (before * run - rise)[1:].sign()
    turned = (left * right < 0) & (cuts[1:] > cuts[:-1])
    a, b, sign, at = cuts[:-1][turned], cuts[1:][turned], left[turned], c.expand_as(left)[turned]
    if len(a):
        start = facts.value(at)
        for _ in range(_HALVINGS):
            middle = a / 2 + b / 2
            same = (facts.slope(middle) * (middle - at) - (facts.value(middle) - start)).sign() == sign
            a, b = torch.where(same, middle, a), torch.where(same, b, middle)
    return turned, a, b


def proved_secants_from(facts: AbstractFacts, z: Interval, c: Tensor, slopes: Interval) -> tuple[Tensor, Tensor]:
    """Proved bounds of the slopes of secants from c to points of z, all finite; slopes: bounds of σ' on both.

    Let S(v) be the slope.  On a piece between turning points of σ', with the nearer end i and the further end o, S(v)
    is a mean of S(i) and of slopes of the piece.  If σ is convex on the piece and c lies before it, S is at most the
    larger of S(i) and S(o), and not below the quotient of σ(p) - σ(c) + σ'(p) (v - p) and v - c at one of both ends v,
    for any p of the piece, as this quotient is monotone in v.  If σ is concave, or c lies behind, the opposite holds.
    As |S'| <= max |σ''|, points within e of a turning point change S by at most that times e.  A tangent is not used
    near such a point.
    """
    with torch.no_grad():
        z, slopes, c = z.map(_plain), slopes.map(_plain), _plain(c)
        pieces = Pieces.of(facts, z, torch.minimum(torch.maximum(c, z.lower), z.upper))
        least, most = _on_pieces(pieces, c, slopes)
        if pieces.errors is None:
            return least, most
        moved = around(scaled(facts.steepness[1], MOVED * pieces.errors.amax(0)))
        least, most = (Enclosure.point(least) + moved).lower, (Enclosure.point(most) + moved).upper
        if pieces.left is pieces.right:
            return least, most
        known = (pieces.errors == 0).all(0)  # σ'' is not bounded where σ' jumps
        return torch.where(known, least, slopes.lower), torch.where(known, most, slopes.upper)


def _on_pieces(pieces: Pieces, c: Tensor, slopes: Interval) -> tuple[Tensor, Tensor]:
    """The least and the largest slope on all pieces."""
    from_c = Enclosure.point(pieces.cuts) - Enclosure.point(c)
    start = pieces.facts.proved_values(c)
    known = Enclosure.of(slopes)
    rise = pieces.values - start
    at_cuts = (rise / from_c).met(known)
    first, last = pieces.ends
    right, left = pieces.cuts[:-1] >= c, pieces.cuts[1:] <= c
    nearer = at_cuts[:-1].where(right, at_cuts[1:])
    nearer = first.where(pieces.cuts[:-1] == c, last.where(pieces.cuts[1:] == c, nearer))
    further = at_cuts[1:].where(right, at_cuts[:-1])
    rising, falling = pieces.rising, pieces.falling
    up, down = torch.where(right, rising, falling), torch.where(right, falling, rising)
    mean, ends = nearer.hull(first).hull(last), nearer.hull(further)
    tangent = _by_tangents(pieces, c, start, at_cuts, up)
    low = torch.where(down, ends.lower, torch.maximum(mean.lower, tangent.lower))
    high = torch.where(up, ends.upper, torch.minimum(mean.upper, tangent.upper))
    beside, empty = right | left, pieces.cuts[:-1] == pieces.cuts[1:]
    low = torch.where(empty, nearer.lower, torch.where(beside, low, slopes.lower))
    high = torch.where(empty, nearer.upper, torch.where(beside, high, slopes.upper))
    return no_nan(low, -torch.inf).amin(0), no_nan(high, torch.inf).amax(0)


def _by_tangents(pieces: Pieces, c: Tensor, start: Enclosure, at_cuts: Enclosure, up: Tensor) -> Enclosure:
    """What a tangent at a point p of each piece says of both ends: σ'(p) + (σ(p) - σ(c) - σ'(p) (p - c)) / (v - c).

    Where it is not known how the piece bends, p is an end, and all slopes of the piece take the place of σ'(p).
    """
    facts, a, b = pieces.facts, pieces.cuts[:-1], pieces.cuts[1:]
    turned, contact, _ = _contacts(facts, pieces.cuts, c)
    lower_first = (at_cuts.lower + at_cuts.upper)[:-1] < (at_cuts.lower + at_cuts.upper)[1:]
    p = torch.where(lower_first == up, a, b).masked_scatter(turned, contact)
    unknown = ~(pieces.rising | pieces.falling)
    values, slopes = pieces.at(p)
    slope = pieces.ends[0].hull(pieces.ends[1]).where(unknown, slopes)
    rest = values - start - slope * (Enclosure.point(p) - Enclosure.point(c))
    both = [slope + rest / (Enclosure.point(v) - Enclosure.point(c)) for v in (a, b)]
    found = both[0].hull(both[1])
    if pieces.errors is not None:
        near_a, near_b = pieces.errors[:-1] > 0, pieces.errors[1:] > 0
        clear = (~near_a | (p - a > MOVED * pieces.errors[:-1])) & (~near_b | (b - p > MOVED * pieces.errors[1:]))
        found = found.where(clear, Enclosure(torch.full_like(p, -torch.inf), torch.full_like(p, torch.inf)))
    return Enclosure(no_nan(found.lower, -torch.inf), no_nan(found.upper, torch.inf))


def _plain(t: Tensor) -> Tensor:
    return t.detach()
