"""Sums and differences of branches and constants, which add edges or biases but no operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recurjac.operators.scale import is_constant, scaled
from recurjac.registry import onnx_ops, torch_ops


@torch_ops.reads("aten.add.Tensor", "aten.add_.Tensor", "aten.add.Scalar")
def add(x: Any, y: Any, *, alpha: float = 1) -> Any:
    """x + alpha y."""
    if is_constant(x):
        return scaled(y, alpha).shift(_tensor(x, y))
    if is_constant(y):
        if alpha != 1:  # keep the constant itself, because it may be a parameter that changes
            return x.plus(scaled(x.constant(_tensor(y, x)), alpha))
        return x.shift(_tensor(y, x))
    return x.plus(scaled(y, alpha))


@torch_ops.reads("aten.sub.Tensor", "aten.sub_.Tensor", "aten.subtract.Tensor")
def _sub(x: Any, y: Any, *, alpha: float = 1) -> Any:
    return add(x, y, alpha=-alpha)


@torch_ops.reads("aten.rsub.Scalar", "aten.rsub.Tensor")
def _rsub(x: Any, y: Any, alpha: float = 1) -> Any:
    return add(y, x, alpha=-alpha)


@onnx_ops.reads("Add")
def _onnx_add(x: Any, y: Any) -> Any:
    return add(x, y)


@onnx_ops.reads("Sub")
def _onnx_sub(x: Any, y: Any) -> Any:
    return add(x, y, alpha=-1)


@onnx_ops.reads("Sum")
def _onnx_sum(*terms: Any) -> Any:
    total = terms[0]
    for term in terms[1:]:
        total = add(total, term) if not (is_constant(total) and is_constant(term)) else total + term
    return total


def _tensor(value: Tensor | float, like: Any) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)
