"""Lanczos' iteration: a fast and accurate approximation of an eigenvalue and its vector, without any proof."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

_CHECK = 8
"""The number of steps between two tests of convergence."""


@final
@dataclass(frozen=True)
class Eigenpair:
    """An eigenvalue with its vector (n,), and the largest absolute eigenvalue that was found."""

    value: Tensor
    vector: Tensor
    size: Tensor


def largest_eigenpair(times: Callable[[Tensor], Tensor], n: int, steps: int, like: Tensor) -> Eigenpair:
    """An approximation of the largest eigenvalue of a symmetric matrix, and its vector.

    times: multiplies vectors (n,) by the matrix, at most `steps` times.  like: a tensor of the dtype and device.
    Up to rounding, the value is not above the largest eigenvalue.  The result is deterministic.
    Source: Lanczos 1950, with full reorthogonalisation.
    """
    start = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like)
    basis = torch.empty(min(steps, n), n, dtype=like.dtype, device=like.device)
    projected = torch.zeros(len(basis), len(basis), dtype=like.dtype, device=like.device)
    basis[0] = start / torch.linalg.vector_norm(start)
    eps = torch.finfo(like.dtype).eps
    for k in range(len(basis)):
        image = times(basis[k])
        projected[k, k] = image @ basis[k]
        for _ in range(2):  # twice is enough (Giraud, Langou, Rozložník 2005)
            image = image - basis[: k + 1].mT @ (basis[: k + 1] @ image)
        rest = torch.linalg.vector_norm(image)
        last = k + 1 == len(basis) or not bool(rest > eps * projected.abs().max())
        if last or (k + 1) % _CHECK == 0:
            values, vectors = torch.linalg.eigh(projected[: k + 1, : k + 1])
            if last or bool(rest * vectors[k, -1].abs() <= eps**0.5 * values.abs().max()):
                break  # the error of the value is of second order in this residual
        projected[k, k + 1] = projected[k + 1, k] = rest
        basis[k + 1] = image / rest
    return Eigenpair(values[-1], vectors[:, -1] @ basis[: k + 1], values.abs().max())
