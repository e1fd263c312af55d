"""How a problem is divided into parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.problem import Problem
from recurjac.search import point_jacobian


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


@final
@dataclass(frozen=True)
class InputBisection(AbstractBrancher):
    """Halves the region along the input that changes the outputs most; for networks with at most `most` inputs.

    No proof depends on the choice of the input.
    """

    most: int = 64

    @property
    def title(self) -> str:
        return "input bisection"

    def supports(self, problem: Problem) -> bool:
        return prod(problem.network.input_shape) <= self.most

    def divide(self, problem: Problem) -> list[Problem]:
        return [problem.part(half) for half in problem.bound.halves(self._axis(problem))]

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
