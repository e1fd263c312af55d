"""Functions made of known ones: hyperbolic functions, tan, powers and logarithms of other bases."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch

from recurjac.activations import Cos, Erf, Exp, Log, Sin
from recurjac.loading.expression import Expression
from recurjac.loading.rewrites.positive import inverse
from recurjac.operators.scale import divided, scaled
from recurjac.registry import onnx_ops, torch_ops


def _hyperbolic(sign: float, x: Expression) -> Any:
    """(exp x + sign · exp(-x)) / 2."""
    down = scaled(x, -1.0).activate(Exp())
    return divided(x.activate(Exp()).plus(scaled(down, sign)), 2.0)


torch_ops.reads("aten.sinh.default")(partial(_hyperbolic, -1.0))
torch_ops.reads("aten.cosh.default")(partial(_hyperbolic, 1.0))
onnx_ops.reads("Sinh")(partial(_hyperbolic, -1.0))
onnx_ops.reads("Cosh")(partial(_hyperbolic, 1.0))


@torch_ops.reads("aten.tan.default")
@onnx_ops.reads("Tan")
def _tan(x: Expression) -> Any:
    settled = x.settled()
    return settled.activate(Sin()).times(inverse(settled.activate(Cos())))


def _logarithm(base: float, x: Expression) -> Any:
    x.builder.rounded = True  # the logarithm of the base is
    return divided(x.activate(Log()), math.log(base))


torch_ops.reads("aten.log2.default")(partial(_logarithm, 2.0))
torch_ops.reads("aten.log10.default")(partial(_logarithm, 10.0))


@torch_ops.reads("aten.pow.Scalar")
def _exponential(base: float, x: Expression) -> Any:
    """base to the power x."""
    if not base > 0:
        raise ValueError(f"a power of {base}; the base must be positive")
    x.builder.rounded = True
    return scaled(x, math.log(base)).activate(Exp())


torch_ops.reads("aten.exp2.default")(partial(_exponential, 2.0))


@torch_ops.reads("aten.erfc.default")
def _erfc(x: Expression) -> Any:
    return scaled(x.activate(Erf()), -1.0).shift(torch.ones((), dtype=x.dtype, device=x.device))
