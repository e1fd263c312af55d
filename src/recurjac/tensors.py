"""Tensors as parts of frozen objects: cast, freed of gradients, and shown in a few words."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

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


def without_gradients(value: _T) -> _T:
    """The same dataclasses, tuples and tensors, in the same memory, but no tensor asks for gradients."""
    if isinstance(value, Tensor):
        return value.detach()  # type: ignore[return-value]
    if isinstance(value, tuple):
        return tuple(without_gradients(v) for v in value)  # type: ignore[return-value]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: without_gradients(getattr(value, f.name)) for f in fields(value) if f.init})
    return value


def shown(value: Any) -> str:
    """`value` as a user might write it, but of an array of more than a few numbers the shape."""
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return type(value).__name__
    if tensor.numel() > _FEW:
        return f"<shape {tuple(tensor.shape)}>"
    return _number(tensor.item()) if tensor.dim() == 0 else str(tensor.tolist())


def _number(value: float) -> str:
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)
