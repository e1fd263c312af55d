"""How long the region of each sample may be divided, and the search for one sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from recurjac.branching import BranchAndBound, Branching, InputBisection, Limit
from recurjac.branching.search import AbstractBounds
from recurjac.deadline import Budget, check_time_limit
from recurjac.errors import expect
from recurjac.problem import Problem


@final
@dataclass(frozen=True)
class Limits:
    """The limits of samples one after the other: the same for each, or shares of a time; `none` if nothing is divided.

    Raises InvalidRequest for both, and for a limit that is no `Limit`.
    """

    each: Limit | None
    budget: Budget | None

    @classmethod
    def of(cls, limit: Limit | None, time_limit: float | None, samples: int) -> Limits:
        check_time_limit(time_limit, limit=limit)
        if limit is not None:
            expect(limit, Limit, "the limit", "give Limit(seconds=…)")
        return cls(limit, None if time_limit is None else Budget.of(time_limit, samples))

    @property
    def none(self) -> bool:
        return self.each is None and self.budget is None

    def next(self) -> Limit:
        """That of the next sample."""
        return self.each or (Limit(parts=1) if self.budget is None else Limit(seconds=self.budget.share()))


def searched(sample: Problem, over: AbstractBounds, limit: Limit, before: Sequence[Branching]) -> Branching:
    """The end of the search for one sample; without a division after an interruption, or if it cannot be divided.

    before: the ends of those for earlier samples.
    """
    ended = bool(before) and before[-1].status == "interrupted"
    brancher = InputBisection()
    bounded = not bool(sample.bound.unbounded.any()) and not sample.pre.holds_samples and brancher.supports(sample)
    search = BranchAndBound(brancher, limit if bounded and not ended else Limit(parts=1))
    state = search.last(sample, over)
    return replace(state, status="interrupted") if ended else state


def of_parts(parts: Sequence[int]) -> str:
    """The remark on results for which regions were divided."""
    return f"; {sum(parts)} parts" if sum(parts) > len(parts) else ""
