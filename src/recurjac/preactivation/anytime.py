"""Ranges that grow tighter while there is time: what is known already, and rules that stop at a deadline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.deadline import Deadline, check_seconds, shorter
from recurjac.preactivation.base import AbstractPreactivation, Refine
from recurjac.preactivation.relaxation import Crown, CrownLines
from recurjac.preactivation.secants import SecantRanges
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


@final
@dataclass(frozen=True)
class AutoRanges(AbstractPreactivation):
    """CROWN, then `rules` on the neurons that are unstable, one after the other, as long as there is time.

    seconds: from the first stage to the last, for all samples that are bounded together.  The stages share what is
    left, so that what one does not need is there for later ones.
    """

    seconds: float = 10.0
    rules: tuple[AbstractPreactivation, ...] = (SecantRanges(40),)

    def __post_init__(self) -> None:
        check_seconds("AutoRanges", self.seconds)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {"auto": cls()}

    @property
    def title(self) -> str:
        return "auto"

    @property
    def choice(self) -> AbstractLineChoice | None:
        return CrownLines()

    def within(self, seconds: float) -> AutoRanges:
        return replace(self, seconds=shorter(self.seconds, seconds))

    def bound(self, state: PreactivationState, k: int, chosen: Tensor | None) -> Interval:
        return self._refined(state).bound(state, k, chosen)

    def stage(self, state: PreactivationState, k: int) -> Interval:
        return self._refined(state).stage(state, k)

    def output(self, state: PreactivationState) -> Interval:
        return self._refined(state).output(state)

    def _refined(self, state: PreactivationState) -> AbstractPreactivation:
        """All rules, with a deadline."""
        deadline = Deadline(state.began, state.began + self.seconds)
        found: AbstractPreactivation = Crown()
        for rule in self.rules:
            found = Refine(found, Within(rule, deadline))
        return found


def refined(state: PreactivationState, rule: AbstractPreactivation, then: AbstractPreactivation) -> Refine:
    """What a state made by `rule` knows, and CROWN's lines and `then` at the neurons that are unstable.

    CROWN's lines are drawn again because they are better where `then` tightens earlier stages.
    """
    return Refine(Refine(Known.of(state, rule), CrownLines()), then)
