"""What rules with secants from the centre of the region share: the system of a stage, one sample at a time.

For every point of the region, σ(z) - σ(z_c) = δ (z - z_c) with δ in the range of the secants' slopes.  Hence z - z_c
obeys a chain rule with these slopes (docs/mathematics.md, §3.4).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval, Rigorous, root_up, round_up_to
from recurjac.deadline import NEVER, Deadline
from recurjac.preactivation.base import AbstractPreactivation, extend
from recurjac.preactivation.ibp import IBP
from recurjac.preactivation.state import PreactivationState
from recurjac.propagation.chain_rule import ChainRule, chain_rule
from recurjac.propagation.planning import PlainOnly
from recurjac.quadratic import Multipliers, System, optimised_rows, positive, reach, spread_evenly, system_of
from recurjac.region import BoundBall, BoundBox, BoundRegion


class AbstractCentred(AbstractPreactivation):
    """A rule that bounds the chosen neurons of one sample from its system of secants."""

    @abstractmethod
    def ranges(self, system: SecantSystem) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of z at the rows of the system, in float64."""

    @final
    def bound(self, state: PreactivationState, k: int, chosen: Tensor | None) -> Interval:
        shape, like = (state.region.batch, *state.stage(k).shape), state.network
        if chosen is None:
            chosen = torch.ones(shape, dtype=torch.bool, device=like.device)
        low = torch.full(shape, -inf, dtype=like.dtype, device=like.device).flatten(1)
        high = -low
        for system in systems(state, k, chosen):
            below, above = self.ranges(system)
            low[system.sample, system.index] = -round_up_to(torch.where(below.isnan(), inf, -below), like.dtype)
            high[system.sample, system.index] = round_up_to(torch.where(above.isnan(), inf, above), like.dtype)
        return Interval.unchecked(low.reshape(shape), high.reshape(shape))


