"""Reader of ONNX's Resize: to the nearest entry by moving entries, otherwise by interpolation along each axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Any, final

import torch
from torch import Tensor

from recurjac.loading.readers.interpolation import HALF, LINEAR, Axis, check_axes, cubic, interpolated
from recurjac.registry import onnx_ops

_HALVES = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")


@final
@dataclass(frozen=True)
class Change:
    """An axis of n entries that becomes one of `count`; `scale` is the quotient that the file means."""

    n: int
    count: int
    scale: Fraction

    def places(self, mode: str) -> list[Fraction]:
        """The place of each new entry among the old ones, by ONNX's rule `mode`.  Raises ValueError for another one."""
        n, count, scale = self.n, self.count, self.scale
        new = range(count)
        if mode == "align_corners":
            return [Fraction(j * (n - 1), count - 1) if count > 1 else Fraction(0) for j in new]
        if mode == "asymmetric":
            return [j / scale for j in new]
        if mode == "pytorch_half_pixel" and count == 1:
            return [Fraction(0)]
        if mode not in _HALVES:
            raise ValueError(f"a resize by {mode}; align_corners, asymmetric and {', '.join(_HALVES)} are read")
        shift = Fraction(n, 2) * (1 - count / (scale * n)) if mode == "half_pixel_symmetric" else Fraction(0)
        return [shift + (j + HALF) / scale - HALF for j in new]


def _changes(shape: Sequence[int], scales: Any, sizes: Any, axes: Any) -> dict[int, Change]:
    """The axes that change, by number."""
    count = len(shape)
    if axes and (not all(-count <= a < count for a in axes) or len({a % count for a in axes}) < len(axes)):
        raise ValueError(f"a resize of the axes {list(axes)} of {count}")
    named = [int(a) % count for a in axes] if axes else list(range(count))
    given = scales if sizes is None else sizes
    numbers = [Fraction(v) for v in given.flatten().tolist()] if isinstance(given, Tensor) else []
    if len(numbers) != len(named) or any(v <= 0 for v in numbers):
        raise ValueError("a resize whose scales or sizes are not one positive constant an axis")
    if sizes is None:
        made = {d: Change(shape[d], floor(shape[d] * s), s) for d, s in zip(named, numbers, strict=True)}
    else:
        made = {d: Change(shape[d], int(n), n / shape[d]) for d, n in zip(named, numbers, strict=True)}
    return {d: c for d, c in made.items() if c.scale != 1}


@onnx_ops.reads("Upsample")
def _upsample(x: Any, scales: Any = (), mode: str = "nearest") -> Any:
    """What Resize does since opset 10, where the positions 0 of old and new entries agree."""
    given = scales if isinstance(scales, Tensor) else torch.tensor(list(scales), dtype=torch.float64)
    return _resize(x, None, given, mode=mode, coordinate_transformation_mode="asymmetric")


@onnx_ops.reads("Resize")
def _resize(
    x: Any, roi: Any = None, scales: Any = None, sizes: Any = None, *, mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel", cubic_coeff_a: float = -0.75, exclude_outside: int = 0,
    antialias: int = 0, axes: Any = None, keep_aspect_ratio_policy: str = "stretch", **_: Any,
) -> Any:  # fmt: skip
    if scales is None and sizes is None and roi is not None:  # the signature of opset 10
        return _upsample(x, roi, mode=mode)
    if mode not in ("linear", "cubic"):
        raise ValueError(f"a resize of mode {mode}; nearest, linear and cubic are read")
    if antialias or keep_aspect_ratio_policy != "stretch":
        raise ValueError("a resize against aliasing or with its own aspect ratio; give sizes, without antialias")
    empty = scales is not None and scales.numel() == 0
    changes = _changes(x.shape, None if empty else scales, sizes, axes)
    check_axes(x, list(changes), [c.count for c in changes.values()])
    kernel = LINEAR if mode == "linear" else cubic(cubic_coeff_a)
    for d, change in changes.items():
        how = Axis(change.places(coordinate_transformation_mode), inside=bool(exclude_outside))
        x = interpolated(x, d, kernel, how)
    return x
