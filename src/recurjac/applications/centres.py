"""The inputs around which radii are searched, with the norm of the balls and the clip box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import Rigorous
from recurjac.errors import InvalidRequest
from recurjac.loading import Source
from recurjac.problem import Problem
from recurjac.region import LpBall, Numbers


@final
@dataclass(frozen=True)
class Centres:
    """Inputs x, (batch, *input) in float64 on the CPU, and the ends of their clip box, of the same shape.

    p: the norm of the balls around the inputs.  low, high: infinite if there is no clip box.
    """

    x: Tensor
    p: float
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, ball: LpBall, shape: Shape) -> Centres:
        """The centres of a ball, for a network with inputs of `shape`; the radius of the ball is not used."""
        wide, cpu = torch.float64, torch.device("cpu")
        box = LpBall(ball.x, inf, inf, ball.clip).bind(shape, wide, cpu).box(Rigorous())
        return cls(LpBall(ball.x, 0.0).bind(shape, wide, cpu).x, float(ball.p), box.lower, box.upper)

    def taken(self, index: Sequence[int]) -> Centres:
        """The centres with these numbers."""
        rows = list(index)
        return Centres(self.x[rows], self.p, self.low[rows], self.high[rows])

    def balls(self, radius: Tensor) -> LpBall:
        """The balls with these radii, (batch,)."""
        each = radius.reshape(-1, *[1] * (self.x.dim() - 1))  # (batch,) could be read as one radius per feature
        return LpBall(self.x, each, self.p, (self.low, self.high))

    def points(self) -> LpBall:
        """The balls of radius 0."""
        return self.balls(torch.zeros(len(self.x), dtype=torch.float64))

    def whole(self) -> Tensor:
        """Radii, (batch,), at which the ball contains the whole clip box; infinite without a box."""
        room = torch.maximum(self.high - self.x, self.x - self.low).flatten(1)
        reach = Rigorous().at_least(torch.linalg.vector_norm(room, self.p, dim=1), 2 * room.shape[1] + 8)
        return torch.where(room.isfinite().all(1), reach, inf)


def around(network: Source | Problem, x: Numbers | LpBall | None, p: float | None) -> tuple[Problem, LpBall]:
    """The problem at single points, x or the centres of a given region, and the balls of radius 0 there.

    p: by default inf.  Raises InvalidRegion as `LpBall` does; InvalidRequest for inputs that are missing or given
    twice, for a norm beside an `LpBall`, for a problem whose region is not an `LpBall`, and for one that contains
    bounds of a single region.
    """
    if isinstance(network, Problem):
        if x is not None or p is not None:
            raise InvalidRequest("a Problem has its own inputs and norm; give them only to its LpBall")
        if not isinstance(network.region, LpBall):
            raise InvalidRequest(f"the region {network.region!r} of the problem is not a ball; give an LpBall")
        ball = replace(network.region, radius=0.0)
        problem = network.over(ball)
    else:
        if x is None:
            raise InvalidRequest("the inputs are missing; give one or a batch, or a Problem over an LpBall")
        if isinstance(x, LpBall) and p is not None:
            raise InvalidRequest(f"p={p!r} is given beside {x!r}, which has its own norm; give p only to the LpBall")
        ball = replace(x, radius=0.0) if isinstance(x, LpBall) else LpBall(x, 0.0, inf if p is None else p)
        problem = Problem(network, ball)
    if problem.pre.holds_samples or (isinstance(network, Problem) and network.known):
        raise InvalidRequest(
            "given pre-activation bounds belong to one region, but many balls are tried; use a rule such as "
            "Crown(), and no constraints"
        )
    return problem, ball
