"""Lengths of gradients by a linear network whose noises are those of single steps, such as products of matrices.

Source: docs/mathematics.md, §5.15.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic
from recurjac.deadline import Deadline
from recurjac.jacobian.linear_steps import LinearSteps, given_by, read_by
from recurjac.jacobian.near_linear import Near, rows_times
from recurjac.jacobian.pushed_sizes import Arrived, Place, PushedSizes, is_plain, lost_by, through
from recurjac.jacobian.steps import Steps
from recurjac.network import Edge, Stage
from recurjac.preactivation.centred import centre_of
from recurjac.problem import Problem


@torch.no_grad()
def lengths_by_steps(problem: Problem, deadline: Deadline) -> Tensor | None:
    """Upper bounds of the l1 norms of the gradients of all outputs for a problem of one sample, (K,); None: unknown.

    Noises are pushed until the deadline, the largest of each node first; the others go on as intervals.
    """
    network, region = problem.network.detached(), problem.bound
    steps = Steps.of(network)
    if steps is None or region.may_be_empty or region.batch > 1 or not _supported(steps):
        return None
    centre, radius = centre_of(region)
    if not bool(radius.isfinite().all()) or network.dtype not in (torch.float32, torch.float64):
        return None
    linear = LinearSteps.at(steps, centre[0])
    return _Pass(linear, problem.arithmetic, centre[0], radius[0], deadline).run()


def _supported(steps: Steps) -> bool:
    """Whether all stages are single steps or have an activation of their own, and all operators absolute values."""
    plain = all(is_plain(e.operator) for s in steps.stages.values() for place in read_by(s) for e in place)
    return plain and all(s.factor is None for s in steps.stages.values())


@final
@dataclass
class _Pass:
    """The nodes from the first to the last: each is bounded, then its noises are pushed to all later ones.

    known: what is known of the values of each node.
    """

    linear: LinearSteps
    arithmetic: AbstractArithmetic
    centre: Tensor
    radius: Tensor
    deadline: Deadline
    known: dict[int, Arrived] = field(default_factory=dict)
    sums: PushedSizes = field(init=False)

    def __post_init__(self) -> None:
        self.sums = PushedSizes(self.linear, self.arithmetic, self.centre)

    def run(self) -> Tensor | None:
        """The lengths of the gradients of all outputs; None if something is not finite."""
        self.known[0] = self.sums.begin(self.centre, self.radius)
        for k, stage in self.linear.steps.stages.items():
            places = [self._arrived(stage, (k, i), edges) for i, edges in enumerate(read_by(stage))]
            near = self.linear.near.get(k)
            if near is not None and near.measures is not None:
                places.append(self._measured((k, len(places)), near.measures, places[0]))
            if not all(bool(t.isfinite().all()) for p in places for t in (p.centre, p.size, p.rest)):
                return None
            self.known[k] = self._past(k, stage, places)
        if not self.sums.small:
            return None
        return self.sums.lengths(self.known[self.linear.steps.end]).nan_to_num(inf, inf)

    def _arrived(self, stage: Stage, place: Place, edges: Sequence[Edge]) -> Arrived:
        """What arrives at a place of a stage."""
        shape = edges[0].operator.out_shape if edges else stage.shape
        bias = stage.bias(self.arithmetic) if edges is stage.edges else None
        return self.sums.arrived(place, shape, bias, [(e.operator, self.known[e.source]) for e in edges])

    def _measured(self, place: Place, measures: Tensor, rows: Arrived) -> Arrived:
        """What measures (rows, p, n) of rows give, of which centres are not needed."""
        size, rest = (rows_times(measures.abs(), t, self.arithmetic) for t in (rows.size, rows.rest))
        lost = lost_by(size, measures.shape[-1])
        left = rest.upper() if lost is None else self.sums.plus(rest.upper(), lost)
        return Arrived(torch.zeros_like(left[0]), self.sums.summed(place, left.shape[1:]), left)

    def _past(self, k: int, stage: Stage, places: Sequence[Arrived]) -> Arrived:
        """What goes on from a node: its centre, and its noises, as far as there is time."""
        near, sums = self.linear.near.get(k), self.sums
        if near is None:
            return places[0]
        off = near.off([self._bounded(p) for p in places], self.arithmetic)
        moved = near.absolute([p.size for p in places], self.arithmetic)
        error = lost_by(moved, near.products)
        error = torch.zeros_like(moved.mid) if error is None else error
        noise = sums.with_error(near.absolute([p.rest for p in places], self.arithmetic).upper(), off.centre.rad)
        noise = torch.stack([sums.with_error(noise, off.value)[0], sums.plus(noise[1], off.tangent)])
        centre, size, out = off.centre.mid, moved.upper(), given_by(stage)
        if out is not None:
            image = out.push(self.arithmetic.exact(centre))
            noise = sums.with_error(through(out, torch.zeros_like(noise), noise, self.arithmetic)[1], image.rad)
            centre, (size, error) = image.mid, through(out, size, error, self.arithmetic)
        pushed = sums.push_noises(k, noise, size, self.deadline.part(self._share(k)))
        return Arrived(centre, sums.plus(size, pushed), sums.plus(torch.where(pushed > 0, 0.0, noise), error))

    def _bounded(self, place: Arrived) -> Near:
        """The range of what arrives, and of its derivatives; the latter times the scale."""
        half, tangent = self.sums.plus(place.size, place.rest)
        return Near(place.centre, half / self.sums.scale, tangent)

    def _share(self, node: int) -> float:
        """The share of the time that is left for the noises of a node."""
        costs = [self._costs[k] for k in self.linear.near if k >= node]
        return costs[0] / max(1.0, sum(costs))

    @cached_property
    def _costs(self) -> dict[int, float]:
        return {k: self.linear.cost(k) for k in self.linear.near}
