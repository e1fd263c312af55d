"""The direction with the largest gain of a given Jacobian."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor


def best_direction(jacobian: Tensor, p: float, q: float) -> tuple[Tensor, Tensor]:
    """For each J (N, K, n_in), a large gain ‖J v‖_q and its direction v with ‖v‖_p = 1: (N,), (N, n_in).

    A power method for mixed norms (Boyd 1974), started from every row and from the best column.  For q = inf and for
    p = 1, the start is already exact.  J is divided by its largest entry, so that no square over- or underflows; where
    it is not finite, the gain is 0.
    """
    size = jacobian.abs().amax((1, 2), keepdim=True)
    known = (size > 0) & (size < inf)
    jacobian = torch.where(known, jacobian / torch.where(known, size, 1.0), 0.0)
    column = length(jacobian, q, 1).argmax(-1, keepdim=True)
    starts = [torch.zeros_like(jacobian[:, 0]).scatter(-1, column, 1.0).unsqueeze(1)]
    if p != 1:
        starts.append(align(jacobian, p))
    v = torch.cat(starts, 1)
    for _ in range(0 if p == 1 or q == inf else 12):
        image = torch.einsum("nkr,nsr->nsk", jacobian, v)
        v = align(torch.einsum("nkr,nsk->nsr", jacobian, dual(image, q)), p)
    gains = length(torch.einsum("nkr,nsr->nsk", jacobian, v), q, -1)
    best = gains.argmax(-1)
    return gains.gather(1, best.unsqueeze(1)).squeeze(1) * size.flatten(), take(v, best.unsqueeze(1)).squeeze(1)


def length(y: Tensor, q: float, dim: int) -> Tensor:
    """The q-norm of y over one dimension; PyTorch's own takes a multiple of the time for q = inf."""
    return y.abs().amax(dim) if q == inf else torch.linalg.vector_norm(y, q, dim=dim)


def align(g: Tensor, p: float) -> Tensor:
    """The v of p-norm 1 with the largest g·v, over the last dimension."""
    if p == inf:
        return torch.where(g >= 0, 1.0, -1.0).to(g.dtype)
    if p == 1:
        at = g.abs().argmax(-1, keepdim=True)
        return torch.zeros_like(g).scatter(-1, at, align(g.gather(-1, at), inf))
    size = torch.linalg.vector_norm(g, 2, dim=-1, keepdim=True)
    first = torch.zeros_like(g)
    first[..., 0] = 1.0
    return torch.where(size > 0, g / torch.where(size > 0, size, 1.0), first)


def dual(y: Tensor, q: float) -> Tensor:
    """The gradient of the q-norm at y, up to a positive factor, over the last dimension."""
    if q == 1:
        return align(y, inf)
    return align(y, 1) if q == inf else y


def take(points: Tensor, index: Tensor) -> Tensor:
    """points[b, index[b]]."""
    return points[torch.arange(len(points), device=points.device).unsqueeze(1), index]
