"""A proof of radius that divides balls until every part is proved, or an adversary is found."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac.applications.proofs import WIDEST, AbstractRadiusProof, MarginBalls, RadiusFacts
from recurjac.arithmetic import Interval
from recurjac.branching import BranchAndBound, Branching, InputBisection, Limit
from recurjac.branching.branched import untied
from recurjac.branching.margins import MarginByInputs, MarginByPieces, RangeBisection
from recurjac.deadline import Deadline, shorter
from recurjac.errors import InvalidRequest, expect, expect_whole
from recurjac.preactivation import PreactivationState, SecantRanges
from recurjac.preactivation.anytime import Known, refined
from recurjac.problem import Problem

_RANGES = 0.4
"""Of the time for a ball, the largest share for tighter ranges, and for lines of the whole ball."""
_STEPS = 15
"""The steps of each search for multipliers of secants."""
_MEMORY = 2**31
"""The number of bytes that the parts of a ball may take."""


_REASONS = ("time", "parts", "stuck")
"""Why a ball may be given up; if several margins have different reasons, the first of these."""


@final
@dataclass(frozen=True)
class _Divided:
    """Lower bounds of the margins on one ball, (margins,), an adversary if one is found, and the rest of the facts."""

    margins: Tensor
    adversary: Tensor | None
    given_up: str
    ranges: tuple[Interval, ...]


@final
@dataclass(frozen=True)
class BranchedMargin(AbstractRadiusProof):
    """Margins are proved to be positive on parts of a ball, or a point is found at which one is not.

    inputs: with up to so many, the ball is halved along inputs; with more, ranges of neurons are divided, each part
    with multipliers for its half-spaces, of `steps` steps.  limit: for each ball, with all its margins; its tolerance
    is not used.  It is asked on a few balls beyond what all other proofs reach; on balls that are not bounded it states
    nothing.
    Source: docs/mathematics.md, §7.5.
    """

    limit: Limit = field(default_factory=Limit)
    inputs: int = 6
    steps: int = 20

    def __post_init__(self) -> None:
        expect(self.limit, Limit, "the limit", "give Limit(seconds=…)")
        expect_whole("the proof", inputs=self.inputs, steps=self.steps)
        if min(self.inputs, self.steps) < 0:
            raise InvalidRequest(f"{self} has negative numbers; give 0 or more")

    def title(self, problem: Problem) -> str:
        return "branched margin"

    @property
    def sparing(self) -> bool:
        return True

    @property
    def divides(self) -> bool:
        return True

    def within(self, seconds: float) -> BranchedMargin:
        return replace(self, limit=replace(self.limit, seconds=shorter(self.limit.seconds, seconds)))

    def unproved_rounding(self, p: float) -> list[str]:
        return []

    def facts(self, balls: MarginBalls) -> RadiusFacts:
        problem = balls.problem
        if bool(problem.bound.unbounded.any()):
            return RadiusFacts()
        plain = problem.output(balls.known.state).lower.detach()
        found = list[_Divided]()
        for i, sample in enumerate(problem.samples()):
            deadline = Deadline.after(self.limit.seconds / problem.bound.batch)
            alone = balls.known.state if problem.bound.batch == 1 else sample.preactivations()
            alone = _within(sample, alone, balls.ranges[i]) if balls.ranges and balls.ranges[i] else alone
            found.append(self._divided(sample, alone, plain[i].double().cpu(), deadline))
        nowhere = torch.full_like(problem.bound.x[0], torch.nan)
        return RadiusFacts(
            margins=torch.stack([f.margins for f in found]),
            adversaries=torch.stack([nowhere if f.adversary is None else f.adversary for f in found]),
            given_up=tuple(f.given_up for f in found), ranges=tuple(f.ranges for f in found),
        )  # fmt: skip

    def _divided(self, sample: Problem, state: PreactivationState, margins: Tensor, deadline: Deadline) -> _Divided:
        """What is found on the one ball; state: what is known of the pre-activations over it."""
        ranges: tuple[Interval, ...] = ()
        few = prod(sample.network.input_shape) <= self.inputs
        if not few and not bool((margins > 0).all()) and max(sample.network.sizes[1:]) <= WIDEST:
            tighter = sample.by(refined(state, sample.pre, SecantRanges(_STEPS), deadline.part(_RANGES)))
            state = tighter.preactivations()
            ranges = tuple(state.pre(k).map(Tensor.detach) for k in range(1, sample.network.depth))
            margins = torch.fmax(margins, tighter.output(state).lower[0].detach().to(margins))
        left, reasons = [k for k in margins.argsort().tolist() if not float(margins[k]) > 0], set[str]()
        for number, k in enumerate(left):
            limit = replace(self.limit, seconds=max(1e-3, deadline.left / (len(left) - number)))
            own = sample.of(sample.network.output(k))
            found = _by_inputs(own, limit) if few else self._by_pieces(own, state, limit)
            if found.lower >= 0:
                return _Divided(margins, found.attained.witness[0], "", ranges)
            best = torch.fmax(margins[k], margins.new_tensor(-found.upper))
            margins = margins.index_put((torch.tensor(k),), best)
            if found.status == "interrupted":
                raise KeyboardInterrupt
            if not best > 0:
                reasons.add(found.status)
        return _Divided(margins, None, next((why for why in _REASONS if why in reasons), ""), ranges)

    def _by_pieces(self, own: Problem, ranges: PreactivationState, limit: Limit) -> Branching:
        neurons = sum(own.network.sizes[1:-1])
        parts = max(64, _MEMORY // (48 * neurons + 32 * own.network.sizes[0]))
        limit = replace(limit, parts=min(limit.parts, parts))
        bound = MarginByPieces.of(own, ranges, self.steps, Deadline.after(_RANGES * limit.seconds))
        return BranchAndBound(RangeBisection(), limit).last(own, bound)


def _within(sample: Problem, state: PreactivationState, ranges: tuple[Interval, ...]) -> PreactivationState:
    """The state of a ball, with ranges over a larger one."""
    meet = sample.arithmetic.intersect
    both = tuple(meet(state.pre(k), known) for k, known in enumerate(ranges, 1))
    return sample.by(Known(both, sample.pre)).preactivations()


def _by_inputs(own: Problem, limit: Limit) -> Branching:
    own = untied(own)
    return BranchAndBound(InputBisection(), limit).last(own, MarginByInputs(own))
