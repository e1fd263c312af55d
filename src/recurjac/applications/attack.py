"""An attack by projected gradients: it looks for inputs near a given one at which a margin is not positive.

Source: Madry et al., ICLR 2018, arXiv:1706.06083, for the descent in one ball.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Interval, Rigorous
from recurjac.deadline import NEVER, Deadline, until
from recurjac.errors import InvalidRequest, OutOfTime, expect_whole
from recurjac.network import Network
from recurjac.preactivation import IBP
from recurjac.problem import Problem
from recurjac.region import LpBall
from recurjac.search import outputs_and_jacobian


@final
@dataclass(frozen=True)
class Adversary:
    """At `point` (batch, *input), at most at distance `distance` (batch,) from the input, some margin is not positive.

    distance: float64, in the norm of the ball, rounded up; infinite if no adversary was found, and `point` is then the
    input.  rounds: how many rounds of the attack ended.  complete: whether these were all.
    """

    distance: Tensor
    point: Tensor
    rounds: int = 1
    complete: bool = True


_State = tuple[Tensor, Tensor]
"""For each input the best point so far, (batch, *input), and whether it is an adversary, (batch,)."""
_CROSSINGS = 20
"""The largest number of steps to nearer adversaries."""
_BEYOND = 1e-6
"""How much farther than a point at which the margin would be 0 a step goes."""
_STRIDES, _STRIDE = 10, 0.05
"""The largest number of steps of a rushed attack, and how much farther they go than linear margins ask for.

