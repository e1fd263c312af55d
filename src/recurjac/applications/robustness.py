"""Certified radii: how far an input may move while its class keeps winning, proved; beside the nearest adversary found.

Proofs: the margin f_c - f_j, one network of its own, is positive at x and cannot fall faster than its local Lipschitz
constants (docs/mathematics.md, §7.1, §7.2), or its own lower bound on a ball is positive, or both one after the other.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any, final

import torch
from torch import Tensor

from recurjac.applications.attack import Attack
from recurjac.applications.radii import (
    Proved,
    Radii,
    RadiusBound,
    by_integral,
    by_margin,
    first_order,
    least_proved,
    proved,
    search_radii,
)
from recurjac.applications.targets import predicted, read_labels, rivals
from recurjac.arithmetic import AbstractArithmetic, Rigorous
from recurjac.errors import InvalidRequest, UnsoundBounds, expect
from recurjac.jacobian import AbstractJacobianMethod, Chords, Gradients
from recurjac.network import Network
from recurjac.norms import AbstractNormMethod, as_norm_method, check_norm, check_supported
from recurjac.preactivation import AbstractPreactivation
from recurjac.problem import Problem
from recurjac.provenance import AbstractResult, Provenance
from recurjac.region import LpBall, Numbers


@final
@dataclass(frozen=True, repr=False)
class CertifiedRadius(AbstractResult):
    """Within `radius` of each input, in the l_p norm and the clip box, its `label` has a larger output than `target`.

    radius, attack: (batch,), float64; the nearest adversary found, `adversary` (batch, *input), is at most at distance
    `attack`, infinite if none was found (or sought: a misclassified input is not attacked).  Always radius <= attack.
    by_integral, by_margin: (batch,), what Theorem 2 and the bound of the margin prove alone.
    label, target: (batch,); for several targets the one that the radius is least for.
    margin: (batch,), a proved lower bound of f_label - f_target at the input.
    proof: what proves each radius; remark: why a radius is 0 or as large as looked for, else empty.
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
    p: float
    provenance: Provenance

    def __repr__(self) -> str:
        rows = zip(self.label, self.target, self.radius, self.attack, self.remark, strict=True)
        each = ", ".join(
            f"{int(c)} over {int(k)}: {float(r):.6g} … {float(a):.6g}{f' ({why})' if why else ''}"
            for c, k, r, a, why in rows
        )
        return f"CertifiedRadius(l{self.p:g}, certified … attacked: {each}; {self._kind()})"


def certified_radius(
    network: Network,
    x: Numbers,
    label: Any = None,
    p: float = inf,
    target: Any = "runner-up",
    clip: tuple[Numbers, Numbers] | None = None,
    method: AbstractJacobianMethod | AbstractNormMethod | None = None,
    pre: AbstractPreactivation | None = None,
    arithmetic: AbstractArithmetic | None = None,
    radii: Radii | None = None,
    attack: Attack | None = None,
) -> CertifiedRadius:
    """A proved radius for each input around which its label keeps winning against the target.

    x: one input or a batch.  label: one for all or one for each, by default the class that the network gives, of equal
    largest outputs the lowest.  p: 1, 2 or inf.  target: "runner-up", "random" (by the attack's seed), "least-likely",
    "all", or the number of a class, one for all or one for each.  clip: the range (lo, hi) that inputs can have.
    method: of the local Lipschitz constants, by default `Chords()`; pre: by default `Crown()`; arithmetic: by default
    `Rigorous()` where complete.  radii: the grid.  attack: on the inputs; no proof depends on it.
    An input that is misclassified has radius 0, as has one whose margin is not proved to be positive.
    Raises InvalidRegion for inputs that do not fit the network, InvalidRequest for labels, targets and norms that do
    not exist, UnsoundBounds for an adversary within the radius: a bug.

    Source: arXiv:1810.11783, Theorem 2 and Section 4.3; docs/mathematics.md, §7.1, §7.2.
    """
    p = check_norm(p, "input")
    ball, grid, search = LpBall(x, 0.0, p, clip), radii or Radii(), attack or Attack()
    how = as_norm_method(Chords() if method is None else method)
    check_supported(how, p, inf)
    asked = Problem(network, ball, pre=pre, arithmetic=arithmetic)
    expect(grid, Radii, "the grid", "give Radii(intervals, limit)")
    expect(search, Attack, "the attack", "give an object such as Attack()")
    flat = _classifier(network, asked.pre)
    problem = asked.of(flat).covering(how.unproved_rounding(p, inf, 1))
    with torch.no_grad():
        outputs = flat(problem.bound.x)
        labels = read_labels(label, outputs)
        against = rivals(target, labels, outputs, search.seed)
        work = _Work(problem, _plain(ball, flat), how, grid, search)
        found = work.entries(labels, against, [int(k) for k in predicted(outputs)])
    return _result(found, work, p)


def _classifier(network: Network, rule: AbstractPreactivation) -> Network:
    """The network with a vector of outputs.  Raises InvalidRequest if they are no classes, or if the rule cannot do."""
    if rule.holds_samples:
        raise InvalidRequest("pre-activation bounds that are given belong to one region; use a rule such as Crown()")
    flat = network.flattened_output()
    if flat.output_shape[0] < 2:
        raise InvalidRequest("the network has one output, hence no classes; a certificate needs two or more outputs")
    return flat


