"""When the sign of a derivative is certain."""

from __future__ import annotations

import torch
from torch import Tensor


def strict_signs(lower: Tensor, upper: Tensor, rigorous: bool) -> tuple[Tensor, Tensor]:
    """Where derivatives between `lower` and `upper`, each (..., inputs), are certainly > 0, and where certainly < 0.

    Infinite ends, which come from overflow, and NaN prove no sign.  If rounding is not covered (not `rigorous`), an end
    must be farther from 0 than √eps times the largest derivative of its row; rounding errors are rarely so large.
    """
    size = torch.maximum(lower.abs(), upper.abs()).amax(-1, keepdim=True)
    least = torch.zeros_like(size) if rigorous else size * torch.finfo(size.dtype).eps ** 0.5
    return (lower > least) & lower.isfinite(), (upper < -least) & upper.isfinite()
