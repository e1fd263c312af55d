"""Where the neurons of a system are divided, and what is known of their slopes and values on either side.

A neuron of two pieces is divided at its kink, beside which its slope is known.  Any other one is divided at a point of
its range, beside which its slope has a narrower range.  See docs/mathematics.md, §6.8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recurjac.activations import AbstractActivation, cuts_of
from recurjac.activations.two_piece import AbstractTwoPiece
from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.preactivation.centred import SecantSystem
from recurjac.preactivation.range_dual import in_double
from recurjac.quadratics import Factor, Graph, Product

ALWAYS, UNUSED, NEVER = 0, 2, 3
"""Kinds of products: those that hold everywhere, 1 and -1 above and below the cut, of unused variables, and none."""
_LEAST = 1e-3
"""The least width of a slope's range in a part that counts, as a share of that in the whole region."""


@final
@dataclass(frozen=True)
class Cuts:
    """The points at which neurons are divided, and their slopes below and above; (u,), or (2, u) for both sides.

    known: whether the slope is known on either side.  divisible: whether a division narrows the range of the slope.
    Where a slope jumps at a cut, each part has its own slope there: a norm is convex in it, so that both suffice.
    """

    at: Tensor
    slopes: Interval
    known: Tensor
    divisible: Tensor

    @classmethod
    def of(cls, points: SecantSystem, places: tuple[tuple[int, Tensor], ...]) -> Cuts:
        arithmetic, parts = points.state.arithmetic, []
        for k, index in places:
            activation, z = in_double(points.state, k), points.known(k)[0]
            cut, able = cut_at(activation, z)
            slopes = _ranges(activation, z, cut, arithmetic)
            known = torch.full_like(able, isinstance(activation, AbstractTwoPiece))
            low, high = (torch.stack(ends) for ends in zip(*((s.lower, s.upper) for s in slopes), strict=True))
            flat = [t.flatten(-z.lower.dim())[..., index] for t in (cut, low, high, known, able)]
            parts.append(flat)
        cut, low, high, known, able = (torch.cat(columns, -1) for columns in zip(*parts, strict=True))
        able = able & low.isfinite().all(0) & high.isfinite().all(0)
        low, high = (torch.where(able, t, 0.0) for t in (low, high))
        return cls(cut, Interval(low, high), known, able)

    def fixed(self, signs: Tensor) -> Tensor:
        """Which slopes are known in parts: (R, u)."""
        return (signs != 0) & self.known

    def middles(self, signs: Tensor, otherwise: Tensor) -> Tensor:
        """The middles of the slopes on the sides of the signs, (R, u); `otherwise` without a sign."""
        below, above = self.slopes.lower / 2 + self.slopes.upper / 2
        return torch.where(signs > 0, above, torch.where(signs < 0, below, otherwise))

    def settled(self, signs: Tensor) -> Tensor:
        """Which parts cannot be divided: (R,)."""
        return ((signs != 0) | ~self.divisible).all(1)

    def left(self, slopes: Interval) -> Tensor:
        """The width of the slope's range below and above, as shares of that in the region, (2, u); at most 1."""
        return (self.slopes.width / slopes.width.clamp(min=1e-300)).clamp(max=1.0)

    def shares(self, slopes: Interval) -> Tensor:
        """The same, no less than what counts."""
        return self.left(slopes).clamp(min=_LEAST)


def cut_at(activation: AbstractActivation, z: Interval) -> tuple[Tensor, Tensor]:
    """The points of ranges z at which neurons are divided, and which are."""
    if isinstance(activation, AbstractTwoPiece):
        return torch.zeros_like(z.lower), torch.ones_like(z.lower, dtype=torch.bool)
    cut, able = cuts_of(activation, z)
    able = able & z.lower.isfinite() & z.upper.isfinite()
    return torch.where(able, cut, z.lower), able


def _ranges(activation: AbstractActivation, z: Interval, cut: Tensor, arithmetic: AbstractArithmetic) -> list[Interval]:
    """The ranges of the slopes below and above cuts, without a jump of the slope at the cut."""
    if isinstance(activation, AbstractTwoPiece):
        one = torch.ones_like(z.lower)
        return [Interval.point(activation.slope_below(one) * one), Interval.point(one)]
    at = torch.minimum(torch.maximum(cut, z.lower), z.upper)
    jumps = torch.zeros_like(at, dtype=torch.bool)
    for jump in activation.jumps:
        jumps |= at == jump
    before, after = torch.nextafter(at, z.lower), torch.nextafter(at, z.upper)
    parts = Interval(z.lower, torch.where(jumps, before, at)), Interval(torch.where(jumps, after, at), z.upper)
    return [activation.slope_range(p, arithmetic) for p in parts]


def sided(
    activation: AbstractActivation, z: Interval, at: Interval, arithmetic: AbstractArithmetic
) -> tuple[list[Product], list[int]]:
    """-w² = 0 of a variable without use, then what holds on either side of the cut, and the kinds of all of them.

    For two pieces, where z >= 0: z >= 0, σ - z = 0 and -(σ - z)² = 0; the same where z <= 0.  For other ones, the
    half-space and the products of §3.5 over the part of the range.  at: an enclosure of the centre.
    """
    graph, one = Graph(at, activation.value_range(at, arithmetic), arithmetic), torch.ones_like(at.lower)
    zero = arithmetic.exact(torch.zeros_like(one))
    found = [Product(Factor(0 * one, one, zero), Factor(0 * one, -one, zero), True)]
    kinds, cut = [UNUSED], cut_at(activation, z)[0]
    slopes = (activation.slope_below(one) * one, one) if isinstance(activation, AbstractTwoPiece) else None
    for sign, number in ((1, 1), (-1, 0)):
        own = [Product(graph.affine(float(sign), 0.0, -sign * cut), graph.unit)]
        if slopes is not None:
            slope = slopes[number]
            rest, minus = graph.affine(-slope, one, 0.0), graph.affine(slope, -one, 0.0)
            own += [Product(rest, graph.unit, True), Product(rest, minus, True)]
        else:
            part = Interval(cut, z.upper) if sign > 0 else Interval(z.lower, cut)
            own += activation.quadratics(part, at, arithmetic)
        found += own
        kinds += [sign] * len(own)
    return found, kinds
