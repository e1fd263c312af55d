"""Many points that move through a region at once, each in search of a larger gain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.deadline import Deadline
from recurjac.network import Network
from recurjac.region import BoundBall, BoundRegion
from recurjac.search.directions import align, take
from recurjac.search.smoothed import slanted

_STRIDES = (0.5, 0.01)
"""The lengths of the first and of the last step of a round, as shares of the region's half-width."""
_WIDTHS = (3.0, 0.05)
"""The half-widths over which slopes are averaged at the first and the last step, in multiples of the usual spread."""
_INERTIA = 0.5
"""The weight of earlier gradients in the direction of a step."""
_LEAST_STEPS = 4


@final
@dataclass(frozen=True)
class Climbers:
    """Points (batch, N, *input), the weights of outputs (batch, N, K) that they follow, and their gains (batch, N)."""

    points: Tensor
    weights: Tensor
    gains: Tensor

    def best(self, count: int) -> Climbers:
        """The `count` with the largest gains, best first.

        Points with equal gains are likely in the same piece: one of them counts, the others have the gain -1.  If there
        are too few, some are repeated, with the gain -1.
        """
        gains, order = self.gains.sort(1, descending=True)
        same = torch.zeros_like(gains, dtype=torch.bool)
        same[:, 1:] = gains[:, 1:] >= gains[:, :-1] * (1 - 64 * torch.finfo(gains.dtype).eps)
        missing = max(0, count - gains.shape[1])
        ranked = torch.nn.functional.pad(torch.where(same, -1.0, gains), (0, missing), value=-1.0).topk(count, 1)
        at = torch.nn.functional.pad(order, (0, missing)).gather(1, ranked.indices)
        return Climbers(take(self.points, at), take(self.weights, at), ranked.values)

    def beside(self, others: Climbers) -> Climbers:
        """Both together."""
        return Climbers(
            torch.cat([self.points, others.points], 1), torch.cat([self.weights, others.weights], 1),
            torch.cat([self.gains, others.gains], 1),
        )  # fmt: skip

    def replaced(self, rows: Tensor, here: Climbers) -> Climbers:
        """These, with others of as many points in the place of some samples."""
        return Climbers(
            self.points.index_copy(0, rows, here.points), self.weights.index_copy(0, rows, here.weights),
            self.gains.index_copy(0, rows, here.gains),
        )  # fmt: skip

    def of(self, rows: Tensor) -> Climbers:
        """Those of some of the samples."""
        return Climbers(self.points[rows], self.weights[rows], self.gains[rows])


def climbed(
    network: Network, region: BoundRegion, start: Climbers, spread: Sequence[Tensor], norms: tuple[float, float],
    pace: Pace,
) -> Climbers:  # fmt: skip
    """Each climber at the best point of its way, with the gain there.

    Steps become shorter, and the kinks that they feel nearer.  Points go on even where their gains fall: between kinks,
    gains of piecewise linear networks do not change.
    """
    shape, axes = start.points.shape[:2], [1] * (start.points.dim() - 2)
    x, weights, best = start.points, start.weights.flatten(0, 1), start
    drift = torch.zeros_like(x)
    step, steps = 0, pace.steps
    while step < steps and not (step > 0 and pace.deadline.over):
        done = step / max(1, steps - 1)
        width = pace.factors * _between(_WIDTHS, done)
        widths = [(s * width.reshape(*shape, *[1] * (s.dim() - 2))).flatten(0, 1) for s in spread]
        here = slanted(network, x.flatten(0, 1), weights, norms, widths)
        gains = here.gain.reshape(shape)
        better = gains > best.gains
        wide = better.reshape(*shape, *axes)
        found = here.weights.reshape(*shape, -1)
        best = Climbers(torch.where(wide, x, best.points), torch.where(better.unsqueeze(2), found, best.weights),
                        torch.where(better, gains, best.gains))  # fmt: skip
        weights, gradient = here.weights, here.gradient.reshape(x.shape)
        size = gradient.abs().flatten(2).amax(2).reshape(*shape, *axes)
        drift = _INERTIA * drift + (1 - _INERTIA) * gradient / torch.where(size > 0, size, 1.0)
        stride = pace.scale * _between(_STRIDES, done)
        x = finite(region.project(x + stride * region.scale.unsqueeze(1) * steepest(drift, region)), region.x)
        step += 1
        if step == 1:
            steps = _affordable(steps, pace.deadline)
    return best


@final
@dataclass(frozen=True)
class Pace:
    """How a round of steps goes: their number, a factor of their lengths, factors of widths (batch, N), and its end."""

    steps: int
    scale: float
    factors: Tensor
    deadline: Deadline


def _affordable(steps: int, deadline: Deadline) -> int:
    """How many steps there is time for, if the deadline began with the first."""
    if deadline.end == inf:
        return steps
    return max(_LEAST_STEPS, min(steps, int(deadline.left / max(deadline.spent, 1e-9))))


def _between(ends: tuple[float, float], share: float) -> float:
    """A number on the way from one end to the other, at equal ratios."""
    first, last = ends
    return float(first * (last / first) ** share)


def steepest(slopes: Tensor, region: BoundRegion) -> Tensor:
    """The direction towards the farthest point of a region along slopes (batch, N, *input), of size 1 or 0."""
    flat = slopes.flatten(2)
    norm = region.p if isinstance(region, BoundBall) else inf
    moved = (flat != 0).any(-1, keepdim=True)
    way = flat.sign() if norm == inf else align(flat, norm)
    return torch.where(moved, way, 0.0).reshape(slopes.shape)


def finite(points: Tensor, x: Tensor) -> Tensor:
    """The points (batch, N, *input), with x (batch, *input) in place of points that overflowed."""
    known = points.isfinite().flatten(2).all(2)
    return torch.where(known.reshape(*known.shape, *[1] * (points.dim() - 2)), points, x.unsqueeze(1))
