"""Interval bound propagation: each stage is bounded from the intervals of the stages that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.network import Extremes
from recurjac.operators.interval import affine_image
from recurjac.preactivation.base import AbstractPreactivation
from recurjac.preactivation.closed import extremes_of
from recurjac.preactivation.state import PreactivationState


@final
@dataclass(frozen=True)
class IBP(AbstractPreactivation):
    """z = A h + b with each h in its interval: A maps the midpoint, |A| maps the half-width.

    A maximum, or a difference of two, is not beyond that of the ends of the intervals (docs/mathematics.md, §3.12).
    """

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {"ibp": cls()}

    @property
    def title(self) -> str:
        return "IBP"

    def bound(self, state: PreactivationState, k: int, chosen: Tensor | None) -> Interval:
        stage, arithmetic = state.stage(k), state.arithmetic
        bias = stage.bias(arithmetic)
        if stage.edges:
            found = affine_image(
                [(e.operator, state.post(e.source)) for e in stage.edges],
                None if bias is None else bias.map(lambda t: t.unsqueeze(0)),
                arithmetic,
            )
            return found if stage.extremes is None else _within_extremes(found, stage.extremes, state)
        zero = arithmetic.exact(state.region.x.new_zeros(state.region.batch, *stage.shape))
        constant = zero if bias is None else zero + bias
        return arithmetic.between(constant, constant)


def _within_extremes(found: Interval, extremes: Extremes, state: PreactivationState) -> Interval:
    """`found`, intersected with what is known of maxima where they hold."""
    known = extremes_of(extremes, state.post(extremes.source), state.arithmetic).map(lambda t: t.reshape(found.shape))
    if extremes.holds is not None:
        known = Interval.unchecked(
            torch.where(extremes.holds, known.lower, -torch.inf), torch.where(extremes.holds, known.upper, torch.inf)
        )
    return state.arithmetic.intersect(found, known)