@final
@dataclass(frozen=True)
class _Entry:
    """What is found of one input."""

    rungs: list[RadiusBound]
    row: int
    label: int
    target: int
    attack: float
    adversary: Tensor
    remark: str

    @property
    def proof(self) -> Proved:
        """Nothing where there is something to remark at the centre already."""
        return Proved(0.0, 0.0) if self.remark else proved(self.rungs, self.row)


@final
@dataclass(frozen=True)
class _Work:
    """Inputs, the centres of `ball` with its norm and clip box, and how `network` is proved to be positive there."""

    problem: Problem
    ball: LpBall
    how: AbstractNormMethod
    radii: Radii
    attack: Attack

    @property
    def network(self) -> Network:
        return self.problem.network

    @property
    def arithmetic(self) -> AbstractArithmetic:
        return self.problem.arithmetic

    def entries(self, labels: Sequence[int], against: Sequence[tuple[int, ...]], given: Sequence[int]) -> list[_Entry]:
        """One entry for each input; those with one label and the same targets are certified together."""
        groups: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for i, key in enumerate(zip(labels, against, strict=True)):
            groups.setdefault(key, []).append(i)
        found: dict[int, _Entry] = {}
        for (label, others), members in groups.items():
            rows = torch.zeros(len(others), self.network.output_shape[0], dtype=self.network.dtype)
            rows[:, label] = 1.0
            rows[range(len(others)), list(others)] = -1.0
            margins = self.problem.of(self.network.combine(rows))
            part = replace(self, problem=margins, ball=_taken(self.ball, members))
            remarks = ["" if given[i] == label else f"misclassified as {given[i]}" for i in members]
            found.update(zip(members, part.certified(label, others, remarks), strict=True))
        return [found[i] for i in range(len(labels))]

    def certified(self, label: int, others: tuple[int, ...], remarks: Sequence[str]) -> list[_Entry]:
        """Climb every input whose label wins, then attack it."""
        count = len(remarks)
        centres = self.bounds(list(range(count)), [0.0] * count)
        remarks = [why or _doubt(c) for why, c in zip(remarks, centres, strict=True)]
        climbing = {i: self.climbing(i, centres[i]) for i in range(count) if not remarks[i]}
        rungs = self.climbed(climbing)
        attacked = self.attacked(sorted(climbing), centres)
        beaten = (self.network(self.ball.x.to(self.network.device, self.network.dtype)) <= 0).any(1).tolist()
        entries = []
        for i, centre in enumerate(centres):
            own = rungs.get(i, [centre])
            row = _weakest(own)
            lost = remarks[i].startswith("mis") and beaten[i]
            away, point = attacked.get(i, (0.0 if lost else inf, self.ball.x[i]))
            entries.append(_Entry(own, row, label, others[row], away, point, remarks[i]))
        return entries

    def climbing(self, i: int, centre: RadiusBound) -> Generator[list[float], list[RadiusBound], list[RadiusBound]]:
        together = min(self.radii.intervals, self.problem.planner.radii_ahead(self.network))
        return search_radii(self.radii, centre, _whole(_taken(self.ball, [i])), together)

    def climbed(
        self, climbing: Mapping[int, Generator[list[float], list[RadiusBound], list[RadiusBound]]]
    ) -> dict[int, list[RadiusBound]]:
        """The rungs of each input: what all of them ask for next is bounded together."""
        done: dict[int, list[RadiusBound]] = {}
        asked: dict[int, list[float]] = {}
        answers: dict[int, list[RadiusBound] | None] = dict.fromkeys(climbing)
        while answers:
            asked.clear()
            for i, answer in answers.items():
                try:
                    asked[i] = next(climbing[i]) if answer is None else climbing[i].send(answer)
                except StopIteration as finished:
                    done[i] = finished.value
            pairs = [(i, r) for i, radii in asked.items() for r in radii]
            rungs = iter(self.bounds([i for i, _ in pairs], [r for _, r in pairs]))
            answers = {i: [next(rungs) for _ in radii] for i, radii in asked.items()}
        return done

    def bounds(self, index: Sequence[int], radii: Sequence[float]) -> list[RadiusBound]:
        """Bounds of the margins and of their gradients on balls around the inputs number `index`."""
        found: list[RadiusBound] = []
        together = self.problem.planner.thresholds.balls
        for begin in range(0, len(index), together):
            rows, some = list(index[begin : begin + together]), radii[begin : begin + together]
            ball = _taken(self.ball, rows, torch.tensor(some, dtype=torch.float64))
            margins, slopes = [], []
            for part in self.problem.over(ball).batches():
                known = Gradients(part)
                margins += part.output(known.state).lower.tolist()
                slopes += self.how.rows(known, self.ball.p).tolist()
            found += [RadiusBound(r, tuple(m), tuple(s)) for r, m, s in zip(some, margins, slopes, strict=True)]
        return found

    def attacked(self, index: Sequence[int], centres: Sequence[RadiusBound]) -> dict[int, tuple[float, Tensor]]:
        """The nearest adversary of each of these inputs: its distance and the point."""
        if not index:
            return {}
        scale = torch.tensor([first_order(centres[i]) for i in index], dtype=torch.float64)
        found = self.attack.nearest(self.network, _taken(self.ball, index), scale, self.arithmetic)
        return {i: (float(d), x) for i, d, x in zip(index, found.distance, found.point, strict=True)}


