"""Readers of what autograd computes: derivatives of activations, of convolutions, and of selections.

An operation `NAME_backward` takes the covector at NAME's output to the one at its input.  That of an activation
multiplies it by σ'(z), a stage of its own (docs/mathematics.md, §9.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from recurjac.activations import (
    GELU,
    AbstractActivation,
    GELUTanh,
    LogSigmoid,
    Sigmoid,
    Softplus,
    Tanh,
)
from recurjac.loading.derivatives import slope_of
from recurjac.loading.rewrites.forms import form, node_of
from recurjac.loading.rewrites.products import product
from recurjac.operators.convolution import Convolution, Geometry, convolved, spread
from recurjac.operators.gather import gather
from recurjac.operators.scale import is_constant, scaled
from recurjac.registry import Expression, Unread, torch_ops

aten = torch.ops.aten


def _through(activation: AbstractActivation, covector: Any, z: Any) -> Any:
    """The covector times σ'(z), entry by entry."""
    if is_constant(z):
        raise ValueError("a derivative at a point that does not depend on the input")
    slope = slope_of(activation, z)
    return scaled(slope, covector) if is_constant(covector) else product(covector, slope)


@torch_ops.reads("aten.softplus_backward.default")
def _softplus(covector: Any, z: Any, beta: float, threshold: float) -> Any:
    """PyTorch's `threshold`, beyond which the derivative is 1, changes it by less than exp(-threshold)."""
    if threshold < 20:
        raise ValueError(f"softplus with threshold={threshold}, where it jumps; only 20 (the default) or more is read")
    return _through(Softplus(float(beta)), covector, z)


@torch_ops.reads("aten.gelu_backward.default")
def _gelu(covector: Any, z: Any, *, approximate: str = "none") -> Any:
    return _through(GELU() if approximate == "none" else GELUTanh(), covector, z)


@torch_ops.reads("aten.log_sigmoid_backward.default")
def _log_sigmoid(covector: Any, z: Any, _stored: Any) -> Any:
    return _through(LogSigmoid(), covector, z)


def _of_result(activation: AbstractActivation, covector: Any, y: Any) -> Any:
    """The covector times σ'(z) where y = σ(z)."""
    node = None if is_constant(y) else node_of(form(y), y.builder)
    if node is None or node.stage.activation != activation or (node.factor, node.shift) != (1.0, 0.0):
        raise ValueError(f"the derivative of what is no {activation.name} of the network")
    return _through(activation, covector, node.argument(y))


torch_ops.reads("aten.tanh_backward.default")(partial(_of_result, Tanh()))
torch_ops.reads("aten.sigmoid_backward.default")(partial(_of_result, Sigmoid()))


def _placed(operation: Callable[..., Tensor], covector: Expression, sizes: Sequence[int], *args: int) -> Any:
    """The covector in the place of the entries that the operation selects from a tensor of the given sizes, else 0."""
    return covector.apply(gather(lambda t: operation(t, *args), tuple(sizes)).transpose())


torch_ops.reads("aten.select_backward.default")(partial(_placed, aten.select.int))
torch_ops.reads("aten.slice_backward.default")(partial(_placed, aten.slice.Tensor))


@torch_ops.reads("aten.convolution_backward.default")
def _convolution(
    covector: Any, x: Any, weight: Tensor, _bias: Any, stride: Any, padding: Any, dilation: Any, backwards: bool,
    _extra: Any, groups: int, _wanted: Any,
) -> Any:  # fmt: skip
    """The covector at the input of a convolution; those at its weights do not depend on the input's derivative."""
    axes = weight.dim() - 2
    geometry = Geometry(spread(stride, axes), spread(padding, axes), spread(dilation, axes), groups)
    covector = x.constant(covector) if is_constant(covector) else covector
    if backwards:
        found = convolved(covector, weight, geometry)
    else:
        operator = Convolution(weight, tuple(x.shape[1:]), geometry).transpose()
        inner = covector.apply(gather(lambda t: t[0], covector.shape)).apply(operator)
        found = inner.apply(gather(lambda t: t.unsqueeze(0), operator.out_shape))
    nothing = Unread("the derivative of a convolution along its weights")
    return [found, nothing, nothing]
