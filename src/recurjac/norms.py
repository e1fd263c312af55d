"""Induced norms of a Jacobian whose entries are known to lie in intervals (MATH §6).

‖J‖_{p→q} = max ‖J v‖_q over ‖v‖_p <= 1.  With M = max(|L|, |U|) entry by entry, ‖J‖ <= ‖M‖, exactly so over the box of
entries for 1→q and p→inf.  For p = inf, sums of absolute values along a row are bounded better by pushing one signed
tangent, since the entries of a row are not independent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Interval, spectral_norm
from recurjac.errors import InvalidRequest
from recurjac.jacobian import AbstractPrepared


def check_norm(p: float, what: str) -> float:
    """p as a float.  Raises InvalidRequest unless it is 1, 2 or inf."""
    if p not in (1, 2, inf):
        raise InvalidRequest(f"the {what} norm {p!r} is not known; use 1, 2 or inf")
    return float(p)


class AbstractRowSum(ABC):
    """A way to bound Σ_r |J_kr| for each row k."""

    @abstractmethod
    def bound(self, entries: Interval, prepared: AbstractPrepared) -> Tensor:
        """Upper bounds, (batch, K), from the entries (batch, K, n_in) and the means to push further tangents."""


@final
@dataclass(frozen=True)
class PlainSum(AbstractRowSum):
    """Σ_r max(|L_r|, |U_r|)."""

    def bound(self, entries: Interval, prepared: AbstractPrepared) -> Tensor:
        return prepared.chain.arithmetic.at_least(entries.magnitude.sum(-1), entries.shape[-1])


@final
@dataclass(frozen=True)
class SignSum(AbstractRowSum):
    """Entries of known sign are summed as one tangent, the others by their magnitude.

    Source: arXiv:1810.11783, equations 22 and 23.
    """

    def bound(self, entries: Interval, prepared: AbstractPrepared) -> Tensor:
        positive, negative = entries.lower >= 0, entries.upper <= 0
        slope = torch.where(positive, 1.0, torch.where(negative, -1.0, 0.0)).to(entries.lower.dtype)
        return _pushed(slope, torch.where(positive | negative, 0.0, entries.magnitude), prepared)


@final
@dataclass(frozen=True)
class ChordSum(AbstractRowSum):
    """|y| on [L, U] is below its chord s y + t, so Σ|J_kr| <= Σ (s_r J_kr + t_r), and Σ s_r J_kr is one tangent.

    Never above `SignSum` for methods that push (MATH §6); as in auto_LiRPA's norm of the gradient (arXiv:2210.07394).
    """

    def bound(self, entries: Interval, prepared: AbstractPrepared) -> Tensor:
        arithmetic = prepared.chain.arithmetic
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
        gap = torch.where(infinite, inf, torch.where(known, 0.0, gap))
        return _pushed(slope, gap, prepared)


def _pushed(slope: Tensor, rest: Tensor, prepared: AbstractPrepared) -> Tensor:
    """Upper bounds of Σ_r slope_r J_kr + Σ_r rest_r."""
    chain = prepared.chain
    arithmetic = chain.arithmetic
    signed = prepared.push_each(slope.reshape(*slope.shape[:2], *chain.shapes[0])).upper
    extra = arithmetic.at_least(rest.sum(-1), rest.shape[-1])
    return (arithmetic.exact(signed) + arithmetic.exact(extra)).upper()


def induced_norm(entries: Interval, p: float, q: float, arithmetic: AbstractArithmetic, row_sums: Tensor) -> Tensor:
    """An upper bound of ‖J‖_{p→q} for every J in `entries` (batch, K, n_in): (batch,).

    row_sums: upper bounds of Σ_r |J_kr|, (batch, K), read for p = inf only.
    Several bounds are valid for 2→1 and 2→2; the least is taken.
    """
    size, rows = entries.magnitude, entries.shape[1]
    if p == inf:
        return _vector_norm(row_sums, q, arithmetic)
    if p == 1:
        return _vector_norm(size.transpose(1, 2), q, arithmetic).amax(-1)
    of_rows = _vector_norm(size, 2, arithmetic)
    if q == inf or rows == 1:
        return of_rows.amax(-1)
    if q == 1:
        total = arithmetic.at_least(size.sum(1), rows)
        return torch.minimum(_vector_norm(of_rows, 1, arithmetic), _vector_norm(total, 2, arithmetic))
    return _spectral(entries, arithmetic)


def _vector_norm(x: Tensor, q: float, arithmetic: AbstractArithmetic) -> Tensor:
    """An upper bound of the q-norm over the last dimension of a non-negative tensor."""
    if q == inf:
        return x.amax(-1)
    if q == 1:
        return arithmetic.at_least(x.sum(-1), x.shape[-1])
    most = x.detach().amax(-1, keepdim=True)
    scale = torch.where((most > 0) & most.isfinite(), most, 1.0)
    squares = (x / scale).square().sum(-1)
    root = torch.where(squares > 0, torch.where(squares > 0, squares, 1.0).sqrt(), 0.0) * scale.squeeze(-1)
    return arithmetic.at_least(root, x.shape[-1] + 6)


def _spectral(entries: Interval, arithmetic: AbstractArithmetic) -> Tensor:
    """The least of ‖M‖₂ and ‖C‖₂ + ‖R‖₂, C the centre and R the radius of the entries; infinite if an entry is."""
    infinite = ~entries.magnitude.isfinite().flatten(1).all(1)
    low = torch.where(infinite[:, None, None], 0.0, entries.lower)
    high = torch.where(infinite[:, None, None], 0.0, entries.upper)
    exact, bounded = arithmetic.exact, Interval(low, high)
    centre, radius = (exact(spectral_norm(exact(part))) for part in arithmetic.midrad(bounded))
    return torch.where(infinite, inf, torch.minimum(spectral_norm(exact(bounded.magnitude)), (centre + radius).upper()))
