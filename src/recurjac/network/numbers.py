"""Numbers that a user folds into a network; they are never rounded, but refused if they do not fit the dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.errors import InvalidRequest
from recurjac.tensors import fits_double


def exact_numbers(what: str, value: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`value` as a tensor in `dtype` on `device`: itself if it already is one, otherwise a copy without gradients.

    Raises InvalidRequest if it holds anything but finite numbers of `dtype`.
    """
    tensor = _as_tensor(what, value)
    if not bool(tensor.isfinite().all()):
        raise InvalidRequest(f"{what} holds a number that is NaN or infinite; all numbers must be finite")
    if (tensor.dtype, tensor.device) == (dtype, device):
        return tensor
    wide = tensor.detach().double()
    cast = tensor.detach().to(dtype=dtype, device=device, copy=True)
    if not fits_double(tensor) or not torch.equal(cast.to(wide), wide):
        raise InvalidRequest(
            f"{what} holds numbers that {dtype} cannot represent; round them to {dtype}, or use a network in float64"
        )
    return cast


def _as_tensor(what: str, value: Any) -> Tensor:
    """A tensor itself, or a copy of anything else as a tensor, in which Python floats are float64."""
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(value)
        if tensor.is_complex():
            raise TypeError("complex numbers have no order")
        if isinstance(value, Tensor):
            return tensor
        return torch.as_tensor(value, dtype=torch.float64).clone() if tensor.is_floating_point() else tensor.clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidRequest(f"{what} is not an array of real numbers: {error}") from error


def shaped(what: str, tensor: Tensor, shapes: tuple[Shape, ...]) -> Tensor:
    """`tensor` reshaped to the first of these shapes if it has one of them.  Raises InvalidRequest otherwise."""
    if tuple(tensor.shape) not in shapes:
        wanted = " or ".join(str(s) for s in dict.fromkeys(shapes))
        raise InvalidRequest(f"{what} has shape {tuple(tensor.shape)}; the network needs {wanted}")
    return tensor.reshape(shapes[0])
