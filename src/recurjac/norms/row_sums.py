"""Bounds of sums of absolute values along the rows of a Jacobian (docs/mathematics.md, §6)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import product
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.errors import expect_counts
from recurjac.jacobian import AbstractPrepared
from recurjac.propagation.forms import DenseForms


class AbstractRowSum(ABC):
    """A way to bound Σ_r |J_kr| for each row k."""

    @abstractmethod
    def bound(self, entries: Interval, prepared: AbstractPrepared) -> Tensor:
        """Upper bounds, (batch, K), from the entries (batch, K, n_in); `prepared` can push further tangents."""


@final
@dataclass(frozen=True)
class PlainSum(AbstractRowSum):
    """Σ_r max(|L_r|, |U_r|)."""

    def bound(self, entries: Interval, prepared: AbstractPrepared) -> Tensor:
        return prepared.chain.arithmetic.at_least(entries.magnitude.sum(-1), entries.shape[-1])


@final
@dataclass(frozen=True)
class SignSum(AbstractRowSum):
    """Entries with a known sign are summed as one tangent; the magnitudes of the others are added.

    Source: arXiv:1810.11783, equations 22 and 23.
    """

    def bound(self, entries: Interval, prepared: AbstractPrepared) -> Tensor:
        positive, negative = entries.lower >= 0, entries.upper <= 0
        slope = torch.where(positive, 1.0, torch.where(negative, -1.0, 0.0)).to(entries.lower.dtype)
        return _pushed(slope, torch.where(positive | negative, 0.0, entries.magnitude), prepared)


@final
@dataclass(frozen=True)
class ChordSum(AbstractRowSum):
    """On [L, U], |y| is at most its chord s y + t, so Σ|J_kr| <= Σ (s_r J_kr + t_r), and Σ s_r J_kr is one tangent.

    For methods that push, the bound is never above that of `SignSum` (docs/mathematics.md, §6.2).  auto_LiRPA bounds
    the norm of the gradient in the same way (arXiv:2210.07394).
    """

    def bound(self, entries: Interval, prepared: AbstractPrepared) -> Tensor:
        return _pushed(*_chords(entries, prepared.chain.arithmetic), prepared)


@final
@dataclass(frozen=True)
class PatternSum(AbstractRowSum):
    """`ChordSum`, but with all patterns of signs of the `most` entries of each row whose chords are farthest away.

    Σ|y| is the largest of all Σ ±y, and each of them is one tangent; there are 2^most for each row.
    Raises InvalidRequest for a number that is not whole, or negative.
    """

    most: int = 5

    def __post_init__(self) -> None:
        expect_counts("PatternSum", most=self.most)

    def bound(self, entries: Interval, prepared: AbstractPrepared) -> Tensor:
        arithmetic = prepared.chain.arithmetic
        slope, gap = _chords(entries, arithmetic)
        count = min(self.most, int((gap > 0).sum(-1).max()))
        worst = gap.topk(count, -1).indices.unsqueeze(2).expand(-1, -1, 2**count, -1)
        signs = slope.new_tensor(list(product((-1.0, 1.0), repeat=count)))
        ways = slope.unsqueeze(2).expand(-1, -1, 2**count, -1).scatter(-1, worst, signs.expand(worst.shape))
        rest = gap.scatter(-1, worst[:, :, 0], 0.0)
        forms = DenseForms(ways.unflatten(-1, prepared.chain.shapes[0]), arithmetic)
        signed, extra = prepared.push(forms).upper.amax(-1), arithmetic.at_least(rest.sum(-1), rest.shape[-1])
        return (arithmetic.exact(signed) + arithmetic.exact(extra)).upper()


def _chords(entries: Interval, arithmetic: AbstractArithmetic) -> tuple[Tensor, Tensor]:
    """The slope of the chord of |y| on each interval, and how far it is from 0 at y = 0."""
    high, low = entries.upper.clamp(min=0), (-entries.lower).clamp(min=0)
    width = torch.where(high + low > 0, high + low, 1.0)
    infinite = high.isinf() | low.isinf()
    slope = torch.where(infinite | (high + low == 0), 0.0, (high - low) / torch.where(infinite, 1.0, width))
    known = (entries.lower >= 0) | (entries.upper <= 0)
    sign = torch.where(entries.lower >= 0, 1.0, -1.0).to(slope.dtype)
    slope = torch.where(known & ~infinite, sign, slope.clamp(-1, 1))
    ends = [
        (arithmetic.exact(end.abs()) - arithmetic.exact(slope) * arithmetic.exact(end)).upper()
        for end in (entries.lower, entries.upper)
    ]
    gap = torch.maximum(*ends).clamp(min=0)
    return slope, torch.where(infinite, inf, torch.where(known, 0.0, gap))


def _pushed(slope: Tensor, rest: Tensor, prepared: AbstractPrepared) -> Tensor:
    """Upper bounds of Σ_r slope_r J_kr + Σ_r rest_r."""
    chain = prepared.chain
    arithmetic = chain.arithmetic
    signed = prepared.push_each(slope.reshape(*slope.shape[:2], *chain.shapes[0])).upper
    extra = arithmetic.at_least(rest.sum(-1), rest.shape[-1])
    return (arithmetic.exact(signed) + arithmetic.exact(extra)).upper()
