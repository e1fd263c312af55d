"""Ranges by centred secants: how far pre-activations lie from their values at the centre of the region."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf, prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval, Rigorous, root_up, round_up_to
from recurjac.deadline import Deadline, check_seconds, shorter
from recurjac.preactivation.base import AbstractPreactivation, Refine, extend
from recurjac.preactivation.ibp import IBP
from recurjac.preactivation.relaxation import Crown
from recurjac.preactivation.state import PreactivationState
from recurjac.propagation.chain_rule import ChainRule, chain_rule
from recurjac.propagation.planning import PlainOnly
from recurjac.quadratic import Multipliers, optimised, reach, system_of
from recurjac.region import BoundBall, BoundBox, BoundRegion


@final
@dataclass(frozen=True)
class SecantRanges(AbstractPreactivation):
    """|z - z_c| <= √(W P Wᵀ)_ii from a P-chain of secants' slopes, with multipliers that all neurons of a stage share.

    steps: of the search for multipliers, for each stage.  seconds: for the search, for each stage; it ends earlier if
    its steps take longer.
    Source: docs/mathematics.md, §3.4.
    """

    steps: int = 30
    seconds: float = inf

    def __post_init__(self) -> None:
        check_seconds("SecantRanges", self.seconds)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {"secants": Secants()}

    @property
    def title(self) -> str:
        return "secants"

    def within(self, seconds: float) -> SecantRanges:
        return replace(self, seconds=shorter(self.seconds, seconds))

    def bound(self, state: PreactivationState, k: int, chosen: Tensor | None) -> Interval:
        arithmetic, shape = state.arithmetic, (state.region.batch, *state.stage(k).shape)
        if chosen is None:
            chosen = torch.ones(shape, dtype=torch.bool, device=state.network.device)
        low = torch.full(shape, -inf, dtype=state.network.dtype, device=state.network.device).flatten(1)
        high = -low
        centre, radius = centre_of(state.region)
        if state.everywhere:
            return Interval.unchecked(low.reshape(shape), high.reshape(shape))
        at = _values_at(state, centre, k)
        chain = _secants(state, at, k)
        for i in range(state.region.batch):
            index = chosen[i].flatten().nonzero().flatten()
            if len(index) == 0 or not bool(radius[i].isfinite().all()):
                continue
            deadline = Deadline.after(self.seconds / len(chosen))
            euclidean = isinstance(state.region, BoundBall)
            half = self._half_widths(chain.sample(i), index, radius[i].flatten(), euclidean, deadline)
            half = round_up_to(half, state.network.dtype)
            middle = [arithmetic.exact(end[i].flatten()[index]) for end in (at[-1].lower, at[-1].upper)]
            low[i, index] = (middle[0] - arithmetic.exact(half)).lower()
            high[i, index] = (middle[1] + arithmetic.exact(half)).upper()
        return Interval.unchecked(low.reshape(shape), high.reshape(shape))

    def _half_widths(
        self, chain: ChainRule, index: Tensor, radius: Tensor, euclidean: bool, deadline: Deadline
    ) -> Tensor:
        """Bounds of |z_i - z_c,i| at the end of a chain rule of secants, for the entries `index`: float64."""
        shape = chain.shapes[-1]
        rows = torch.zeros(len(index), prod(shape), dtype=chain.dtype, device=chain.device)
        rows[torch.arange(len(index)), index] = 1
        system = system_of(replace(chain, covectors=rows.reshape(1, len(index), *shape)))
        radius = radius.double()
        with torch.no_grad():
            best = Multipliers.first(system, radius, euclidean)
            best = optimised(system, best, radius, _logarithms, self.steps, deadline)
            found = reach(system, best.start(radius), best.choose)
        if found is None:
            return torch.full((len(index),), inf, dtype=torch.float64, device=chain.device)
        half = root_up(found.map(torch.diagonal).upper())
        return torch.where(half.isnan(), inf, half)


def Secants(steps: int = 30) -> Refine:  # noqa: N802  (it stands for an object)
    """CROWN, then centred secants on the neurons that it leaves unstable."""
    return Refine(Crown(), SecantRanges(steps))


def _logarithms(reached: Tensor) -> Tensor:
    return reached.diagonal().clamp(min=1e-300).log().sum()


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
    centre = torch.where(bounded, box.lower / 2 + box.upper / 2, region.x)
    half = torch.maximum(box.upper - centre, centre - box.lower)  # one rounding each
    return centre, torch.where(box.is_point, 0.0, torch.nextafter(half, torch.full_like(half, inf)))


def _values_at(state: PreactivationState, centre: Tensor, k: int) -> list[Interval]:
    """Enclosures of z_1, …, z_k at the centre of each sample."""
    point = BoundBox(centre, torch.zeros_like(centre), centre, centre)
    values = PreactivationState(state.network, point, state.arithmetic, PlainOnly())
    extend(values, IBP(), k)
    return [values.pre(j) for j in range(1, k + 1)]


def _secants(state: PreactivationState, at: list[Interval], k: int) -> ChainRule:
    """h - h_c in terms of x - x_c: a chain rule up to stage k whose slopes are those of secants from the centre."""
    network = state.network
    slopes = [
        None
        if state.stage(j).linear
        else state.stage(j).activation.secant_range(state.pre(j), at[j - 1], state.arithmetic)
        for j in range(1, k)
    ]
    whole = chain_rule(network, [None, *slopes, None], state.region.batch, state.arithmetic, state.planner)
    return replace(whole, shapes=whole.shapes[: k + 1], edges=whole.edges[: k + 1])
