"""Dividing problems by the signs of neurons: z_j >= 0 in one part, z_j <= 0 in the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, prod
from typing import final

import torch
from torch import Tensor

from recurjac.activations.two_piece import AbstractTwoPiece
from recurjac.arithmetic import Fast, Interval
from recurjac.branching.branchers import AbstractBrancher, InputBisection
from recurjac.preactivation import PreactivationState
from recurjac.problem import Problem, join


@final
@dataclass(frozen=True)
class SignBisection(AbstractBrancher):
    """Divides by the sign of the unstable neuron with the largest influence, for activations of two pieces.

    In its part, the neuron's slope is known, and the pre-activation rule may use its half-space (`HalfSpaces`).
    Samples without an unstable neuron are divided by `otherwise`.
    No proof depends on the choice of the neuron.  Source: docs/mathematics.md, §6.9 and §6.10.
    """

    otherwise: AbstractBrancher = field(default_factory=InputBisection)

    @property
    def title(self) -> str:
        return "sign bisection"

    def supports(self, problem: Problem) -> bool:
        return bool(divisible(problem)) and self.otherwise.supports(problem)

    def divisible(self, problem: Problem) -> Tensor:
        return self.otherwise.divisible(problem)

    def effects(self, state: PreactivationState, weights: Tensor | None = None) -> Tensor:
        return torch.cat([found.flatten(1) for found in influences(state, weights).values()], 1)

    def divide(self, problem: Problem) -> list[Problem]:
        with torch.no_grad():
            return self.divided(problem, self.effects(problem.preactivations()))

    def divided(self, problem: Problem, effects: Tensor | None) -> list[Problem]:
        if effects is None:
            return self.divide(problem)
        by_sign = effects.amax(1) > 0
        if bool(by_sign.all()):
            return _by_signs(problem, effects)
        if not bool(by_sign.any()):
            return self.otherwise.divide(problem)
        ours, others = by_sign.nonzero().flatten(), (~by_sign).nonzero().flatten()
        signs, rest = _by_signs(problem.at(ours), effects[ours]), self.otherwise.divide(problem.at(others))
        if len(rest) != len(signs):
            return self.otherwise.divide(problem)
        order = torch.cat([ours, others]).argsort()
        return [join([a, b]).at(order) for a, b in zip(signs, rest, strict=True)]


def _by_signs(problem: Problem, effects: Tensor) -> list[Problem]:
    """The two parts of each sample by the sign of its neuron with the largest effect."""
    chosen = torch.zeros_like(effects).scatter(1, effects.argmax(1, keepdim=True), 1.0)
    return [with_signs(problem, divisible(problem), side * chosen) for side in (1.0, -1.0)]


def divisible(problem: Problem) -> list[int]:
    """The stages whose neurons have two pieces."""
    stages = problem.network.stages[:-1]
    return [k for k, s in enumerate(stages, 1) if isinstance(s.activation, AbstractTwoPiece)]


def with_signs(problem: Problem, stages: list[int], signs: Tensor) -> Problem:
    """The problem restricted to z >= 0 where `signs` (batch, neurons of these stages) are 1, and to z <= 0 where -1."""
    begin = 0
    for k in stages:
        shape = problem.network.shape(k)
        mine = signs[:, begin : begin + prod(shape)].reshape(-1, *shape)
        begin += prod(shape)
        if bool(mine.any()):
            low, high = torch.where(mine > 0, 0.0, -inf), torch.where(mine < 0, 0.0, inf)
            problem = problem.constrained(k, Interval(low.to(problem.network.dtype), high.to(problem.network.dtype)))
    return problem


def influences(state: PreactivationState, weights: Tensor | None = None) -> dict[int, Tensor]:
    """How much J changes with the slope of each unstable neuron of two pieces, in plain floating point: (B, *stage).

    It is ‖∂f/∂h_j‖ ‖∂z_j/∂x‖ times the width of the slope, at the middle of all slopes; 0 for other neurons.  With
    weights of the entries of J, (B, K, n), it is the sum of what these change, times their weights.
    """
    network, fast, batch = state.network, Fast(), state.region.batch
    slopes = [None if s.linear else state.slopes(k) for k, s in enumerate(network.stages[:-1], 1)]
    middle = [None if s is None else (s.lower / 2 + s.upper / 2).nan_to_num(0.0, 0.0, 0.0) for s in slopes]
    n = prod(network.input_shape)
    width = state.region.scale.flatten(1) if weights is None else state.region.x.new_ones(batch, n)
    basis = torch.eye(n, dtype=network.dtype, device=network.device) * width.unsqueeze(1)
    nodes = [basis.reshape(batch, n, *network.input_shape)]
    reached = []
    for k, stage in enumerate(network.stages[:-1], 1):
        z = torch.zeros(batch, n, *stage.shape, dtype=network.dtype, device=network.device)
        for e in stage.edges:
            z = z + e.operator.push(fast.exact(nodes[e.source])).mid
        slope = middle[k - 1]
        reached.append(z.square().sum(1).sqrt() if weights is None else torch.matmul(weights, z.flatten(2).abs()))
        nodes.append(z if slope is None else z * slope.unsqueeze(1))
    size = prod(network.output_shape)
    rows = torch.eye(size, dtype=network.dtype, device=network.device).reshape(1, size, *network.output_shape)
    gradient = {network.depth: rows.expand(batch, *rows.shape[1:])}
    found: dict[int, Tensor] = {}
    for k in range(network.depth, 0, -1):
        if k not in gradient:
            continue
        through = gradient.pop(k)
        known = None if k == network.depth else slopes[k - 1]
        if known is not None:
            if isinstance(state.stage(k).activation, AbstractTwoPiece):
                if weights is None:
                    size_of = through.square().sum(1).sqrt() * reached[k - 1]
                else:
                    size_of = (through.flatten(2).abs() * reached[k - 1]).sum(1).reshape(batch, *network.shape(k))
                # an unstable neuron that changes nothing at the middle may still change something elsewhere
                found[k] = torch.where(known.is_point, 0.0, size_of.nan_to_num(1.0) + _LEAST) * (
                    known.upper != known.lower
                )
            slope = middle[k - 1]
            through = through if slope is None else through * slope.unsqueeze(1)
        for e in network.stages[k - 1].edges:
            sent = e.operator.transpose().push(fast.exact(through)).mid
            gradient[e.source] = gradient[e.source] + sent if e.source in gradient else sent
    return {k: found.get(k, torch.zeros(batch, *network.shape(k), dtype=network.dtype, device=network.device))
            for k, s in enumerate(network.stages[:-1], 1) if isinstance(s.activation, AbstractTwoPiece)}  # fmt: skip


_LEAST = 1e-30
"""The least influence of an unstable neuron."""
