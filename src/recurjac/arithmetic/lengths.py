"""Lengths of vectors of numbers that are not negative, where squares neither overflow nor underflow."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor


def length_of(x: Tensor, q: float) -> Tensor:
    """The q-norm over the last dimension of a non-negative tensor (..., n), q = 1, 2 or inf, as it is computed.

    It has at most n + 6 roundings.  For q = 2, numbers are divided by the largest one first, so that what squares lose
    by underflow is less than a rounding of their sum.  NaN where a number is NaN.
    """
    if q == inf:
        return x.amax(-1)
    if q == 1:
        return x.sum(-1)
    most = x.detach().amax(-1, keepdim=True)
    scale = torch.where((most > 0) & most.isfinite(), most, 1.0)
    squares = (x / scale).square().sum(-1)
    root = torch.where(squares > 0, squares, 1.0).sqrt()  # at 0, a root has no derivative
    return torch.where(squares > 0, root, squares.detach()) * scale.squeeze(-1)
