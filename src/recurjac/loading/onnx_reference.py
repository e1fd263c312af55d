"""Evaluating ONNX nodes by `onnx.reference`, with other kernels where its own are wrong, slow or need too much memory.

In onnx 1.23, these are wrong: transposed convolutions with groups, GatherElements of wide tensors, MaxPool and
AveragePool with auto_pad or ceil_mode, GlobalMaxPool of volumes, and BatchNormalization before opset 14.  These are
missing: negative pads, Upsample by an attribute, Resize of opset 10, DequantizeLinear before opset 19, RNN with
ReLUs.  Erf, the constants of Gelu and HardSwish and the weights of Resize are rounded to float32.  Pools and GatherND
loop over their entries in Python, and a dilated convolution stores the whole kernel including its holes.  The kernels
here share no code with the operators of the normal form, which is checked against them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor

from recurjac.loading.messages import first_line
from recurjac.loading.onnx_reference_norms import group_norm, local_response, lp_normalization, mean_variance
from recurjac.loading.onnx_reference_resize import resized, upsampled

Array = np.ndarray[Any, Any]
Sizes = Sequence[int] | None
Real = float | np.float32

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def evaluator(model: Any) -> Any:
    """An object that evaluates a model.  Raises ValueError if there is none, also for branches that are not taken."""
    from onnx.reference import ReferenceEvaluator

    try:
        return ReferenceEvaluator(model, new_ops=list(_kernels()))
    except Exception as error:  # a file can cause any exception
        raise ValueError(f"onnx.reference fails on it: {first_line(error)}") from error


def evaluate(evaluator: Any, feeds: dict[str, Any]) -> list[Any]:
    """The results of an evaluator, whose output and warnings are suppressed.  Raises ValueError if it fails."""
    try:
        with np.errstate(all="ignore"), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return list(evaluator.run(None, feeds))
    except Exception as error:  # a file can cause any exception
        raise ValueError(f"onnx.reference fails on it: {first_line(error)}") from error


@cache
def _kernels() -> tuple[type[Any], ...]:
    """The kernels, as classes named after the operators that they replace."""
    from onnx.reference.op_run import OpRun
    from onnx.reference.ops.op_resize import Resize

    def kernel(name: str, function: Any) -> type[Any]:
        def run(self: Any, *args: Any, **how: Any) -> tuple[Array, ...]:
            """The first result, and zeros in place of the other results, which are never used."""
            return (function(*args, **how), *(np.zeros(1) for _ in self.output[1:]))

        return type(name, (OpRun,), {"op_domain": "", "_run": run})

    def resize(self: Any, x: Array, *args: Any, **how: Any) -> tuple[Array, ...]:
        """In opset 10, the second of two inputs is the scales; in later opsets, it is the region."""
        if len(args) == 1:
            return (upsampled(x, args[0], how.get("mode")),)
        if how.get("mode") in ("linear", "cubic"):
            scales, sizes = (*args, None)[1:3]
            return (resized(x, scales, sizes, how.get("axes"), how),)
        found: tuple[Array, ...] = Resize._run(self, x, *args, **how)
        return found

    own = {
        "Conv": _conv, "ConvTranspose": _conv_transpose, "AveragePool": _average_pool, "MaxPool": _max_pool,
        "GlobalMaxPool": _global_max_pool, "GatherElements": _gather_elements, "GatherND": _gather_nd, "Pad": _pad,
        "DequantizeLinear": _dequantize, "Upsample": upsampled, "BatchNormalization": _batch_norm, "Erf": _erf,
        "Gelu": _gelu, "HardSwish": _hard_swish, "GroupNormalization": group_norm, "LpNormalization": lp_normalization,
        "MeanVarianceNormalization": mean_variance, "LRN": local_response,
    }  # fmt: skip
    changed = type("Resize", (Resize,), {"op_domain": "", "_run": resize})
    return (*(kernel(*item) for item in own.items()), changed, _rnn(), *_attention())


def _rnn() -> type[Any]:
    """A kernel of RNN that has ReLUs."""
    from onnx.reference.ops.op_rnn import CommonRNN

    known: Any = CommonRNN.choose_act

    def chosen(self: Any, name: str, alpha: Any, beta: Any) -> Any:
        return (lambda x: np.maximum(x, 0)) if name.lower() == "relu" else known(self, name, alpha, beta)

    return type("RNN", (CommonRNN,), {"op_domain": "", "choose_act": chosen})


def _attention() -> tuple[type[Any], ...]:
    """A kernel of Attention that takes its scale in float64; none if this version of onnx has no Attention."""
    try:
        from onnx.reference.ops.op_attention import Attention_23
    except ImportError:
        return ()
    evaluate: Any = Attention_23._run

    def run(self: Any, *args: Any, **how: Any) -> tuple[Array, ...]:
        wide = {k: float(v) if k == "scale" and v is not None else v for k, v in how.items()}
        return tuple(evaluate(self, *args, **wide))

    return (type("Attention", (Attention_23,), {"op_domain": "", "_run": run}),)


def _around(
    shape: Sequence[int], reach: Sequence[int], auto_pad: str | None, stride: Sequence[int], pads: Sizes
) -> Any:
    """The padding before and after each axis."""
    axes = len(reach)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        sizes = zip(shape, reach, stride, strict=True)
        total = [max(0, ((n + s - 1) // s - 1) * s + r - n) for n, r, s in sizes]
        less, more = [t // 2 for t in total], [(t + 1) // 2 for t in total]
        return (less, more) if auto_pad == "SAME_UPPER" else (more, less)
    if auto_pad == "VALID" or pads is None:
        return [0] * axes, [0] * axes
    return list(pads[:axes]), list(pads[axes:])


def _padded(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    around = [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]
    return F.pad(x, around, value=value)


def _conv(
    x: Array, w: Array, b: Array | None = None, auto_pad: str | None = None, dilations: Sizes = None,
    group: int | None = None, pads: Sizes = None, strides: Sizes = None, **_: Any,
) -> Array:  # fmt: skip
    axes = w.ndim - 2
    stride, dilation = list(strides or [1] * axes), list(dilations or [1] * axes)
    reach = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilation, strict=True)]
    before, after = _around(x.shape[2:], reach, auto_pad, stride, pads)
    bias = None if b is None else torch.from_numpy(b)
    inner = _padded(torch.from_numpy(x), before, after)
    y: Tensor = _CONV[axes](inner, torch.from_numpy(w), bias, stride, 0, dilation, group or 1)
    return y.numpy()


def _conv_transpose(
    x: Array, w: Array, b: Array | None = None, dilations: Sizes = None, group: int | None = None,
    output_padding: Sizes = None, pads: Sizes = None, strides: Sizes = None, **_: Any,
) -> Array:  # fmt: skip
    """A transposed convolution without auto_pad and output_shape, which are not read."""
    axes = w.ndim - 2
    stride, dilation = list(strides or [1] * axes), list(dilations or [1] * axes)
    extra = list(output_padding or [0] * axes)
    bias = None if b is None else torch.from_numpy(b)
    whole: Tensor = _TRANSPOSED[axes](
        torch.from_numpy(x), torch.from_numpy(w), bias, stride, 0, extra, group or 1, dilation
    )
    before, after = _around(x.shape[2:], w.shape[2:], None, stride, pads)
    keep = [slice(b, n - a) for b, n, a in zip(before, whole.shape[2:], after, strict=True)]
    return whole[(slice(None), slice(None), *keep)].numpy()


def _windows(
    x: Tensor, fill: float, kernel: Sequence[int], auto_pad: str | None, ceil_mode: int | None, dilations: Sizes,
    pads: Sizes, strides: Sizes, inside: float | None = None,
) -> Tensor:  # fmt: skip
    """The windows of a pool, (…, positions…, window entries).

    Entries beyond the padding are `fill`; entries of the padding are `inside`, or `fill` if that is None.
    """
    axes = len(kernel)
    stride, dilation = list(strides or [1] * axes), list(dilations or [1] * axes)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    before, after = _around(x.shape[2:], reach, auto_pad, stride, pads)
    x = _padded(x, before, after, fill if inside is None else inside)
    counts = []
    for n, r, s, a in zip(x.shape[2:], reach, stride, after, strict=True):
        counts.append((n - r) // s + 1)
        if ceil_mode and (n - r) % s and counts[-1] * s < n - a:  # it starts in the input or in the first padding
            counts[-1] += 1
    hang = [max(0, (c - 1) * s + r - n) for c, s, r, n in zip(counts, stride, reach, x.shape[2:], strict=True)]
    x = _padded(x, [0] * axes, hang, fill)
    for axis, (c, r, s, d) in enumerate(zip(counts, reach, stride, dilation, strict=True), 2):
        x = x.unfold(axis, r, s).narrow(axis, 0, c)[..., ::d]
    return x.flatten(-axes)


def _max_pool(
    x: Array, auto_pad: str | None = None, ceil_mode: int | None = None, dilations: Sizes = None,
    kernel_shape: Sizes = None, pads: Sizes = None, strides: Sizes = None, **_: Any,
) -> Array:  # fmt: skip
    shown = _windows(torch.from_numpy(x), -np.inf, kernel_shape or (), auto_pad, ceil_mode, dilations, pads, strides)
    return shown.amax(-1).numpy()


def _global_max_pool(x: Array) -> Array:
    return np.asarray(x.max(axis=tuple(range(2, x.ndim)), keepdims=True))


def _average_pool(
    x: Array, auto_pad: str | None = None, ceil_mode: int | None = None, count_include_pad: int | None = None,
    dilations: Sizes = None, kernel_shape: Sizes = None, pads: Sizes = None, strides: Sizes = None,
) -> Array:  # fmt: skip
    whole = torch.from_numpy(x)
    how = (kernel_shape or (), auto_pad, ceil_mode, dilations, pads, strides)
    total = _windows(whole, 0.0, *how).sum(-1)
    seen = _windows(torch.ones_like(whole[:1, :1]), 0.0, *how, inside=1.0 if count_include_pad else 0.0).sum(-1)
    return (total / seen).numpy()


def _gather_elements(data: Array, indices: Array, axis: int | None = None) -> Array:
    """GatherElements; along the other axes, `indices` may be shorter than `data`."""
    along = (axis or 0) % data.ndim
    part = tuple(slice(None) if d == along else slice(0, n) for d, n in enumerate(indices.shape))
    return np.take_along_axis(data[part], indices, along)


def _gather_nd(data: Array, indices: Array, batch_dims: int | None = None) -> Array:
    """GatherND; the last axis of `indices` gives positions on the axes after the batch axes."""
    b = batch_dims or 0
    batches, named = math.prod(data.shape[:b]), indices.shape[-1]
    place = indices.reshape(batches, -1, named)
    flat = data.reshape(batches, *data.shape[b:])
    found: Array = flat[(np.arange(batches)[:, None], *np.moveaxis(place, -1, 0))]
    return found.reshape(*indices.shape[:-1], *data.shape[b + named :])


def _dequantize(
    x: Array, scale: Array, zero: Array | None = None, axis: int | None = None, block_size: int | None = None, **_: Any
) -> Array:
    """(x - zero) · scale; one scale for all, or for each entry or block of entries of an axis."""
    along = (1 if axis is None else axis) % max(x.ndim, 1)
    place = np.arange(x.shape[along] if x.ndim else 1)

    def whole(t: Array) -> Array:
        if t.size == 1:
            return t.reshape(()).astype(np.float64)
        if block_size:
            every = np.take(t.astype(np.float64), place // block_size, along)
            return np.asarray(every.reshape(x.shape))
        return np.asarray(t.astype(np.float64).reshape(len(place), *[1] * (x.ndim - along - 1)))

    return np.asarray((x - (0.0 if zero is None else whole(zero))) * whole(scale))


def _erf(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf, otypes=[x.dtype])(x))


def _gelu(x: Array, approximate: str | None = None) -> Array:
    if approximate == "tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))


def _hard_swish(x: Array) -> Array:
    return x * np.clip(x / 6 + 0.5, 0, 1)


def _batch_norm(x: Array, scale: Array, bias: Array, mean: Array, variance: Array, epsilon: Real, **_: Any) -> Array:
    """Batch normalisation by the given statistics, the only form that is read."""
    s, b, m, v = (t.reshape(-1, *[1] * (x.ndim - 2)) for t in (scale, bias, mean, variance))
    return np.asarray((x - m) / np.sqrt(v + epsilon) * s + b)


def _pad(
    x: Array, pads: Any = None, constant: Any = None, axes: Any = None, mode: str | None = None, value: Real = 0.0
) -> Array:
    """Padding of all or some axes; a negative pad removes entries."""
    chosen = list(range(x.ndim)) if axes is None else [int(a) for a in axes]
    for axis, before, after in zip(chosen, pads[: len(chosen)], pads[len(chosen) :], strict=True):
        x = np.take(x, np.arange(max(0, -before), x.shape[axis] - max(0, -after)), axis)
        widths = [(0, 0)] * x.ndim
        widths[axis] = (max(0, before), max(0, after))
        fill = {"constant_values": value if constant is None else constant.item()} if mode in (None, "constant") else {}
        x = np.pad(x, widths, mode=mode or "constant", **fill)  # type: ignore[call-overload]
    return x
