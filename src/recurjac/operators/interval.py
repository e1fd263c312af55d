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
    if bool((interval.upper - interval.lower < torch.inf).all()):
        return _bounded_image(operator, interval, arithmetic)
    infinite = interval.lower.isinf() | interval.upper.isinf()
    bounded = Interval(torch.where(infinite, 0.0, interval.lower), torch.where(infinite, 0.0, interval.upper))
    image = _bounded_image(operator, bounded, arithmetic)
    met = operator.absolute().push(arithmetic.exact(infinite.to(image.lower.dtype))).mid > 0
    return Interval(torch.where(met, -torch.inf, image.lower), torch.where(met, torch.inf, image.upper))


def _bounded_image(operator: AbstractLeaf | Enclosed, interval: Interval, arithmetic: AbstractArithmetic) -> Interval:
    mid, half = arithmetic.midrad(interval)
    centre = operator.push(arithmetic.exact(mid))
    spread = operator.absolute().push(arithmetic.exact(half))
    return arithmetic.between(centre - spread, centre + spread)
