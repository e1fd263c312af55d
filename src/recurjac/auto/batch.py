"""A batch of samples that share the time: first all together, then one by one, if there is enough for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import final

import torch

from recurjac.auto.arms import Report
from recurjac.auto.lots import Answer, Lot, joined
from recurjac.auto.opening import PRODUCT
from recurjac.auto.step import AbstractStep
from recurjac.auto.work import Question, Work
from recurjac.deadline import Deadline, until
from recurjac.errors import OutOfTime
from recurjac.jacobian import Gradients
from recurjac.norms import NormBound, ProductOfNorms
from recurjac.problem import Problem
from recurjac.search import Aim, Attained, Search, better_of

_TRIED = 1 / 8
"""The share of the time in which the first lot shows how long bounds take, if an equal share is less."""
_LITTLE = 0.1
"""The share of the time that a lot may take at most if nobody looks at the clock meanwhile."""
_WATCHED = 2.0
"""How many times as long bounds of medium-sized networks take if the clock is looked at before each operation."""
_SEARCH = 0.12
"""The share of the time for the search after the first bounds."""
_WORK = 2e9
"""The work of this search."""

Tell = Callable[[float, float, str, float], None]
"""What is called after each step: with the largest upper bound, what is attained, the step, and the seconds."""


@final
@dataclass(frozen=True)
class Pace:
    """The seconds that the first bounds of a sample take, from so many samples; a guess if there are none."""

    each: float = inf
    samples: int = 0

    def expected(self, samples: int) -> float:
        """The seconds of the next samples."""
        return self.each * samples

    def after(self, samples: int, seconds: float) -> Pace:
        """The same after some more samples."""
        done, before = self.samples + samples, self.each * self.samples if self.samples else 0.0
        return Pace((before + seconds) / done, done)


@final
@dataclass
class Batch:
    """The samples of a problem, what is asked about each, and the time for all of them together.

    alone: the seconds from which on it is worth to take samples one by one.
    uppers, lowers: what is known of each sample.
    """

    question: Question
    problem: Problem
    attained: Attained | None
    deadline: Deadline
    steps: tuple[AbstractStep, ...]
    alone: float
    progress: Tell | None
    uppers: list[float]
    lowers: list[float]

    def bounded(self) -> NormBound:
        """The bounds of all samples.  An interruption ends it with what was proved so far, if anything was."""
        lots, answers, ended = self._lots(), dict[int, Answer](), False
        try:
            self._products(lots)
            self._begin(lots)
            self._search(lots)
            self._improve(lots, answers)
        except KeyboardInterrupt:
            ended = True
        if any(lot.work.upper is None for lot in lots):
            raise KeyboardInterrupt
        open_ = {lot.begin + i for lot in lots for i in lot.open}
        for lot in lots:
            for i in range(lot.size):
                status = "exact" if lot.begin + i not in open_ else "interrupted" if ended else "time"
                remark = "too little time for each sample alone" if status == "time" else ""
                answers.setdefault(lot.begin + i, lot.answer(i, status, remark))
        return joined([answers[i] for i in sorted(answers)], ["interrupted"] if ended else [])

    @property
    def _memory(self) -> int:
        return self.problem.arithmetic.memory_on(self.problem.network.device)

    def _lots(self) -> list[Lot]:
        """The samples in lots, as many together as there is memory for."""
        problem = self.problem
        batch = problem.bound.batch
        size = problem.planner.lot(problem.network, batch, self._memory)
        found = []
        for begin in range(0, batch, size):
            end = min(batch, begin + size)
            part = problem if size >= batch else problem.at(torch.arange(begin, end))
            known = None if self.attained is None else self.attained.rows(begin, end)
            found.append(Lot.of(begin, Work(self.question, Gradients(part), self.deadline, part, known), self.steps))
        return found

    def _products(self, lots: Sequence[Lot]) -> None:
        """The product of norms of all samples, whose operators' norms are computed only once."""
        method = ProductOfNorms().within(PRODUCT * self.deadline.left)
        size, end = self.problem.planner.wide_lot(self.problem.network, self._memory), 0
        index = torch.arange(len(self.uppers))
        parts = [self.problem] if size >= len(index) else [self.problem.at(part) for part in index.split(size)]
        upper = torch.cat([self.question.bound(method, Gradients(part.by_intervals())) for part in parts])
        for lot in lots:
            begin, end = end, end + lot.work.batch
            lot.work.learn(NormBound(upper[begin:end].detach()), method.title)
            lot.reports.append(Report(method.title, lot.work.tops, lot.work.lower, self.deadline.spent))
            self._tell(lot, lot.reports[-1])

    def _begin(self, lots: Sequence[Lot]) -> None:
        """The first bounds of each lot, until the time is over."""
        pace = Pace()
        for n, lot in enumerate(lots):
            if self.deadline.over and n:
                return
            share = lot.size / sum(later.size for later in lots[n:])
            if pace.expected(lot.size) <= min(share, _LITTLE) * self.deadline.left:
                pace = pace.after(lot.size, lot.begun_surely(self._tell))
            else:
                took = lot.begun(self.deadline.part(share if n else max(share, _TRIED)), self._tell)
                pace = Pace(took / lot.size / _WATCHED)
            if len(lots) > 1:
                lot.work.drop()

    def _search(self, lots: Sequence[Lot]) -> None:
        """Look for larger attained values where the bounds do not meet, for all samples together."""
        norms, known = self.question.norms, self.attained
        if norms is None or known is None or not any(lot.open for lot in lots):
            return
        upper = torch.cat([lot.work.tops for lot in lots])
        part = self.deadline.part(_SEARCH)
        search = Search(work=_WORK, seconds=max(_TINY, part.left))
        with suppress(OutOfTime), until(self.problem.planner.watched(self.problem.network, part)):
            found = search.attained(self.problem, *norms, Aim(known.witness.unsqueeze(1), upper, part))
            self.attained = better_of(known, found)
            for lot in lots:
                lot.work.attained = self.attained.rows(lot.begin, lot.begin + lot.size)
                self._tell(lot, Report("search", None, lot.work.lower, self.deadline.spent))

    def _improve(self, lots: Sequence[Lot], answers: dict[int, Answer]) -> None:
        """All steps for each sample alone, if there is enough time, those with the largest gap first.

        Otherwise only the steps that bound many samples at once, lot by lot, as long as there is time.
        """
        if not self._enough(lots):
            self._together(lots)
        if not self._enough(lots):
            return
        ratios = [lot.ratios for lot in lots]
        queue = sorted(((ratios[n][i], n, i) for n, lot in enumerate(lots) for i in lot.open), reverse=True)
        for place, (_, n, i) in enumerate(queue):
            one, status = lots[n].alone(i), "interrupted"
            try:
                status = one.finished(self.deadline.part(1 / (len(queue) - place)), self._tell)
            finally:
                answers[one.begin] = one.answer(0, status)

    def _together(self, lots: Sequence[Lot]) -> None:
        """The steps that bound many samples at once, one after the other, each for the lots with the largest gap first.

        A step is taken for the next lot if there is time, as judged by how long it took for the last one.
        """
        for lot in lots:
            lot.improved(self.deadline, lot.first, self._tell)
        for n, step in enumerate(self.steps):
            each = inf
            for lot in sorted(lots, key=lambda lot: -max(lot.ratios)) if step.batches else []:
                arm = lot.arms[n]
                arm.expected = each * lot.size
                lot.improved(self.deadline, [arm], self._tell)
                each = arm.seconds / lot.size if arm.bounds is not None else each

    def _enough(self, lots: Sequence[Lot]) -> bool:
        """Whether there is enough time for each sample that is left."""
        left = sum(len(lot.open) for lot in lots)
        return self.deadline.left >= self.alone * max(1, left)

    def _tell(self, lot: Lot, done: Report) -> None:
        """Take note of what a step gave."""
        ends = slice(lot.begin, lot.begin + lot.size)
        self.uppers[ends] = lot.work.tops.tolist()
        if lot.work.attained is not None:
            self.lowers[ends] = lot.work.attained.gain.tolist()
        if self.progress is not None:
            self.progress(max(self.uppers), max(self.lowers), done.step, self.deadline.spent)


_TINY = 1e-6
"""The seconds of a search for which there is no time."""
