"""Powers z^(n/2) for whole n, made of products, quotients and one root, whose rounding is covered."""

from __future__ import annotations

import torch
from torch import Tensor

from recurjac.arithmetic import root_of

_MOST = 16
"""The largest whole number n of halves for which a power is computed in this way."""


def power_of(z: Tensor, exponent: float) -> Tensor:
    """z^exponent for finite z > 0.

    If `roundings_of` counts its roundings, partial results are all above 1 or all below it, so that one that overflows
    or underflows is followed by a result that does.
    """
    if roundings_of(exponent) is None:
        return z.pow(exponent)
    whole, half = divmod(int(2 * abs(exponent)), 2)
    factors = [z] * whole + ([root_of(z)] if half else [])
    result = torch.ones_like(z)
    for factor in factors:
        result = result * factor if exponent > 0 else result / factor
    return result


def roundings_of(exponent: float) -> int | None:
    """The number of correctly rounded operations in `power_of`, of which a root counts two; None if it uses others.

    Source: docs/mathematics.md, §8.1.
    """
    halves = 2 * abs(exponent)
    if halves != int(halves) or halves > _MOST:
        return None
    whole, half = divmod(int(halves), 2)
    return whole + 3 * half


def roundings_of_power(exponent: float) -> tuple[int, int, int] | None:
    """Those of z^exponent and of its first two derivatives, with a factor; None unless all are known."""
    counts = [roundings_of(exponent - k) for k in range(3)]
    if counts[0] is None or counts[1] is None or counts[2] is None:
        return None
    return counts[0], counts[1] + 1, counts[2] + 1
