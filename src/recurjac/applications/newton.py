"""Candidates for stationary points, by Newton's method from many starts.  No proof depends on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Fast
from recurjac.deadline import NEVER, Deadline
from recurjac.errors import InvalidRequest, expect_whole
from recurjac.jacobian import FastLip
from recurjac.jacobian.hessian import derivatives
from recurjac.network import Network
from recurjac.preactivation import IBP
from recurjac.problem import Problem
from recurjac.region import AbstractRegion, BoundBox, BoundRegion
from recurjac.search import point_jacobian

_SHARES = (1e-8, 1e-3, 1e-1, 1.0)
"""Damping of the steps that are tried in parallel, relative to the largest absolute eigenvalue."""
_NEAR = 2.0**-20
"""Candidates that differ by less than this fraction of the region count as one."""


@final
@dataclass(frozen=True)
class Newton:
    """Damped Newton steps towards zeros of the gradient, from the centre of the region and from random points of it.

    starts: the number of starting points.  steps: the largest number of steps.  seed: of the random generator; the same
    seed gives the same candidates.  Raises InvalidRequest for less than one start or a negative number of steps.
    """

    starts: int = 32
    steps: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        expect_whole("the search for stationary points", starts=self.starts, steps=self.steps, seed=self.seed)
        if self.starts < 1 or self.steps < 0:
            raise InvalidRequest(f"{self} has too few starts or steps; give at least 1 and 0")

    def candidates(
        self, network: Network, region: AbstractRegion | BoundRegion, deadline: Deadline = NEVER
    ) -> tuple[Tensor, Tensor]:
        """Points of the region (batch, starts, *input), float64, and a mask that removes duplicates: (batch, starts).

        network: with one smooth output, in float64.  No step begins after the deadline.
        """
        bound = Problem(network, region, arithmetic=Fast()).bound
        points = self._first(bound)
        size = self._size(network, points)
        for _ in range(self.steps):
            if deadline.over:
                break
            tried = torch.stack([bound.project(p) for p in self._steps(network, points)])
            sizes = torch.stack([self._size(network, p) for p in tried])
            least = sizes.min(0)
            better = least.values < size
            if not bool(better.any()):
                break
            index = least.indices.reshape(1, *least.indices.shape, *[1] * (points.dim() - 2))
            chosen = tried.gather(0, index.expand(1, *points.shape))[0]
            points = torch.where(better.reshape(*better.shape, *[1] * (points.dim() - 2)), chosen, points)
            size = torch.where(better, least.values, size)
        return points, _different(points.flatten(2), size, bound.scale.flatten(1))

    def _first(self, bound: BoundRegion) -> Tensor:
        """The centre, and points on segments from it to random points."""
        generator = torch.Generator().manual_seed(self.seed)
        x = bound.x.unsqueeze(1)
        if self.starts == 1:
            return x
        drawn = bound.sample(self.starts - 1, generator)
        share = torch.rand(drawn.shape[:2], generator=generator, dtype=torch.float64).to(drawn)
        share = share.reshape(*share.shape, *[1] * (drawn.dim() - 2))
        moved = bound.project(x + share * (drawn - x))
        return torch.cat([x, torch.where(moved.isfinite(), moved, x)], 1)

    def _size(self, network: Network, points: Tensor) -> Tensor:
        """The 2-norm of the gradient at points (batch, N, *input), infinite if it overflowed: (batch, N)."""
        size = torch.linalg.vector_norm(point_jacobian(network, points.flatten(0, 1))[:, 0], dim=1)
        return torch.where(size.isnan(), torch.inf, size).reshape(points.shape[:2])

    def _steps(self, network: Network, points: Tensor) -> list[Tensor]:
        """The points after steps -H (H² + λ²)⁻¹ g for several λ, each in the shape of the points."""
        flat = points.flatten(0, 1)
        zero = torch.zeros_like(flat)
        points_alone = Problem(network, BoundBox(flat, zero, flat, flat), pre=IBP(), arithmetic=Fast())
        found = derivatives(points_alone, FastLip())
        g, h = (i.lower / 2 + i.upper / 2 for i in (found.gradient, found.hessian))
        known = g.isfinite().all(1) & h.isfinite().flatten(1).all(1)
        g, h = torch.where(known[:, None], g, 0.0), torch.where(known[:, None, None], h, 0.0)
        values, basis = torch.linalg.eigh(h)
        turned = torch.einsum("bij,bi->bj", basis, g)
        most = values.abs().amax(1, keepdim=True).clamp(min=torch.finfo(h.dtype).tiny ** 0.25)
        scaled = values / most
        ends = []
        for share in _SHARES:
            step = torch.einsum("bij,bj->bi", basis, turned / most * scaled / (scaled.square() + share**2))
            ends.append((flat - step.reshape(flat.shape)).nan_to_num(0.0).reshape(points.shape))
        return ends


def _different(points: Tensor, size: Tensor, scale: Tensor) -> Tensor:
    """Whether each of the points (batch, N, n) has the least gradient of all points near it: (batch, N)."""
    near = ((points.unsqueeze(1) - points.unsqueeze(2)).abs() <= _NEAR * scale[:, None, None]).all(-1)
    order = size.argsort(dim=1, stable=True).argsort(1)
    before = order.unsqueeze(1) < order.unsqueeze(2)
    return ~(near & before).any(2)
