"""Running sums along an axis, and their readers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Self, final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.operators.base import AbstractLeaf, AbstractOperator
from recurjac.operators.compose import compose
from recurjac.operators.gather import Gather, gather
from recurjac.registry import Expression, onnx_ops, torch_ops


@final
@dataclass(frozen=True)
class CumulativeSum(AbstractLeaf):
    """out[…, i, …] = Σ_{j <= i} in[…, j, …] along an axis, 0 <= axis < len(shape); if `backwards`, over j >= i."""

    shape: Shape
    axis: int
    backwards: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.axis < len(self.shape):
            raise ValueError(f"a running sum along axis {self.axis} of a tensor of {self.shape}")

    @property
    def in_shape(self) -> Shape:
        return self.shape

    @property
    def out_shape(self) -> Shape:
        return self.shape

    def apply(self, tensor: Tensor) -> Tensor:
        axis = self.axis - len(self.shape)
        return tensor.flip(axis).cumsum(axis).flip(axis) if self.backwards else tensor.cumsum(axis)

    def transpose(self) -> CumulativeSum:
        return replace(self, backwards=not self.backwards)

    def absolute(self) -> CumulativeSum:
        return self

    def signs(self) -> CumulativeSum:
        return self

    @property
    def summands(self) -> int:
        return self.shape[self.axis]

    @property
    def sums_products(self) -> bool:
        return True

    def rows(self, index: Tensor) -> tuple[AbstractOperator, Tensor]:
        """The sums along those lines of the tensor that contain an entry of `index`."""
        n = self.shape[self.axis]
        position = torch.arange(prod(self.shape), device=index.device).reshape(self.shape)
        lines = position.movedim(self.axis, -1).reshape(-1, n)
        place = torch.empty_like(lines.flatten())  # of each position in `lines`
        place[lines.flatten()] = torch.arange(len(place), device=index.device)
        chosen = place[index].div(n, rounding_mode="floor")
        some = chosen.unique()
        taken = lines[some].flatten()
        read = taken.sort().values
        onto = Gather(torch.searchsorted(read, taken).unsqueeze(0), (len(read),), (len(some), n))
        out = Gather.of(torch.searchsorted(some, chosen) * n + place[index] % n, (len(some), n))
        return compose(out, compose(CumulativeSum((len(some), n), 1, self.backwards), onto)), read

    def multiply_adds(self) -> int:
        return prod(self.shape)

    def tensors(self) -> Iterable[Tensor]:
        return ()

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        return self

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls((4,), 0), cls((3,), 0, True), cls((2, 3, 2), 1), cls((3, 2), 0), cls((2, 3), 1, True)]


def _cumulative(x: Expression, dim: int, backwards: bool = False) -> Any:
    if not x.shape or x.shape[dim] <= 1:  # a number, or an axis of one entry, such as the batch axis
        return x
    return x.apply(CumulativeSum(x.shape, dim % len(x.shape), backwards))


@torch_ops.reads("aten.cumsum.default", "aten.cumsum_.default")
def _cumsum(x: Expression, dim: int, *, dtype: torch.dtype | None = None) -> Any:
    return _cumulative(x, dim)


@onnx_ops.reads("CumSum")
def _onnx_cumsum(x: Expression, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Any:
    """With `exclusive`, each entry is left out of its own sum, so that the sums move by one place."""
    dim = int(axis)
    y = _cumulative(x, dim, bool(reverse))
    if not exclusive:
        return y
    n = x.shape[dim]

    def moved(t: Tensor) -> Tensor:
        zero = torch.zeros_like(t.narrow(dim, 0, 1))
        return torch.cat([t.narrow(dim, 1, n - 1), zero] if reverse else [zero, t.narrow(dim, 0, n - 1)], dim)

    return y.apply(gather(moved, y.shape))
