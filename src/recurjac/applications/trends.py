"""What decides the signs of the entries of Jacobians: points, and bounds of parts of the region."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf, prod
from typing import final

import torch
from torch import Tensor

from recurjac.applications.signs import strict_signs
from recurjac.arithmetic import MEMORY, Interval
from recurjac.branching import EntrySigns
from recurjac.branching.turns import SignedEntries
from recurjac.deadline import NEVER, Budget, Deadline, until
from recurjac.errors import OutOfTime
from recurjac.jacobian import RecurJac, jacobian_bounds
from recurjac.network import Network
from recurjac.preactivation import IBP
from recurjac.problem import Problem
from recurjac.region import LpBall
from recurjac.search import point_jacobian

_WORK = 10**8
"""About how many multiply-adds a lot of proofs at points takes, between two looks at the clock."""
_AFTER = 0.1
"""The share of the time by which proofs at points that divisions have found may be late."""


@final
@dataclass(frozen=True)
class Refuted:
    """Points of one sample at which signs are proved.

    points: (N, *input).  rising, falling: (outputs, inputs), the index of a point at which each entry is > 0, and of
    one at which it is < 0; -1 if none is known.
    """

    points: Tensor
    rising: Tensor
    falling: Tensor

    @classmethod
    def nothing(cls, points: Tensor, like: Tensor) -> Refuted:
        """No point, for entries like `like` (outputs, inputs)."""
        none = torch.full(like.shape, -1, device=like.device)
        return cls(points[:0], none, none)

    @property
    def both(self) -> Tensor:
        """Where both signs are proved."""
        return (self.rising >= 0) & (self.falling >= 0)

    def within(self, open_: Tensor) -> Refuted:
        """The same for the entries `open_` (outputs, inputs) only."""
        return replace(self, rising=torch.where(open_, self.rising, -1), falling=torch.where(open_, self.falling, -1))

    def learned(self, points: Tensor, up: Tensor, down: Tensor) -> Refuted:
        """The same with signs proved at further points: up, down (N, outputs, inputs)."""
        rising, falling = self.rising, self.falling
        for i in range(len(points)):
            at = len(self.points) + i
            rising = torch.where(up[i] & (rising < 0), at, rising)
            falling = torch.where(down[i] & (falling < 0), at, falling)
        return Refuted(torch.cat([self.points, points]), rising, falling)


@final
@dataclass(frozen=True)
class Decided:
    """What is known of some samples: (batch, outputs, inputs) each.

    refuted: for each sample.  parts: how many parts of regions were bounded, by what `titles`.
    interrupted: whether this was.
    """

    lower: Tensor
    upper: Tensor
    refuted: tuple[Refuted, ...]
    parts: int
    titles: tuple[str, ...]
    interrupted: bool


def decided(
    problem: Problem,
    entries: Interval,
    points: Sequence[Tensor],
    proofs: int,
    splits: EntrySigns,
    deadline: Deadline = NEVER,
    known: Sequence[Refuted] = (),
) -> Decided:
    """The signs of all samples: from bounds of their entries (batch, outputs, inputs), points, and parts of regions.

    points: (N, *input) of each sample.  proofs: at most at how many of them signs are proved.
    deadline: for all samples, which share what is left; in large networks, a division is given up then.  Points have
    half of it before the divisions; what these find has a little time after it.
    known: what points have proved of each sample already, if anything was tried.
    """
    open_ = ~((entries.lower >= 0) | (entries.upper <= 0))
    before = [r.within(o) for r, o in zip(known, open_, strict=True)] if known else None
    refuted = _refuted(problem, points, open_, proofs, deadline.part(0.5), before)
    after = Deadline(deadline.began, deadline.end + _AFTER * (deadline.end - deadline.began))
    lower, upper = list(entries.lower), list(entries.upper)
    parts, titles, interrupted = 0, list[str](), False
    budget = Budget(deadline, int((open_.flatten(1).any(1)).sum()))
    for i, sample in enumerate(problem.samples() if bool(open_.any()) else []):
        left = open_[i] & ~refuted[i].both
        if interrupted or deadline.over or not bool(left.any()) or not splits.divides(sample):
            continue
        margin = 0.0 if sample.arithmetic.rigorous else torch.finfo(lower[i].dtype).eps ** 0.5
        found = _divided(splits, sample, left.flatten(), margin, budget)
        if found is None:
            continue
        most, least = found.uppers.reshape(2, *left.shape)
        lower[i], upper[i] = torch.maximum(lower[i], -least), torch.minimum(upper[i], most)
        parts, interrupted = parts + found.parts, found.interrupted
        titles += [t for t in found.titles if t not in titles]
        still = left & ~((lower[i] >= 0) | (upper[i] <= 0))
        signs = (found.attained.gain > 0) & still.flatten().repeat(2)
        more = torch.cat([found.attained.witness[signs], points[i]])
        refuted[i] = _refuted(sample, [more], still[None], proofs, after, refuted[i : i + 1])[0]
    return Decided(torch.stack(lower), torch.stack(upper), tuple(refuted), parts, tuple(titles), interrupted)


def refuted_early(problem: Problem, points: Sequence[Tensor], proofs: int, deadline: Deadline) -> list[Refuted]:
    """What points prove of each sample before there are bounds; what is not done by the deadline is left out."""
    shape = (prod(problem.network.output_shape), prod(problem.network.input_shape))
    every = torch.ones(len(points), *shape, dtype=torch.bool, device=problem.network.device)
    return _refuted(problem, points, every, proofs, deadline)


def _divided(
    splits: EntrySigns, sample: Problem, wanted: Tensor, margin: float, budget: Budget
) -> SignedEntries | None:
    """What parts of the region of one sample prove in its share of the time; None if they were given up."""
    if budget.deadline.end == inf:
        return splits.decided(sample, wanted, margin)
    part = Deadline.after(budget.share())
    with suppress(OutOfTime), until(sample.planner.watched(sample.network, part)):
        return splits.within(part.left).decided(sample, wanted, margin)
    return None


def points_in(problem: Problem, count: int, seed: int) -> list[Tensor]:
    """About `count` finite points that are proved to be in the region, (N, *input) for each sample."""
    network, bound = problem.network, problem.bound
    entries = prod(network.output_shape) * prod(network.input_shape)
    count = min(count, max(2, MEMORY // entries))
    spread = bound.sample(count, torch.Generator().manual_seed(seed))
    points = torch.cat([bound.x.unsqueeze(1), spread], 1)
    kept = problem.holds(points) & points.isfinite().flatten(2).all(2)
    return [x[k] for x, k in zip(points, kept, strict=True)]


def _refuted(
    problem: Problem,
    points: Sequence[Tensor],
    open_: Tensor,
    proofs: int,
    deadline: Deadline,
    known: Sequence[Refuted] | None = None,
) -> list[Refuted]:
    """What points (N, *input) of each sample prove of the entries `open_` (batch, outputs, inputs), and what is known.

    deadline: what is proved until then counts.
    """
    found = [Refuted.nothing(x, o) for x, o in zip(points, open_, strict=True)] if known is None else list(known)
    with suppress(OutOfTime), until(problem.planner.watched(problem.network, deadline)):
        for more in _rounds(problem, points, open_, (proofs, deadline), found):
            found = more
            if deadline.over:
                break
    return found


def _rounds(
    problem: Problem, points: Sequence[Tensor], open_: Tensor, limits: tuple[int, Deadline], known: Sequence[Refuted]
) -> Iterator[list[Refuted]]:
    """What is known after each lot of proofs, of which there are so many for each sample, and until the deadline.

    In each round, points that together seem to have all signs that are missing are chosen, and their signs are proved.
    """
    found, (proofs, deadline) = list(known), limits
    seeming, left = dict[int, _Seeming](), dict[int, int]()
    for i, x in enumerate(points):
        if len(x) and bool((open_[i] & ~found[i].both).any()) and not deadline.over:
            seeming[i], left[i] = _Seeming.of(problem.network, x, open_[i]), proofs
    while True:
        chosen = {i: s.chosen(found[i], left[i]) for i, s in seeming.items()}
        chosen = {i: index for i, index in chosen.items() if len(index)}
        if not chosen:
            return
        for lot in _lots(chosen, max(1, _WORK // max(1, problem.network.cost))):
            up, down = _proved_signs(problem, torch.cat([points[i][index] for i, index in lot]))
            begin = 0
            for i, index in lot:
                end = begin + len(index)
                found[i] = found[i].learned(points[i][index], up[begin:end] & open_[i], down[begin:end] & open_[i])
                begin = end
            yield list(found)
        for i, index in chosen.items():
            seeming[i], left[i] = seeming[i].without(index), left[i] - len(index)


def _lots(chosen: Mapping[int, Tensor], most: int) -> Iterator[list[tuple[int, Tensor]]]:
    """Numbers of points (count,) of samples, in lots of at most so many points."""
    lot, room = list[tuple[int, Tensor]](), most
    for i, index in chosen.items():
        for piece in index.split(most):
            if len(piece) > room:
                yield lot
                lot, room = [], most
            lot.append((i, piece))
            room -= len(piece)
    yield lot


@final
@dataclass(frozen=True)
class _Seeming:
    """Where derivatives at points are > 0, and < 0, in plain floating point: (N, outputs, inputs) each."""

    positive: Tensor
    negative: Tensor

    @classmethod
    def of(cls, network: Network, points: Tensor, open_: Tensor) -> _Seeming:
        """Those of the entries `open_` (outputs, inputs) that seem to have both signs."""
        width = network.sizes[-1] * max(network.sizes)
        parts = points.split(max(1, MEMORY // (8 * 4 * width)))
        signs = torch.cat([point_jacobian(network, part).sign().to(torch.int8) for part in parts])
        positive, negative = signs > 0, signs < 0
        both = open_ & positive.any(0) & negative.any(0)
        return cls(positive & both, negative & both)

    def chosen(self, known: Refuted, most: int) -> Tensor:
        """Up to `most` points, each of which seems to have most of the signs that are still missing: (count,)."""
        up, down, index = known.rising < 0, known.falling < 0, list[int]()
        while len(index) < most:
            gain = (self.positive & up).flatten(1).sum(1) + (self.negative & down).flatten(1).sum(1)
            best = int(gain.argmax())
            if int(gain[best]) == 0:
                break
            index.append(best)
            up, down = up & ~self.positive[best], down & ~self.negative[best]
        return torch.tensor(index, dtype=torch.long, device=up.device)

    def without(self, index: Tensor) -> _Seeming:
        """The same, as if some points had no signs."""
        kept = torch.ones(len(self.positive), 1, 1, dtype=torch.bool, device=index.device)
        kept[index] = False
        return replace(self, positive=self.positive & kept, negative=self.negative & kept)


def _proved_signs(problem: Problem, points: Tensor) -> tuple[Tensor, Tensor]:
    """Where every element of Clarke's Jacobian at points (N, *input) is > 0, and where < 0: (N, outputs, inputs)."""
    found = jacobian_bounds(problem.over(LpBall(points, 0.0)).by(IBP()), method=RecurJac())
    rows = (len(points), prod(problem.network.output_shape), -1)
    return strict_signs(found.lower.reshape(rows), found.upper.reshape(rows), found.rigorous)
