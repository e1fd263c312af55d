"""ONNX's description of windows (kernel, strides, pads, auto_pad), and the readers of its convolutions and pools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.loading.readers.sums import average_pool, mean_over, sum_over
from recurjac.operators.convolution import Geometry, convolved, transposed, with_bias
from recurjac.operators.gather import gather
from recurjac.operators.scale import divided
from recurjac.registry import Expression, onnx_ops


@final
@dataclass(frozen=True)
class Frame:
    """The placement of windows: stride, dilation, padding before and after, with one number per axis."""

    stride: Shape
    dilation: Shape
    before: Shape
    after: Shape

    @classmethod
    def read(
        cls, spatial: Shape, kernel: Sequence[int], auto_pad: str, strides: Any, dilations: Any, pads: Any
    ) -> Frame:
        """The frame that ONNX's attributes define for inputs of `spatial` positions.

        Raises ValueError if they do not fit.
        """
        axes = len(kernel)
        stride, dilation = tuple(strides or (1,) * axes), tuple(dilations or (1,) * axes)
        around = tuple(pads or (0,) * (2 * axes))
        if not len(spatial) == len(stride) == len(dilation) == axes == len(around) // 2:
            raise ValueError(f"windows of {tuple(kernel)} with strides {stride}, pads {around} on {spatial} positions")
        if min(*stride, *dilation, *kernel) < 1 or min(around) < 0:
            raise ValueError(f"windows of {tuple(kernel)} with strides {stride}, dilations {dilation}, pads {around}")
        if auto_pad in ("NOTSET", ""):
            return cls(stride, dilation, around[:axes], around[axes:])
        if auto_pad == "VALID":
            return cls(stride, dilation, (0,) * axes, (0,) * axes)
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        total = [max(0, (-(-n // s) - 1) * s + r - n) for n, s, r in zip(spatial, stride, reach, strict=True)]
        small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        if auto_pad == "SAME_UPPER":
            return cls(stride, dilation, small, large)
        if auto_pad == "SAME_LOWER":
            return cls(stride, dilation, large, small)
        raise ValueError(f"auto_pad={auto_pad}")

    @property
    def even(self) -> bool:
        """Whether the padding is the same on both sides."""
        return self.before == self.after


def padded(x: Expression, before: Shape, after: Shape) -> Any:
    """`x` padded with zeros along its last axes."""
    around = [n for b, a in zip(reversed(before), reversed(after), strict=True) for n in (b, a)]
    check_padding(x.shape, before, after)
    return x.apply(gather(lambda t: torch.nn.functional.pad(t, around), x.shape))


def check_padding(shape: Shape, before: Shape, after: Shape) -> None:
    """Raise ValueError if a padding is far larger than the axis that it pads."""
    for n, b, a in zip(shape[len(shape) - len(before) :], before, after, strict=True):
        if b + a > 16 * n + 64:
            raise ValueError(f"a padding of {b} and {a} around {n} positions")


def check_kernel(weight: Tensor, kernel_shape: Any) -> None:
    """Raise ValueError if the attribute `kernel_shape` differs from the shape of the kernel."""
    if kernel_shape is not None and tuple(kernel_shape) != tuple(weight.shape[2:]):
        raise ValueError(f"kernel_shape={tuple(kernel_shape)} with a kernel of shape {tuple(weight.shape)}")


@onnx_ops.reads("Conv")
def _conv(
    x: Expression, weight: Tensor, bias: Tensor | None = None, *, auto_pad: str = "NOTSET", dilations: Any = None,
    group: int = 1, kernel_shape: Any = None, pads: Any = None, strides: Any = None,
) -> Any:  # fmt: skip
    if not isinstance(weight, Tensor):
        raise ValueError("a convolution with a kernel that depends on the input; only constant kernels are read")
    check_kernel(weight, kernel_shape)
    frame = Frame.read(x.shape[2:], weight.shape[2:], auto_pad, strides, dilations, pads)
    check_padding(x.shape, frame.before, frame.after)
    inner = x if frame.even else padded(x, frame.before, frame.after)
    around = frame.before if frame.even else (0,) * len(frame.stride)
    return with_bias(convolved(inner, weight, Geometry(frame.stride, around, frame.dilation, group)), bias)


@onnx_ops.reads("ConvTranspose")
def _conv_transpose(
    x: Expression, weight: Tensor, bias: Tensor | None = None, *, auto_pad: str = "NOTSET", dilations: Any = None,
    group: int = 1, kernel_shape: Any = None, output_padding: Any = None, output_shape: Any = None, pads: Any = None,
    strides: Any = None,
) -> Any:  # fmt: skip
    if not isinstance(weight, Tensor):
        raise ValueError("a convolution with a kernel that depends on the input; only constant kernels are read")
    if auto_pad not in ("NOTSET", "VALID", "") or output_shape is not None:
        raise ValueError(f"a transposed convolution with auto_pad={auto_pad} or an output_shape; give its pads")
    check_kernel(weight, kernel_shape)
    frame = Frame.read(x.shape[2:], weight.shape[2:], auto_pad, strides, dilations, pads)
    extra = tuple(output_padding or (0,) * len(frame.stride))
    if frame.even:
        geometry = Geometry(frame.stride, frame.before, frame.dilation, group)
        return with_bias(transposed(x, weight, geometry, extra), bias)
    geometry = Geometry(frame.stride, (0,) * len(frame.stride), frame.dilation, group)
    y = transposed(x, weight, geometry, extra)
    keep = [slice(b, n - a) for n, b, a in zip(y.shape[2:], frame.before, frame.after, strict=True)]
    if any(k.start >= k.stop for k in keep):
        raise ValueError(f"a transposed convolution with pads {pads} leaves no positions of {tuple(y.shape[2:])}")
    return with_bias(y.apply(gather(lambda t: t[(slice(None), slice(None), *keep)], y.shape)), bias)


@onnx_ops.reads("AveragePool")
def _average_pool(
    x: Expression, *, kernel_shape: Any, auto_pad: str = "NOTSET", ceil_mode: int = 0, count_include_pad: int = 0,
    dilations: Any = None, pads: Any = None, strides: Any = None,
) -> Any:  # fmt: skip
    frame = Frame.read(x.shape[2:], kernel_shape, auto_pad, strides, dilations, pads)
    return average_pool(x, tuple(kernel_shape), frame.stride, frame.before, frame.after, frame.dilation,
                        bool(ceil_mode), bool(count_include_pad))  # fmt: skip


@onnx_ops.reads("GlobalAveragePool")
def _global_average_pool(x: Expression) -> Any:
    return mean_over(x, range(2, len(x.shape)), True)


def reduced(x: Expression, axes: Any, keepdims: int, noop: int) -> tuple[Sequence[int], bool]:
    """The axes of a reduction, from an attribute or input; an empty list means all axes, or no axes with `noop`."""
    named = [int(a) for a in (axes.flatten().tolist() if isinstance(axes, Tensor) else axes or ())]
    return (named or ([] if noop else range(len(x.shape)))), bool(keepdims)


@onnx_ops.reads("ReduceSum")
def _reduce_sum(x: Expression, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
    return sum_over(x, *reduced(x, axes, keepdims, noop_with_empty_axes))


@onnx_ops.reads("ReduceMean")
def _reduce_mean(x: Expression, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
    return mean_over(x, *reduced(x, axes, keepdims, noop_with_empty_axes))


@onnx_ops.reads("Mean")
def _mean(*terms: Any) -> Any:
    total = onnx_ops.readers["Sum"](*terms)
    return divided(total, float(len(terms)))
