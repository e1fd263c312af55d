"""Products and quotients: affine if one factor is constant, an activation if both are of one variable."""

from __future__ import annotations

from typing import Any

from recurjac.operators.scale import divided, is_constant, scaled
from recurjac.reading import onnx_ops, torch_ops


@torch_ops.reads("aten.mul.Tensor", "aten.mul_.Tensor", "aten.multiply.Tensor")
@onnx_ops.reads("Mul")
def _mul(x: Any, y: Any) -> Any:
    if is_constant(x):
        x, y = y, x
    if is_constant(y):
        return scaled(x, y)
    raise ValueError("a product of two tensors that both depend on the input; only constant factors are affine")


@torch_ops.reads("aten.div.Tensor", "aten.div_.Tensor", "aten.divide.Tensor", "aten.true_divide.Tensor")
@onnx_ops.reads("Div")
def _div(x: Any, y: Any) -> Any:
    if is_constant(y):
        return divided(x, y)
    raise ValueError("a division by a tensor that depends on the input; only constant divisors are affine")
