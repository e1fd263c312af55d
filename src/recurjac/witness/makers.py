"""The certificates of each kind of result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from recurjac.applications.contraction import MatrixMeasure
from recurjac.applications.landscape import StationaryFree
from recurjac.applications.monotonicity import Monotonicity
from recurjac.applications.robustness import CertifiedRadius
from recurjac.arithmetic import Deployed
from recurjac.certificates import FORMAT, Certificate, certifies
from recurjac.deadline import Budget, Deadline
from recurjac.errors import InvalidRequest
from recurjac.jacobian import JacobianBounds
from recurjac.lipschitz_constants import Lipschitz
from recurjac.problem import Problem
from recurjac.provenance import AbstractResult
from recurjac.region import AbstractRegion, BoundBall, BoundBox, BoundRegion
from recurjac.stage_bounds import PreactivationBounds
from recurjac.version import __version__
from recurjac.witness.leaf import Asked, Leaf
from recurjac.witness.model import Model
from recurjac.witness.notation import Json, digest, norm, number, numbers, region, row, unclipped
from recurjac.witness.parts import Parts
from recurjac.witness.quadratic import is_affordable
from recurjac.witness.questions import (
    AbstractQuestion,
    EntriesQuestion,
    MarginQuestion,
    MeasureQuestion,
    NormQuestion,
    OutputsQuestion,
    SignsQuestion,
    SlopeQuestion,
    TangentsQuestion,
)

_LARGE = 3e9
"""The multiply-adds of lines for all neurons and rows above which a witness has intervals only."""
_SHRINK = 12
"""How many smaller radii are tried if a radius is not proved."""
_LINES = 0.5
"""The share of the time left for trees without P-chains."""
_TRY = 0.3
"""The share of the time left that each of them has."""
_FARTHEST = 1e3
"""The largest radius of a certificate, in units of the largest input or 1: its regions are bounded."""


@final
@dataclass(frozen=True)
class _Maker:
    """A result's problem, and the file that its certificates are about."""

    model: Model
    problem: Problem
    deadline: Deadline

    @classmethod
    def of(cls, result: AbstractResult, path: Path, seconds: float) -> _Maker:
        """Raises InvalidRequest for a result without a problem, or with constraints."""
        problem = result.provenance.asked
        if not isinstance(problem, Problem):
            raise InvalidRequest("the result does not know what was asked; ask again, in this process")
        if isinstance(problem.arithmetic, Deployed):
            raise InvalidRequest("certificates are about real arithmetic; there are none of deployed networks")
        if problem.known:
            raise InvalidRequest("there are no certificates of problems with constraints on pre-activations")
        return cls(Model.read(path), problem, Deadline.after(seconds))

    @property
    def regions(self) -> Sequence[BoundRegion]:
        """The region of each sample, in float64; a ball of infinite radius is its clip box."""
        where, shape = self.problem.origin, self.model.literal.input_shape
        if not isinstance(where, AbstractRegion):
            raise InvalidRequest("there are no certificates of parts of regions; give an LpBall or a Box")
        parts = where.bind(shape, torch.float64, torch.device("cpu")).split(1)
        whole = [isinstance(b, BoundBall) and bool(b.radius.isinf().all()) for b in parts]
        return [_ball(b, inf, inf) if endless else b for b, endless in zip(parts, whole, strict=True)]

    def asked(self, rows: Tensor) -> Asked:
        """The rows, with lines unless they take too long."""
        network = self.model.literal
        work = network.multiply_adds * (sum(network.sizes[1:-1]) + sum(network.sizes[:1]))
        return Asked(network, rows, lines=work <= _LARGE)

    def parts(self, asked: Asked, question: AbstractQuestion, where: BoundRegion, deadline: Deadline) -> Parts:
        """The tree that proves most of a question over a region: by lines, or by P-chains too if these miss the goal.

        A norm may then be bounded by tangents as well.
        """
        region = unclipped(where)
        plain = Parts.grown(Leaf(asked, region), question, deadline.part(_LINES))
        if plain.score <= question.goal or deadline.over or not (asked.lines and is_affordable(asked.network)):
            return plain
        norm = question if isinstance(question, NormQuestion) else None
        root = Leaf(replace(asked, chains=True, norm=None if norm is None else (norm.p, norm.q)), region)
        ways = [question] if norm is None else [norm, TangentsQuestion(norm)]
        other = Parts.grown(root, min(ways, key=lambda way: way.score(root)), deadline)
        return other if other.score < plain.score else plain

    def certificate(
        self, asked: Asked, question: AbstractQuestion, where: BoundRegion, what: str, result: float, deadline: Deadline
    ) -> Certificate:
        """The certificate of one question over a region."""
        parts = self.parts(asked, question, where, deadline)
        return self.written(parts, where, what, result)

    def written(self, parts: Parts, where: BoundRegion, what: str, result: float) -> Certificate:
        """The certificate that a tree proves."""
        described = region(where)
        document = {
            "format": FORMAT,
            "producer": {"name": "recurjac", "version": __version__},
            "model": {"sha256": self.model.sha256},
            "region": described,
            "region_sha256": digest(described),
            "claims": parts.question.claims(parts.leaves),
            "parts": parts.written(),
        }
        return Certificate(document, what, parts.question.value(parts.leaves), result)

    def shrunk(
        self,
        asked: Asked,
        question: AbstractQuestion,
        ball: Callable[[float], BoundRegion],
        what: str,
        radius: float,
        deadline: Deadline,
    ) -> Certificate:
        """The certificate of a question on the largest of some balls on which it is proved; value: the radius.

        The certificate claims nothing if the question is not proved at the centre itself.
        """
        bad = best = min(radius, _FARTHEST * max(1.0, float(ball(0.0).x.abs().max())))
        proved = self.parts(asked, question, ball(best), deadline.part(0.5))
        if not question.claims(proved.leaves):
            proved, best = self.parts(asked, question, ball(0.0), Deadline.after(0.0)), 0.0
        for _ in range(_SHRINK):
            if bad - best <= 0.02 * bad or not question.claims(proved.leaves):
                break
            tried = (best + bad) / 2
            parts = self.parts(asked, question, ball(tried), deadline.part(_TRY))
            if question.claims(parts.leaves):
                proved, best = parts, tried
            else:
                bad = tried
        made = self.written(proved, ball(best), what, radius)
        return Certificate(made.document, what, best, radius)


