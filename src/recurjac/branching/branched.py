"""Norms of Jacobians by branch and bound."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Fast, Interval
from recurjac.branching.branchers import AbstractBrancher, InputBisection
from recurjac.branching.pool import Bounded, Goals
from recurjac.branching.search import AbstractBound, BranchAndBound, Branching, Limit
from recurjac.errors import InvalidRequest, expect
from recurjac.jacobian import Gradients
from recurjac.network import Network
from recurjac.network.ties import joined_ties
from recurjac.norms import AbstractNormMethod, CornerNorm, JacobianNorm, NormBound
from recurjac.norms.induced import induced_norm
from recurjac.problem import Problem
from recurjac.region import LpBall
from recurjac.search import Attained, Search, better_of, point_jacobian


@final
@dataclass(frozen=True)
class NormOver(AbstractBound):
    """max ‖J‖_{p→q} over a region: a norm method gives upper bounds, the centres of parts give attained values.

    within: the problem whose region attained points must lie in.  brancher: for which effects are found.
    """

    method: AbstractNormMethod
    p: float
    q: float
    within: Problem
    brancher: AbstractBrancher = field(default_factory=InputBisection)

    def upper(self, problem: Problem) -> Tensor:
        return self.bounded(problem, Goals.none(problem.bound.x)).upper[:, 0]

    def bounded(self, problem: Problem, goals: Goals) -> Bounded:
        with torch.no_grad():
            uppers, effects = list[Tensor](), list[Tensor]()
            for part in problem.batches():
                gradients = Gradients(part)
                upper = self.method.norm(gradients, self.p, self.q)
                upper = torch.where(upper.isnan(), inf, upper)
                large = goals.excess(upper.unsqueeze(1)) > 0
                upper = _CORNERS.tighter(gradients.chain, large, upper, (self.p, self.q))
                uppers.append(torch.where(gradients.state.empty, -inf, upper))
                found = self.brancher.effects(gradients.state)
                effects += [] if found is None else [found]
            return Bounded(torch.cat(uppers).unsqueeze(1), torch.cat(effects) if effects else None)

    def attained(self, problem: Problem) -> Attained:
        found = Search(work=0).attained(problem, self.p, self.q)
        inside = self.within.holds(found.witness.unsqueeze(0))[0]
        return Attained(torch.where(inside, found.gain, 0.0), found.witness, found.direction)

    def found(self, parts: Problem, known: Attained | None) -> Attained:
        """From those centres and random points of parts at which the norm seems to be largest."""
        with torch.no_grad():
            points = points_within(self.within, parts)
            seeming = self._seeming(parts.network, points)
            before = _nothing(parts) if known is None else known
            best = seeming.topk(min(_PROVED, len(points)))
            chosen = best.indices[best.values > float(before.gain) * (1 + _MORE)]
            if len(chosen) == 0:
                return before
            values = self.attained(self.within.over(LpBall(points[chosen], 0.0)))
            at = int(values.gain.argmax())
            return better_of(before, values.rows(at, at + 1))

    def _seeming(self, network: Network, points: Tensor) -> Tensor:
        """About the norm at each point, (N,); 0 where it is not finite."""
        jacobian = point_jacobian(network, points)
        found = induced_norm(Interval.unchecked(jacobian, jacobian), self.p, self.q, Fast(), jacobian.abs().sum(-1))
        return torch.where(found.isfinite(), found, 0.0)


def _nothing(parts: Problem) -> Attained:
    """A gain of 0, which every norm has."""
    point = parts.bound.x[:1]
    return Attained(point.new_zeros(1), point, torch.zeros_like(point))


def points_within(whole: Problem, parts: Problem) -> Tensor:
    """Points of parts of the region of a problem of one sample: (N, *input).

    The ends of parts are rounded outwards; points there are moved into the region.
    """
    return whole.bound.project(points_of(parts).unsqueeze(0))[0]


def points_of(parts: Problem) -> Tensor:
    """The centres and some random points of parts that are certainly in the regions of these: (N, *input)."""
    spread = parts.bound.sample(_SAMPLES, torch.Generator().manual_seed(len(parts.rows)))
    points = torch.cat([parts.bound.x.unsqueeze(1), spread], 1)
    inside = parts.bound.holds(points) & points.isfinite().flatten(2).all(2)
    return points[inside]


def divided_problem(gradients: Gradients, brancher: AbstractBrancher, title: str) -> Problem:
    """The problem whose regions are to be divided.  Raises InvalidRequest if they cannot be."""
    problem = gradients.problem
    if problem is None or gradients.given is not None:
        raise InvalidRequest(f"{title} divides a region, so it cannot bound a part of a chain rule")
    if not brancher.supports(problem) or problem.pre.holds_samples:
        raise InvalidRequest(
            f"{brancher.title} does not divide this problem of {problem.network.input_shape} inputs; "
            "choose another brancher, or a method that does not divide"
        )
    return problem


def untied(problem: Problem) -> Problem:
    """The same problem for the same function without tied neurons; as it is if it has constraints."""
    return problem if problem.known else problem.of(joined_ties(problem.network))


_CORNERS = CornerNorm(6)
"""How parts with few unknown slopes are bounded."""
_SAMPLES = 3
"""The number of random points of each part at which attained values are looked for, besides its centre."""
_PROVED = 4
"""The number of these points whose values are proved."""
_MORE = 1e-9
"""How much larger a value must seem for a proof."""


@final
@dataclass(frozen=True)
class Branched(AbstractNormMethod):
    """Another norm method on parts of the region; the parts with the worst bounds are divided, within a limit.

    norm_method: bounds each part, by default through the entry-wise bounds.  limit: applies to each sample separately.
    progress: called with the state of the search after each group of parts.
    Bounds carry no gradients.  Source: docs/mathematics.md, §6.6.
    """

    norm_method: AbstractNormMethod = field(default_factory=JacobianNorm)
    brancher: AbstractBrancher = field(default_factory=InputBisection)
    limit: Limit = field(default_factory=Limit)
    progress: Callable[[Branching], None] | None = None

    def __post_init__(self) -> None:
        expect(self.norm_method, AbstractNormMethod, "the norm method", "give one such as JacobianNorm(Chords())")
        expect(self.brancher, AbstractBrancher, "the brancher", "give one such as InputBisection()")
        expect(self.limit, Limit, "the limit", "give Limit(seconds=…)")

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractNormMethod]:
        return {"branched": cls()}

    @property
    def title(self) -> str:
        return f"{self.norm_method.title} by {self.brancher.title}"

    def supports(self, p: float, q: float) -> bool:
        return self.norm_method.supports(p, q)

    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        return self.norm_method.unproved_rounding(p, q, rows)

    def norm(self, gradients: Gradients, p: float, q: float) -> Tensor:
        return self.bound(gradients, p, q).upper

    def rows(self, gradients: Gradients, p: float) -> Tensor:
        """Each row is bounded separately and may use the whole limit."""
        problem = divided_problem(gradients, self.brancher, self.title)
        size = problem.network.output_shape[0]
        each = [self._upper(problem.of(problem.network.output(k)), p, inf, None)[0] for k in range(size)]
        return torch.stack(each, 1)

    def bound(self, gradients: Gradients, p: float, q: float) -> NormBound:
        return self._bounded(gradients, p, q, None)

    def towards(self, gradients: Gradients, p: float, q: float, attained: Attained) -> NormBound:
        return self._bounded(gradients, p, q, attained)

    def _bounded(self, gradients: Gradients, p: float, q: float, attained: Attained | None) -> NormBound:
        upper, states = self._upper(divided_problem(gradients, self.brancher, self.title), p, q, attained)
        status = ", ".join(dict.fromkeys(s.status for s in states))
        parts = sum(s.parts for s in states)
        return NormBound(upper, status, f"{parts} parts bounded", Attained.joined([s.attained for s in states]))

    def _upper(self, problem: Problem, p: float, q: float, attained: Attained | None) -> tuple[Tensor, list[Branching]]:
        states: list[Branching] = []
        for i, sample in enumerate(problem.samples()):
            ended = bool(states) and states[-1].status == "interrupted"
            known = None if attained is None else attained.rows(i, i + 1)
            states.append(self._searched(sample, NormOver(self.norm_method, p, q, sample, self.brancher), known, ended))
        wide = torch.tensor([s.upper for s in states], dtype=problem.network.dtype, device=problem.network.device)
        return wide, states

    def _searched(self, sample: Problem, bound: NormOver, known: Attained | None, ended: bool) -> Branching:
        """The state of a sample at the end; the first one if an interruption `ended` the search of an earlier one."""
        search = BranchAndBound(self.brancher, self.limit)
        states = search.states(untied(sample), bound, known)
        last = next(states)
        if ended:
            return replace(last, status="interrupted")
        try:
            for state in itertools.chain([last], states):
                last = state
                if self.progress is not None:
                    self.progress(state)
        except KeyboardInterrupt:  # between two groups of parts
            return replace(last, status="interrupted")
        return last
