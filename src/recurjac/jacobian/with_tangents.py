"""A method together with tangents that are carried forward, where a network is like an unrolled loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from recurjac.jacobian.base import AbstractAround, AbstractJacobianMethod, AbstractPrepared
from recurjac.jacobian.combine import All
from recurjac.jacobian.gradients import Gradients
from recurjac.jacobian.tangents import ForwardTangents


@final
@dataclass(frozen=True)
class WithTangents(AbstractAround):
    """`method`, intersected with `ForwardTangents` on networks of few inputs with products or many curved stages.

    Closed loops are of this kind: what one step loses of the dependence on x is multiplied by all later ones.  The
    planner decides where that is worth its time, and how many noises the forms have.  Elsewhere, only `method` runs;
    the title is therefore that of `method`.
    Source: docs/mathematics.md, §5.11.
    """

    method: AbstractJacobianMethod

    def of(self, method: AbstractJacobianMethod) -> WithTangents:
        return WithTangents(method)

    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        prepared, problem = self.method.prepare(gradients), gradients.problem
        if problem is None or gradients.given is not None or gradients.state.everywhere:
            return prepared
        noises = problem.planner.carries_tangents(gradients.state.network)
        if noises == 0:
            return prepared
        return All(gradients.chain, (prepared, ForwardTangents(noises).prepare(gradients)))
