"""Reading the numbers of a region: shapes, batches and error messages."""

from __future__ import annotations

from math import isfinite, prod
from typing import Any

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.errors import InvalidRegion
from recurjac.tensors import fits_double

Numbers = Any
"""Anything that `torch.as_tensor` reads: a tensor, a NumPy array, nested lists, a number."""


def numbers(what: str, value: Numbers) -> Tensor:
    try:
        given = torch.as_tensor(value)
        if given.is_complex():
            raise TypeError("complex numbers have no order; give real numbers, such as real and imaginary parts")
        # the dtype is explicit: otherwise a Python float would pass through float32
        tensor = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidRegion(f"{what} is not an array of numbers: {error}") from error
    if not fits_double(given):
        raise InvalidRegion(f"{what} holds a whole number that float64 cannot represent; give numbers of float64")
    if tensor.numel() == 0:
        raise InvalidRegion(f"{what} is empty (shape {tuple(tensor.shape)}); give at least one input")
    return tensor


def finite(what: str, tensor: Tensor) -> None:
    """Raise InvalidRegion if an entry is NaN or infinite; a finite sum proves that none is."""
    if isfinite(tensor.sum().item()):
        return
    bad = ~tensor.isfinite()
    if bool(bad.any()):
        at = first(bad)
        raise InvalidRegion(f"{what} holds {float(tensor[at])} at index {list(at)}; every number must be finite")


def first(mask: Tensor) -> tuple[int, ...]:
    """The index of the first True."""
    return tuple(int(i) for i in mask.nonzero()[0])


def batched(what: str, tensor: Tensor, input_shape: Shape) -> tuple[Tensor, bool]:
    """`tensor` with a batch dimension, and whether that dimension was added."""
    if tuple(tensor.shape) == input_shape:
        return tensor.unsqueeze(0), True
    if tuple(tensor.shape[1:]) == input_shape and tensor.dim() == len(input_shape) + 1:
        return tensor, False
    if tensor.dim() == 2 and tensor.shape[1] == prod(input_shape):
        return tensor.reshape(-1, *input_shape), False
    if tensor.dim() == 1 and tensor.shape[0] == prod(input_shape):
        return tensor.reshape(1, *input_shape), True
    raise InvalidRegion(
        f"{what} has shape {tuple(tensor.shape)}, but the network takes inputs of shape {input_shape}; give one input "
        f"of that shape or a batch (batch, {', '.join(map(str, input_shape))})"
    )


def radius_like(radius: Tensor, x: Tensor, input_shape: Shape) -> Tensor:
    """The radius as (batch, *input) or (batch, 1, …) for centres x (batch, *input)."""
    batch, ones = x.shape[0], (1,) * len(input_shape)
    if radius.numel() == 1:
        return radius.reshape(1, *ones).expand(batch, *ones)
    per_sample = radius.shape == (batch,) or radius.shape == (batch, *ones)
    per_feature = tuple(radius.shape) == input_shape or tuple(radius.shape) in (
        (1, *input_shape),
        (batch, *input_shape),
    )
    if per_sample and per_feature and radius.dim() == 1:
        raise InvalidRegion(
            f"a radius of shape {tuple(radius.shape)} could count samples or features; "
            "write (batch, 1) or (1, features)"
        )
    if per_sample:
        return radius.reshape(batch, *ones)
    if per_feature:
        return (radius.unsqueeze(0) if tuple(radius.shape) == input_shape else radius).expand(batch, *input_shape)
    raise InvalidRegion(
        f"the radius has shape {tuple(radius.shape)}; give a number, one for each of the {batch} samples, or "
        f"one for each input feature {input_shape}"
    )


def up(tensor: Tensor) -> Tensor:
    """Slightly more than `tensor` (float64), to cover the rounding of the additions that computed it."""
    n = prod(tensor.shape[1:]) + 4
    return tensor * (1 + n * torch.finfo(torch.float64).eps)
