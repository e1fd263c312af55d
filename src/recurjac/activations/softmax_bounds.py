"""Proved ranges of a softmax and of its derivatives over boxes of rows (docs/mathematics.md, §3.11)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import final

import torch
from torch import Tensor

from recurjac.activations.row_bounds import others_of, sum_of
from recurjac.arithmetic import AbstractArithmetic, Enclosure, Interval
from recurjac.arithmetic.elementary import exp


def largest_of(upper: Tensor, hidden: Tensor | None) -> tuple[Tensor, float]:
    """The largest number of each row that is not hidden, (…, 1), and a distance below it that squares of exp allow."""
    shown = upper if hidden is None else upper.masked_fill(hidden.to(upper.device), -math.inf)
    return shown.amax(-1, keepdim=True), math.log(torch.finfo(upper.dtype).max) / 2.5


@final
@dataclass(frozen=True)
class Exponentials:
    """Numbers 0 <= low <= exp(z - t) <= high for some t of each row, where `known` (batch, rows, 1).

    `high` is positive, and both are 0 where z is hidden.  `low` is 0 where z may be far below the largest number.
    """

    low: Tensor
    high: Tensor
    known: Tensor
    arithmetic: AbstractArithmetic

    @classmethod
    def of(cls, z: Interval, hidden: Tensor | None, arithmetic: AbstractArithmetic) -> Exponentials:
        low, high = z.lower.detach(), z.upper.detach()
        top, far = largest_of(high, hidden)
        known = top.isfinite()
        top = torch.where(known, top, 0.0)
        near = [known & (t > top - far) for t in (low, high)]
        ends = [torch.where(k, t, top - far) for k, t in zip(near, (low, high), strict=True)]
        found = [(Enclosure.point(t) - Enclosure.point(top)).rising(exp) for t in ends]
        below, above = torch.where(near[0], found[0].lower, 0.0), found[1].upper
        if hidden is not None:
            below, above = (t.masked_fill(hidden.to(t.device), 0.0) for t in (below, above))
        return cls(below, above, known, arithmetic)

    def values(self) -> Interval:
        """Bounds of p_i, which grows with its own number and falls with all others."""
        rests = [others_of(t, self.arithmetic) for t in (self.high, self.low)]
        least = _share(self.low, rests[0].upper).lower.clamp(min=0)
        most = _share(self.high, rests[1].lower).upper.clamp(max=1)
        return Interval.unchecked(torch.where(self.known, least, 0.0), torch.where(self.known, most, 1.0))

    def slopes(self) -> Interval:
        """Bounds of p_i (1 - p_i) and of -p_i p_j: (batch, rows, n, n)."""
        shares, count = self.values(), self.low.shape[-1]
        ends = [Enclosure.point(p) * (-Enclosure.point(p)).plus(1.0) for p in (shares.lower, shares.upper)]
        middle = (shares.lower <= 0.5) & (shares.upper >= 0.5)
        own = ends[0].hull(ends[1]).within(0.0, 0.25)
        same = torch.eye(count, dtype=torch.bool, device=self.low.device)
        least, most = self._least_product(), self._largest_product()
        return Interval.unchecked(
            torch.where(same, own.lower.unsqueeze(-1), -most),
            torch.where(same, torch.where(middle, 0.25, own.upper).unsqueeze(-1), -least),
        )

    def _least_product(self) -> Tensor:
        """p_i p_j at corners, with the largest rest r."""
        exact = self.arithmetic.exact
        total = sum_of(Interval.unchecked(self.high, self.high), self.arithmetic).upper.unsqueeze(-1)
        rest = (exact((exact(total) - exact(self.high.unsqueeze(-1))).upper()) - exact(self.high.unsqueeze(-2))).upper()
        corners = [(x.unsqueeze(-1), y.unsqueeze(-2)) for x in (self.low, self.high) for y in (self.low, self.high)]
        least = reduce(torch.minimum, (_product(x, y, rest.clamp(min=0)).lower for x, y in corners))
        return torch.where(self.known.unsqueeze(-1), least.clamp(min=0), 0.0)

    def _largest_product(self) -> Tensor:
        """With the least rest r, and one of the two numbers, x, at an end: x y / (x + y + r)² is largest at y = x + r.

        It is 1 / (4 (x + r)) times x there; elsewhere it is largest at the end of y that is nearest to x + r.
        """
        exact = self.arithmetic.exact
        total = sum_of(Interval.unchecked(self.low, self.low), self.arithmetic).lower.unsqueeze(-1)
        rest = (exact((exact(total) - exact(self.low.unsqueeze(-1))).lower()) - exact(self.low.unsqueeze(-2))).lower()
        rest = rest.clamp(min=0)
        found = [
            self._along(x.unsqueeze(-1), self.low.unsqueeze(-2), self.high.unsqueeze(-2), rest)
            for x in (self.low, self.high)
        ]
        most = torch.maximum(*found)
        most = torch.maximum(most, most.mT)
        return torch.where(self.known.unsqueeze(-1) & ~most.isnan(), most.clamp(max=0.25), 0.25)

    def _along(self, x: Tensor, low: Tensor, high: Tensor, rest: Tensor) -> Tensor:
        best = Enclosure.point(x) + Enclosure.point(rest)
        meets = (best.upper >= low) & (best.lower <= high)
        at_best = (Enclosure.point(x) / best.twice().twice()).upper
        at_end = _product(x, torch.where(best.lower > high, high, low).expand_as(rest), rest).upper
        return torch.where(x > 0, torch.where(meets, at_best, at_end), 0.0)


def _share(own: Tensor, rest: Tensor) -> Enclosure:
    own_, rest_ = Enclosure.point(own), Enclosure.point(rest)
    return own_ / (own_ + rest_)


def _product(x: Tensor, y: Tensor, rest: Tensor) -> Enclosure:
    """x y / (x + y + r)²."""
    total = Enclosure.point(x) + Enclosure.point(y) + Enclosure.point(rest)
    return (Enclosure.point(x) / total) * (Enclosure.point(y) / total)
