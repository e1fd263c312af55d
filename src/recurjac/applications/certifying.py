"""The search for the radii of inputs: bounds on balls around them, in the time that there is, and adversaries."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import final

import torch

from recurjac.applications.adversaries import FOUND, NONE, Adversaries, Nearest
from recurjac.applications.centres import Centres
from recurjac.applications.deployed_radius import DeployedMargins
from recurjac.applications.dividing import (
    BOUNDED,
    EXACT,
    INTERRUPTED,
    TIME,
    dividing_radii,
    ending,
    given_up,
    ranges_around,
)
from recurjac.applications.proofs import DEFAULT_PROOFS, AbstractRadiusProof, MarginBalls, MarginBound, Shares, stated
from recurjac.applications.radii import Proved, RadiusBound, doubt, least_proved, proved, weakest
from recurjac.applications.radius_search import (
    RadiusProgress,
    RadiusSearch,
    answered,
    few_radii,
    first_order,
    search_radii,
    told,
    within_time,
)
from recurjac.arithmetic import Deployed
from recurjac.deadline import NEVER, Budget, Deadline
from recurjac.jacobian import Gradients
from recurjac.network import Network
from recurjac.preactivation.anytime import Known, in_time
from recurjac.problem import Problem

_RUSH, _OPENING, _ATTACK = 0.1, 0.6, 0.2
"""The shares of the time that is left, in this order: for a rushed attack, for the first radii, and for the attack."""
_BEGIN = 1 / 6
"""The first radius relative to the nearest adversary, or to where margins would be lost if their slopes were constant.

