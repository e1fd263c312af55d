"""Best-first branch and bound for any bound and any problem, in batches; every intermediate state is valid."""

from __future__ import annotations

import heapq
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import final

from torch import Tensor

from recurjac.branching.branchers import AbstractBrancher, without_width
from recurjac.errors import InvalidRequest
from recurjac.problem import Problem, join
from recurjac.region.base import FAST
from recurjac.search import Attained


class AbstractBound(ABC):
    """The maximum of a quantity over a region, with proved bounds on both sides.

    If `upper` bounds the quantity on each of several regions, the largest of these bounds holds on their union.
    """

    @abstractmethod
    def upper(self, problem: Problem) -> Tensor:
        """Upper bounds over the region of each sample, (batch,); -inf where a region is known to be empty."""

    @abstractmethod
    def attained(self, problem: Problem) -> Attained:
        """A value that is proved to be attained in the region of each sample."""


@final
@dataclass(frozen=True)
class Limit:
    """When to stop: after a time, after a number of parts, or within a relative tolerance of the attained value.

    Raises InvalidRequest for limits that are not positive.
    """

    seconds: float = 10.0
    parts: int = 2**17
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        for name, value in (("seconds", self.seconds), ("parts", self.parts), ("tolerance", self.tolerance)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InvalidRequest(f"Limit({name}={value!r}) is not a number; give a positive number")
        if not self.seconds > 0 or not self.parts > 0 or not self.tolerance > 0:
            raise InvalidRequest(f"{self} has a limit that is not positive; give positive limits")


@final
@dataclass(frozen=True)
class Branching:
    """The state of a search for one sample: the maximum is at least `lower`, which is attained, and at most `upper`.

    attained: where `lower` is attained.  parts: how many were bounded; left: how many are still open.
    seconds: the time used so far.
    status: "running", "exact" (within the tolerance), "time", "parts", "stuck" (no part can be divided), "interrupted".
    """

    upper: float
    lower: float
    attained: Attained
    parts: int
    left: int
    seconds: float
    status: str


@final
@dataclass
class _Open:
    """The parts that may still contain the maximum, worst first."""

    heap: list[tuple[float, int, Problem]] = field(default_factory=list)
    count: int = 0
    closed: float = -inf

    def add(self, upper: float, part: Problem) -> None:
        heapq.heappush(self.heap, (-upper, self.count, part))
        self.count += 1

    def take(self, most: int, above: float) -> list[tuple[float, Problem]]:
        """Up to `most` of the worst parts with a bound above a number."""
        taken: list[tuple[float, Problem]] = []
        while self.heap and len(taken) < most and -self.heap[0][0] > above:
            upper, _, part = heapq.heappop(self.heap)
            taken.append((-upper, part))
        return taken

    def close(self, upper: float) -> None:
        """Record the bound of a part that is not divided further."""
        self.closed = max(self.closed, upper)

    @property
    def upper(self) -> float:
        return max(self.closed, -self.heap[0][0] if self.heap else -inf)


@final
@dataclass(frozen=True)
class BranchAndBound:
    """Divides the worst parts of a problem of one sample, in groups that grow while they are processed quickly."""

    brancher: AbstractBrancher
    limit: Limit

    def last(self, problem: Problem, bound: AbstractBound) -> Branching:
        """The final state of the search."""
        *_, state = self.states(problem, bound)
        return state

    def states(self, problem: Problem, bound: AbstractBound) -> Iterator[Branching]:
        """The state after each group of parts; each is valid.  An interruption ends the search with the last one.

        An interruption may fall anywhere, so that what is open then is not looked at.
        """
        began = time.perf_counter()
        best = bound.attained(problem)
        open_, first = _Open(), bound.upper(problem)
        open_.add(_number(first[0]), problem)
        lot = 1

        def state(status: str) -> Branching:
            seconds, lower = time.perf_counter() - began, float(best.gain[0])
            return Branching(max(open_.upper, lower), lower, best, open_.count, len(open_.heap), seconds, status)

        valid = state("running")
        try:
            while (status := self._status(valid)) == "running":
                yield valid
                target = float(best.gain[0]) * (1 + self.limit.tolerance / 2)
                taken = open_.take(lot, target)
                if not taken:
                    break
                started = time.perf_counter()
                best = self._divided(taken, bound, open_, best)
                quick = time.perf_counter() - started < self.limit.seconds / 20
                lot = min(2 * lot, _LOT) if quick else max(1, lot // 2)
                valid = state("running")
            yield replace(valid, status="stuck" if status == "running" else status)
        except KeyboardInterrupt:
            yield replace(valid, status="interrupted")

    def _status(self, now: Branching) -> str:
        if now.upper <= now.lower * (1 + self.limit.tolerance) or now.upper <= 0:
            return "exact"
        if now.seconds >= self.limit.seconds:
            return "time"
        return "parts" if now.parts >= self.limit.parts else "running"

    def _divided(
        self, taken: list[tuple[float, Problem]], bound: AbstractBound, open_: _Open, best: Attained
    ) -> Attained:
        """Divide some parts, bound the new parts, and return the best attained value so far."""
        divided = self._divisible(taken, open_)
        if divided:
            whole = join([part for _, part in divided])
            for parts in self.brancher.divide(whole):
                upper, found = bound.upper(parts), bound.attained(parts)
                for (before, _), value, part in zip(divided, upper.tolist(), parts.samples(), strict=True):
                    if value > -inf:
                        open_.add(min(before, _number(value)), part)
                best = _better(best, found)
        return best

    def _divisible(self, taken: list[tuple[float, Problem]], open_: _Open) -> list[tuple[float, Problem]]:
        """The parts that can be divided; the others are closed."""
        left = []
        for upper, part in taken:
            if self.brancher.supports(part) and not bool(without_width(part.bound.box(FAST)).all()):
                left.append((upper, part))
            else:
                open_.close(upper)
        return left


_LOT = 512
"""The largest number of parts that are divided together."""


def _number(bound: float | Tensor) -> float:
    """A bound as a number; NaN, which is no bound, becomes infinity."""
    value = float(bound)
    return value if isfinite(value) or value == -inf else inf


def _better(best: Attained, found: Attained) -> Attained:
    at = int(found.gain.argmax())
    if not float(found.gain[at]) > float(best.gain[0]):
        return best
    return Attained(found.gain[at : at + 1], found.witness[at : at + 1], found.direction[at : at + 1])
