"""Readers of linear and cubic interpolation to another size: along each axis, sums of few entries with known weights.

The weights are computed as fractions.  Where they have a small common denominator, they are applied as whole numbers
and one division, so that rounding is covered; otherwise the network counts as rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import ceil, floor, lcm, prod
from typing import Any, final

import torch
from torch import Tensor

from recurjac.loading.expression import Expression, check_size
from recurjac.loading.readers.sums import sum_over
from recurjac.operators.gather import gather_positions, positions
from recurjac.operators.scale import divided, scaled
from recurjac.registry import torch_ops

HALF = Fraction(1, 2)
_LONGEST = 2**14
"""The maximum size of an axis after interpolation."""
_WHOLE = 2**20
"""Whole numbers up to this are represented exactly, and so are sums of a few of them, in float32 as well."""


@final
@dataclass(frozen=True)
class Kernel:
    """The weight of an entry by its distance from the place that is computed, 0 from `reach` on."""

    reach: int
    weight: Callable[[Fraction], Fraction]


def _linear(distance: Fraction) -> Fraction:
    return max(Fraction(0), 1 - abs(distance))


def _cubic(a: Fraction, distance: Fraction) -> Fraction:
    t = abs(distance)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else Fraction(0)


LINEAR = Kernel(1, _linear)


def cubic(a: float) -> Kernel:
    """Cubic convolution with the parameter a, such as -3/4."""
    return Kernel(2, partial(_cubic, Fraction(a)))


@final
@dataclass(frozen=True)
class Axis:
    """How one axis is interpolated: the place, in units of its entries, of each new entry.

    shrink: at most 1; the kernel is 1 / shrink times as wide, against aliasing.
    inside: whether entries beyond the ends are left out; otherwise they are equal to those at the ends.
    """

    places: Sequence[Fraction]
    shrink: Fraction = Fraction(1)
    inside: bool = False

    def weights(self, place: Fraction, n: int, kernel: Kernel) -> dict[int, Fraction]:
        """The weights of the entries 0, …, n - 1, whose sum is 1."""
        reach, found = kernel.reach / self.shrink, dict[int, Fraction]()
        for k in range(ceil(place - reach), floor(place + reach) + 1):
            weight = kernel.weight((k - place) * self.shrink)
            if weight and (0 <= k < n or not self.inside):
                nearest = min(max(k, 0), n - 1)
                found[nearest] = found.get(nearest, Fraction(0)) + weight
        total = sum(found.values())
        if not total:
            raise ValueError(f"an interpolation at {float(place):g}, beyond the {n} entries of the axis")
        return {k: w / total for k, w in found.items() if w}


def interpolated(x: Expression, axis: int, kernel: Kernel, how: Axis) -> Expression:
    """x with one axis interpolated."""
    x.builder.otherwise.append("the weights of an interpolation")
    n, count = x.shape[axis], len(how.places)
    rows = [how.weights(p, n, kernel) for p in how.places]
    taps = max(len(r) for r in rows)
    shape = (taps, *x.shape[:axis], count, *x.shape[axis + 1 :])
    check_size(shape)
    padded = [[*r.items(), *[(-1, Fraction(0))] * (taps - len(r))] for r in rows]
    index = torch.tensor([[k for k, _ in row] for row in padded]).T  # (taps, count)
    numbers, divisor = _numbers([[w for _, w in row] for row in padded], x)
    along = [1] * axis + [count] + [1] * (len(x.shape) - axis - 1)
    taken = positions(x.shape).index_select(axis, index.clamp(min=0).flatten())
    taken = taken.unflatten(axis, (taps, count)).movedim(axis, 0)
    taken = torch.where(index.reshape(taps, *along) >= 0, taken, 0)
    several = x.apply(gather_positions(taken, x.shape))
    total: Expression = sum_over(scaled(several, numbers.T.reshape(taps, *along)), [0], False)
    quotient: Expression = total if divisor == 1 else divided(total, divisor)
    return quotient


def _numbers(rows: Sequence[Sequence[Fraction]], x: Expression) -> tuple[Tensor, float]:
    """Weights (count, taps) as whole numbers and their divisor; or, rounded, as they are."""
    divisor = 1
    for weight in (w for row in rows for w in row):
        divisor = lcm(divisor, weight.denominator) if divisor <= _WHOLE else divisor
    largest = max(float(abs(w)) for row in rows for w in row)
    if divisor * max(largest, 1.0) <= _WHOLE:
        whole = [[float(w * divisor) for w in row] for row in rows]
        return torch.tensor(whole, dtype=torch.float64), float(divisor)
    x.builder.rounded = True
    return torch.tensor([[float(w) for w in row] for row in rows], dtype=torch.float64), 1.0


def check_axes(x: Expression, axes: Sequence[int], sizes: Sequence[int]) -> None:
    """Raise ValueError unless the axes can have these sizes."""
    if any(n < 1 or n > _LONGEST for n in sizes) or any(x.shape[a] < 1 for a in axes):
        raise ValueError(f"an interpolation to the sizes {tuple(sizes)}; 1 to {_LONGEST} are read")
    rest = prod(n for d, n in enumerate(x.shape) if d not in axes)
    check_size((rest, *sizes))


def _interpolate(
    axes: int, kernel: Kernel, smooth: bool, x: Expression, size: Any, align_corners: bool, scales: Any = None
) -> Any:
    """PyTorch's interpolation of the last axes; against aliasing if `smooth`."""
    around = range(len(x.shape) - axes, len(x.shape))
    factors = None if scales is None else [float(s) for s in scales]
    sizes = [int(n) for n in size] if factors is None else [
        floor(x.shape[d] * f) for d, f in zip(around, factors, strict=True)
    ]  # fmt: skip
    check_axes(x, around, sizes)
    for k, (d, count) in enumerate(zip(around, sizes, strict=True)):
        n = x.shape[d]
        step = Fraction(n, count) if factors is None else 1 / Fraction(factors[k])
        if align_corners:
            step = Fraction(n - 1, count - 1) if count > 1 else Fraction(0)
        places = [step * j if align_corners else (j + HALF) * step - HALF for j in range(count)]
        x = interpolated(x, d, kernel, Axis(places, 1 / max(step, Fraction(1)) if smooth else Fraction(1), smooth))
    return x


_BICUBIC = cubic(-0.75)
torch_ops.reads("aten.upsample_linear1d.vec")(partial(_interpolate, 1, LINEAR, False))
torch_ops.reads("aten.upsample_bilinear2d.vec")(partial(_interpolate, 2, LINEAR, False))
torch_ops.reads("aten.upsample_trilinear3d.vec")(partial(_interpolate, 3, LINEAR, False))
torch_ops.reads("aten.upsample_bicubic2d.vec")(partial(_interpolate, 2, _BICUBIC, False))
torch_ops.reads("aten._upsample_bilinear2d_aa.vec")(partial(_interpolate, 2, LINEAR, True))
torch_ops.reads("aten._upsample_bicubic2d_aa.vec")(partial(_interpolate, 2, cubic(-0.5), True))
