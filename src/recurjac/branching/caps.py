"""Dividing l1 balls into the parts near their vertices and the rest, where all inputs together have less room."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.branching.branchers import FINEST, AbstractBrancher, InputBisection
from recurjac.errors import expect_counts, expect_shares
from recurjac.preactivation import PreactivationState
from recurjac.problem import Problem
from recurjac.region import BoundBall, BoundBox, BoundPiece, BoundRegion
from recurjac.region.base import RIGOROUS

_ROOM = 0.6
"""The share of the radius that some input must have as room, so that caps are cut off."""


@final
@dataclass(frozen=True)
class VertexCaps(AbstractBrancher):
    """Cuts off the caps |x_i - c_i| >= `share` r of an l1 ball, 2 n of them at once; together they are smaller balls.

    A linear form is largest at a vertex of such a ball, so that halves of it are hardly better than the whole.  Parts
    that lack the room, and other regions, are divided by `otherwise`.  For networks of at most `most` inputs.
    No proof depends on where it is cut.  Source: docs/mathematics.md, §6.6.
    """

    share: float = 0.2
    most: int = 64
    otherwise: AbstractBrancher = field(default_factory=InputBisection)

    def __post_init__(self) -> None:
        expect_counts("VertexCaps", most=self.most)
        expect_shares("VertexCaps", share=self.share)

    @property
    def title(self) -> str:
        return "caps of vertices"

    def supports(self, problem: Problem) -> bool:
        return problem.network.sizes[0] <= self.most and self.otherwise.supports(problem)

    def divisible(self, problem: Problem) -> Tensor:
        return self.otherwise.divisible(problem)

    def effects(self, state: PreactivationState, weights: Tensor | None = None) -> Tensor | None:
        return self.otherwise.effects(state, weights)

    def divide(self, problem: Problem) -> list[Problem]:
        return self.divided(problem, None)

    def divided(self, problem: Problem, effects: Tensor | None) -> list[Problem]:
        bound, ball = problem.bound, _ball(problem.bound)
        if ball is None:
            return self.otherwise.divided(problem, effects)
        around = bound.around if isinstance(bound, BoundPiece) else ball
        box, x = bound.box(RIGOROUS).map(lambda t: t.flatten(1)), bound.x.flatten(1)
        rooms = torch.stack([box.upper - x, x - box.lower], 2).clamp(min=0)
        capped = rooms.flatten(1).amax(1) >= _ROOM * around.radius
        if not bool(capped.any()):
            return self.otherwise.divided(problem, effects)
        reach = (self.share * around.radius).unsqueeze(1)
        caps = _Caps(ball, box, x, reach, capped)
        parts = [caps.part(low, high) for low, high in caps.ends()]
        if not bool(capped.all()):
            parts = self._with_others(problem, effects, parts, ~capped)
        return [problem.part(p) for p in parts]

    def finely(self, problem: Problem, effects: Tensor | None, most: int, finest: int = FINEST) -> list[Problem]:
        if _ball(problem.bound) is None:
            return self.otherwise.finely(problem, effects, most, finest)
        return self.divided(problem, effects)

    def _with_others(
        self, problem: Problem, effects: Tensor | None, parts: list[BoundPiece], others: Tensor
    ) -> list[BoundPiece]:
        """The same, with the divisions of `otherwise` for the samples that have no room for caps."""
        halves = self.otherwise.divided(problem, effects)
        found = []
        for i, part in enumerate(parts):
            if i < len(halves):
                half = halves[i].bound
                own = half if isinstance(half, BoundPiece) else BoundPiece.of(part.ball, half)
                index = torch.arange(part.batch, device=others.device)
                part = BoundPiece.joined([part, own]).at(torch.where(others, part.batch + index, index))
            found.append(part)
        return found


def _ball(bound: BoundRegion) -> BoundBall | None:
    """The l1 ball of which a region is a part; None if there is none."""
    ball = bound if isinstance(bound, BoundBall) else bound.ball if isinstance(bound, BoundPiece) else None
    return None if ball is None or ball.p != 1 or bool(bound.unbounded.any()) else ball


@final
@dataclass(frozen=True)
class _Caps:
    """The pieces of an l1 ball in a box (batch, n), cut at `reach` (batch, 1) from its nearest point x to the centre.

    capped: (batch,), in which samples this is done; in others, all pieces are empty.
    """

    ball: BoundBall
    box: Interval
    x: Tensor
    reach: Tensor
    capped: Tensor

    def ends(self) -> list[tuple[Tensor, Tensor]]:
        """The ends of the boxes: first what is left, then the caps above and below for each input."""
        low, high = self.box.lower, self.box.upper
        above, below = torch.minimum(self.x + self.reach, high), torch.maximum(self.x - self.reach, low)
        found = [(below, above)]
        for i in range(self.x.shape[1]):
            column = torch.arange(self.x.shape[1], device=self.x.device) == i
            found.append((torch.where(column, above, low), high))
            found.append((low, torch.where(column, below, high)))
        return found

    def part(self, low: Tensor, high: Tensor) -> BoundPiece:
        """The piece of the ball in a box, which is empty where the box is a face or the sample is not capped."""
        shape = self.ball.x.shape
        nothing = ~self.capped | ((low >= high) & (self.box.lower < self.box.upper)).any(1)
        far = self.box.upper + 4 * (self.box.upper - self.box.lower).amax(1, keepdim=True) + 1
        low, high = (torch.where(nothing.unsqueeze(1), far, t).reshape(shape) for t in (low, high))
        return BoundPiece.of(self.ball, BoundBox.between(low, high))
