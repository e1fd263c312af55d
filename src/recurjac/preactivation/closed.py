"""What closed forms say of stages that are known functions of rows of earlier ones (docs/mathematics.md, §3.11)."""

from __future__ import annotations

from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.network import Closed, Extremes
from recurjac.operators import AbstractOperator
from recurjac.operators.interval import interval_image


def values_of(closed: Closed, source: Interval, arithmetic: AbstractArithmetic) -> Interval:
    """Bounds of the stage, (batch, *stage), from those of the source."""
    rows = interval_image(closed.rows, source, arithmetic)
    return interval_image(closed.back, closed.function.value_range(rows, arithmetic), arithmetic)


def slopes_of(closed: Closed, source: Interval, arithmetic: AbstractArithmetic) -> Interval:
    """Bounds of the derivatives of each value by the numbers of its row: (batch, rows, n, n)."""
    return closed.function.slope_range(interval_image(closed.rows, source, arithmetic), arithmetic)


def norm_of(closed: Closed, source: Interval, p: float, arithmetic: AbstractArithmetic) -> Tensor:
    """An upper bound of the norm ‖·‖_{p→p} of the stage's Jacobian by the source, (batch,)."""
    rows = closed.function.norm(interval_image(closed.rows, source, arithmetic), p, arithmetic).amax(-1)
    sizes = closed.rows.norm(p, arithmetic).to(rows) * closed.back.norm(p, arithmetic).to(rows)
    return arithmetic.at_least(rows * sizes, 2)


def extremes_of(extremes: Extremes, source: Interval, arithmetic: AbstractArithmetic) -> Interval:
    """Bounds of z of the stage, (batch, size of the stage), where `extremes` holds, from those of the source."""
    most = _greatest(extremes.most, source, arithmetic)
    if extremes.less is None:
        return most
    less = _greatest(extremes.less, source, arithmetic)
    return arithmetic.sum([most, Interval.unchecked(-less.upper, -less.lower)])


def _greatest(operator: AbstractOperator, source: Interval, arithmetic: AbstractArithmetic) -> Interval:
    """The maxima of the lower and of the upper ends of the entries: (batch, size)."""
    return interval_image(operator, source, arithmetic).map(lambda t: t.amax(1))
