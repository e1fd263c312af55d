"""Tensors as parts of frozen objects: cast, freed of gradients, and shown in a few words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

_T = TypeVar("_T")

_FEW = 4
"""So many numbers are shown; of more, the shape is."""


def cast(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The tensor itself, live, if it is of `dtype` on `device`, else a copy that keeps no graph of gradients."""
    if (tensor.dtype, tensor.device) == (dtype, device):
        return tensor
    return tensor.detach().to(dtype=dtype, device=device)


def fits_double(tensor: Tensor) -> bool:
    """Whether float64 has all of its numbers, which it may not if they are whole and 2⁵³ or more."""
    if tensor.is_floating_point():
        return True
    large: list[int] = tensor[tensor.double().abs() >= 2**53].tolist()
    return all(int(float(n)) == n for n in large)


def without_gradients(value: _T) -> _T:
    """The same dataclasses, tuples and tensors, in the same memory, but no tensor asks for gradients.

    Tensors that are equal views of one memory are one object, so that a pickle holds them once.
    """
    seen: dict[Any, Tensor] = {}

    def freed(part: Any) -> Any:
        if isinstance(part, Tensor):
            view = part.detach()
            return seen.setdefault((view.data_ptr(), view.dtype, view.device, view.shape, view.stride()), view)
        if isinstance(part, tuple):
            return tuple(map(freed, part))
        if is_dataclass(part) and not isinstance(part, type):
            return replace(part, **{f.name: freed(getattr(part, f.name)) for f in fields(part) if f.init})
        return part

    return freed(value)  # type: ignore[no-any-return]


def broadcast_shape(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape of what is computed entry by entry from tensors of these shapes.

    That of PyTorch loads a package for symbolic mathematics first, and takes a hundred times as long in each call.
    Raises ValueError if they do not fit.
    """
    return np.broadcast_shapes(*(tuple(shape) for shape in shapes))


def shown(value: Any) -> str:
    """`value` as a user might write it, but of an array of more than a few numbers the shape."""
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64).detach()  # as Python has its floats
    except (TypeError, ValueError, RuntimeError):
        return type(value).__name__
    if tensor.numel() > _FEW:
        return f"<shape {tuple(tensor.shape)}>"
    return _number(tensor.item()) if tensor.dim() == 0 else str(tensor.tolist())


def _number(value: float) -> str:
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)
