"""Certified radii: how far an input may move while its class is proved to win; and the nearest adversary found.

The margin f_c - f_j is a network with one output.  It is positive at x, and cannot decrease faster than its local
Lipschitz constants allow (docs/mathematics.md, §7.1, §7.2).  Its own lower bound on a ball may also be positive.  The
two proofs can be combined: the bound up to some radius, and the Lipschitz constants from there on.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import Any, final

import torch
from torch import Tensor

from recurjac.applications.adversaries import FOUND, NONE, Adversaries, Nearest, said
from recurjac.applications.branched_margin import BranchedMargin
from recurjac.applications.centres import Centres, around
from recurjac.applications.deployed_radius import DeployedMargins, checked_margins
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
from recurjac.applications.proofs import (
    DEFAULT_PROOFS,
    AbstractRadiusProof,
    MarginBalls,
    MarginBound,
    Shares,
    check_proofs,
    stated,
)
from recurjac.applications.radii import (
    Proved,
    RadiusBound,
    by_integral,
    by_margin,
    checked,
    doubt,
    least_proved,
    proved,
    title_of,
    weakest,
)
from recurjac.applications.radius_search import (
    RadiusProgress,
    RadiusSearch,
    answered,
    few_radii,
    first_order,
    remark_on,
    search_radii,
    told,
    within_time,
)
from recurjac.applications.targets import predicted, read_labels, rivals
from recurjac.arithmetic import Deployed
from recurjac.deadline import NEVER, Budget, Deadline, check_time_limit
from recurjac.errors import InvalidRequest, expect
from recurjac.jacobian import Gradients
from recurjac.loading import Source
from recurjac.network import Network
from recurjac.norms import check_norm
from recurjac.preactivation.anytime import Known, in_time
from recurjac.problem import Problem
from recurjac.provenance import AbstractResult, Provenance
from recurjac.region import LpBall, Numbers

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
@dataclass(frozen=True, repr=False, eq=False)
class CertifiedRadius(AbstractResult):
    """Within `radius` of each input, in the l_p norm and the clip box, its `label` has a larger output than `target`.

    radius, attack: (batch,), float64.  The nearest adversary found, `adversary` (batch, *input), is at most at distance
    `attack`, which is infinite if none is known.  `attack_status` tells why: "found"; "none found" by the whole attack;
    "none found in time" by the part of it for which there was time; "not attacked".  Misclassified inputs are not
    attacked: `attack` is 0 if the input loses to a target, otherwise infinite.  Always radius <= attack.
    by_integral, by_margin: (batch,), the radii that slopes (Theorem 2), or bounds of the margin, prove alone.
    label, target: (batch,); with several targets, the one with the least radius.  rivals: for each input, all targets.
    margin: (batch,), a proved lower bound of f_label - f_target at the input.
    rounding: (batch,), a bound of what the rounding of a program may change of that margin within the radius, of which
    radii of deployed networks (`Deployed`) take account; 0 for the network in real arithmetic.
    proof: what proves each radius.  remark: why a radius is 0, infinite, or at the limit; otherwise empty.
    status: "exact" if the nearest adversary is at most a thousandth farther than the radius, or if it is infinite;
    "time" if the time was over before the search ended; "time", "parts" or "stuck" if proofs that divide balls
    (`BranchedMargin`) gave up the next larger ball for want of time or of parts, or because no part could be divided;
    "interrupted" if the user stopped them; otherwise "bounded".
    """

    radius: Tensor
    attack: Tensor
    by_integral: Tensor
    by_margin: Tensor
    label: Tensor
    target: Tensor
    margin: Tensor
    adversary: Tensor
    proof: tuple[str, ...]
    remark: tuple[str, ...]
    status: tuple[str, ...]
    p: float
    provenance: Provenance
    rivals: tuple[tuple[int, ...], ...] = ()
    rounding: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    attack_status: tuple[str, ...] = ()

    def __repr__(self) -> str:
        away = [said(a, why) for a, why in zip(self.attack.tolist(), self.attack_status, strict=True)]
        rows = zip(self.label, self.target, self.radius, away, self.remark, strict=True)
        words = (
            f"{int(c)} over {int(k)}: {float(r):.6g} … {a}{f' ({why})' if why else ''}" for c, k, r, a, why in rows
        )
        each = self._each(words, len(self.radius))
        return f"CertifiedRadius(l{self.p:g}, certified … attacked: {each}; {self._kind()})"


def certified_radius(
    network: Source | Problem,
    x: Numbers | LpBall | None = None,
    *,
    label: Any = None,
    p: float | None = None,
    target: Any = "runner-up",
    proofs: Sequence[AbstractRadiusProof] | None = None,
    search: RadiusSearch | None = None,
    time_limit: float | None = None,
) -> CertifiedRadius:
    """For each input, a proved radius within which its label keeps winning against the target.

    network: also what `load` reads, such as a module or a file, which is then read again in each call.
    x: one input or a batch, or an `LpBall`, whose centres, norm and clip box are used, but not its radius.  A `Problem`
    over an `LpBall` can replace network and x; its rule and arithmetic are used as well.
    label: one class for all inputs or one for each; by default the class that the network predicts (the lowest if
    several outputs are largest).  p: 1, 2 or inf, by default inf.
    target: "runner-up", "random" (drawn with the attack's seed), "least-likely", "all", or the number of a class, for
    all inputs or for each.  proofs: what is bounded on balls; their statements are combined (`radii.proved`).  The
    default is `MarginBound()` and `LipschitzIntegral()`, and with a time limit also `BranchedMargin()`.
    search: the radii to try, and the attack; no proof depends on it.  time_limit: seconds for all inputs together.
    With a `Problem` whose arithmetic is `Deployed`, the label wins in every program in that precision, and adversaries
    are such for every program.
    A misclassified input has radius 0, and so does an input whose margin is not proved to be positive.
    Raises InvalidRegion for inputs that do not fit the network, InvalidRequest for invalid labels, targets, norms and
    proofs, and for two time limits, UnsoundBounds for an adversary within the radius, which indicates a bug.

    Source: arXiv:1810.11783, Theorem 2 and Section 4.3; docs/mathematics.md, §7.1, §7.2.
    """
    asked, ball = around(network, x, None if p is None else check_norm(p, "input"))
    how = search or RadiusSearch()
    expect(how, RadiusSearch, "the search", "give RadiusSearch(intervals, limit, attack)")
    check_time_limit(time_limit, search=None if how.time_limit == inf else search)
    if time_limit is not None:
        how = replace(how, time_limit=time_limit / asked.bound.batch)
    if proofs is None:
        proofs = DEFAULT_PROOFS if time_limit is None else (*DEFAULT_PROOFS, BranchedMargin())
    check_proofs(proofs, asked, ball.p)
    flat = _classifier(asked.network)
    reasons = dict.fromkeys(reason for proof in proofs for reason in proof.unproved_rounding(ball.p))
    problem = asked.of(flat).covering(list(reasons))
    deployed = checked_margins(problem)
    with torch.no_grad():
        outputs = flat(problem.bound.x)
        labels = read_labels(label, outputs)
        against = rivals(target, labels, outputs, how.attack.seed)
        centres = Centres.of(ball, flat.input_shape)
        work = _Work(problem.in_reals(), centres, tuple(proofs), how, deployed=deployed)
        found = work.entries(labels, against, [int(k) for k in predicted(outputs)])
    return _result(found, work)


def _classifier(network: Network) -> Network:
    """The network with a vector of outputs.  Raises InvalidRequest if there are fewer than two."""
    flat = network.flattened_output()
    if flat.output_shape[0] < 2:
        raise InvalidRequest("the network has one output, hence no classes; a certificate needs two or more outputs")
    return flat


@final
@dataclass(frozen=True)
class _Entry:
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
class _Work:
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

    def entries(self, labels: Sequence[int], against: Sequence[tuple[int, ...]], given: Sequence[int]) -> list[_Entry]:
        """One entry for each input; inputs with the same label and targets are certified together."""
        groups: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for i, key in enumerate(zip(labels, against, strict=True)):
            groups.setdefault(key, []).append(i)
        found: dict[int, _Entry] = {}
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

    def certified(self, label: int, others: tuple[int, ...], remarks: Sequence[str]) -> list[_Entry]:
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
            entries.append(_Entry(own, row, label, others[row], others, known, remarks[i], end))
        return entries if self.deployed is None else self._deployed(entries, self.deployed)

    def _deployed(self, entries: Sequence[_Entry], deployed: Deployed) -> list[_Entry]:
        """The same for every program: less what rounding may change, and with adversaries of every program."""
        margins, found = DeployedMargins(deployed, self.problem, self.centres), list[_Entry]()
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


def _result(entries: Sequence[_Entry], work: _Work) -> CertifiedRadius:
    proofs = [e.proof for e in entries]
    attack = _numbers(e.nearest.distance for e in entries)
    radius = checked(_numbers(f.radius for f in proofs), attack, work.problem.arithmetic)
    ways = (by_integral, by_margin)
    alone = [_numbers(0.0 if e.remark else least_proved(way(e.rungs)) for e in entries) for way in ways]
    limit, each = work.search.limit, zip(entries, radius.tolist(), strict=True)
    remarks = [e.remark or remark_on(r, limit, e.end == TIME) for e, r in each]
    titles = dict.fromkeys(proof.title(work.problem) for proof in work.proofs)
    return CertifiedRadius(
        radius, attack, torch.minimum(alone[0], radius), torch.minimum(alone[1], radius),
        torch.tensor([e.label for e in entries]), torch.tensor([e.target for e in entries]),
        _numbers(e.rungs[0].margins[e.row] for e in entries),
        torch.stack([e.nearest.point.cpu() for e in entries]),
        tuple(title_of(f, e.rungs) for f, e in zip(proofs, entries, strict=True)), tuple(remarks),
        tuple(e.end for e in entries), work.centres.p, _provenance(work, ", ".join(titles)),
        tuple(e.others for e in entries), _numbers(e.rounding for e in entries),
        tuple(e.nearest.status for e in entries),
    )  # fmt: skip


def _provenance(work: _Work, titles: str) -> Provenance:
    """The provenance of the radii, which names the program if they hold for it."""
    if work.deployed is None:
        return work.problem.provenance(titles)
    return work.problem.of_program(work.deployed).provenance(titles, "for every order of summation of the program")


def _numbers(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)
