"""Evaluating ONNX's less usual normalisations; those of `onnx.reference` are wrong, or in float32.

In onnx 1.23, LpNormalization has the l2 norm for every p, LRN reads other channels, and the constants of
GroupNormalization and MeanVarianceNormalization are float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Real = float | np.float32


def group_norm(x: Array, scale: Array, bias: Array, epsilon: Real = 1e-5, num_groups: int = 1, **_: Any) -> Array:
    rows = x.reshape(x.shape[0], num_groups, -1)
    centred = rows - rows.mean(2, keepdims=True)
    flat = centred / np.sqrt((centred**2).mean(2, keepdims=True) + float(epsilon))
    channels, after = x.shape[1], [1] * (x.ndim - 2)
    s, b = (np.repeat(t, channels // len(t)).reshape(1, channels, *after) for t in (scale, bias))
    return np.asarray(flat.reshape(x.shape) * s + b)


def lp_normalization(x: Array, axis: int | None = None, p: int | None = None) -> Array:
    along = -1 if axis is None else axis
    return np.asarray(x / np.linalg.norm(x, 1 if p == 1 else 2, along, keepdims=True))


def mean_variance(x: Array, axes: Any = None) -> Array:
    over = tuple((0, 2, 3) if axes is None else axes)
    centred = x - x.mean(over, keepdims=True)
    return np.asarray(centred / (np.sqrt((centred**2).mean(over, keepdims=True)) + 1e-9))


def local_response(
    x: Array, alpha: Real | None = None, beta: Real | None = None, bias: Real | None = None, size: int = 1
) -> Array:
    a, b, k = (d if v is None else float(v) for v, d in ((alpha, 1e-4), (beta, 0.75), (bias, 1.0)))
    total, channels = np.zeros_like(x), x.shape[1]
    for c in range(channels):
        total[:, c] = (x[:, max(0, c - (size - 1) // 2) : c + size // 2 + 1] ** 2).sum(1)
    return np.asarray(x / (k + a / size * total) ** b)
