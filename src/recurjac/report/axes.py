"""The ticks of an axis: their places and labels."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, log10
from typing import final

_MANY = 7
"""The number of decades above which only some of them have a tick."""
_FINE = 2
"""The number of decades up to which an axis also has ticks at 2 and 5."""


@final
@dataclass(frozen=True)
class Axis:
    """An axis from 0 to 1; `ticks` are the places and the labels of its ticks, in order."""

    begin: float
    end: float
    logarithmic: bool
    ticks: tuple[tuple[float, str], ...]

    def place(self, value: float) -> float:
        """The place of a number on the axis: 0 at the start, 1 at the end."""
        along = log10(value) if self.logarithmic else value
        return (along - self.begin) / (self.end - self.begin)


def log_axis(least: float, most: float) -> Axis:
    """The logarithmic axis, from tick to tick, that contains two positive numbers."""
    low, high = log10(least), log10(most)
    fine = high - low <= _FINE
    steps = [(e + log10(m), _label(m, e)) for e in range(floor(low) - 1, ceil(high) + 2) for m in _mantissas(fine)]
    slack = 1e-9  # tolerance for a logarithm: the ends of an axis need not be exact
    begin = max(at for at, _ in steps if at <= low + slack)
    end = min(at for at, _ in steps if at >= high - slack and at > begin)
    shown = [(at, label) for at, label in steps if begin <= at <= end]
    every = ceil(len(shown) / _MANY) if not fine else 1
    return Axis(begin, end, True, tuple(((at - begin) / (end - begin), label) for at, label in shown[::every]))


def linear_axis(most: float) -> Axis:
    """The axis from 0 that contains a positive number."""
    size = floor(log10(most / 4))
    step = next(m * 10.0**size for m in (1, 2, 5, 10) if m * 10.0**size * 4.0001 >= most)
    count = ceil(most / step - 1e-9)
    return Axis(0.0, count * step, False, tuple((i / count, f"{i * step:.6g}") for i in range(count + 1)))


def _mantissas(fine: bool) -> tuple[int, ...]:
    return (1, 2, 5) if fine else (1,)


def _label(mantissa: int, exponent: int) -> str:
    return f"{mantissa * 10.0**exponent:g}" if -4 <= exponent < 6 else f"{mantissa}e{exponent}"
