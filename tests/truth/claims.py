"""What a result says of a network at points of a region, and whether it is true."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flint import arb

from tests.truth.elementary import OutOfScopeError, UnclearError, UndefinedError
from tests.truth.judge import DIGITS, Jet, Judge, digits
from tests.truth.regions import Point

Measured = Callable[[Jet], Sequence[Any]]
"""Numbers that follow from a jet."""


@dataclass(frozen=True)
class Claim:
    """lower <= measured <= upper at a point.

    order: which derivatives the numbers need.
    anywhere: whether it is claimed for all of Clarke's derivatives at a kink.
    """

    title: str
    point: Point
    order: int
    measured: Measured
    lower: Sequence[float]
    upper: Sequence[float]
    anywhere: bool = True


@dataclass(frozen=True)
class Verdict:
    """How many finite bounds were compared, which are wrong, and how many could not be decided.

    skipped: points at poles, or whose truth is beyond the judge.
    """

    compared: int = 0
    wrong: tuple[str, ...] = ()
    undecided: int = 0
    skipped: int = 0

    def plus(self, other: Verdict) -> Verdict:
        return Verdict(
            self.compared + other.compared, self.wrong + other.wrong, self.undecided + other.undecided,
            self.skipped + other.skipped,
        )  # fmt: skip


def judged(judge: Judge, claim: Claim) -> Verdict:
    """Whether a claim holds, with more and more digits until every comparison is decided."""
    undecided = len(claim.lower)
    for count in DIGITS:
        try:
            jet = judge.jet(claim.point, claim.order, count)
            if jet.kinked and not claim.anywhere:
                return Verdict(skipped=1)
            with digits(count):
                found = _compared(claim, jet)
        except UnclearError:
            continue
        except (UndefinedError, OutOfScopeError):
            return Verdict(skipped=1)
        if not found.undecided or found.wrong:
            return found
        undecided = found.undecided
    return Verdict(undecided=undecided)


def _compared(claim: Claim, jet: Jet) -> Verdict:
    true = list(claim.measured(jet))
    compared = undecided = 0
    wrong: list[str] = []
    for i, (low, value, high) in enumerate(zip(claim.lower, true, claim.upper, strict=True)):
        if math.isnan(low) or math.isnan(high):
            wrong.append(f"{claim.title}, number {i}: a bound is NaN")
            continue
        for bound, sign in ((low, -1), (high, 1)):
            if math.isinf(bound) and bound * sign > 0:
                continue
            compared += 1
            if math.isinf(bound) or sign * value > sign * arb(bound):
                wrong.append(
                    f"{claim.title}, number {i}: {value.str(20)} is not in [{low!r}, {high!r}], at {list(claim.point)}"
                )
            elif not sign * value <= sign * arb(bound):
                undecided += 1
    return Verdict(compared, tuple(wrong), undecided)
