"""Exact rewrites of clipping to a range."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recurjac.activations import HardTanh, ReLU
from recurjac.loading.expression import Expression
from recurjac.loading.rewrites.forms import form, node_of
from recurjac.loading.rewrites.maximum import maximum, minimum
from recurjac.operators.scale import divided, scaled
from recurjac.registry import onnx_ops, torch_ops


@torch_ops.reads("aten.clamp.default", "aten.clamp_.default", "aten.clip.default", "aten.clamp.Tensor")
@onnx_ops.reads("Clip")
def clip(x: Any, min: Any = None, max: Any = None) -> Expression:
    """min(max(x, low), high): an activation if both ends are numbers, otherwise one or two ReLUs."""
    if isinstance(x, Tensor):
        x = next(b for b in (min, max) if isinstance(b, Expression)).constant(x)
    low, high = _number(min, -torch.inf), _number(max, torch.inf)
    if isinstance(low, float) and isinstance(high, float):
        return _between(x, low, high)
    y = x if isinstance(low, float) and low == -torch.inf else maximum(x, _expression(x, low))
    return y if isinstance(high, float) and high == torch.inf else minimum(y, _expression(x, high))


@torch_ops.reads("aten.clamp_min.default", "aten.clamp_min_.default")
def _clamp_min(x: Expression, low: float) -> Any:
    return clip(x, low)


@torch_ops.reads("aten.clamp_max.default", "aten.clamp_max_.default")
def _clamp_max(x: Expression, high: float) -> Any:
    return clip(x, None, high)


@torch_ops.reads("aten.hardsigmoid.default", "aten.hardsigmoid_.default")
def _hard_sigmoid(x: Expression) -> Any:
    """relu6(x + 3) / 6."""
    return divided(_between(x.shift(torch.tensor(3.0)), 0.0, 6.0), 6.0)


@onnx_ops.reads("HardSigmoid")
def _onnx_hard_sigmoid(x: Expression, *, alpha: float = 0.2, beta: float = 0.5) -> Any:
    """clip(alpha x + beta, 0, 1)."""
    return _between(scaled(x, alpha).shift(torch.tensor(beta, dtype=torch.float64)), 0.0, 1.0)


@torch_ops.reads("aten.threshold.default", "aten.threshold_.default")
def _threshold(x: Expression, threshold: float, value: float) -> Any:
    """x where x > threshold, otherwise `value`; without a jump, it is a maximum."""
    if threshold != value:
        raise ValueError(
            f"a threshold of {threshold} with the value {value} below it, where it jumps; use relu or clamp"
        )
    return clip(x, float(value))


@onnx_ops.reads("ThresholdedRelu")
def _thresholded_relu(x: Expression, *, alpha: float = 1.0) -> Any:
    return _threshold(x, alpha, 0.0)


@torch_ops.reads("aten.softshrink.default")
def _soft_shrink(x: Expression, lambd: float = 0.5) -> Any:
    """x - clip(x, -lambd, lambd)."""
    return x.plus(scaled(_between(x, -float(lambd), float(lambd)), -1.0)) if lambd else x


@onnx_ops.reads("Shrink")
def _shrink(x: Expression, *, bias: float = 0.0, lambd: float = 0.5) -> Any:
    if bias != lambd:
        raise ValueError(f"a shrink by {bias} beyond {lambd}, where it jumps; use equal numbers")
    return _soft_shrink(x, lambd)


def _number(bound: Any, absent: float) -> Any:
    """A bound as a float if it is a single number, otherwise unchanged.  Raises ValueError if it is NaN."""
    if bound is None:
        return absent
    value = float(bound) if not isinstance(bound, Tensor | Expression) or getattr(bound, "numel", int)() == 1 else bound
    if isinstance(value, float) and value != value:
        raise ValueError("a clip to NaN")
    return value


def _expression(x: Expression, bound: Any) -> Expression:
    if isinstance(bound, Expression):
        return bound
    return x.constant(torch.as_tensor(bound, dtype=x.dtype, device=x.device))


def _between(x: Expression, low: float, high: float) -> Expression:
    """min(max(x, low), high) for two numbers; if low >= high, the result is high."""
    at_low, at_high = (torch.tensor(v, dtype=torch.float64) for v in (low, high))
    if low >= high:
        return x.constant(at_high.expand(x.shape))
    if low == -torch.inf and high == torch.inf:
        return x
    if high == torch.inf:
        return x.shift(-at_low).activate(ReLU()).shift(at_low)
    if low == -torch.inf:
        # a ReLU plus at most one constant, without products: its parts are found without rounding
        operators = [e.operator for e in x.edges] + [c.operator for c in x.constants]
        plain = len(x.constants) <= 1 and not any(o.multiply_adds() for o in operators)
        below = node_of(form(x), x.builder) if plain else None
        if below is not None and isinstance(below.stage.activation, ReLU) and below.factor == 1 and below.shift < high:
            # x is already clipped from below: use one activation for both ends
            return _between(below.argument(x).shift(torch.tensor(below.shift, dtype=torch.float64)), below.shift, high)
        flipped: Expression = scaled(scaled(x, -1.0).shift(at_high).activate(ReLU()), -1.0)
        return flipped.shift(at_high)
    return x.activate(HardTanh(low, high))
