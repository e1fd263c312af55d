"""Induced norms of a matrix whose entries are known to lie in intervals (docs/mathematics.md, §6).

‖J‖_{p→q} = max ‖J v‖_q over ‖v‖_p <= 1.  With M = max(|L|, |U|) entry by entry, ‖J‖ <= ‖M‖.  For 1→q and p→inf, this is
the maximum over the box of entries.  For p = inf, pushing one signed tangent gives a tighter bound of the sum of
absolute values along a row (`row_sums`), because the entries of a row are not independent.
"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Interval, length_of, spectral_norm


def induced_norm(entries: Interval, p: float, q: float, arithmetic: AbstractArithmetic, row_sums: Tensor) -> Tensor:
    """An upper bound of ‖J‖_{p→q} for every J in `entries` (batch, K, n_in): (batch,).

    row_sums: upper bounds of Σ_r |J_kr|, (batch, K), used for p = inf only.
    For 2→1 and 2→2 there are several valid bounds; the result is the least of them.
    """
    size, rows = entries.magnitude, entries.shape[1]
    if p == inf:
        return vector_norm(row_sums, q, arithmetic)
    if p == 1:
        return vector_norm(size.transpose(1, 2), q, arithmetic).amax(-1)
    of_rows = vector_norm(size, 2, arithmetic)
    if q == inf or rows == 1:
        return of_rows.amax(-1)
    if q == 1:
        total = arithmetic.at_least(size.sum(1), rows)
        return torch.minimum(vector_norm(of_rows, 1, arithmetic), vector_norm(total, 2, arithmetic))
    return _spectral(entries, arithmetic)


def vector_norm(x: Tensor, q: float, arithmetic: AbstractArithmetic) -> Tensor:
    """An upper bound of the q-norm over the last dimension of a non-negative tensor."""
    if q == inf:
        return length_of(x, q)
    return arithmetic.at_least(length_of(x, q), x.shape[-1] + (6 if q == 2 else 0))


def _spectral(entries: Interval, arithmetic: AbstractArithmetic) -> Tensor:
    """The lesser of ‖M‖₂ and ‖C‖₂ + ‖R‖₂, for centres C and radii R of the entries; infinite if an entry is."""
    infinite = ~entries.magnitude.isfinite().flatten(1).all(1)
    low = torch.where(infinite[:, None, None], 0.0, entries.lower)
    high = torch.where(infinite[:, None, None], 0.0, entries.upper)
    exact, bounded = arithmetic.exact, Interval(low, high)
    centre, radius = (exact(spectral_norm(exact(part))) for part in arithmetic.midrad(bounded))
    return torch.where(infinite, inf, torch.minimum(spectral_norm(exact(bounded.magnitude)), (centre + radius).upper()))
