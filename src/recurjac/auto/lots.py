"""Samples that `Auto` bounds together, with the steps that were taken for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.auto.arms import Arm, Report, improve
from recurjac.auto.opening import line, open_alone, open_entries
from recurjac.auto.order import OPENING
from recurjac.auto.step import AbstractStep
from recurjac.auto.work import Work
from recurjac.deadline import Deadline
from recurjac.norms import JacobianNorm, NormBound
from recurjac.search import Attained

Listener = Callable[["Lot", Report], None]
"""What is called after each step of a lot."""
_ENTRIES = JacobianNorm().title
"""The name of the step of `OPENING` that is never left out."""
_TINY = 1e-300
"""What a bound counts at least in a ratio."""


@final
@dataclass(frozen=True)
class Answer:
    """What is found for one sample, with a batch axis of one entry, and why it ended."""

    upper: Tensor
    attained: Attained | None
    by: str
    status: str
    line: str


@final
@dataclass
class Lot:
    """Some samples of a batch; `begin` is the first of them.

    first, arms: the steps that come first, and the others.  reports: what they gave.
    """

    begin: int
    work: Work
    first: list[Arm]
    arms: list[Arm]
    reports: list[Report] = field(default_factory=list)

    @classmethod
    def of(cls, begin: int, work: Work, steps: Sequence[AbstractStep]) -> Lot:
        """Before the first bound.  For several samples, a step makes one effort."""
        return cls(begin, work, [Arm(s, most=1) for s in OPENING], [Arm(s, most=1) for s in steps])

    @property
    def size(self) -> int:
        return self.work.batch

    @property
    def open(self) -> list[int]:
        """The samples whose bounds do not meet yet."""
        found: list[int] = (~self.work.meets).nonzero().flatten().tolist()
        return found

    @property
    def ratios(self) -> list[float]:
        """The upper bound of each sample, divided by what is attained."""
        tops, attained = self.work.tops.double(), self.work.attained
        found: list[float] = (tops if attained is None else tops / attained.gain.double().clamp(min=_TINY)).tolist()
        return found

    def opened(self, tell: Listener) -> None:
        """Make the first bounds, from the product of norms on."""
        open_alone(self.work, self.first, self._told(tell))
        took = [a.seconds for a in self.first if a.step.title == _ENTRIES and a.bounds is not None]
        self.work.entry_seconds = min(took, default=inf)

    def begun(self, deadline: Deadline, tell: Listener) -> float:
        """Make the first bounds; returns the seconds that ranges and entries took, infinite if they were not done."""
        self.work.deadline = deadline
        open_entries(self.work, self.first, self._told(tell))
        for arm in self.first:
            if arm.step.title == _ENTRIES and arm.bounds is not None:
                self.work.entry_seconds = arm.seconds
                return arm.seconds + self.work.pass_seconds / self.work.gradients.chain.rows
        return inf

    def begun_surely(self, tell: Listener) -> float:
        """The same where it is known that there is time: only the entries, without looking at the clock."""
        self.work.deadline = began = Deadline.after(inf)
        self.first = [arm for arm in self.first if arm.step.title == _ENTRIES]
        self.work.measure()
        for arm in self.first:
            self._told(tell)(arm.pull(self.work))
            self.work.entry_seconds = arm.seconds
        return began.spent

    def improved(self, deadline: Deadline, arms: Sequence[Arm], tell: Listener) -> None:
        """Take some of the steps."""
        self.work.deadline = deadline
        improve(arms, self.work, self._told(tell))

    def finished(self, deadline: Deadline, tell: Listener) -> str:
        """Take all steps; returns why it ended."""
        self.work.deadline = deadline
        return improve([*self.first, *self.arms], self.work, self._told(tell))

    def alone(self, i: int) -> Lot:
        """One of the samples, with all that is known of it."""
        first, arms = ([a.sample(i, self.size) for a in part] for part in (self.first, self.arms))
        return Lot(self.begin + i, self.work.sample(i), first, arms, [r.sample(i) for r in self.reports])

    def answer(self, i: int, status: str, remark: str = "") -> Answer:
        """What is known of one of the samples."""
        work, steps = self.work, line([r.sample(i) for r in self.reports])
        if work.upper is None:
            raise ValueError("nothing is bounded yet")
        attained = None if work.attained is None else work.attained.rows(i, i + 1)
        return Answer(work.upper[i : i + 1], attained, work.by[i], status, f"{steps}; {remark}" if remark else steps)

    def _told(self, tell: Listener) -> Callable[[Report], None]:
        def told(done: Report) -> None:
            self.reports.append(done)
            tell(self, done)

        return told


def joined(answers: Sequence[Answer], more: Sequence[str] = ()) -> NormBound:
    """The bounds of several samples, with more words about why it ended.

    What is attained counts only if it is known for all.
    """
    attained = [a.attained for a in answers if a.attained is not None]
    known = Attained.joined(attained) if len(attained) == len(answers) else None
    status = ", ".join(dict.fromkeys([*(a.status for a in answers), *more]))
    note = "; ".join(dict.fromkeys(f"least by {a.by}" for a in answers))
    return NormBound(torch.cat([a.upper for a in answers]), status, note, known, tuple(a.line for a in answers))