def _weakest(rungs: Sequence[RadiusBound]) -> int:
    """The row that the least radius is proved for; of equal ones that of the least margin."""
    margins = rungs[0].margins
    return min(range(len(margins)), key=lambda row: (proved(rungs, row).radius, margins[row]))


def _plain(ball: LpBall, network: Network) -> LpBall:
    """The same inputs as a batch in float64, (batch, *input), with a clip box of their shape."""
    bound = ball.bind(network.input_shape, torch.float64, torch.device("cpu"))
    everywhere = LpBall(ball.x, inf, inf, ball.clip).bind(network.input_shape, torch.float64, torch.device("cpu"))
    box = everywhere.box(Rigorous())
    return LpBall(bound.x, 0.0, ball.p, (box.lower, box.upper))


def _ends(ball: LpBall) -> tuple[Tensor, Tensor]:
    """The ends of the clip box of a plain ball, (batch, *input)."""
    everywhere = torch.full_like(ball.x, inf)
    return (-everywhere, everywhere) if ball.clip is None else (ball.clip[0], ball.clip[1])


def _taken(ball: LpBall, index: Sequence[int], radius: Tensor | None = None) -> LpBall:
    """Some of the samples of a plain ball, of radius 0 or of these radii."""
    rows, clip = list(index), _ends(ball)
    size = torch.zeros(len(rows), dtype=torch.float64) if radius is None else radius
    size = size.reshape(-1, *[1] * (ball.x.dim() - 1))
    return LpBall(ball.x[rows], size, ball.p, (clip[0][rows], clip[1][rows]))


def _whole(ball: LpBall) -> float:
    """A radius from which on the ball around the one input is all of its clip box; infinite without a box."""
    low, high = _ends(ball)
    room = torch.maximum(high - ball.x, ball.x - low).flatten()
    if not bool(room.isfinite().all()):
        return inf
    return float(Rigorous().at_least(torch.linalg.vector_norm(room, ball.p), 2 * len(room) + 8))


def _doubt(centre: RadiusBound) -> str:
    """Why nothing can be proved of an input that is classified as its label; empty if something can."""
    if not all(isfinite(m) for m in centre.margins):
        return "the outputs at the input have no finite bounds"
    return "" if min(centre.margins) > 0 else "the margin at the input is not proved to be positive"


def _result(entries: Sequence[_Entry], work: _Work, p: float) -> CertifiedRadius:
    proofs = [e.proof for e in entries]
    attack = _numbers(e.attack for e in entries)
    radius = checked(_numbers(f.radius for f in proofs), attack, work.arithmetic)
    ways = (by_integral, by_margin)
    alone = [_numbers(0.0 if e.remark else least_proved(way(e.rungs)) for e in entries) for way in ways]
    remarks = [e.remark or _remark(float(r), work.radii.limit) for e, r in zip(entries, radius, strict=True)]
    return CertifiedRadius(
        radius, attack, torch.minimum(alone[0], radius), torch.minimum(alone[1], radius),
        torch.tensor([e.label for e in entries]), torch.tensor([e.target for e in entries]),
        _numbers(e.rungs[0].margins[e.row] for e in entries),
        torch.stack([e.adversary.cpu() for e in entries]), tuple(_name(f, work) for f in proofs), tuple(remarks),
        p, work.problem.provenance(work.how.title),
    )  # fmt: skip


def _numbers(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def checked(radius: Tensor, attack: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
    """The radii, if every adversary lies outside; without proved rounding the lesser where they differ by it alone.

    Raises UnsoundBounds if an adversary lies within a certified radius.
    """
    if not arithmetic.rigorous:
        close = radius <= attack * (1 + torch.finfo(attack.dtype).eps ** 0.25)
        radius = torch.where(close, torch.minimum(radius, attack), radius)
    wrong = (radius >= attack if arithmetic.rigorous else radius > attack) & attack.isfinite() & (radius > 0)
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        raise UnsoundBounds(
            f"an adversary of input {i} at distance {float(attack[i])!r} is within the certified radius "
            f"{float(radius[i])!r}; please report this, with the network"
        )
    return radius


def _remark(radius: float, limit: float) -> str:
    if radius == inf:
        return "proved for every input of the region"
    if radius >= limit:
        return "as far as was looked"
    return "" if radius > 0 else "no positive radius is proved"


def _name(found: Proved, work: _Work) -> str:
    if found.radius == 0:
        return "none"
    rule, integral = work.problem.pre.title, f"integral of {work.how.title}"
    if not found.by_margin:
        return integral
    return f"{rule}, then {integral}" if found.by_integral else rule