A radius that is too small still proves something, and balls are bounded faster the smaller they are.
"""
_COARSE = 6
"""The number of intervals of a first grid."""
_MANY, _BEFORE = 0.6, 0.3
"""The share of what is left for proofs on many balls if there are others for few, or others that divide balls."""
_PASS = Shares(ranges=0.8, proof=0.9)
"""The shares for the first radii: a pass that is given up proves nothing."""


@final
@dataclass(frozen=True)
class Entry:
    """The results for one input."""

    rungs: list[RadiusBound]
    row: int
    label: int
    target: int
    others: tuple[int, ...]
    nearest: Nearest
    remark: str
    end: str
    rounding: float = 0.0

    @property
    def proof(self) -> Proved:
        """No proof if there is already a remark about the centre."""
        return Proved(0.0, 0.0) if self.remark else proved(self.rungs, self.row)


@final
@dataclass(frozen=True)
class Certifying:
    """Inputs, and what is needed to certify them; the network's outputs are classes, or in `certified` margins.

    deployed: the programs for which radii are to hold; None for the network in real arithmetic.
    """

    problem: Problem
    centres: Centres
    proofs: tuple[AbstractRadiusProof, ...]
    search: RadiusSearch
    deadline: Deadline = NEVER
    deployed: Deployed | None = None
    shares: Shares = field(default_factory=Shares)

    @property
    def network(self) -> Network:
        return self.problem.network

    def entries(self, labels: Sequence[int], against: Sequence[tuple[int, ...]], given: Sequence[int]) -> list[Entry]:
        """One entry for each input; inputs with the same label and targets are certified together."""
        groups: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for i, key in enumerate(zip(labels, against, strict=True)):
            groups.setdefault(key, []).append(i)
        found: dict[int, Entry] = {}
        budget = Budget.of(self.search.time_limit * len(labels), len(labels))
        for (label, others), members in groups.items():
            rows = torch.zeros(len(others), self.network.output_shape[0], dtype=self.network.dtype)
            rows[:, label] = 1.0
            rows[range(len(others)), list(others)] = -1.0
            margins = self.problem.of(self.network.combine(rows))
            deadline = Deadline.after(budget.share(len(members)))
            part = replace(self, problem=margins, centres=self.centres.taken(members), deadline=deadline)
            if any(e.end == INTERRUPTED for e in found.values()):
                part = replace(part, proofs=tuple(f for f in self.proofs if not f.divides) or DEFAULT_PROOFS)
            remarks = ["" if given[i] == label else f"misclassified as {given[i]}" for i in members]
            found.update(zip(members, part.certified(label, others, remarks), strict=True))
        return [found[i] for i in range(len(labels))]

    def certified(self, label: int, others: tuple[int, ...], remarks: Sequence[str]) -> list[Entry]:
        """Search radii for each input whose label is proved to win, and adversaries; in time, first quickly both."""
        deadline, centres = self.deadline, self.at_centres()
        remarks = [why or doubt(c) for why, c in zip(remarks, centres, strict=True)]
        right = [i for i, why in enumerate(remarks) if not why]
        rungs, attacked = {i: [centres[i]] for i in right}, Adversaries(self.search.attack, self.problem, self.centres)
        if deadline.end < inf:
            attacked.rush(right, deadline.part(_RUSH))
            rungs = self.opened(rungs, attacked)
        scale = [min(first_order(centres[i]), attacked.of(i).distance) for i in right]
        attacked.search(right, scale, deadline.part(_ATTACK))
        rungs = self.searched(rungs, attacked)
        ends = self.divided(rungs, attacked)
        beaten = (self.network(self.centres.x.to(self.network.device, self.network.dtype)) <= 0).any(1).tolist()
        entries = []
        for i, centre in enumerate(centres):
            own, known = rungs.get(i, [centre]), attacked.of(i)
            if remarks[i].startswith("mis") and beaten[i]:
                known = Nearest(0.0, known.point, FOUND)
            row, end = weakest(own), ends.get(i, BOUNDED)
            entries.append(Entry(own, row, label, others[row], others, known, remarks[i], end))
        return entries if self.deployed is None else self._deployed(entries, self.deployed)

    def _deployed(self, entries: Sequence[Entry], deployed: Deployed) -> list[Entry]:
        """The same for every program: less what rounding may change, and with adversaries of every program."""
        margins, found = DeployedMargins(deployed, self.problem, self.centres), list[Entry]()
        for i, e in enumerate(entries):
            rungs, errors = margins.less_rounding(i, e.rungs)
            row, why = weakest(rungs), e.remark or doubt(rungs[0])
            known = e.nearest
            if not e.remark:
                away, point = margins.losing(i, known.distance, known.point)
                known = Nearest(away, point, NONE if away == inf and known.status == FOUND else known.status)
            found.append(
                replace(
                    e, rungs=rungs, row=row, target=e.others[row], nearest=known, remark=why,
                    end=ending(rungs, known.distance, BOUNDED if e.end == EXACT else e.end), rounding=errors[row],
                )
            )  # fmt: skip
        return found

    def opened(self, rungs: dict[int, list[RadiusBound]], attacked: Adversaries) -> dict[int, list[RadiusBound]]:
        """Rungs by bounds of the margins alone, on few balls below the nearest adversaries: they take little time."""
        quick = tuple(f for f in self.proofs if isinstance(f, MarginBound))
        if not quick:
            return rungs
        part = replace(self, proofs=quick, deadline=self.deadline.part(_OPENING), shares=_PASS)
        whole = self.centres.whole().tolist()
        searches = {}
        for i, own in rungs.items():
            away = attacked.of(i).distance
            search = few_radii(own, self.search, whole[i], _BEGIN * min(away, first_order(own[0])), away)
            searches[i] = part.told(i, search, own, attacked)
        return answered(searches, part.bounds)

    def searched(self, rungs: dict[int, list[RadiusBound]], attacked: Adversaries) -> dict[int, list[RadiusBound]]:
        """Further rungs of each input: first by proofs for many balls, then by those for few.

        Of the time, the first take a share if there are others.
        """
        many, few = (
            replace(self, proofs=tuple(f for f in self.proofs if (f.sparing, f.divides) == kind))
            for kind in ((False, False), (True, False))
        )
        divides, limited = any(f.divides for f in self.proofs), self.deadline.end < inf
        if many.proofs and limited and (few.proofs or divides):
            many = replace(many, deadline=self.deadline.part(_BEFORE if divides else _MANY))
        for grid in many.grids() if many.proofs else ():
            climbing = {i: many.told(i, many.climbing(i, own, grid), own, attacked) for i, own in rungs.items()}
            rungs = answered(climbing, many.bounds)
        if few.proofs:
            if divides and limited:
                few = replace(few, deadline=self.deadline.part(_BEFORE))
            whole = self.centres.whole().tolist()
            further = {i: few.told(i, few_radii(own, self.search, whole[i]), own, attacked) for i, own in rungs.items()}
            rungs = answered(further, few.bounds)
        return rungs

    def divided(self, rungs: dict[int, list[RadiusBound]], attacked: Adversaries) -> dict[int, str]:
        """Add rungs by proofs that divide balls, input by input, and nearer adversaries; returns how each ended."""
        dividing = tuple(f for f in self.proofs if f.divides)
        ends = {i: self.ending(own, attacked.of(i).distance, BOUNDED) for i, own in rungs.items()}
        left = [i for i, end in ends.items() if dividing and end != EXACT]
        budget, whole, done = Budget(self.deadline, len(left)), self.centres.whole().tolist(), list[int]()
        try:
            for i in left:
                own = replace(self, proofs=dividing, deadline=Deadline.after(budget.share()))
                search = dividing_radii(rungs[i], self.search, whole[i], partial(attacked.nearer, i))
                answered({i: own.told(i, search, rungs[i], attacked)}, partial(own.bounds, before=rungs[i]))
                ends[i] = own.ending(rungs[i], attacked.of(i).distance, given_up(rungs[i]))
                done.append(i)
        except KeyboardInterrupt:
            ends.update(dict.fromkeys(left[len(done) :], INTERRUPTED))
        return ends

    def ending(self, rungs: Sequence[RadiusBound], away: float, otherwise: str) -> str:
        """How a search ended, for want of time where it was cut short."""
        cut = self.deadline.over and least_proved(rungs) < self.search.limit
        return ending(rungs, away, TIME if otherwise == BOUNDED and cut else otherwise)

    def told(
        self,
        i: int,
        search: Generator[list[float], list[RadiusBound], list[RadiusBound]],
        rungs: Sequence[RadiusBound],
        attacked: Adversaries,
    ) -> Generator[list[float], list[RadiusBound], list[RadiusBound]]:
        """The same search until the deadline, with progress if the user wants to see it."""
        progress = self.search.progress
        search = within_time(search, rungs, self.deadline)
        if progress is None:
            return search
        return told(search, rungs, lambda radius: progress(RadiusProgress(radius, attacked.of(i).distance)))

    def grids(self) -> list[RadiusSearch]:
        """The grids of radii; in time, first a coarse one."""
        coarse = replace(self.search, intervals=min(_COARSE, self.search.intervals))
        return [self.search] if self.deadline.end == inf else [coarse, self.search]

    def climbing(
        self, i: int, rungs: Sequence[RadiusBound], grid: RadiusSearch
    ) -> Generator[list[float], list[RadiusBound], list[RadiusBound]]:
        together = min(grid.intervals, self.problem.planner.radii_ahead(self.network))
        return search_radii(grid, rungs[0], float(self.centres.taken([i]).whole()), together, rungs[1:])

    def at_centres(self) -> list[RadiusBound]:
        """Bounds at the inputs themselves, always with a bound of the margins, from which every proof starts."""
        many = tuple(proof for proof in self.proofs if not proof.sparing)
        known = any(isinstance(proof, MarginBound) for proof in many)
        every = replace(self, proofs=many if known else (MarginBound(), *many), deadline=NEVER)
        count = len(self.centres.x)
        return every.bounds(range(count), [0.0] * count)

    def bounds(
        self, index: Sequence[int], radii: Sequence[float], before: Sequence[RadiusBound] = ()
    ) -> list[RadiusBound]:
        """Bounds of the margins and of their slopes, on balls around the inputs with the numbers `index`.

        before: rungs of the only input, if there is but one; ranges over larger balls hold on smaller ones.
        """
        found: list[RadiusBound] = []
        together = self.problem.planner.thresholds.balls
        for begin in range(0, len(index), together):
            some = torch.tensor(radii[begin : begin + together], dtype=torch.float64)
            balls = self.centres.taken(index[begin : begin + together]).balls(some)
            parts = self.problem.over(balls).batches()
            for part, radius in zip(parts, some.split([part.bound.batch for part in parts]), strict=True):
                own = self._ranged(part)
                ranges = tuple(ranges_around(before, r) for r in radius.tolist())
                asked = MarginBalls(own, Gradients(own), radius, self.centres.p, ranges)
                found += stated(self.proofs, asked, self.deadline, self.shares)
        return found

    def _ranged(self, part: Problem) -> Problem:
        """The problem of some balls; for large networks with the ranges for which there is time.

        Proofs that divide balls apply its rule to parts of them, and are given no ranges of whole ones.
        """
        limit = part.planner.watched(part.network, self.deadline)
        if limit.end == inf:
            return part
        quick = part.by(in_time(part.pre, limit.part(self.shares.ranges)))
        divides = part.pre.holds_samples or any(f.divides for f in self.proofs)
        return quick if divides or limit.over else part.by(Known.of(quick.preactivations(), part.pre))