def _ball(where: BoundRegion, p: float, radius: float) -> BoundRegion:
    """The ball of another radius around the centre of a region of one sample, with its clip box."""
    if not isinstance(where, BoundBox | BoundBall):
        raise InvalidRequest(f"there are no certificates of balls around {where!r}; give points")
    ends = (where.low, where.high)
    if p in (1, 2):
        return BoundBall(where.x, torch.tensor([radius], dtype=torch.float64), p, *ends)
    return BoundBox(where.x, torch.full_like(where.x, radius), *ends)


@certifies(Lipschitz)
def lipschitz_certificates(result: Lipschitz, path: Path, seconds: float) -> list[Certificate]:
    """Certificates of constants: the upper bound, and the point and direction at which the lower one is attained."""
    maker = _Maker.of(result, path, seconds)
    rows, found = maker.model.rows_of(maker.problem.network), []
    asked, budget = maker.asked(rows), Budget(maker.deadline, len(result.upper))
    for i, where in enumerate(maker.regions):
        upper = float(result.upper[i].detach())
        what = f"the norm of the Jacobian from l{norm(result.p)} to l{norm(result.q)} is at most"
        question = NormQuestion(result.p, result.q, upper, _attained(result, rows, i))
        found.append(maker.certificate(asked, question, where, what, upper, Deadline.after(budget.share())))
    return found


def _attained(result: Lipschitz, rows: Tensor, i: int) -> Json | None:
    """The point and the direction of sample i; None if nothing is attained."""
    lower = float(result.lower[i])
    if not lower > 0 or not result.rigorous:
        return None
    return {
        "kind": "attained", "rows": [row(r) for r in rows], "from": norm(result.p), "to": norm(result.q),
        "lower": number(lower * (1 - 1e-9)), "point": numbers(result.witness[i]),
        "direction": numbers(result.direction[i]),
    }  # fmt: skip


@certifies(MatrixMeasure)
def measure_certificates(result: MatrixMeasure, path: Path, seconds: float) -> list[Certificate]:
    """Certificates of matrix measures without weights."""
    if result.weights is not None:
        raise InvalidRequest("there are no certificates of measures with weights; leave them out")
    maker = _Maker.of(result, path, seconds)
    asked, found = maker.asked(maker.model.rows_of(maker.problem.network)), []
    budget, what = Budget(maker.deadline, len(result.upper)), f"the matrix measure of l{norm(result.p)} is at most"
    for upper, where in zip(result.upper.tolist(), maker.regions, strict=True):
        question, share = MeasureQuestion(result.p, upper), Deadline.after(budget.share())
        found.append(maker.certificate(asked, question, where, what, upper, share))
    return found


