"""An operator applied to an interval, entry by entry."""

from __future__ import annotations

import torch

from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.operators.base import AbstractLeaf, AbstractOperator
from recurjac.operators.compose import Compose
from recurjac.operators.enclosed import Enclosed


def interval_image(operator: AbstractOperator, interval: Interval, arithmetic: AbstractArithmetic) -> Interval:
    """An interval around A h for every h in `interval` (..., *in): A m ± |A| s; infinite where an infinite end is met.

    The smallest such interval for a single operator in exact arithmetic, up to one-sided infinite ends, of which both
    sides are given up.
    """
    if isinstance(operator, Compose):
        return interval_image(operator.outer, interval_image(operator.inner, interval, arithmetic), arithmetic)
    assert isinstance(operator, AbstractLeaf | Enclosed)  # noqa: S101  # (the others are compositions)
    infinite = interval.lower.isinf() | interval.upper.isinf()
    bounded = Interval(torch.where(infinite, 0.0, interval.lower), torch.where(infinite, 0.0, interval.upper))
    mid, half = arithmetic.midrad(bounded)
    centre = operator.push(arithmetic.exact(mid))
    spread = operator.absolute().push(arithmetic.exact(half))
    image = arithmetic.between(centre - spread, centre + spread)
    if not bool(infinite.any()):
        return image
    met = operator.absolute().push(arithmetic.exact(infinite.to(mid.dtype))).mid > 0
    return Interval(torch.where(met, -torch.inf, image.lower), torch.where(met, torch.inf, image.upper))
