"""Norms of Jacobians by branch and bound."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.branching.branchers import AbstractBrancher, InputBisection
from recurjac.branching.search import AbstractBound, BranchAndBound, Branching, Limit
from recurjac.errors import InvalidRequest, expect
from recurjac.jacobian import Gradients
from recurjac.norms import AbstractNormMethod, JacobianNorm, NormBound
from recurjac.problem import Problem
from recurjac.search import Attained, Search


@final
@dataclass(frozen=True)
class NormOver(AbstractBound):
    """max ‖J‖_{p→q} over a region: a norm method gives upper bounds, the centres of parts give attained values.

    within: the problem whose region attained points must lie in.
    """

    method: AbstractNormMethod
    p: float
    q: float
    within: Problem

    def upper(self, problem: Problem) -> Tensor:
        with torch.no_grad():
            found = []
            for part in problem.batches():
                gradients = Gradients(part)
                upper = self.method.norm(gradients, self.p, self.q)
                upper = torch.where(upper.isnan(), inf, upper)
                found.append(torch.where(gradients.state.empty, -inf, upper))
            return torch.cat(found)

    def attained(self, problem: Problem) -> Attained:
        found = Search(work=0).attained(problem, self.p, self.q)
        inside = self.within.holds(found.witness.unsqueeze(0))[0]
        return Attained(torch.where(inside, found.gain, 0.0), found.witness, found.direction)


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
        problem = self._problem(gradients)
        size = problem.network.output_shape[0]
        each = [self._upper(problem.of(problem.network.output(k)), p, inf)[0] for k in range(size)]
        return torch.stack(each, 1)

    def bound(self, gradients: Gradients, p: float, q: float) -> NormBound:
        upper, states = self._upper(self._problem(gradients), p, q)
        status = ", ".join(dict.fromkeys(s.status for s in states))
        parts = sum(s.parts for s in states)
        return NormBound(upper, status, f"{parts} parts bounded", Attained.joined([s.attained for s in states]))

    def _upper(self, problem: Problem, p: float, q: float) -> tuple[Tensor, list[Branching]]:
        states: list[Branching] = []
        for sample in problem.samples():
            ended = bool(states) and states[-1].status == "interrupted"
            states.append(self._searched(sample, p, q, ended))
        wide = torch.tensor([s.upper for s in states], dtype=problem.network.dtype, device=problem.network.device)
        return wide, states

    def _searched(self, sample: Problem, p: float, q: float, ended: bool) -> Branching:
        """The state of a sample at the end; the first one if an interruption `ended` the search of an earlier one."""
        search = BranchAndBound(self.brancher, self.limit)
        states = search.states(sample, NormOver(self.norm_method, p, q, sample))
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

    def _problem(self, gradients: Gradients) -> Problem:
        problem = gradients.problem
        if problem is None or gradients.given is not None:
            raise InvalidRequest(f"{self.title} divides a region, so it cannot bound a part of a chain rule")
        if not self.brancher.supports(problem) or problem.pre.holds_samples:
            raise InvalidRequest(
                f"{self.brancher.title} does not divide this problem of {problem.network.input_shape} inputs; "
                "choose another brancher, or a method that does not divide"
            )
        return problem
