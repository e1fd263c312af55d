"""A method together with tangents that are carried forward, where a network is like an unrolled loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

from recurjac.jacobian.base import AbstractJacobianMethod, AbstractPrepared
from recurjac.jacobian.combine import All
from recurjac.jacobian.gradients import Gradients
from recurjac.jacobian.tangents import ForwardTangents


@final
@dataclass(frozen=True)
class WithTangents(AbstractJacobianMethod):
    """`method`, intersected with `ForwardTangents` on networks of few inputs with products or many curved stages.

    Closed loops are of this kind: what one step loses of the dependence on x is multiplied by all later ones.  The
    planner decides where that is worth its time, and how many noises the forms have.  Elsewhere, only `method` runs;
    the title is therefore that of `method`.
    Source: docs/mathematics.md, §5.11.
    """

    method: AbstractJacobianMethod

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {}

    @property
    def title(self) -> str:
        return self.method.title

    @property
    def total(self) -> float:
        return self.method.total

    def within(self, seconds: float) -> WithTangents:
        return replace(self, method=self.method.within(seconds))

    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        prepared, problem = self.method.prepare(gradients), gradients.problem
        if problem is None or gradients.given is not None or gradients.state.everywhere:
            return prepared
        noises = problem.planner.carries_tangents(gradients.state.network)
        if noises == 0:
            return prepared
        return All(gradients.chain, (prepared, ForwardTangents(noises).prepare(gradients)))
