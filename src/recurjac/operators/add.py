"""Sums and differences of branches and constants: they add edges or biases, no operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recurjac.operators.scale import scaled
from recurjac.reading import torch_ops


@torch_ops.reads("aten.add.Tensor", "aten.add_.Tensor", "aten.add.Scalar")
def _add(x: Any, y: Any, *, alpha: float = 1) -> Any:
    if isinstance(x, Tensor | float | int):
        return (y if alpha == 1 else scaled(y, alpha)).shift(_constant(x, y))
    if isinstance(y, Tensor | float | int):
        if abs(alpha) != 1:
            raise ValueError(f"a constant is added with alpha={alpha}; only 1 and -1 are read")
        return x.shift(alpha * _constant(y, x))
    return x.plus(y if alpha == 1 else scaled(y, alpha))


@torch_ops.reads("aten.sub.Tensor", "aten.sub_.Tensor", "aten.sub.Scalar")
def _sub(x: Any, y: Any, *, alpha: float = 1) -> Any:
    return _add(x, y, alpha=-alpha)


@torch_ops.reads("aten.rsub.Scalar", "aten.rsub.Tensor")
def _rsub(x: Any, y: Any, alpha: float = 1) -> Any:
    return _add(y, x, alpha=-alpha)


def _constant(value: Tensor | float, like: Any) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype)
