"""Convolutions over one, two or three axes, and their transposes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import Any, Self, final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import check_convolution
from recurjac.operators.base import AbstractLeaf, AbstractOperator
from recurjac.operators.compose import compose
from recurjac.operators.gather import Gather, gather
from recurjac.operators.grids import box_around, cropped, moved_within
from recurjac.registry import Expression, torch_ops
from recurjac.tensors import cast

_FORWARD = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
_BACKWARD = {1: torch.conv_transpose1d, 2: torch.conv_transpose2d, 3: torch.conv_transpose3d}

_MOST = 2**25
"""The maximum number of entries of all patches of an image, because libraries may store the patches side by side."""

_PATCHES = 2**18
"""How many entries of patches of several images stay in the cache of a processor core, about."""

_FRESH = 2**21
"""The number of entries of patches above which their memory is requested from the system each time."""


@final
@dataclass(frozen=True)
class Geometry:
    """The stride, padding (on both sides) and dilation of a convolution, one number per axis, and its groups."""

    stride: Shape
    padding: Shape
    dilation: Shape
    groups: int

    def reach(self, kernel: Sequence[int]) -> Shape:
        """The number of positions that the kernel spans along each axis."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, kernel, strict=True))

    def outputs(self, inputs: Sequence[int], kernel: Sequence[int]) -> Shape:
        """The number of output positions of a convolution along each axis."""
        spans = zip(inputs, self.padding, self.reach(kernel), self.stride, strict=True)
        return tuple((n + 2 * p - r) // s + 1 for n, p, r, s in spans)


@final
@dataclass(frozen=True)
class Convolution(AbstractLeaf):
    """Cross-correlation with `weight` (out channels, in channels / groups, *kernel) of tensors (in channels, *inputs).

    PyTorch's NNPACK is disabled, because it may use Winograd's algorithm (see `arithmetic.check_convolution`).
    """

    weight: Tensor
    inputs: Shape
    geometry: Geometry

    def __post_init__(self) -> None:
        _check(self.weight, self.inputs[0] == self.weight.shape[1] * self.geometry.groups, self.geometry, self.inputs)
        if any(n < 1 for n in self.out_shape):
            raise ValueError(
                f"a kernel of {tuple(self.weight.shape[2:])} is larger than its padded input {self.inputs}"
            )

    @property
    def in_shape(self) -> Shape:
        return self.inputs

    @property
    def out_shape(self) -> Shape:
        kernel = self.weight.shape[2:]
        return (int(self.weight.shape[0]), *self.geometry.outputs(self.inputs[1:], kernel))

    def apply(self, tensor: Tensor) -> Tensor:
        g, lead = self.geometry, tensor.shape[: tensor.dim() - len(self.inputs)]
        flat = tensor.reshape(prod(lead), *self.inputs)
        return _convolve(flat, self.weight, g).reshape((*lead, *self.out_shape))

    def transpose(self) -> TransposedConvolution:
        return TransposedConvolution(self.weight, self.out_shape, self.inputs, self.geometry)

    def absolute(self) -> Convolution:
        return replace(self, weight=self.weight.abs())

    def signs(self) -> Convolution:
        return replace(self, weight=self.weight.detach().sign())

    @property
    def sums_products(self) -> bool:
        return True

    def rows(self, index: Tensor) -> tuple[AbstractOperator, Tensor]:
        """A convolution, without padding, of the part of the input that the box around `index` reads."""
        g, (out, inn) = self.geometry, (self.out_shape[1:], self.inputs[1:])
        first, last, place = box_around(index, out)
        reach = g.reach(self.weight.shape[2:])
        start = [a * s - p for a, s, p in zip(first, g.stride, g.padding, strict=True)]
        stop = [b * s - p + r for b, s, p, r in zip(last, g.stride, g.padding, reach, strict=True)]
        size = tuple(b - a for a, b in zip(start, stop, strict=True))
        crop, read = cropped(self.inputs[0], inn, start, stop, index.device)
        part = Convolution(self.weight, (self.inputs[0], *size), replace(g, padding=(0,) * len(size)))
        return compose(Gather.of(place, part.out_shape), compose(part, crop)), read

    @property
    def summands(self) -> int:
        return prod(self.weight.shape[1:])

    @property
    def local(self) -> bool:
        return True

    def unproved_rounding(self, dtype: torch.dtype, device: torch.device) -> str | None:
        return check_convolution(dtype, device)

    def multiply_adds(self) -> int:
        return self.weight.numel() * prod(self.out_shape[1:])

    def tensors(self) -> Iterable[Tensor]:
        return (self.weight,)

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        return replace(self, weight=cast(self.weight, dtype, device))

    @classmethod
    def examples(cls) -> list[Convolution]:
        g = torch.Generator().manual_seed(0)

        def made(
            weight: Shape, inputs: Shape, stride: Shape, padding: Shape, dilation: Shape, groups: int
        ) -> Convolution:
            kernel = torch.randn(weight, generator=g, dtype=torch.float64)
            return cls(kernel, inputs, Geometry(stride, padding, dilation, groups))

        return [
            made((3, 2, 3), (2, 6), (2,), (1,), (1,), 1),
            made((2, 2, 2, 3), (2, 4, 5), (2, 1), (0, 1), (1, 2), 1),
            made((4, 1, 3, 3), (2, 4, 4), (2, 3), (1, 1), (1, 1), 2),
            made((2, 1, 2, 1, 2), (1, 2, 2, 3), (1, 1, 2), (0, 0, 1), (1, 1, 1), 1),
        ]


@final
@dataclass(frozen=True)
class TransposedConvolution(AbstractLeaf):
    """The transpose of `Convolution(weight, outputs, geometry)`; inputs: (channels of `weight`, *positions)."""

    weight: Tensor
    inputs: Shape
    outputs: Shape
    geometry: Geometry

    def __post_init__(self) -> None:
        _check(self.weight, self.inputs[0] == self.weight.shape[0], self.geometry, self.inputs)
        expected = self.transpose().out_shape
        if expected != self.inputs:
            raise ValueError(f"a convolution of {self.outputs} gives {expected}, not {self.inputs}")

    @property
    def in_shape(self) -> Shape:
        return self.inputs

    @property
    def out_shape(self) -> Shape:
        return self.outputs

    def apply(self, tensor: Tensor) -> Tensor:
        g, lead = self.geometry, tensor.shape[: tensor.dim() - len(self.inputs)]
        reach = g.reach(self.weight.shape[2:])
        spans = zip(self.outputs[1:], self.inputs[1:], g.stride, g.padding, reach, strict=True)
        extra = [o - ((n - 1) * s - 2 * p + r) for o, n, s, p, r in spans]
        flat = tensor.reshape(prod(lead), *self.inputs)
        if self._is_plain:
            return self._mirrored(flat).reshape((*lead, *self.outputs))
        with torch.backends.nnpack.flags(enabled=False):
            y = _BACKWARD[len(g.stride)](flat, self.weight, None, g.stride, g.padding, extra, g.groups, g.dilation)
        return y.reshape((*lead, *self.outputs))

    @property
    def _is_plain(self) -> bool:
        """Whether it is computed as the convolution with the mirrored kernel that it is.

        With as many channels out as in, this takes half to all of the time; with fewer, it takes longer.
        """
        g, reach = self.geometry, self.geometry.reach(self.weight.shape[2:])
        return (
            g.groups == 1
            and self.outputs[0] >= self.inputs[0]
            and all(s == 1 and p < r for s, p, r in zip(g.stride, g.padding, reach, strict=True))
        )

    def _mirrored(self, flat: Tensor) -> Tensor:
        """The products of the same numbers, summed in another order."""
        g, axes = self.geometry, len(self.geometry.stride)
        kernel = self.weight.transpose(0, 1).flip(tuple(range(2, 2 + axes)))
        padding = tuple(r - 1 - p for r, p in zip(g.reach(self.weight.shape[2:]), g.padding, strict=True))
        return _convolve(flat, kernel, replace(g, padding=padding))

    def transpose(self) -> Convolution:
        return Convolution(self.weight, self.outputs, self.geometry)

    def absolute(self) -> TransposedConvolution:
        return replace(self, weight=self.weight.abs())

    def signs(self) -> TransposedConvolution:
        return replace(self, weight=self.weight.detach().sign())

    @property
    def sums_products(self) -> bool:
        return True

    def rows(self, index: Tensor) -> tuple[AbstractOperator, Tensor]:
        """A transposed convolution, without padding, of the part of the input that reaches the box around `index`."""
        g = self.geometry
        first, last, place = box_around(index, self.outputs[1:])
        reach = g.reach(self.weight.shape[2:])
        axes = list(zip(first, last, self.inputs[1:], g.stride, g.padding, reach, strict=True))
        start = [min(max(-(-(a + p - r + 1) // s), 0), n - 1) for a, _, n, s, p, r in axes]
        stop = [max(min((b + p) // s, n - 1) + 1, f + 1) for (_, b, n, s, p, _), f in zip(axes, start, strict=True)]
        crop, read = cropped(self.inputs[0], self.inputs[1:], start, stop, index.device)
        counts = tuple(b - a for a, b in zip(start, stop, strict=True))
        size = tuple((c - 1) * s + r for c, (_, _, _, s, _, r) in zip(counts, axes, strict=True))
        channels = (self.inputs[0], self.outputs[0])
        part = TransposedConvolution(
            self.weight, (channels[0], *counts), (channels[1], *size), replace(g, padding=(0,) * len(size))
        )
        # position i of the whole output is position i + p - start * s of the part; outside the part it is 0
        shift = [a - f * s + p for (a, _, _, s, p, _), f in zip(axes, start, strict=True)]
        return compose(Gather(moved_within(place, first, last, shift, channels[1], size), part.outputs, (len(index),)),
                       compose(part, crop)), read  # fmt: skip

    @property
    def summands(self) -> int:
        """Along an axis, only every (s / gcd(s, d))-th position of the kernel contributes to a given output."""
        g, kernel = self.geometry, self.weight.shape[2:]
        met = [-(-k // (s // gcd(s, d))) for k, s, d in zip(kernel, g.stride, g.dilation, strict=True)]
        return int(self.weight.shape[0]) // g.groups * prod(met)

    @property
    def local(self) -> bool:
        return True

    def unproved_rounding(self, dtype: torch.dtype, device: torch.device) -> str | None:
        return check_convolution(dtype, device)

    def multiply_adds(self) -> int:
        return self.transpose().multiply_adds()

    def tensors(self) -> Iterable[Tensor]:
        return (self.weight,)

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        return replace(self, weight=cast(self.weight, dtype, device))

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(c.weight, c.out_shape, c.inputs, c.geometry) for c in Convolution.examples()]


def _convolve(images: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The convolution of images (count, in channels, *positions), in lots whose patches stay in the cache.

    In float64 on a CPU, PyTorch stores the patches of all images side by side before it multiplies those of one image
    after the other, so that lots change no result.
    """
    g, axes = geometry, len(geometry.stride)
    patches = prod(weight.shape[1:]) * g.groups * prod(g.outputs(images.shape[2:], weight.shape[2:]))
    together = len(images)
    if images.dtype == torch.float64 and images.device.type == "cpu" and together * patches > _FRESH:
        together = max(1, _PATCHES // patches)
    with torch.backends.nnpack.flags(enabled=False):
        found = [
            _FORWARD[axes](lot, weight, None, g.stride, g.padding, g.dilation, g.groups)
            for lot in images.split(max(1, together))
        ]
    return found[0] if len(found) == 1 else torch.cat(found)


def _check(weight: Tensor, channels: bool, geometry: Geometry, inputs: Shape) -> None:
    axes = len(geometry.stride)
    if axes not in _FORWARD or weight.dim() != axes + 2 or len(inputs) != axes + 1 or not channels:
        raise ValueError(f"a kernel of shape {tuple(weight.shape)} over {axes} axes does not fit an input of {inputs}")
    if weight.shape[0] % geometry.groups or min(*geometry.stride, *geometry.dilation, geometry.groups) < 1:
        raise ValueError(f"a convolution of {weight.shape[0]} channels with {geometry}")


def convolved(x: Expression, weight: Tensor, geometry: Geometry) -> Any:
    """The convolution of `x` (1, channels, *positions)."""
    return _unbatched(x, lambda shape: Convolution(weight, shape, geometry))


def transposed(x: Expression, weight: Tensor, geometry: Geometry, extra: Sequence[int]) -> Any:
    """The transposed convolution of `x` (1, channels, *positions), with `extra` positions at the end of each axis.

    weight: (in channels, out channels / groups, *kernel).
    """

    def operator(shape: Shape) -> TransposedConvolution:
        reach = geometry.reach(weight.shape[2:])
        spans = zip(shape[1:], geometry.stride, geometry.padding, reach, extra, strict=True)
        positions = [(n - 1) * s - 2 * p + r + e for n, s, p, r, e in spans]
        if min(positions) < 1:
            raise ValueError(f"a transposed convolution with padding {geometry.padding} leaves {positions} positions")
        return TransposedConvolution(weight, shape, (int(weight.shape[1]) * geometry.groups, *positions), geometry)

    return _unbatched(x, operator)


def _unbatched(x: Expression, make: Any) -> Any:
    """The result of an operator that acts on `x` without its first axis, which has one entry."""
    if x.shape[0] != 1:
        raise ValueError(f"a convolution of {x.shape[0]} images at once, in a tensor of shape {x.shape}")
    operator = make(x.shape[1:])
    patches = operator.multiply_adds() // min(operator.weight.shape[:2])
    if patches > _MOST:
        raise ValueError(f"a convolution with patches of {patches} entries in total; at most {_MOST} are read")
    y = x.apply(gather(lambda t: t[0], x.shape)).apply(operator)
    return y.apply(gather(lambda t: t.unsqueeze(0), operator.out_shape))


def spread(value: int | Sequence[int], axes: int) -> Shape:
    """One number for each axis."""
    numbers = [value] if isinstance(value, int) else list(value)
    return tuple(int(v) for v in (numbers * axes if len(numbers) == 1 else numbers))


@torch_ops.reads("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")
def _convolution(
    x: Expression, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Any:  # fmt: skip
    axes = weight.dim() - 2
    if len(x.shape) == axes + 1:  # one image without a batch
        y = _convolution(x.apply(gather(lambda t: t.unsqueeze(0), x.shape)), weight, bias, stride, padding, dilation,
                         groups)  # fmt: skip
        return y.apply(gather(lambda t: t[0], y.shape))
    geometry = Geometry(spread(stride, axes), spread(padding, axes), spread(dilation, axes), groups)
    return with_bias(convolved(x, weight, geometry), bias)


@torch_ops.reads("aten.conv1d.padding", "aten.conv2d.padding", "aten.conv3d.padding")
def _convolution_padded(
    x: Expression, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: str = "valid",
    dilation: Any = 1, groups: int = 1,
) -> Any:  # fmt: skip
    """Padding "same", which requires stride 1, puts the odd position at the end."""
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(spread(dilation, weight.dim() - 2), weight.shape[2:], strict=True)]
        around = [n for t in reversed(total) for n in (t // 2, t - t // 2)]
        x = x.apply(gather(lambda t: torch.nn.functional.pad(t, around), x.shape))
    return _convolution(x, weight, bias, stride, 0, dilation, groups)


@torch_ops.reads("aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input")
def _transposed(
    x: Expression, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Any:  # fmt: skip
    axes = weight.dim() - 2
    geometry = Geometry(spread(stride, axes), spread(padding, axes), spread(dilation, axes), groups)
    return with_bias(transposed(x, weight, geometry, spread(output_padding, axes)), bias)


@torch_ops.reads("aten.convolution.default")
def _either(
    x: Expression, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, backwards: bool,
    output_padding: Any, groups: int,
) -> Any:  # fmt: skip
    if backwards:
        return _transposed(x, weight, bias, stride, padding, output_padding, groups, dilation)
    return _convolution(x, weight, bias, stride, padding, dilation, groups)


def with_bias(x: Any, bias: Tensor | None) -> Any:
    """`x` (1, channels, …) plus one number per channel."""
    return x if bias is None else x.shift(bias.reshape(-1, *[1] * (len(x.shape) - 2)))