@final
@dataclass(frozen=True)
class SecantSystem:
    """z - z_c at the neurons `index` of stage k for one sample, as the rows of a chain rule of secants.

    at: enclosures of z_1, …, z_k at the centre, of shape (1, *stage).  radius: of each input, (n_0,), in float64.
    euclidean: whether the region lies in the Euclidean ball of these radii, and not only in the box.
    """

    state: PreactivationState
    k: int
    sample: int
    index: Tensor
    chain: ChainRule
    at: Sequence[Interval]
    centre: Tensor
    radius: Tensor
    euclidean: bool

    def system(self) -> System:
        return system_of(self.chain)

    def known(self, k: int) -> tuple[Interval, Interval]:
        """Enclosures of z_k over the region and at the centre, (1, *stage), in float64."""
        z, i = self.state.pre(k), self.sample
        return z.map(lambda t: t[i : i + 1].double()), self.at[k - 1].map(lambda t: t.double())

    def multipliers(self, system: System, steps: int, deadline: Deadline = NEVER) -> Multipliers:
        """Multipliers that all rows share."""
        with torch.no_grad():
            begin = spread_evenly(system, self.radius, self.euclidean)
            return optimised_rows(system, begin, self.radius, steps, deadline)

    def half_widths(self, system: System, multipliers: Multipliers) -> Tensor:
        """Bounds of |z - z_c| at the rows, in float64; infinite where nothing is proved."""
        with torch.no_grad():
            found = reach(system, multipliers.start(self.radius), multipliers.choose)
        if found is None:
            return torch.full((len(self.index),), inf, dtype=torch.float64, device=self.radius.device)
        half = root_up(found.map(torch.diagonal).upper())
        return torch.where(half.isnan(), inf, half)

    def around(self, below: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of z from bounds of z_c - z and of z - z_c."""
        exact = self.state.arithmetic.exact
        low, high = (end.double().flatten()[self.index] for end in (self.at[-1].lower, self.at[-1].upper))
        return (exact(low) - exact(below)).lower(), (exact(high) + exact(above)).upper()


def systems(state: PreactivationState, k: int, chosen: Tensor) -> Iterator[SecantSystem]:
    """The system of each sample with chosen neurons whose region is bounded."""
    centre, radius = centre_of(state.region)
    bounded = radius.flatten(1).isfinite().all(1) & chosen.flatten(1).any(1)
    if not bool(bounded.any()):
        return
    at = values_at(state, centre, k)
    chain, euclidean = _secants(state, at, k), isinstance(state.region, BoundBall)
    for i in bounded.nonzero().flatten().tolist():
        index = chosen[i].flatten().nonzero().flatten()
        rows = torch.zeros(len(index), chosen[i].numel(), dtype=chain.dtype, device=chain.device)
        rows[torch.arange(len(index)), index] = 1
        one = replace(chain.sample(i), covectors=rows.reshape(1, len(index), *chain.shapes[-1]))
        mine = [z.map(lambda t, i=i: t[i : i + 1]) for z in at]
        yield SecantSystem(state, k, i, index, one, mine, centre[i : i + 1], radius[i].flatten().double(), euclidean)


def secant_system(state: PreactivationState, i: int, covectors: Tensor | None) -> SecantSystem | None:
    """The rows `covectors` of the output of sample i, minus their values at the centre; None if it is unbounded."""
    k, (centre, radius) = state.network.depth, centre_of(state.region)
    if not bool(radius[i].isfinite().all()):
        return None
    at = values_at(state, centre, k)
    chain = replace(_secants(state, at, k).sample(i), covectors=covectors)
    mine = [z.map(lambda t: t[i : i + 1]) for z in at]
    index = torch.arange(chain.rows, device=chain.device)
    euclidean = isinstance(state.region, BoundBall)
    return SecantSystem(state, k, i, index, chain, mine, centre[i : i + 1], radius[i].flatten().double(), euclidean)


def logarithms(reached: Tensor) -> Tensor:
    return positive(reached.diagonal()).log().sum()


def centre_of(region: BoundRegion) -> tuple[Tensor, Tensor]:
    """A point c of the region, and a radius of each input: (batch, *input) each.

    The region lies in the box of these half-widths around c or, if it is an l1 or l2 ball, in a Euclidean ball.
    """
    if isinstance(region, BoundBall):
        return region.x, region.radius.reshape(-1, *[1] * (region.x.dim() - 1)).expand_as(region.x)
    if not isinstance(region, BoundBox):
        return region.x, torch.full_like(region.x, inf)
    box = region.box(Rigorous())
    bounded = box.lower.isfinite() & box.upper.isfinite()
    middle = torch.where(box.is_point, box.lower, box.lower / 2 + box.upper / 2)  # halves of subnormal numbers round
    centre = torch.where(bounded, middle, region.x)
    half = torch.maximum(box.upper - centre, centre - box.lower)  # one rounding each
    return centre, torch.where(box.is_point, 0.0, torch.nextafter(half, torch.full_like(half, inf)))


def values_at(state: PreactivationState, centre: Tensor, k: int) -> list[Interval]:
    """Enclosures of z_1, …, z_k at the centre of each sample."""
    point = BoundBox(centre, torch.zeros_like(centre), centre, centre)
    values = PreactivationState(state.network, point, state.arithmetic, PlainOnly())
    extend(values, IBP(), k)
    return [values.pre(j) for j in range(1, k + 1)]


def _secants(state: PreactivationState, at: list[Interval], k: int) -> ChainRule:
    """h - h_c in terms of x - x_c: a chain rule up to stage k whose slopes are those of secants from the centre."""
    network = state.network
    slopes = [
        None if state.stage(j).linear or not state.is_complete(j) else state.secants(j, at)
        for j in range(1, k)  # nothing reads a factor before the other one is bounded
    ]
    whole = chain_rule(network, [None, *slopes, None], state.region.batch, state.arithmetic, state.planner)
    return replace(whole, shapes=whole.shapes[: k + 1], edges=whole.edges[: k + 1])
