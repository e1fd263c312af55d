"""Dividing problems at a point of a neuron's range: z_j <= c in one part, z_j >= c in the other, for any activation."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, prod
from typing import final

import torch
from torch import Tensor

from recurjac.activations import AbstractActivation
from recurjac.arithmetic import Fast, Interval
from recurjac.branching.branchers import AbstractBrancher, InputBisection
from recurjac.branching.effects import neuron_effects
from recurjac.preactivation import PreactivationState
from recurjac.problem import Problem

_SHARES = (0.5, 0.35, 0.65, 0.2, 0.8)
"""The points of a range that are tried, if no jump of the slope lies in it."""
_SUM = 0.1
"""How much the width of the narrower of the two ranges of slopes counts, beside that of the wider one."""
_FAR = 10.0
"""Where a range without ends is cut."""
_NONE = -1


@final
@dataclass(frozen=True)
class PieceBisection(AbstractBrancher):
    """Divides at a point of the range of the neuron whose slope has the largest effect on the Jacobian.

    That point is a jump of the slope, if there is one in the range, or the one that leaves the slopes of the two pieces
    the least width.  In a part, the range of the neuron and of its slope are those of a piece, and a pre-activation
    rule may use its half-space (`HalfSpaces`).  If a sample of the batch has no neuron to divide at, `otherwise`
    divides the problem.  No proof depends on the choice.  Source: docs/mathematics.md, §6.11.
    """

    otherwise: AbstractBrancher = field(default_factory=InputBisection)

    @property
    def title(self) -> str:
        return "piece bisection"

    def supports(self, problem: Problem) -> bool:
        return any(not s.linear for s in problem.network.stages[:-1]) and self.otherwise.supports(problem)

    def divisible(self, problem: Problem) -> Tensor:
        return self.otherwise.divisible(problem)

    def effects(self, state: PreactivationState, weights: Tensor | None = None) -> Tensor:
        """The number of a neuron, counted through all inner stages, and the point, for each sample: (batch, 2)."""
        sizes, cuts = neuron_effects(state, weights), []
        for k in range(1, state.network.depth):
            cut, able = cuts_of(state.activation(k), state.pre(k))
            cuts.append(cut.flatten(1))
            sizes[k - 1] = torch.where(able.flatten(1), sizes[k - 1], 0.0)
        every = torch.cat(sizes, 1)
        best = every.max(1)
        number = torch.where(best.values > 0, best.indices, _NONE).to(every)
        return torch.stack([number, torch.cat(cuts, 1).gather(1, best.indices.unsqueeze(1))[:, 0]], 1)

    def divide(self, problem: Problem) -> list[Problem]:
        with torch.no_grad():
            return self.divided(problem, self.effects(problem.preactivations()))

    def divided(self, problem: Problem, effects: Tensor | None) -> list[Problem]:
        if effects is None:
            return self.divide(problem)
        if bool((effects[:, 0] < 0).any()):
            return self.otherwise.divide(problem)
        return [_with_side(problem, effects[:, 0].long(), effects[:, 1], below) for below in (False, True)]


def cuts_of(activation: AbstractActivation, z: Interval) -> tuple[Tensor, Tensor]:
    """Where ranges z are cut, and whether the slope of one of the two pieces is then known better: two of z's shape."""
    low, high = torch.maximum(z.lower, z.upper.clamp(max=0) - _FAR), torch.minimum(z.upper, z.lower.clamp(min=0) + _FAR)
    points = [torch.full_like(low, jump) for jump in activation.jumps]
    points += [low + share * (high - low) for share in _SHARES]
    whole = activation.slope_range(z, Fast()).width
    best, least = points[0], torch.full_like(low, inf)
    for c in points:
        inside = (z.lower < c) & (c < z.upper)
        at = torch.minimum(torch.maximum(c, z.lower), z.upper)
        left, right = torch.nextafter(at, z.lower), torch.nextafter(at, z.upper)
        parts = (Interval.unchecked(z.lower, left), Interval.unchecked(right, z.upper))
        widths = torch.stack([activation.slope_range(p, Fast()).width.nan_to_num(inf) for p in parts])
        cost = torch.where(inside, widths.amax(0) + _SUM * widths.amin(0), inf)
        best, least = torch.where(cost < least, c, best), torch.minimum(cost, least)
    return best, least < (1 + _SUM) * whole


def _with_side(problem: Problem, numbers: Tensor, cuts: Tensor, below: bool) -> Problem:
    """The problem where z <= c or z >= c at one neuron of each sample."""
    begin, network = 0, problem.network
    for k in range(1, network.depth):
        shape = network.shape(k)
        own = torch.arange(begin, begin + prod(shape), device=numbers.device) == numbers.unsqueeze(1)
        begin += prod(shape)
        if bool(own.any()):
            end = torch.where(own, cuts.unsqueeze(1), inf if below else -inf).reshape(-1, *shape)
            free = torch.full_like(end, inf)
            problem = problem.constrained(k, Interval(-free, end) if below else Interval(end, free))
    return problem
