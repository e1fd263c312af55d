"""Evaluating ONNX's Resize and Upsample by matrices, one for each axis; those of `onnx.reference` are in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def upsampled(x: Array, scales: Any = None, mode: str | None = None) -> Array:
    """Upsample, and Resize of opset 10: new entry j is read at j / scale."""
    factors = [float(s) for s in scales]
    if mode == "linear":
        return mixed(x, factors, [int(n * s) for n, s in zip(x.shape, factors, strict=True)], mode, "asymmetric")
    if mode not in (None, "nearest") or min(factors) < 1:
        raise ValueError(f"an old-style resize by {factors} in mode {mode}")
    for axis, scale in enumerate(factors):
        x = np.take(x, np.floor(np.arange(int(x.shape[axis] * scale)) / scale).astype(np.int64), axis)
    return x


def resized(x: Array, scales: Any, sizes: Any, axes: Any, how: dict[str, Any]) -> Array:
    """A linear or cubic Resize."""
    chosen = list(range(x.ndim)) if axes is None else [int(a) % x.ndim for a in axes]
    factors, counts = [1.0] * x.ndim, list(x.shape)
    for k, axis in enumerate(chosen):
        factors[axis] = float(scales[k]) if sizes is None else int(sizes[k]) / x.shape[axis]
        counts[axis] = int(x.shape[axis] * factors[axis]) if sizes is None else int(sizes[k])
    rule = how.get("coordinate_transformation_mode") or "half_pixel"
    a, inside = how.get("cubic_coeff_a"), bool(how.get("exclude_outside"))
    return mixed(x, factors, counts, str(how["mode"]), rule, -0.75 if a is None else float(a), inside)


def mixed(
    x: Array, factors: Sequence[float], counts: Sequence[int], mode: str, rule: str, a: float = -0.75,
    inside: bool = False,
) -> Array:  # fmt: skip
    """Linear or cubic interpolation of every axis to its new size."""
    for axis, (factor, count) in enumerate(zip(factors, counts, strict=True)):
        if factor == 1:
            continue
        n = x.shape[axis]
        matrix = _matrix(_places(n, count, factor, rule), n, mode, a, inside)
        x = np.moveaxis(np.moveaxis(x, axis, -1) @ matrix.T, -1, axis)
    return x


def _places(n: int, count: int, factor: float, rule: str) -> Array:
    new = np.arange(count, dtype=np.float64)
    if rule == "align_corners":
        return new * (n - 1) / max(count - 1, 1)
    if rule == "asymmetric":
        return new / factor
    if rule == "pytorch_half_pixel" and count == 1:
        return new
    shift = n / 2 * (1 - count / (factor * n)) if rule == "half_pixel_symmetric" else 0.0
    return np.asarray(shift + (new + 0.5) / factor - 0.5)


def _matrix(places: Array, n: int, mode: str, a: float, inside: bool) -> Array:
    """The weights (new, old): the kernel at all offsets from the entry at or before each place."""
    whole, matrix = np.floor(places).astype(np.int64), np.zeros((len(places), n))
    for offset in (0, 1) if mode == "linear" else (-1, 0, 1, 2):
        t = np.abs(places - (whole + offset))
        near = ((a + 2) * t - (a + 3)) * t**2 + 1
        far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
        weight = 1 - t if mode == "linear" else np.where(t <= 1, near, far)
        outside = (whole + offset < 0) | (whole + offset >= n)
        np.add.at(matrix, (np.arange(len(places)), np.clip(whole + offset, 0, n - 1)), weight * ~(outside & inside))
    return np.asarray(matrix / matrix.sum(1, keepdims=True))
