"""Proofs of a radius: statements about margins on balls, from which `radii` proves how far they stay positive."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import reduce
from math import inf, prod
from typing import TypeVar, final

import torch
from torch import Tensor

from recurjac.applications.radii import RadiusBound
from recurjac.arithmetic import Interval
from recurjac.deadline import NEVER, Deadline, check_seconds, shorter, until
from recurjac.errors import InvalidRequest, OutOfTime, expect_counts
from recurjac.jacobian import AbstractJacobianMethod, AbstractNodewise, Chords, Gradients, InTime
from recurjac.norms import AbstractNormMethod, as_norm_method
from recurjac.preactivation import IBP, SecantRanges
from recurjac.preactivation.anytime import refined
from recurjac.problem import Problem

_T = TypeVar("_T")
_RULE = 0.9
"""Of the time for the bound of a margin in large networks, the share for the problem's rule."""
WIDEST = 4096
"""The size of the widest stage for which secants are tried."""


@final
@dataclass(frozen=True)
class MarginBalls:
    """Margins, which are the outputs of the problem's network, on balls around inputs, one ball per sample.

    problem: its region contains the balls, cut to their clip box.  Where its dtype cannot represent their numbers, the
    region is larger, and its `x` is a rounded centre.
    known: what is known about the margins' gradients on the balls; `known.state` has the pre-activations.  All proofs
    share it.
    radius: (batch,), float64, inf for the whole space or clip box.  p: the norm of the balls.
    ranges: for each ball, ranges of the pre-activations over a larger ball, stage by stage; empty if none are known.
    """

    problem: Problem
    known: Gradients
    radius: Tensor
    p: float
    ranges: tuple[tuple[Interval, ...], ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """The number of balls and of margins."""
        return self.problem.bound.batch, self.problem.network.output_shape[0]


@final
@dataclass(frozen=True)
class Shares:
    """Of the time that is left, the shares for some balls: for ranges, for one proof, and for one that divides them."""

    ranges: float = 0.2
    proof: float = 1 / 6
    dividing: float = 1 / 3


@final
@dataclass(frozen=True)
class RadiusFacts:
    """On each ball, lower bounds of the margins and upper bounds of their slopes: (batch, margins) each.

    A slope is an upper bound of the dual norm (dual to the ball's norm) of all gradients of the margin on the ball.
    None, NaN and infinite entries state nothing.
    adversaries: points of the balls, (balls, *input), at which a margin is proved not to be positive; NaN where there
    is none.
    given_up: why a proof that divides each ball ended before it was decided; empty where it did not.
    ranges: tighter ones of the pre-activations over each ball, stage by stage, which may help on smaller balls.
    """

    margins: Tensor | None = None
    slopes: Tensor | None = None
    adversaries: Tensor | None = None
    given_up: tuple[str, ...] = ()
    ranges: tuple[tuple[Interval, ...], ...] = ()


class AbstractRadiusProof(ABC):
    """A way to bound margins, or their slopes, on balls.  It is a frozen object.

    A proof only states bounds; `radii.proved` draws the conclusions.  It applies each statement about a ball to all
    smaller balls too, and combines the statements of all proofs.
    """

    @abstractmethod
    def title(self, problem: Problem) -> str:
        """The name for tables and provenance; it may contain the name of the problem's rule."""

    @abstractmethod
    def facts(self, balls: MarginBalls) -> RadiusFacts:
        """The bounds on each of the balls."""

    def supports(self, p: float) -> bool:
        """Whether the proof can bound margins on balls of the l_p norm."""
        return True

    def within(self, seconds: float) -> AbstractRadiusProof:
        """The same proof, which takes at most about this time for the balls of a call; by default without a limit."""
        return self

    @property
    def sparing(self) -> bool:
        """Whether the proof is too slow for many balls: it is asked on a few, beyond what the other proofs reach."""
        return False

    @property
    def divides(self) -> bool:
        """Whether the proof divides a ball until it is decided: it is asked last, on balls up to the adversary."""
        return False

    def unproved_rounding(self, p: float) -> list[str]:
        """Why rounding is not covered; empty if it is.  By default, a proof does not cover it."""
        return [f"no rounding error is proved for {type(self).__name__}"]


@final
@dataclass(frozen=True)
class MarginBound(AbstractRadiusProof):
    """Lower bounds of the margins themselves, from the problem's pre-activation rule.

    seconds: for the balls of a call; if the rule takes longer, the bounds are those of intervals.
    """

    seconds: float = inf

    def __post_init__(self) -> None:
        check_seconds("MarginBound", self.seconds)

    def within(self, seconds: float) -> MarginBound:
        return replace(self, seconds=shorter(self.seconds, seconds))

    def title(self, problem: Problem) -> str:
        return problem.pre.title

    def facts(self, balls: MarginBalls) -> RadiusFacts:
        problem, state = balls.problem, balls.known.state
        limit = problem.planner.watched(problem.network, Deadline.after(self.seconds))
        if limit.end == inf:
            return RadiusFacts(margins=problem.output(state).lower)
        margins = IBP().output(state).lower
        with suppress(OutOfTime), until(limit.part(_RULE)):
            margins = torch.fmax(margins, problem.output(state).lower)
        return RadiusFacts(margins=margins)

    def unproved_rounding(self, p: float) -> list[str]:
        return []


@final
@dataclass(frozen=True)
class LipschitzIntegral(AbstractRadiusProof):
    """Dual norms of the margins' gradients; their integral over the radius bounds how much a margin can decrease.

    method: a Jacobian method or a norm method.  Raises InvalidRequest for anything else.
    Source: arXiv:1810.11783, Theorem 2; docs/mathematics.md, §7.2.
    """

    method: AbstractJacobianMethod | AbstractNormMethod = field(default_factory=Chords)

    def __post_init__(self) -> None:
        as_norm_method(self.method)

    def within(self, seconds: float) -> LipschitzIntegral:
        if isinstance(self.method, AbstractNodewise):
            return LipschitzIntegral(InTime(self.method).within(seconds))
        return LipschitzIntegral(self.norm.within(seconds))

    @property
    def norm(self) -> AbstractNormMethod:
        """The method as a norm method."""
        return as_norm_method(self.method)

    def title(self, problem: Problem) -> str:
        return f"integral of {self.norm.title}"

    def facts(self, balls: MarginBalls) -> RadiusFacts:
        return RadiusFacts(slopes=self.norm.rows(balls.known, balls.p))

    def supports(self, p: float) -> bool:
        return self.norm.supports(p, inf)

    def unproved_rounding(self, p: float) -> list[str]:
        return self.norm.unproved_rounding(p, inf, 1)


@final
@dataclass(frozen=True)
class SecantMargin(AbstractRadiusProof):
    """Lower bounds of the margins by centred secants, with ranges that secants tighten stage by stage.

    It is asked on a few balls beyond what the other proofs reach.  It states nothing for networks with a stage of more
    than 4096 neurons.  steps: of each search for multipliers.  seconds: for the balls of a call.
    Source: docs/mathematics.md, §3.4 and §7.2.
    """

    steps: int = 15
    seconds: float = inf

    def __post_init__(self) -> None:
        check_seconds("SecantMargin", self.seconds)
        expect_counts("SecantMargin", steps=self.steps)

    def within(self, seconds: float) -> SecantMargin:
        return replace(self, seconds=shorter(self.seconds, seconds))

    def title(self, problem: Problem) -> str:
        return "secants"

    def facts(self, balls: MarginBalls) -> RadiusFacts:
        problem = balls.problem
        if max(prod(shape) for shape in map(problem.network.shape, range(problem.network.depth))) > WIDEST:
            return RadiusFacts()
        rule, deadline = SecantRanges(self.steps), Deadline.after(self.seconds)
        tighter = problem.by(refined(balls.known.state, problem.pre, rule, deadline))
        return RadiusFacts(margins=tighter.output(tighter.preactivations()).lower)

    @property
    def sparing(self) -> bool:
        return True

    def unproved_rounding(self, p: float) -> list[str]:
        return []


DEFAULT_PROOFS = (MarginBound(), LipschitzIntegral())
"""Bounds of the margins by the problem's rule, and the integral of the slopes from `Chords`."""


def check_proofs(proofs: Sequence[AbstractRadiusProof], problem: Problem, p: float) -> None:
    """Raise InvalidRequest unless these are one or more proofs that support the l_p norm."""
    if not isinstance(proofs, Sequence) or not proofs or any(not isinstance(f, AbstractRadiusProof) for f in proofs):
        raise InvalidRequest(f"proofs={proofs!r} are not proofs of radius; give a tuple such as (LipschitzIntegral(),)")
    for proof in proofs:
        if not proof.supports(p):
            raise InvalidRequest(f"{proof.title(problem)} does not support the norm l{p:g}; choose another")


def stated(
    proofs: Sequence[AbstractRadiusProof], balls: MarginBalls, deadline: Deadline = NEVER, shares: Shares | None = None
) -> list[RadiusBound]:
    """The best bounds that the proofs state on each ball; after the deadline, they state nothing.

    shares: of the time for each proof; None for `Shares()`.
    Raises InvalidRequest for a proof whose bounds do not have the shape (balls, margins), or whose slopes are negative.
    """
    facts = [(proof.title(balls.problem), _facts(proof, balls, deadline, shares or Shares())) for proof in proofs]
    margins = [(title, f.margins) for title, f in facts if f.margins is not None]
    slopes = [(title, f.slopes) for title, f in facts if f.slopes is not None]
    for title, bounds in slopes:
        if bool(((bounds < 0) & (bounds > -inf)).any()):
            raise InvalidRequest(f"{title} states a negative slope; a slope bounds a norm, which is not negative")
    low, high = _best(torch.fmax, -inf, margins, balls), _best(torch.fmin, inf, slopes, balls)
    points = [_refuting([f for _, f in facts], i) for i in range(balls.shape[0])]
    by, of = (tuple(dict.fromkeys(title for title, _ in what)) for what in (margins, slopes))
    rows = zip(balls.radius.tolist(), low.tolist(), high.tolist(), strict=True)
    given_up = [_first([f.given_up[i] for _, f in facts if f.given_up], "") for i in range(balls.shape[0])]
    ranges = [_first([f.ranges[i] for _, f in facts if f.ranges], ()) for i in range(balls.shape[0])]
    return [
        RadiusBound(r, tuple(m), tuple(s), by, of, x, why, known)
        for (r, m, s), x, why, known in zip(rows, points, given_up, ranges, strict=True)
    ]


def _first(found: Sequence[_T], nothing: _T) -> _T:
    """The first of these that is not empty."""
    return next((f for f in found if f), nothing)


def _refuting(facts: Sequence[RadiusFacts], ball: int) -> Tensor | None:
    """The first adversary in a ball that is stated."""
    points = [f.adversaries[ball] for f in facts if f.adversaries is not None]
    return next((x for x in points if bool(x.isfinite().all())), None)


def _facts(proof: AbstractRadiusProof, balls: MarginBalls, deadline: Deadline, shares: Shares) -> RadiusFacts:
    """What a proof states if it is done in time."""
    if deadline.end == inf:
        return proof.facts(balls)
    if deadline.over:
        return RadiusFacts(given_up=("time",) * balls.shape[0] if proof.divides else ())
    problem, part = balls.problem, deadline.part(shares.dividing if proof.divides else shares.proof)
    limit = problem.planner.watched(problem.network, part)
    with suppress(OutOfTime), until(limit):
        return (proof.within(part.left) if proof.sparing or limit.end < inf else proof).facts(balls)
    return RadiusFacts(given_up=("time",) * balls.shape[0] if proof.divides else ())


def _best(
    better: Callable[[Tensor, Tensor], Tensor], nothing: float, what: Sequence[tuple[str, Tensor]], balls: MarginBalls
) -> Tensor:
    """The best of the bounds, or `nothing` if there is none; NaN and infinities of the wrong sign state nothing."""
    for title, bounds in what:
        if tuple(bounds.shape) != balls.shape:
            raise InvalidRequest(
                f"{title} states bounds of shape {tuple(bounds.shape)}; give {balls.shape}, one per ball and margin"
            )
    wide = [bounds.detach().double().cpu() for _, bounds in what]
    if not wide:
        return torch.full(balls.shape, nothing, dtype=torch.float64)
    return reduce(better, [torch.where(bounds == -nothing, torch.nan, bounds) for bounds in wide])
