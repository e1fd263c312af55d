"""Ranges that grow tighter while there is time: what is known already, and rules that stop at a deadline."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.deadline import NEVER, Deadline, check_seconds, shorter, until
from recurjac.errors import OutOfTime
from recurjac.preactivation.base import AbstractPreactivation, Refine
from recurjac.preactivation.forward import Quick
from recurjac.preactivation.ibp import IBP
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

    def sample(self, i: int) -> Known:
        """What is known of one sample."""
        return Known(tuple(z.map(lambda t: t[i : i + 1]) for z in self.bounds), self.last)

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

    Rules that bound each neuron by itself take them in lots.  Of lots that are not done in time, and after the
    deadline, nothing is known.
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
        if self.deadline.end == inf:
            return self.rule.bound(state, k, chosen)
        if self.deadline.left == 0:
            return _nothing(state, k)
        own = _share(self.deadline, state, k)
        rule = self.rule.within(own.left)
        if rule.separable:
            return _in_lots(rule, state, k, chosen, own)
        with suppress(OutOfTime), until(state.planner.watched(state.network, self.deadline)):
            return rule.bound(state, k, chosen)
        return _nothing(state, k)


@final
@dataclass(frozen=True)
class OrIntervals(AbstractPreactivation):
    """A rule that bounds whole stages at once, and intervals for stages that it does not bound before a deadline."""

    rule: AbstractPreactivation
    deadline: Deadline

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {}

    @property
    def title(self) -> str:
        return self.rule.title

    def bound(self, state: PreactivationState, k: int, chosen: Tensor | None) -> Interval:
        return self.rule.bound(state, k, chosen)

    def stage(self, state: PreactivationState, k: int) -> Interval:
        own = self.deadline.part(_FORMS) if state.network.has_products else _share(self.deadline, state, k)
        with suppress(OutOfTime), until(state.planner.watched(state.network, own)):
            return self.rule.stage(state, k)
        return IBP().bound(state, k, None)

    def open(self, state: PreactivationState, k: int, bounds: Interval) -> Tensor:
        return self.rule.open(state, k, bounds)


def _share(deadline: Deadline, state: PreactivationState, k: int) -> Deadline:
    """The part of the time for stage k: about twice an equal share, as few stages need most of it."""
    stages = sum(not state.stage(j).linear for j in range(k, state.network.depth)) + 1
    return deadline.part(2 / (stages + 1))


_FORMS = 0.5
"""The part of the time that is left which a stage of a network with products has, whose forms are carried on."""
_LOT = 256
"""The number of neurons of the first lots."""


def _in_lots(
    rule: AbstractPreactivation, state: PreactivationState, k: int, chosen: Tensor | None, deadline: Deadline
) -> Interval:
    """Bounds of the chosen neurons, lot by lot, until the deadline; infinite for those that are left."""
    shape, device = (state.region.batch, *state.stage(k).shape), state.network.device
    mask = torch.ones(shape, dtype=torch.bool, device=device) if chosen is None else chosen
    left, limit = mask.flatten(1).any(0).nonzero().flatten(), state.planner.watched(state.network, deadline)
    if limit.end == inf or len(left) <= _LOT:
        with suppress(OutOfTime), until(limit):
            return rule.bound(state, k, chosen)
        return _nothing(state, k)
    found, size = _nothing(state, k), _LOT
    with suppress(OutOfTime), until(limit):
        while len(left):
            before = deadline.spent
            lot = torch.zeros_like(mask.flatten(1)).index_fill_(1, left[:size], True).reshape(shape) & mask
            tighter = rule.bound(state, k, lot)
            found = Interval.unchecked(*(torch.where(lot, *e) for e in _ends(tighter, found)))
            left = left[size:]
            if deadline.spent - before < deadline.left / 16:
                size *= 2
    return found


def _ends(a: Interval, b: Interval) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return (a.lower, b.lower), (a.upper, b.upper)


def _nothing(state: PreactivationState, k: int) -> Interval:
    shape = (state.region.batch, *state.stage(k).shape)
    end = torch.full(shape, torch.inf, dtype=state.network.dtype, device=state.network.device)
    return Interval(-end, end)


def in_time(rule: AbstractPreactivation, deadline: Deadline) -> AbstractPreactivation:
    """The rule, with ranges by intervals for what it does not bound before a deadline.

    Rules that hold numbers for their samples take no time.
    """
    if deadline.end == inf or isinstance(rule, IBP) or rule.holds_samples:
        return rule
    if isinstance(rule, AutoRanges):
        return rule.within(deadline.left)
    if isinstance(rule, Quick):
        return OrIntervals(rule, deadline)
    if isinstance(rule, Refine):
        return Refine(in_time(rule.first, deadline), Within(rule.then, deadline))
    return Refine(IBP(), Within(rule, deadline))


@final
@dataclass(frozen=True)
class AutoRanges(AbstractPreactivation):
    """CROWN, then `rules` on the neurons that are unstable, one after the other, as long as there is time.

    seconds: from the first stage to the last, for all samples that are bounded together; samples of large networks may
    be bounded one by one (`Problem.batches`), and each then has these seconds.  The stages share what is left, so that
    what one does not need is there for later ones.  Neurons for which there is no time have ranges by intervals.
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
        found = in_time(Crown(), deadline)
        for rule in self.rules:
            found = Refine(found, Within(rule, deadline))
        return found


def refined(
    state: PreactivationState, rule: AbstractPreactivation, then: AbstractPreactivation, deadline: Deadline = NEVER
) -> Refine:
    """What a state made by `rule` knows, and CROWN's lines and `then` at the neurons that are unstable, in time.

    CROWN's lines are drawn again because they are better where `then` tightens earlier stages.
    """
    return Refine(Refine(Known.of(state, rule), Within(CrownLines(), deadline)), Within(then, deadline))
