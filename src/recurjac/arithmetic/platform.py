"""Settings of the processor and of PyTorch, and conversions between precisions."""

from __future__ import annotations

import torch
from torch import Tensor

from recurjac.errors import InvalidRequest


def check_matmul(dtype: torch.dtype) -> str | None:
    """Why arithmetic in `dtype` does not currently satisfy the package's docstring, or None if it does."""
    if dtype == torch.float32 and not _full_precision():
        return "float32 matrix products are set to a reduced precision (torch.set_float32_matmul_precision)"
    if float(torch.full((), torch.finfo(dtype).tiny, dtype=dtype) / 2) == 0:
        return "subnormal numbers are flushed to zero (torch.set_flush_denormal)"
    return None


def check_convolution(dtype: torch.dtype, device: torch.device) -> str | None:
    """Why convolutions are currently not sums of products in full precision, or None if they are.

    cuDNN chooses among algorithms that include Winograd, Fourier transforms and TF32.  PyTorch requests direct
    convolutions from oneDNN, in the precision that is set.  In float64 on a CPU it multiplies matrices.
    """
    if device.type == "cuda" and torch.backends.cudnn.enabled:
        return "cuDNN may convolve by Winograd or FFT (set torch.backends.cudnn.enabled = False)"
    if dtype != torch.float32:
        return None
    try:
        precision = str(torch.backends.mkldnn.conv.fp32_precision)  # type: ignore[attr-defined]  # (unannotated)
    except AttributeError:  # PyTorch before 2.9 has no such setting
        return None
    if precision in ("none", "ieee"):
        return None
    return f"float32 convolutions are set to {precision} (torch.backends.mkldnn.conv.fp32_precision)"


def _full_precision() -> bool:
    """Whether float32 matrix products have full precision; False if PyTorch's settings contradict each other."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # one backend was set separately (torch.backends.*.fp32_precision)
        return False


def round_to(tensor: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`tensor` (float64) in `dtype`, and in float64 how far each entry moved (exact, by Sterbenz's lemma)."""
    rounded = tensor.to(dtype)
    return rounded, (tensor - rounded.to(torch.float64)).abs()


def round_up_to(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The smallest number of `dtype` that is at least `tensor` (float64)."""
    rounded = tensor.to(dtype)
    above = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return torch.where(rounded.to(torch.float64) < tensor, above, rounded)


def supported_dtype(dtype: torch.dtype) -> torch.dtype:
    """`dtype`, if bounds can be computed in it.  Raises InvalidRequest otherwise."""
    if dtype not in (torch.float32, torch.float64):
        raise InvalidRequest(f"bounds are computed in float32 or float64, not {dtype}; pass dtype=torch.float64")
    return dtype
