"""Which step is next: each is tried once, then those go on that closed the gap most for each second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.auto.step import AbstractStep
from recurjac.auto.work import Work
from recurjac.deadline import until
from recurjac.errors import OutOfTime

_LITTLE = 1e-3
"""A step that closes the gap by less than this factor (less 1) has not improved anything worth its time."""
_NEAR = 3.0
"""Bounds within this factor of the best are computed again as soon as ranges are tighter."""
_CHEAP = 0.1
"""So are those that take at most this share of the time that the ranges took."""

_LAST = 2
"""So many failures in a row, or one for want of time, end the efforts of a step."""
_GOING = 0.2
"""A step that goes on where it ended is the next one if it has closed this share of the gap."""
_LATE = 0.98
"""The share of the time after which nothing is begun."""


@final
@dataclass(frozen=True)
class Report:
    """What a step gave: its own upper bound of each sample (batch,), if it is one, and what is attained after it."""

    step: str
    bounds: Tensor | None
    lower: float
    seconds: float

    def sample(self, i: int) -> Report:
        """What it gave for one sample."""
        return self if self.bounds is None else replace(self, bounds=self.bounds[i : i + 1])


@final
@dataclass
class Arm:
    """A step, how far it has gone, and what it gave the last time.

    rung: the last effort; -1 before the first.  most: how many efforts it may make.  version: that of the ranges then.
    bounds: its own upper bounds, (batch,).  seconds: how long it took.  gain: by how much the gap fell.
    failures: how often in a row it fell by little.
    expected: how long it takes, from what it took for other samples; infinite if it was tried for none.
    """

    step: AbstractStep
    rung: int = -1
    version: int = -1
    bounds: Tensor | None = None
    seconds: float = 0.0
    gain: float = 0.0
    failures: int = 0
    going: bool = False
    most: int = 2**20
    expected: float = inf

    def sample(self, i: int, batch: int) -> Arm:
        """The step for one sample of so many."""
        bounds = None if self.bounds is None else self.bounds[i : i + 1]
        return replace(self, bounds=bounds, seconds=self.seconds / batch, going=False, most=2**20)

    @property
    def untried(self) -> bool:
        return self.rung < 0

    @property
    def best(self) -> float:
        """Its own upper bound, the largest of the batch."""
        return inf if self.bounds is None else float(self.bounds.max())

    def stale(self, work: Work) -> bool:
        """Whether it gave a bound from ranges that are tighter now."""
        return self.step.follows and not self.untried and self.version < work.version

    def ready(self, work: Work) -> bool:
        """Whether it may improve something, and still fits into the time."""
        if not self.step.suits(work):
            return False
        more = self.rung + 1 < min(self.step.rungs, self.most) and self.failures < _LAST
        return self.untried or self.stale(work) or more

    def fits(self, work: Work) -> bool:
        """Whether it is likely to end in time."""
        least = min(self.step.least(work), self.expected)
        return max(least, self.seconds if self.stale(work) else 0.0) <= work.deadline.left

    def rate(self, work: Work) -> float:
        """How much it is expected to close the gap in a second."""
        if self.going or self.untried:
            return inf
        return 0.0 if self.stale(work) else self.gain / max(self.seconds, 1e-3) / 2

    def leads(self, work: Work, seconds: float) -> bool:
        """Whether its bound should be computed again after ranges that took this long became tighter."""
        if not self.stale(work) or self.bounds is None or not self.step.suits(work):
            return False
        least = inf if work.upper is None else float(work.upper.max())
        return self.best <= _NEAR * least or self.seconds <= _CHEAP * seconds

    def pull(self, work: Work) -> Report:
        """Run the step: with the effort of the last time if ranges are tighter since then, otherwise with the next."""
        rung = self.rung if self.stale(work) else min(self.rung + 1, self.step.rungs - 1)
        before, began = work.gap, work.deadline.spent
        share, limit, self.bounds, work.last = self.step.share, work.limit, None, None
        try:
            with until(limit if limit.end == inf else limit.part((1 + share) / 2)):
                found = self.step.run(work, rung, share * work.deadline.left)
                self.bounds = None if found is None else by_sample(work, found)
        except OutOfTime:
            self.failures, found = _LAST, self.step.given_up(work)
            self.bounds = None if found is None else by_sample(work, found)
        self.rung, self.version = rung, work.version
        self.record(work, before, began)
        return Report(self.step.title, self.bounds, work.lower, work.deadline.spent)

    def record(self, work: Work, before: float, began: float) -> None:
        """Note by how much the gap has fallen since then."""
        self.seconds, self.gain = work.deadline.spent - began, before - work.gap
        self.failures = 0 if self.gain > _LITTLE else self.failures + 1
        self.going = self.step.resumes and self.gain > max(_LITTLE, _GOING * before)


def by_sample(work: Work, found: float) -> Tensor:
    """The bounds that the last method gave for each sample, of which the largest is `found`: (batch,)."""
    if work.last is None:
        return torch.full((len(work.by),), found)
    return work.last.reshape(len(work.last), -1).amax(1)


def choose(arms: Sequence[Arm], work: Work) -> Arm | None:
    """One that is to go on, or the first that was not tried, otherwise that with the best rate; else the quickest."""
    return max(arms, key=lambda arm: (arm.going, arm.rate(work), -arm.seconds), default=None)


def improve(arms: Sequence[Arm], work: Work, report: Callable[[Report], None]) -> str:
    """Go on while there is time and something may improve; returns why it ended."""
    while not work.met:
        ready = [arm for arm in arms if arm.ready(work)]
        ready = [arm for arm in ready if not arm.step.fills] or ready
        if not ready:
            return "time" if work.deadline.share > _LATE else "stuck"
        arm = choose([a for a in ready if a.fits(work)], work)
        if arm is None or work.deadline.share > _LATE:
            return "time"
        before, began, version = work.gap, work.deadline.spent, work.version
        report(arm.pull(work))
        if work.version > version:
            for other in sorted((a for a in arms if a.leads(work, arm.seconds)), key=lambda a: a.best):
                if other.fits(work) and not work.met:
                    report(other.pull(work))
            arm.record(work, before, began)
    return "exact"
