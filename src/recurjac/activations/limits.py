"""Proved bounds of functions at numbers of which some may be infinite."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recurjac.arithmetic import Enclosure
from recurjac.arithmetic.interval import all_finite


def with_limits(
    z: Tensor, proved: Callable[[Tensor], Enclosure | None], plain: Callable[[Tensor], Tensor]
) -> Enclosure:
    """Proved bounds at finite numbers, and at infinite ones the numbers beside the computed limit."""
    z = z.detach()
    if all_finite([z]):
        return _known(proved(z))
    infinite = z.isinf()
    return _limit(z, plain).where(infinite, _known(proved(torch.where(infinite, 1.0, z))))


def with_limits_beside(
    z: Tensor, proved: Callable[[Tensor], tuple[Enclosure, Enclosure] | None], plain: Callable[[Tensor], Tensor]
) -> tuple[Enclosure, Enclosure]:
    """The same for bounds from the left and from the right, which may be one object."""
    z = z.detach()
    if all_finite([z]):
        return _both(proved(z))
    infinite = z.isinf()
    left, right = _both(proved(torch.where(infinite, 1.0, z)))
    limit = _limit(z, plain)
    first = limit.where(infinite, left)
    return first, first if right is left else limit.where(infinite, right)


def _limit(z: Tensor, plain: Callable[[Tensor], Tensor]) -> Enclosure:
    """Limits are numbers such as 0, which is exact, or π/2 or a power, which a few library calls give.

    They are trusted to 32 units of the last place, far more than the error of any of these calls.
    """
    found = plain(z)
    exact, info = (found == 0) | found.isinf(), torch.finfo(found.dtype)
    margin = torch.where(exact, 0.0, found.abs() * (64 * info.eps) + info.tiny)
    return Enclosure(found - margin, found + margin)


def _known(found: Enclosure | None) -> Enclosure:
    if found is None:
        raise ValueError("nothing is proved of this activation")
    return found


def _both(found: tuple[Enclosure, Enclosure] | None) -> tuple[Enclosure, Enclosure]:
    if found is None:
        raise ValueError("nothing is proved of this activation")
    return found
