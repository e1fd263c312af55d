"""What is true at sampled points of a region: values, Jacobians and Hessians by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from recurjac.region.base import BoundRegion

Function = Callable[[Tensor], Tensor]
"""From a batch of inputs (N, n) to outputs (N, k)."""
_CORNERS = 6
"""All corners are taken of regions with at most so many inputs."""


def points_of(region: BoundRegion, count: int, seed: int) -> Tensor:
    """The centre, corners, and points inside and on the boundary of each sample's region: (batch, N, n)."""
    spread = region.sample(count, torch.Generator().manual_seed(seed))
    found = [region.x.unsqueeze(1), spread]
    n = region.x[0].numel()
    if n <= _CORNERS and not bool(region.unbounded.any()):
        signs = torch.tensor(list(product((-1.0, 1.0), repeat=n)), dtype=region.x.dtype)
        half = region.scale.unsqueeze(1)
        found.append(region.project(region.x.unsqueeze(1) + 2 * half * signs))
        units = torch.eye(n, dtype=region.x.dtype)
        found.append(region.project(region.x.unsqueeze(1) + 2 * half * torch.cat([units, -units])))
    return torch.cat(found, 1)


def jacobians(function: Function, points: Tensor) -> Tensor:
    """The Jacobians at points (N, n): (N, k, n)."""
    x = points.detach().clone().requires_grad_()
    rows = [torch.autograd.grad(out.sum() + 0 * x.sum(), x, retain_graph=True)[0] for out in function(x).unbind(1)]
    return torch.stack(rows, 1)


def hessians(function: Function, points: Tensor, output: int) -> Tensor:
    """The Hessians of one output at points (N, n): (N, n, n)."""
    x = points.detach().clone().requires_grad_()
    (first,) = torch.autograd.grad(function(x)[:, output].sum() + 0 * x.sum(), x, create_graph=True)
    if not first.requires_grad:
        return first.new_zeros(*first.shape, first.shape[-1])
    rows = [torch.autograd.grad(own.sum() + 0 * x.sum(), x, retain_graph=True)[0] for own in first.unbind(1)]
    return torch.stack(rows, 2)


def climbed(region: BoundRegion, start: Tensor, value: Callable[[Tensor], Tensor], steps: int = 4) -> Tensor:
    """Points (N, n) of one sample's region that follow the gradient of `value` (N,) from a start (n,).

    value: differentiable; where it has no gradient, the points stay where they are.
    """
    half, best = region.scale[0], start
    tried = [start.unsqueeze(0)]
    for _ in range(steps):
        x = best.detach().clone().requires_grad_()
        now = value(x.unsqueeze(0))
        if not now.requires_grad:
            break
        (slope,) = torch.autograd.grad(now.sum() + 0 * x.sum(), x)
        slope = slope.nan_to_num(0.0, 0.0, 0.0)
        sizes = torch.tensor([2.0, 0.5, 0.1, 0.01], dtype=x.dtype).unsqueeze(1)
        ways = torch.stack([slope.sign() * half, slope / slope.norm().clamp(min=1e-300) * half.norm()])
        moved = region.project((best + sizes.unsqueeze(1) * ways).reshape(1, -1, len(best)))[0]
        tried.append(moved)
        found = value(moved).detach().nan_to_num(-torch.inf)
        if float(found.max()) <= float(now.detach()):
            break
        best = moved[int(found.argmax())]
    return torch.cat(tried)
