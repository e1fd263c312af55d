"""Dividing problems at a point of a neuron's range: z_j <= c in one part, z_j >= c in the other, for any activation."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, prod
from typing import final

import torch
from torch import Tensor

from recurjac.activations import cuts_of
from recurjac.arithmetic import Interval
from recurjac.branching.branchers import AbstractBrancher, InputBisection
from recurjac.branching.effects import neuron_effects
from recurjac.preactivation import PreactivationState
from recurjac.problem import Problem

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
