"""The lengths of gradients by a linear network with noises (docs/mathematics.md, §5.14, §5.15)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import length_of
from recurjac.deadline import Deadline, check_seconds, shorter
from recurjac.jacobian import Gradients
from recurjac.jacobian.linear_network import lengths_of
from recurjac.jacobian.step_lengths import lengths_by_steps
from recurjac.norms.base import AbstractNormMethod
from recurjac.preactivation import PreactivationState
from recurjac.problem import Problem


@final
@dataclass(frozen=True)
class LinearNetworkNorm(AbstractNormMethod):
    """The l1 norm of each row of J, from unit vectors of all inputs and unstable neurons pushed through one network.

    It finds its own ranges, which are never wider than those of the problem.  It takes as long as evaluations of the
    network at as many points as there are inputs and unstable neurons, whatever its depth, and hardly any memory: it
    suits convolutional networks of many neurons at small radii.  Products of matrices, softmax and normalisations are
    single steps of it, so that it suits transformers as well.  Only for p = inf, all outputs, and regions without
    constraints; elsewhere bounds are infinite.
    seconds: for noises, for all samples of a call; those that are left go on as intervals.
    Bounds carry no gradients.  Source: docs/mathematics.md, §5.14, §5.15.
    """

    seconds: float = inf

    def __post_init__(self) -> None:
        check_seconds("LinearNetworkNorm", self.seconds)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractNormMethod]:
        return {"linear-network": cls()}

    @property
    def title(self) -> str:
        return "linear network"

    def within(self, seconds: float) -> LinearNetworkNorm:
        return replace(self, seconds=shorter(self.seconds, seconds))

    def supports(self, p: float, q: float) -> bool:
        return p == inf

    def norm(self, gradients: Gradients, p: float, q: float) -> Tensor:
        rows = self.rows(gradients, p)
        return gradients.chain.arithmetic.at_least(length_of(rows, q), rows.shape[1] + 6)

    def rows(self, gradients: Gradients, p: float) -> Tensor:
        problem, chain = gradients.problem, gradients.chain
        nothing = torch.full((chain.batch, chain.rows), inf, dtype=chain.dtype, device=chain.device)
        if problem is None or gradients.given is not None or gradients.combinations is not None:
            return nothing
        if p != inf or chain.batch != problem.bound.batch:
            return nothing
        deadline, found = Deadline.after(self.seconds), []
        for i in range(chain.batch):
            one, limit = problem.at(torch.tensor([i])), deadline.part(1 / (chain.batch - i))
            state = gradients.state if chain.batch == 1 else None
            found.append(_lengths(one, state, limit, nothing[i]))
        return torch.stack(found)

    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        return []


_FEW = 2**11
"""In networks of up to so many neurons, each is also a noise, even if there are single steps."""


def _lengths(problem: Problem, state: PreactivationState | None, limit: Deadline, nothing: Tensor) -> Tensor:
    """The lengths (K,) for one sample by single steps, and by neurons where these are few or there are no steps.

    state: that of the problem, if it is known.  nothing: the bounds where none are found.
    """
    by_steps = lengths_by_steps(problem, limit)
    if by_steps is not None and sum(problem.network.sizes) > _FEW:
        return by_steps
    lengths = lengths_of(Gradients(problem).state if state is None else state, limit)
    return torch.minimum(nothing if by_steps is None else by_steps, nothing if lengths is None else lengths.rows)
