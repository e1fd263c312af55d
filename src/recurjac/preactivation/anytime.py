"""Ranges that grow tighter while there is time: what is known already, and rules that stop at a deadline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.deadline import Deadline
from recurjac.preactivation.base import AbstractPreactivation, Refine
from recurjac.preactivation.relaxation import CrownLines
from recurjac.preactivation.state import AbstractLineChoice, PreactivationState


@final
@dataclass(frozen=True, eq=False)
class Known(AbstractPreactivation):
    """The bounds of all stages before the last that an earlier pass over the same problem has proved.

    The output is bounded by `last`.
    """

    bounds: tuple[Interval, ...]
    last: AbstractPreactivation

    @classmethod
    def of(cls, state: PreactivationState, last: AbstractPreactivation) -> Known:
        """What a state knows, and the rule that made it."""
        return cls(tuple(state.pre(k) for k in range(1, state.network.depth)), last)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {}

    @property
    def title(self) -> str:
        return self.last.title

    @property
    def holds_samples(self) -> bool:
        return True

    @property
    def choice(self) -> AbstractLineChoice | None:
        return self.last.choice

    def bound(self, state: PreactivationState, k: int, chosen: Tensor | None) -> Interval:
        return self.bounds[k - 1] if k <= len(self.bounds) else self.last.bound(state, k, chosen)


@final
@dataclass(frozen=True)
class Within(AbstractPreactivation):
    """A rule of which every stage gets its share of the time until a deadline (`within`).

    After the deadline, nothing is known.
    """

    rule: AbstractPreactivation
    deadline: Deadline

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {}

    @property
    def title(self) -> str:
        return self.rule.title

    @property
    def holds_samples(self) -> bool:
        return self.rule.holds_samples

    @property
    def choice(self) -> AbstractLineChoice | None:
        return self.rule.choice

    def bound(self, state: PreactivationState, k: int, chosen: Tensor | None) -> Interval:
        left = self.deadline.left
        if left == 0:
            return _nothing(state, k)
        stages = sum(not state.stage(j).linear for j in range(k, state.network.depth)) + 1
        return self.rule.within(left / stages).bound(state, k, chosen)


def _nothing(state: PreactivationState, k: int) -> Interval:
    shape = (state.region.batch, *state.stage(k).shape)
    end = torch.full(shape, torch.inf, dtype=state.network.dtype, device=state.network.device)
    return Interval(-end, end)


def refined(state: PreactivationState, rule: AbstractPreactivation, then: AbstractPreactivation) -> Refine:
    """What a state made by `rule` knows, and CROWN's lines and `then` at the neurons that are unstable.

    CROWN's lines are drawn again because they are better where `then` tightens earlier stages.
    """
    return Refine(Refine(Known.of(state, rule), CrownLines()), then)
