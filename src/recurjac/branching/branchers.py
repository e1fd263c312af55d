"""How a problem is divided into parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.branching.effects import input_effects
from recurjac.errors import expect_counts
from recurjac.preactivation import PreactivationState
from recurjac.problem import Problem
from recurjac.region.base import FAST
from recurjac.search import point_jacobian

FINEST = 8
"""The largest number of parts into which one is divided at once, but for the first of all."""


class AbstractBrancher(ABC):
    """A way to divide problems.  It is a frozen object that holds its settings."""

    @property
    @abstractmethod
    def title(self) -> str:
        """The name for tables and provenance."""

    @abstractmethod
    def supports(self, problem: Problem) -> bool:
        """Whether the problem can be divided this way."""

    @abstractmethod
    def divide(self, problem: Problem) -> list[Problem]:
        """Problems with the same batch size.  Together, the parts of one sample cover the problem of that sample."""

    def divisible(self, problem: Problem) -> Tensor:
        """Which samples can be divided this way: (batch,)."""
        able = [self.supports(sample) for sample in problem.samples()]
        known = torch.tensor(able, dtype=torch.bool, device=problem.network.device)
        return known & ~without_width(problem.bound.box(FAST))

    def able(self, problem: Problem, effects: Tensor | None) -> Tensor:
        """Which samples can be divided, (batch,), if `effects` are known."""
        return self.divisible(problem)

    def effects(self, state: PreactivationState, weights: Tensor | None = None) -> Tensor | None:
        """What the choice of the division depends on, (batch, …), from what is known when a part is bounded.

        weights: of the entries of the Jacobian, (batch, K, n), as far as they matter.
        """
        return None

    def divided(self, problem: Problem, effects: Tensor | None) -> list[Problem]:
        """Like `divide`, if `effects` are known."""
        return self.divide(problem)

    def finely(self, problem: Problem, effects: Tensor | None, most: int, finest: int = FINEST) -> list[Problem]:
        """Like `divided`, or into up to `finest` smaller parts if all of them are at most `most` together."""
        return self.divided(problem, effects)


@final
@dataclass(frozen=True)
class InputBisection(AbstractBrancher):
    """Halves the region along the input that matters most; for networks with at most `most` inputs.

    That is the one with the largest effect on the bound, if the bound says so, otherwise on the outputs.

    No proof depends on the choice of the input.
    """

    most: int = 64

    def __post_init__(self) -> None:
        expect_counts("InputBisection", most=self.most)

    @property
    def title(self) -> str:
        return "input bisection"

    def supports(self, problem: Problem) -> bool:
        return prod(problem.network.input_shape) <= self.most

    def divide(self, problem: Problem) -> list[Problem]:
        return self.divided(problem, None)

    def divisible(self, problem: Problem) -> Tensor:
        return ~without_width(problem.bound.box(FAST))

    def effects(self, state: PreactivationState, weights: Tensor | None = None) -> Tensor:
        return input_effects(state, weights)

    def divided(self, problem: Problem, effects: Tensor | None) -> list[Problem]:
        axis = self._axis(problem) if effects is None else self._worst(problem, effects)
        return [problem.part(half) for half in problem.bound.halves(axis)]

    def finely(self, problem: Problem, effects: Tensor | None, most: int, finest: int = FINEST) -> list[Problem]:
        """Halves of halves while all parts are at most `most`; an input that is halved has half of its effect."""
        parts = self.divided(problem, effects)
        while effects is not None and 2 * len(parts) <= finest and 2 * len(parts) * problem.bound.batch <= most:
            axis = self._worst(problem, effects).unsqueeze(1)
            effects = effects.scatter(1, axis, effects.gather(1, axis) / 2)
            parts = [half for part in parts for half in self.divided(part, effects)]
        return parts

    def _worst(self, problem: Problem, effects: Tensor) -> Tensor:
        """The input with the largest effect, or where none is known the widest: (batch,)."""
        width = problem.bound.scale.flatten(1)
        known = (effects.isfinite().all(1, keepdim=True)) & (effects > 0).any(1, keepdim=True)
        return torch.where(known, effects, width).argmax(1)

    def _axis(self, problem: Problem) -> Tensor:
        """The feature with the largest width times change of the outputs at x, or if unknown the widest: (batch,)."""
        with torch.no_grad():
            width = problem.bound.scale.flatten(1)
            change = width * point_jacobian(problem.network, problem.bound.x).abs().sum(1)
            known = (change.isfinite() & (change > 0)).any(1, keepdim=True) & change.isfinite().all(1, keepdim=True)
            return torch.where(known, change, width).argmax(1)


def without_width(box: Interval) -> Tensor:
    """Whether the box of each sample, (batch, *input), cannot be divided further: (batch,)."""
    middle = box.lower / 2 + box.upper / 2
    return ((middle <= box.lower) | (middle >= box.upper)).flatten(1).all(1)
