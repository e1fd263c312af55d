"""All questions about one random network, and which of their answers are wrong."""

from __future__ import annotations

import random
import traceback
from collections import Counter
from dataclasses import dataclass, field

import recurjac as rj
from recurjac.arithmetic import AbstractArithmetic
from tests.truth.cases import Case, drawn_case
from tests.truth.claims import Verdict, judged
from tests.truth.questions import Question, asked_of


@dataclass(frozen=True)
class Report:
    """What was found.

    networks: how many were drawn.
    answers, unclaimed: how many answers cover rounding, and how many do not; one for a network of which none can.
    verdict: on all claims of those that do.  refused: why nothing was answered.  caught: the numbers of networks that
    have a wrong bound.
    """

    networks: int = 0
    answers: int = 0
    unclaimed: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    refused: tuple[str, ...] = ()
    caught: tuple[int, ...] = ()
    reasons: Counter[str] = field(default_factory=Counter)

    def plus(self, other: Report) -> Report:
        return Report(
            self.networks + other.networks, self.answers + other.answers, self.unclaimed + other.unclaimed,
            self.verdict.plus(other.verdict), self.refused + other.refused, self.caught + other.caught,
            self.reasons + other.reasons,
        )  # fmt: skip


def answered(seed: int, arithmetic: AbstractArithmetic | None = None) -> Report:
    """The report on the network of that number.

    arithmetic: `Fast()` to judge what covers no rounding; by default the answers that cover it are judged.
    """
    try:
        case = drawn_case(seed)
    except (rj.RecurJacError, ArithmeticError, ValueError) as error:
        return Report(refused=(_reason(error),))
    total = Report(networks=1)
    if arithmetic is None and case.network.unproved_rounding():
        return total.plus(Report(unclaimed=1))
    draw = random.Random(seed)  # noqa: S311  (reproducible test data)
    for question in asked_of(case, draw):
        total = total.plus(_asked(case, question, arithmetic))
    return total.plus(Report(caught=(seed,) if total.verdict.wrong else ()))


def _asked(case: Case, question: Question, arithmetic: AbstractArithmetic | None) -> Report:
    draw = random.Random(f"{case.seed} {question.__name__}")  # noqa: S311  (reproducible test data)
    total = Report()
    try:
        for answer in question(case, draw, arithmetic):
            if not answer.rigorous and arithmetic is None:
                total = total.plus(Report(unclaimed=1))
                continue
            found = Verdict()
            for claim in answer.claims:
                found = found.plus(judged(case.judge, claim))
            wrong = tuple(f"{case}: {question.__name__}: {line}" for line in found.wrong)
            found = Verdict(found.compared, wrong, found.undecided, found.skipped)
            total = total.plus(Report(answers=1, verdict=found))
    except rj.UnsoundBounds as error:
        total = total.plus(_wrong(f"{case}: {question.__name__}: {error}"))
    except rj.RecurJacError as error:
        total = total.plus(Report(refused=(f"{question.__name__}: {_reason(error)}",)))
    except Exception:
        total = total.plus(_wrong(f"{case}: {question.__name__}: {traceback.format_exc(limit=-3)}"))
    return total


def _wrong(line: str) -> Report:
    return Report(verdict=Verdict(wrong=(line,)))


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:100]}"