It ends when no step comes nearer by that much.
"""
_DOUBLINGS = 60
"""How often a length is doubled, and halved, until it is found."""
_DRAWN = 32
"""The number of random points of a ball that are evaluated; the descents start from the best of them."""


@final
@dataclass(frozen=True)
class Attack:
    """Projected gradients in balls that grow until an adversary is found, then shrink around the nearest one.

    steps: number of steps of one descent.  starts: number of parallel descents, from the input, the best point so far
    and the best random points.  rounds: number of times that the ball grows, and shrinks; 0 means no attack.
    seed: for the random starts.
    Raises InvalidRequest for fewer than 1 step, 1 start or 0 rounds, and for numbers that are not whole.
    """

    steps: int = 9
    starts: int = 3
    rounds: int = 7
    seed: int = 0

    def __post_init__(self) -> None:
        expect_whole("the attack", steps=self.steps, starts=self.starts, rounds=self.rounds, seed=self.seed)
        if min(self.steps, self.starts) < 1 or self.rounds < 0:
            raise InvalidRequest(f"{self} has too few steps, starts or rounds; give at least 1, 1 and 0")

    def nearest(
        self, margins: Network, ball: LpBall, scale: Tensor, arithmetic: AbstractArithmetic, deadline: Deadline = NEVER
    ) -> Adversary:
        """The nearest adversary found for the network `margins`, all of whose outputs are positive at the input.

        ball: the inputs, their norm and clip box; its radius is not used.  scale: (batch,), a positive first guess of
        the distance.  deadline: at which the rounds that ended are the result.  Each adversary is proved to be one, as
        far as `arithmetic` covers rounding.
        """
        target = _Target(margins, ball)
        return _after(self._rounds(target, scale), target, arithmetic, deadline)

    def rushed(
        self, margins: Network, ball: LpBall, arithmetic: AbstractArithmetic, deadline: Deadline = NEVER
    ) -> Adversary:
        """The same by a few steps from the inputs, which find adversaries much sooner, though farther ones.

        A step goes a little beyond the point at which the least margin would be 0 if it were linear.
        """
        target = _Target(margins, ball)
        return _after(self._strides(target), target, arithmetic, deadline)

    def _rounds(self, target: _Target, scale: Tensor) -> Iterator[_State]:
        """The state after each ball."""
        generator = torch.Generator().manual_seed(self.seed)
        best, found = target.nothing
        reach = torch.where((scale > 0) & scale.isfinite(), scale, 1.0).to(target.x)
        for _ in range(self.rounds):
            if bool(found.all()):
                break
            points = self._descend(target, best, reach, generator)
            best, found = target.better(points, best, found)
            reach = torch.where(found, reach, 2 * reach)
            yield best, found
        low, high = torch.zeros_like(reach), target.length(best)
        for _ in range(self.rounds if bool(found.any()) else 0):
            reach = torch.where(low > 0, (low + high) / 2, 0.8 * high)
            points = self._descend(target, best, reach, generator)
            best, _ = target.better(points, best, found)
            now = target.length(best)
            low, high = torch.where(now < high, torch.minimum(low, 0.9 * now), reach), now
            yield best, found

    def _strides(self, target: _Target) -> Iterator[_State]:
        """The state after each step, which goes on from the nearest adversary, or from the last point without one."""
        (best, found), point = target.nothing, target.x
        for _ in range(_STRIDES if self.rounds else 0):
            value, slope = target.steepest(point.unsqueeze(1))
            end = target.crossing(point, value[:, 0], slope[:, 0])
            point, before = target.clipped(target.x + (1 + _STRIDE) * (end - target.x)), target.length(best)
            known, (best, found) = found, target.better(point.unsqueeze(1), best, found)
            yield best, found
            if bool((known & (target.length(best) >= before * (1 - _STRIDE))).all()):
                break
            point = torch.where(_like(found, best), best, point)

    def closer(self, margins: Network, ball: LpBall, points: Tensor, arithmetic: AbstractArithmetic) -> Adversary:
        """Adversaries near the adversaries `points` (batch, *input), nearer to the inputs where some are found.

        Each step goes to the nearest point at which the margin would be 0 if it were linear, or part of the way.
        """
        with torch.no_grad():
            target = _Target(margins, ball)
            best, found = points.clone(), torch.ones(len(points), dtype=torch.bool, device=points.device)
            for _ in range(_CROSSINGS):
                before = target.length(best)
                value, slope = target.steepest(best.unsqueeze(1))
                end = target.crossing(best, value[:, 0], slope[:, 0])
                ways = torch.stack([best + share * (end - best) for share in (1.0, 0.5, 0.2, 0.05)], 1)
                ways = target.x.unsqueeze(1) + (1 + _BEYOND) * (ways - target.x.unsqueeze(1))
                best, _ = target.better(ways, best, found)
                if bool((target.length(best) >= before * (1 - _BEYOND)).all()):
                    break
            return target.proved(best, found, arithmetic)

    def _descend(self, target: _Target, best: Tensor, reach: Tensor, generator: torch.Generator) -> Tensor:
        """The best points of descents of the margin inside the ball of radius `reach`: (batch, starts, *input)."""
        size = _like(reach, target.x)
        region = LpBall(target.x, size, target.ball.p, target.clip).bind(target.shape, target.x.dtype, target.x.device)
        x = target.x.unsqueeze(1)
        drawn = region.sample(max(_DRAWN, self.starts), generator)
        lowest = target.least(drawn).topk(self.starts, largest=False).indices
        random = drawn[torch.arange(len(drawn), device=x.device).unsqueeze(1), lowest]
        points = region.project(torch.cat([x, best.unsqueeze(1), random], 1)[:, : self.starts])
        many = torch.arange(self.starts, device=x.device) // 2
        lowest, kept = torch.full(points.shape[:2], inf, dtype=x.dtype, device=x.device), points
        box = region.box(Rigorous())
        for step in range(self.steps + 1):
            value, gradient = target.steepest(points)
            lower = value < lowest
            lowest, kept = torch.where(lower, value, lowest), torch.where(_like(lower, points), points, kept)
            if step < self.steps:
                size = reach * (0.03 + 0.97 * (1 - step / self.steps) ** 2)
                move = _downhill(gradient, points, box, target.ball.p, 4**many)
                points = region.project(points + _like(size.unsqueeze(1), points) * move)
        return kept


@final
@dataclass(frozen=True)
class _Target:
    """The margins that the attack makes negative, and the inputs around which it searches."""

    margins: Network
    ball: LpBall

    @property
    def shape(self) -> tuple[int, ...]:
        return self.margins.input_shape

    @cached_property
    def x(self) -> Tensor:
        return self.ball.bind(self.shape, self.margins.dtype, self.margins.device).x

    @property
    def nothing(self) -> _State:
        """The inputs, which are no adversaries."""
        return self.x.clone(), torch.zeros(len(self.x), dtype=torch.bool, device=self.x.device)

    def clipped(self, points: Tensor) -> Tensor:
        """The points (batch, *input), moved into the clip box."""
        return points if self.clip is None else torch.minimum(torch.maximum(points, self.clip[0]), self.clip[1])

    @cached_property
    def clip(self) -> tuple[Tensor, Tensor] | None:
        """The clip box in the dtype of the network."""
        if self.ball.clip is None:
            return None
        box = LpBall(self.ball.x, inf, inf, self.ball.clip).bind(self.shape, self.margins.dtype, self.margins.device)
        ends = box.box(Rigorous())
        return ends.lower, ends.upper

    def least(self, points: Tensor) -> Tensor:
        """The least margin at points (batch, N, *input): (batch, N); infinite in place of NaN."""
        values = self.margins(points.flatten(0, 1)).amin(1).reshape(points.shape[:2])
        return torch.where(values.isnan(), inf, values)

    def steepest(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The least margin at points (batch, N, *input) and its gradient."""
        flat = points.flatten(0, 1)
        margins, slopes = outputs_and_jacobian(self.margins, flat)
        values, rows = margins.min(1)
        gradient = slopes[torch.arange(len(flat), device=flat.device), rows]
        values = torch.where(values.isnan(), inf, values)
        return values.reshape(points.shape[:2]), gradient.nan_to_num(0.0, 0.0, 0.0).reshape(points.shape)

    def crossing(self, points: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        """The points (batch, *input) nearest to the inputs at which a linear margin is 0, within the clip box.

        It is `value` (batch,) at `points` and has the given slope (batch, *input).
        """
        down, x = -slope.flatten(1), self.x.flatten(1)
        ends = (torch.full_like(x, -inf), torch.full_like(x, inf)) if self.clip is None else self.clip
        room = torch.where(down > 0, ends[1].flatten(1) - x, x - ends[0].flatten(1))
        room = torch.where(down == 0, 0.0, room)
        size = down.abs()
        left = value + (slope.flatten(1) * (x - points.flatten(1))).sum(1)
        low, high = torch.zeros_like(left), torch.ones_like(left)
        for _ in range(_DOUBLINGS):
            short = (_moves(high, size, room, self.ball.p) * size).sum(1) < left
            high = torch.where(short, 2 * high, high)
        for _ in range(_DOUBLINGS):
            middle = (low + high) / 2
            short = (_moves(middle, size, room, self.ball.p) * size).sum(1) < left
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        return (x + down.sign() * _moves(high, size, room, self.ball.p)).reshape(points.shape)

    def length(self, points: Tensor) -> Tensor:
        """The distances of points (batch, *input) from the inputs."""
        length: Tensor = torch.linalg.vector_norm((points - self.x).flatten(1), self.ball.p, dim=1)
        return length

    def better(self, points: Tensor, best: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest of `best`, where `found`, and of adversaries on the segments from the input to the points."""
        x, rows = self.x.unsqueeze(1), torch.arange(len(best), device=best.device)
        for pick in range(points.shape[1]):
            end = points[:, pick]
            over = self.least(end.unsqueeze(1))[:, 0] <= 0
            if not bool(over.any()):
                continue
            low, high = x.new_zeros(len(best)), x.new_ones(len(best))
            for _ in range(3):
                shares = torch.arange(1, 17, device=x.device).to(x) / 16
                shares = low.unsqueeze(1) + (high - low).unsqueeze(1) * shares
                way = x + _like(shares, points) * (end.unsqueeze(1) - x)
                crossed = self.least(way) <= 0
                first = torch.where(crossed.any(1), crossed.to(torch.int64).argmax(1), 15)
                high, low = shares[rows, first], torch.where(first > 0, shares[rows, (first - 1).clamp(min=0)], low)
            near = self.x + _like(high, end) * (end - self.x)
            wins = over & (self.least(near.unsqueeze(1))[:, 0] <= 0)
            wins = wins & (~found | (self.length(near) < self.length(best)))
            best, found = torch.where(_like(wins, best), near, best), found | wins
        return best, found

    def proved(self, best: Tensor, found: Tensor, arithmetic: AbstractArithmetic) -> Adversary:
        """The nearest point at or slightly beyond `best` at which a margin is proved not to be positive."""
        x = self.x
        distance = torch.full((len(x),), inf, dtype=torch.float64, device=x.device)
        point = x.clone()
        exact = self.ball.bind(self.shape, torch.float64, x.device).x
        inside = LpBall(self.ball.x, inf, self.ball.p, self.ball.clip)
        for excess in (0.0, 1e-13, 1e-10, 1e-7, 1e-5, 1e-3):
            tried = self.clipped(x + (1 + excess) * (best - x))
            if not bool(tried.isfinite().all()):
                continue
            at = Problem(self.margins, LpBall(tried, 0.0), pre=IBP(), arithmetic=arithmetic)
            over = found & (at.output(at.preactivations()).upper.amin(1) <= 0) & inside.holds(tried.unsqueeze(1))[:, 0]
            away = distance_between(tried.double(), exact, self.ball.p)
            nearer = over & (away < distance)
            distance, point = torch.where(nearer, away, distance), torch.where(_like(nearer, point), tried, point)
            if bool((distance.isfinite() | ~found).all()):
                break
        return Adversary(distance, point)


def _after(rounds: Iterator[_State], target: _Target, arithmetic: AbstractArithmetic, deadline: Deadline) -> Adversary:
    """The adversaries after all rounds that end before the deadline."""
    with torch.no_grad():
        (best, found), done, complete = target.nothing, 0, False
        with suppress(OutOfTime), until(deadline):
            for state in rounds:
                (best, found), done = state, done + 1
            complete = True
        return replace(target.proved(best, found, arithmetic), rounds=done, complete=complete)


def distance_between(a: Tensor, b: Tensor, p: float) -> Tensor:
    """The norm of a - b (batch, *input), float64, rounded up."""
    steps = (a - b).flatten(1)
    most = steps.abs().amax(1)
    if p == inf:
        return Rigorous().at_least(most, 1)
    scale = torch.where(most > 0, most, 1.0)
    sizes = torch.linalg.vector_norm(steps / scale.unsqueeze(1), p, dim=1) * scale
    return Rigorous().at_least(sizes, steps.shape[1] + 8)


def _downhill(gradient: Tensor, points: Tensor, box: Interval, p: float, many: Tensor) -> Tensor:
    """Directions of p-norm 1 in which the margin falls fastest, without coordinates that are stuck at the box.

    many: (starts,), for p = 1 the number of steepest coordinates that share the step.
    """
    low, high = box.lower.unsqueeze(1), box.upper.unsqueeze(1)
    stuck = ((gradient > 0) & (points <= low)) | ((gradient < 0) & (points >= high))
    flat = torch.where(stuck, 0.0, gradient).flatten(2)
    if p == inf:
        return -flat.sign().reshape(points.shape)
    if p == 1:
        order = flat.abs().argsort(-1, descending=True).argsort(-1)
        flat = torch.where(order < many.unsqueeze(1), flat.sign() / many.unsqueeze(1), 0.0)
    else:
        size = torch.linalg.vector_norm(flat, 2, dim=-1, keepdim=True)
        flat = flat / torch.where(size > 0, size, 1.0)
    return -flat.reshape(points.shape)


def _moves(length: Tensor, size: Tensor, room: Tensor, p: float) -> Tensor:
    """The steps (batch, n) of l_p norm about `length` (batch,) along which slopes of `size` fall most, up to `room`.

    For p = 2, the length is a multiple of it that depends on the slopes.
    """
    wide = length.unsqueeze(1)
    if p == inf:
        return torch.minimum(wide.expand_as(room), room)
    if p == 2:
        return torch.minimum(wide * size, room)
    order = size.argsort(1, descending=True)
    own = room.gather(1, order).clamp(max=float(torch.finfo(room.dtype).max) / room.shape[1])
    before = own.cumsum(1) - own
    steps = torch.minimum((wide - before).clamp(min=0), own)
    return torch.zeros_like(room).scatter(1, order, steps)


def _like(numbers: Tensor, points: Tensor) -> Tensor:
    """`numbers` (batch, …) with as many dimensions as the points."""
    return numbers.reshape(*numbers.shape, *[1] * (points.dim() - numbers.dim()))
