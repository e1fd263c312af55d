"""A portfolio of methods that goes on while there is time: first what is cheap, then what pays most per second."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.auto.arms import Arm, Report
from recurjac.auto.batch import Batch
from recurjac.auto.lots import Lot, joined
from recurjac.auto.order import OPENING, STEPS
from recurjac.auto.step import AbstractStep
from recurjac.auto.work import Question, Work
from recurjac.deadline import Deadline, check_seconds, shorter
from recurjac.jacobian import Gradients
from recurjac.norms import AbstractNormMethod, NormBound
from recurjac.preactivation import AbstractOffersRule, AutoRanges
from recurjac.search import Attained, Search

_SEARCH = 0.03
"""The share of the time for the search before the first step."""
_BRIEF = 3e7
"""The work of this search; a longer one is a step of its own."""


@final
@dataclass(frozen=True)
class Progress:
    """What is known after a step of `Auto`: the upper bound, what is attained, and after how many seconds.

    upper, lower: the largest of all samples.
    """

    upper: float
    lower: float
    step: str
    seconds: float


@final
@dataclass(frozen=True)
class Auto(AbstractNormMethod, AbstractOffersRule):
    """The least of many bounds, found in a number of seconds for all samples of a call together.

    First come the product of norms, which is always computed, and the entry-wise bounds with the problem's rule.
    Then `steps` tighten ranges, bounds and what is attained: each once, in order, then those that closed the gap most
    for each second.  It ends when the two bounds meet to 1e-6, when no step improves anything, or when the time is
    over.  An interruption ends it with what was proved so far.
    The samples of a batch are first bounded together, as many as there is memory for, up to the steps that bound many
    samples at once.  What is left of the time goes to those whose bounds do not meet, one by one, those with the
    largest gap first, in equal shares; but only if each has at least `alone` seconds, as the dear steps give little in
    less.  Otherwise it ends then, with the status "time".
    The note names the step that gave the least bound; `steps` of the result says what each gave.  status: "exact",
    "stuck" (no step improves anything), "time" or "interrupted".  progress: called after each step.
    As a rule for pre-activations, it stands for `AutoRanges` of as many seconds.
    Bounds carry no gradients.  Raises InvalidRequest unless both numbers of seconds are positive.
    """

    seconds: float = 10.0
    steps: tuple[AbstractStep, ...] = STEPS
    progress: Callable[[Progress], None] | None = None
    alone: float = 0.5

    def __post_init__(self) -> None:
        check_seconds("Auto", self.seconds)
        check_seconds("Auto", self.alone, "alone")

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractNormMethod]:
        return {"auto": cls()}

    @property
    def rule(self) -> AutoRanges:
        return AutoRanges(self.seconds)

    @property
    def title(self) -> str:
        return "auto"

    def within(self, seconds: float) -> Auto:
        return replace(self, seconds=shorter(self.seconds, seconds))

    def supports(self, p: float, q: float) -> bool:
        return True

    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        return []

    def norm(self, gradients: Gradients, p: float, q: float) -> Tensor:
        return self.bound(gradients, p, q).upper

    def rows(self, gradients: Gradients, p: float) -> Tensor:
        return self._bounded(gradients, Question(lambda method, known: method.rows(known, p), None), None).upper

    def bound(self, gradients: Gradients, p: float, q: float) -> NormBound:
        return self._bounded(gradients, _of_norm(p, q), None)

    @property
    def search(self) -> Search:
        return Search(work=_BRIEF, seconds=_SEARCH * self.seconds)

    @property
    def heeds_attained(self) -> bool:
        return True

    def towards(self, gradients: Gradients, p: float, q: float, attained: Attained) -> NormBound:
        return self._bounded(gradients, _of_norm(p, q), attained, 1 - _SEARCH)

    @property
    def divides_batch(self) -> bool:
        return True

    def _bounded(
        self, gradients: Gradients, question: Question, attained: Attained | None, share: float = 1.0
    ) -> NormBound:
        """The bounds of all samples: in a way of their own, unless the problem's rule holds numbers for all of them."""
        with torch.no_grad():  # live weights would keep all tensors of all steps
            return self._found(gradients, question, attained, share)

    def _found(self, gradients: Gradients, question: Question, attained: Attained | None, share: float) -> NormBound:
        problem = None if gradients.given is not None else gradients.problem
        deadline = Deadline.after(share * self.seconds)
        if problem is None or problem.bound.batch == 1 or problem.pre.holds_samples:
            return self._run(Work(question, gradients, deadline, problem, attained))
        count = problem.bound.batch
        infinite, nothing = [inf] * count, [0.0] * count
        tell = None if self.progress is None else self._tell
        batch = Batch(question, problem, attained, deadline, self.steps, self.alone, tell, infinite, nothing)
        return batch.bounded()

    def _run(self, work: Work) -> NormBound:
        """The bound of one sample, or of several that cannot be taken apart."""

        def told(lot: Lot, done: Report) -> None:
            if lot.work.upper is not None:
                self._tell(float(lot.work.upper.max()), done.lower, done.step, done.seconds)

        lot = Lot(0, work, [Arm(step) for step in OPENING], [Arm(step) for step in self.steps])
        try:
            lot.opened(told)
            status = lot.finished(work.deadline, told)
        except KeyboardInterrupt:
            status = "interrupted"
        if work.upper is None:
            raise KeyboardInterrupt
        return joined([lot.answer(i, status) for i in range(lot.size)])

    def _tell(self, upper: float, lower: float, step: str, seconds: float) -> None:
        if self.progress is not None:
            self.progress(Progress(upper, lower, step, seconds))


def _of_norm(p: float, q: float) -> Question:
    return Question(lambda method, known: method.norm(known, p, q), (p, q))
