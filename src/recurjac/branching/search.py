"""Best-first branch and bound for any bound and any problem, in lots of parts; every intermediate state is valid."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.branching.branchers import FINEST, AbstractBrancher
from recurjac.branching.pool import Bounded, Goals, Leaves, Lot, Pool
from recurjac.errors import InvalidRequest, expect_whole
from recurjac.problem import Problem, join
from recurjac.search import Attained, better_of


class AbstractBounds(ABC):
    """The maxima of one or several quantities over a region, with proved bounds on both sides.

    If each of several regions has such a bound, the largest of them holds on their union.
    """

    @abstractmethod
    def bounded(self, problem: Problem, goals: Goals) -> Bounded:
        """Upper bounds of every quantity over the region of each sample; below the goals they need not be tight."""

    @abstractmethod
    def found(self, parts: Problem, known: Attained | None) -> Attained:
        """For each quantity, the largest value that is proved to be attained: `known`, or a value at a point of a part.

        The batch of the result are the quantities.
        """

    def attaining(self, points: Tensor, known: Attained) -> Attained:
        """What is known, or more at points (N, *input) that came with the bounds."""
        return known

    @abstractmethod
    def goals(self, attained: Attained, tolerance: float) -> Goals:
        """The bounds that are good enough, for what is attained of each quantity."""

    def first_parts(self, problem: Problem) -> int:
        """Into how many parts a region is divided at first, if it is known which inputs matter."""
        return FINEST


class AbstractBound(AbstractBounds):
    """The maximum of one quantity over a region, with proved bounds on both sides."""

    @abstractmethod
    def upper(self, problem: Problem) -> Tensor:
        """Upper bounds over the region of each sample, (batch,); -inf where a region is known to be empty."""

    @abstractmethod
    def attained(self, problem: Problem) -> Attained:
        """A value that is proved to be attained in the region of each sample."""

    def bounded(self, problem: Problem, goals: Goals) -> Bounded:
        return Bounded(self.upper(problem).unsqueeze(1))

    def found(self, parts: Problem, known: Attained | None) -> Attained:
        values = self.attained(parts)
        best = int(values.gain.argmax())
        here = values.rows(best, best + 1)
        return here if known is None or float(here.gain) > float(known.gain) else known

    @final
    def goals(self, attained: Attained, tolerance: float) -> Goals:
        """Within a relative tolerance of what is attained; a bound of 0 is always good enough."""
        return Goals((attained.gain * (1 + tolerance)).clamp(min=0), torch.ones_like(attained.gain))


@final
@dataclass(frozen=True)
class Limit:
    """When to stop: after a time, after a number of parts, or within a relative tolerance of the attained value.

    Methods that divide regions apply it to each sample of a batch separately, unlike `Auto`, whose seconds are for all.
    Raises InvalidRequest for limits that are not positive.
    """

    seconds: float = 10.0
    parts: int = 2**20
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        expect_whole("Limit", parts=self.parts)
        for name, value in (("seconds", self.seconds), ("tolerance", self.tolerance)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InvalidRequest(f"Limit({name}={value!r}) is not a number; give a positive number")
        if not self.seconds > 0 or not self.parts > 0 or not self.tolerance > 0:
            raise InvalidRequest(f"{self} has a limit that is not positive; give positive limits")


@final
@dataclass(frozen=True)
class Branching:
    """The state of a search for one sample: each quantity attains its value in `attained`, and is at most its `uppers`.

    uppers: (quantities,).  pool: the parts with their bounds.  parts: how many were bounded; left: how many are still
    to be divided.  seconds: the time used so far; lot_seconds: that of the last lot.
    status: "running", "exact" (within the tolerance), "time", "parts", "stuck" (no part can be divided), "interrupted".
    """

    uppers: Tensor
    attained: Attained
    pool: Pool
    parts: int
    left: int
    seconds: float
    status: str
    lot_seconds: float = 0.0

    @property
    def upper(self) -> float:
        """The bound of the quantity, or the largest of several."""
        return float(self.uppers.max())

    @property
    def lower(self) -> float:
        """What the quantity attains, or the largest of several."""
        return float(self.attained.gain.max())

    @property
    def leaves(self) -> Leaves | None:
        """The parts that cover the region, with their bounds; None if it is proved to be empty."""
        return Leaves.of(self.pool)

    def __repr__(self) -> str:
        sides = f"{self.lower:.6g} … {self.upper:.6g}"
        return f"Branching({sides}, {self.status}, {self.parts} parts, {self.left} left, {self.seconds:.2f} s)"


@final
@dataclass(frozen=True)
class BranchAndBound:
    """Divides the worst parts of a problem of one sample, in rounds that grow while the time for a part falls."""

    brancher: AbstractBrancher
    limit: Limit

    def last(
        self, problem: Problem, bound: AbstractBounds, known: Attained | None = None, before: Branching | None = None
    ) -> Branching:
        """The final state of the search, which goes on `before` (see `states`)."""
        *_, state = self.states(problem, bound, known, before)
        return state

    def states(
        self, problem: Problem, bound: AbstractBounds, known: Attained | None = None, before: Branching | None = None
    ) -> Iterator[Branching]:
        """The state after each lot of parts; each is valid.  An interruption ends the search with the last one.

        An interruption may fall anywhere: what is done in the meantime is not looked at.
        known: what is attained already, for each quantity.  before: the end of a search of the same problem with the
        same bound, which is continued; its parts count for the limit, its time does not.
        """
        began = time.perf_counter()
        valid = self._first(problem, bound, known, began) if before is None else self._again(before, bound, known)
        valid = self._in_time(valid, valid.seconds if before is None else before.lot_seconds)
        this = _Round(_RESUMED, _TOGETHER, FINEST, 0.0)
        if before is None:
            first = bound.first_parts(problem)
            this = _Round(1, max(_TOGETHER, first), first, valid.lot_seconds)
        try:
            while valid.status == "running":
                yield valid
                started, done = time.perf_counter(), valid.parts
                valid = self._in_time(self._after(valid, bound, this, began), time.perf_counter() - started)
                this = self._next(this, valid, valid.parts - done)
            yield valid
        except KeyboardInterrupt:
            yield replace(valid, status="interrupted")

    def _in_time(self, now: Branching, took: float) -> Branching:
        """The state after a lot that took so many seconds; it ends if half of another one does not fit in the time."""
        late = now.status == "running" and took / 2 > self.limit.seconds - now.seconds
        return replace(now, status="time" if late else now.status, lot_seconds=took)

    def _first(self, problem: Problem, bound: AbstractBounds, known: Attained | None, began: float) -> Branching:
        """The state before the first division."""
        found = bound.found(problem, known)
        bounded = bound.bounded(problem, bound.goals(found, self.limit.tolerance / 2))
        found = found if bounded.points is None else bound.attaining(bounded.points, found)
        whole = self._lot(bounded, problem, None)
        pool = Pool() if whole is None else Pool().adding(whole, ~self.brancher.able(whole.problem, whole.effects))
        return self._state(pool, found, bound, 1, began)

    def _again(self, before: Branching, bound: AbstractBounds, known: Attained | None) -> Branching:
        """The state at the end of an earlier search."""
        found = before.attained if known is None else better_of(before.attained, known)
        return self._state(before.pool, found, bound, before.parts, time.perf_counter())

    def _next(self, this: _Round, now: Branching, parts: int) -> _Round:
        """The round after one in which so many parts were bounded; no more than the limit has room for.

        It is larger if these took less time each than those of the round before, or if the round was quick, and smaller
        if it was slow.
        """
        took = now.lot_seconds
        pace = took / max(1, parts)
        divided, finely = this.divided, _TOGETHER
        if pace < _CHEAPER * this.pace:
            divided, finely = max(2 * divided, parts // 2), max(_TOGETHER, _GROWTH * parts)
        elif took < min(_LONG, self.limit.seconds / 20):
            divided *= 2
        elif took > 2 * _LONG:
            divided //= 2
        left = self.limit.seconds - now.seconds
        room = min(left / pace if pace > 0 else inf, self.limit.parts - now.parts)
        divided = max(1, int(min(divided, _LOT, room / 2)))
        return _Round(divided, max(1, int(min(finely, 2 * _LOT, room))), FINEST, pace)

    def _state(self, pool: Pool, found: Attained, bound: AbstractBounds, parts: int, began: float) -> Branching:
        proved, gain = pool.upper, found.gain
        uppers = gain if proved is None else torch.maximum(proved, gain)
        seconds = time.perf_counter() - began
        good = bound.goals(found, self.limit.tolerance)
        left = pool.open(bound.goals(found, self.limit.tolerance / 2))
        if float(good.excess(uppers.unsqueeze(0))) <= 0:
            status = "exact"
        elif seconds >= self.limit.seconds:
            status = "time"
        else:
            status = "parts" if parts >= self.limit.parts else "running" if left else "stuck"
        return Branching(uppers, found, pool, parts, left, seconds, status)

    def _after(self, now: Branching, bound: AbstractBounds, this: _Round, began: float) -> Branching:
        """The state after the worst parts are divided."""
        taken, pool = now.pool.taken(this.divided, bound.goals(now.attained, self.limit.tolerance / 2))
        if taken is None:
            return replace(now, status="stuck")
        most = min(this.finely, self.limit.parts - now.parts)
        pieces = self.brancher.finely(taken.problem, taken.effects, most, this.finest)
        halves, before = _not_empty(join(pieces), taken.upper.repeat(len(pieces), 1))
        found = bound.found(halves, now.attained)
        bounded = bound.bounded(halves, bound.goals(found, self.limit.tolerance / 2))
        found = found if bounded.points is None else bound.attaining(bounded.points, found)
        lot = self._lot(bounded, halves, before)
        if lot is not None:
            pool = pool.adding(lot, ~self.brancher.able(lot.problem, lot.effects))
        return self._state(pool, found, bound, now.parts + len(before), began)

    def _lot(self, found: Bounded, problem: Problem, before: Tensor | None) -> Lot | None:
        """The parts that are not empty, with bounds that are not above those of what they are parts of."""
        upper = torch.where(found.upper.isnan(), inf, found.upper)
        upper = upper if before is None else torch.minimum(upper, before)
        lot = Lot(problem, upper, found.effects)
        empty = (found.upper == -inf).all(1)
        if not bool(empty.any()):
            return lot
        kept = (~empty).nonzero().flatten()
        return lot.at(kept) if len(kept) else None


@final
@dataclass(frozen=True)
class _Round:
    """So many parts are divided, each into up to `finest` parts as long as all of those are at most `finely`.

    pace: the seconds for each of those that were bounded in the round before.
    """

    divided: int
    finely: int
    finest: int
    pace: float


def _not_empty(parts: Problem, before: Tensor) -> tuple[Problem, Tensor]:
    """Parts without those whose region is known to be empty, but at least one, and what belongs to them."""
    empty = parts.bound.empty
    if not bool(empty.any()) or bool(empty.all()):
        return parts, before
    kept = (~empty).nonzero().flatten()
    return parts.at(kept), before[kept]


_TOGETHER = 128
"""The number of parts up to which a lot takes hardly longer if there are more."""
_RESUMED = 16
"""The number of parts that are divided together first in a search that is continued."""
_CHEAPER, _GROWTH = 0.75, 4
"""If parts took less than this share of the time each as those before, up to so many times as many are bounded next."""
_LOT = 1024
"""The largest number of parts that are divided together."""
_LONG = 0.5
"""The number of seconds that a lot may take."""
