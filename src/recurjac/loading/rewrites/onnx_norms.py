"""ONNX's other normalisations: of groups, by lengths, and of neighbouring channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recurjac.loading.expression import Expression
from recurjac.loading.readers.sums import mean_over
from recurjac.loading.rewrites.domain import norm_over, power
from recurjac.loading.rewrites.norms import variance
from recurjac.loading.rewrites.positive import power_of_positive
from recurjac.loading.rewrites.products import squared
from recurjac.operators.gather import positions, summed
from recurjac.operators.scale import scaled
from recurjac.registry import onnx_ops, torch_ops


@onnx_ops.reads("GroupNormalization")
def _group_norm(x: Expression, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, **_: Any) -> Any:
    """Scales and biases of channels; before opset 21, of groups."""
    channels = x.shape[1]
    if any(t.numel() not in (channels, num_groups) for t in (scale, bias)):
        raise ValueError(f"a normalisation of {channels} channels with {scale.numel()} scales")
    weights = [t if t.numel() == channels else t.repeat_interleave(channels // num_groups) for t in (scale, bias)]
    return torch_ops.readers["aten.group_norm.default"](x, num_groups, *weights, epsilon)


@onnx_ops.reads("LpNormalization")
def _lp_normalization(x: Expression, *, p: int = 2, axis: int = -1) -> Any:
    return onnx_ops.readers["Div"](x, norm_over(x, float(p), [axis], True))


@onnx_ops.reads("MeanVarianceNormalization")
def _mean_variance(x: Expression, *, axes: Sequence[int] = (0, 2, 3)) -> Any:
    deviation = power(variance(x, list(axes), 0.0, True), 0.5)
    centred = x.plus(scaled(mean_over(x, axes, True), -1.0))
    return onnx_ops.readers["Div"](centred, deviation.shift(torch.tensor(1e-9, dtype=torch.float64)))


@onnx_ops.reads("LRN")
def _local_response(x: Expression, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Any:
    """x / (bias + alpha · mean of the squares of `size` channels around)^beta."""
    if not (bias > 0 and alpha > 0 and 0 < beta <= 4 and size > 0):
        raise ValueError(f"a local normalisation with bias={bias}, alpha={alpha}, beta={beta}; they must be positive")
    before = (size - 1) // 2
    around = [0, 0] * (len(x.shape) - 2) + [before, size - 1 - before]
    rows = torch.nn.functional.pad(positions(x.shape), around).unfold(1, size, 1).movedim(-1, 0)
    total = squared(x.settled()).apply(summed(rows, x.shape, x.shape))
    base = scaled(total, alpha / size).shift(torch.tensor(bias, dtype=torch.float64))
    return x.times(power_of_positive(base, -beta))