@certifies(JacobianBounds)
def jacobian_certificates(result: JacobianBounds, path: Path, seconds: float) -> list[Certificate]:
    """Certificates of bounds of all entries."""
    maker = _Maker.of(result, path, seconds)
    asked, budget = maker.asked(maker.model.rows_of(maker.problem.network)), Budget(maker.deadline, len(result.lower))
    sizes, found = _widest(result.lower, result.upper), []
    for where, (width, size) in zip(maker.regions, sizes, strict=True):
        what, share = "no bounds of an entry of the Jacobian are wider than", Deadline.after(budget.share())
        found.append(maker.certificate(asked, EntriesQuestion(width, size), where, what, width, share))
    return found


@certifies(PreactivationBounds)
def range_certificates(result: PreactivationBounds, path: Path, seconds: float) -> list[Certificate]:
    """Certificates of the ranges of all outputs; those of the stages before them are part of the witness."""
    maker = _Maker.of(result, path, seconds)
    asked = maker.asked(maker.model.rows_of(maker.problem.network))
    sizes, found = _widest(result.lower[-1], result.upper[-1]), []
    budget = Budget(maker.deadline, len(sizes))
    for where, (width, size) in zip(maker.regions, sizes, strict=True):
        what, share = "no range of an output is wider than", Deadline.after(budget.share())
        found.append(maker.certificate(asked, OutputsQuestion(width, size), where, what, width, share))
    return found


def _widest(lower: Tensor, upper: Tensor) -> list[tuple[float, float]]:
    """For each sample, the largest width of its bounds, and the largest magnitude."""
    low, high = lower.detach().double().flatten(1), upper.detach().double().flatten(1)
    sizes = torch.maximum(low.abs(), high.abs()).amax(1)
    return list(zip((high - low).amax(1).tolist(), sizes.tolist(), strict=True))


@certifies(Monotonicity)
def trend_certificates(result: Monotonicity, path: Path, seconds: float) -> list[Certificate]:
    """Certificates of the signs of entries of the Jacobian."""
    maker = _Maker.of(result, path, seconds)
    rows = maker.model.rows_of(maker.problem.network)
    asked, budget, found = maker.asked(rows), Budget(maker.deadline, len(result.lower)), []
    for i, where in enumerate(maker.regions):
        up, down = (t[i].reshape(len(rows), asked.inputs) for t in (result.increasing, result.decreasing))
        what, share = "the number of entries of the Jacobian with a proved sign", Deadline.after(budget.share())
        question, count = SignsQuestion(up, down), float(up.sum() + down.sum())
        found.append(maker.certificate(asked, question, where, what, count, share))
    return found


@certifies(CertifiedRadius)
def radius_certificates(result: CertifiedRadius, path: Path, seconds: float) -> list[Certificate]:
    """Certificates of radii, over the balls in which the label is proved to win."""
    maker = _Maker.of(result, path, seconds)
    size = maker.model.rows_of(maker.problem.network).shape[1]
    basis, found, budget = torch.eye(size, dtype=torch.float64), [], Budget(maker.deadline, len(result.radius))
    for i, where in enumerate(maker.regions):
        label, rivals = int(result.label[i]), list(result.rivals[i])
        everyone = len(rivals) == size - 1
        names = "all others" if everyone else ", ".join(map(str, rivals))
        found.append(
            maker.shrunk(
                maker.asked(basis[label] - basis[rivals]), MarginQuestion(label if everyone else None),
                partial(_ball, where, result.p),
                f"output {label} is larger than {names} within l{norm(result.p)} distance",
                float(result.radius[i]), Deadline.after(budget.share()),
            )
        )  # fmt: skip
    return found


@certifies(StationaryFree)
def stationary_certificates(result: StationaryFree, path: Path, seconds: float) -> list[Certificate]:
    """Certificates of balls without stationary points."""
    maker = _Maker.of(result, path, seconds)
    row_of, found, budget = maker.model.rows_of(maker.problem.network), [], Budget(maker.deadline, len(result.radius))
    asked = maker.asked(row_of)
    for i, where in enumerate(maker.regions):
        found.append(
            maker.shrunk(
                asked, SlopeQuestion(), partial(_ball, where, result.p),
                f"there is no stationary point within l{norm(result.p)} distance", float(result.radius[i]),
                Deadline.after(budget.share()),
            )
        )  # fmt: skip
    return found
