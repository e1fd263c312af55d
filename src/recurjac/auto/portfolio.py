"""A portfolio of methods that goes on while there is time: first what is cheap, then what pays most per second."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.auto.arms import Arm, Report, improve
from recurjac.auto.step import AbstractStep
from recurjac.auto.steps import OPENING, STEPS
from recurjac.auto.work import Question, Work
from recurjac.deadline import Deadline, check_seconds, shorter, until
from recurjac.errors import OutOfTime
from recurjac.jacobian import FastLip, Gradients
from recurjac.machine import optimiser_loading
from recurjac.norms import AbstractNormMethod, JacobianNorm, NormBound, ProductOfNorms
from recurjac.preactivation import IBP, AbstractOffersRule, AutoRanges
from recurjac.search import Attained, Search

_SEARCH = 0.15
"""The share of the time for the search before the first step."""
_PRODUCT = 0.1
"""In large networks, the share of the time for the first product of norms."""
_ENTRIES = 0.4
"""The share of the time after which the first bounds of entries are given up."""


@final
@dataclass(frozen=True)
class Progress:
    """What is known after a step of `Auto`: the upper bound, what is attained, and after how many seconds.

    upper, lower: the largest of the samples that are bounded together.
    """

    upper: float
    lower: float
    step: str
    seconds: float


@final
@dataclass(frozen=True)
class Auto(AbstractNormMethod, AbstractOffersRule):
    """The least of many bounds, found in a number of seconds for each sample.

    First come the product of norms, which is always computed, and the entry-wise bounds with the problem's rule.
    Then `steps` tighten ranges, bounds and what is attained: each once, in order, then those that closed the gap most
    for each second.  It ends when the two bounds meet to 1e-6, when no step improves anything, or when the time is
    over.  An interruption ends it with what was proved so far.
    The note names the step that gave the least bound; `steps` of the result says what each gave.  status: "exact",
    "stuck" (no step improves anything), "time" or "interrupted".  progress: called after each step.
    As a rule for pre-activations, it stands for `AutoRanges` of as many seconds.
    Bounds carry no gradients.  Raises InvalidRequest unless the number of seconds is positive.
    """

    seconds: float = 10.0
    steps: tuple[AbstractStep, ...] = STEPS
    progress: Callable[[Progress], None] | None = None

    def __post_init__(self) -> None:
        check_seconds("Auto", self.seconds)

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
        return Search(seconds=_SEARCH * self.seconds)

    @property
    def heeds_attained(self) -> bool:
        return True

    def towards(self, gradients: Gradients, p: float, q: float, attained: Attained) -> NormBound:
        return self._bounded(gradients, _of_norm(p, q), attained, 1 - _SEARCH)

    def _bounded(
        self, gradients: Gradients, question: Question, attained: Attained | None, share: float = 1.0
    ) -> NormBound:
        """The bounds of all samples, one by one unless the problem's rule holds numbers for all of them."""
        problem = None if gradients.given is not None else gradients.problem
        if problem is None or problem.bound.batch == 1 or problem.pre.holds_samples:
            work = Work(question, gradients, Deadline.after(share * self.seconds), problem, attained)
            return self._run(work, self.steps)
        found: list[NormBound] = []
        for i, sample in enumerate(problem.samples()):
            own = None if attained is None else attained.rows(i, i + 1)
            work = Work(question, Gradients(sample), Deadline.after(share * self.seconds), sample, own)
            if found and found[-1].status == "interrupted":
                first = self._run(work, ())
                found.append(replace(first, status="interrupted"))
            else:
                found.append(self._run(work, self.steps))
        return _joined(found)

    def _run(self, work: Work, steps: Sequence[AbstractStep]) -> NormBound:
        """The bound of samples that are bounded together."""
        reports: list[Report] = []

        def report(done: Report) -> None:
            reports.append(done)
            if self.progress is not None and work.upper is not None:
                self.progress(Progress(float(work.upper.max()), done.lower, done.step, done.seconds))

        opening, arms = [Arm(step) for step in OPENING], [Arm(step) for step in steps]
        try:
            _open(work, opening, report)
            if not work.met:
                work.deadline = work.deadline.later(optimiser_loading())
            status = improve([*opening, *arms], work, report)
        except KeyboardInterrupt:
            status = "interrupted"
        if work.upper is None:
            raise KeyboardInterrupt
        return NormBound(work.upper, status, f"least by {work.by}", work.attained, (_line(reports),))


def _of_norm(p: float, q: float) -> Question:
    return Question(lambda method, known: method.norm(known, p, q), (p, q))


def _open(work: Work, opening: Sequence[Arm], report: Callable[[Report], None]) -> None:
    """Bounds with ranges by intervals, which are cheap on any network, and then those of `opening` that fit."""
    given = work.given
    quick = work.gradients if given is None or given.pre == IBP() else Gradients(given.by(IBP()))
    product = ProductOfNorms().within(_PRODUCT * work.deadline.left)
    report(Report(product.title, work.tighten(product, product.title, quick), work.lower, work.deadline.spent))
    entries, limit, found = JacobianNorm(FastLip()), work.limit, None
    with suppress(OutOfTime), until(limit if limit.end == inf else limit.part(_ENTRIES)):
        found = work.tighten(entries, entries.title, quick)
    report(Report(entries.title, found, work.lower, work.deadline.spent))
    work.measure()
    for arm in opening:
        if not work.met and arm.step.suits(work) and arm.fits(work):
            report(arm.pull(work))


def _line(reports: Sequence[Report]) -> str:
    """What each step gave, if it is not what it gave before."""
    parts: list[str] = []
    last: dict[str, float] = {}
    for before, now in pairwise([Report("", None, 0.0, 0.0), *reports]):
        if now.bound is not None and last.get(now.step) == now.bound:
            continue
        if now.bound is not None:
            last[now.step] = now.bound
        found = "" if now.bound is None else f"{now.bound:.6g}"
        if now.step == before.step and parts:
            parts[-1] += f" → {found}" if found else " again"
        else:
            parts.append(f"{now.step} {found}".strip())
    return "; ".join(parts)


def _joined(found: Sequence[NormBound]) -> NormBound:
    """The bounds of several samples; what is attained only if it is known for all."""
    attained = [f.attained for f in found if f.attained is not None]
    status = ", ".join(dict.fromkeys(f.status for f in found))
    note = "; ".join(dict.fromkeys(f.note for f in found))
    known = Attained.joined(attained) if len(attained) == len(found) else None
    return NormBound(
        torch.cat([f.upper for f in found]), status, note, known, tuple(line for f in found for line in f.steps)
    )
