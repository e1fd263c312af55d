"""A rule for pre-activations with which certificates rest on Theorem 2 alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.preactivation import AbstractLineChoice, AbstractPreactivation, Crown, PreactivationState


@final
@dataclass(frozen=True)
class SlopesOnly(AbstractPreactivation):
    """As `rule`, but nothing is claimed of the network's output on balls of positive radius.

    A certified radius then is what the integral of local Lipschitz constants proves (arXiv:1810.11783, Theorem 2), on a
    grid that ends where that does; with a bound of the margin the grid would end farther out and be coarser for it.
    """

    rule: AbstractPreactivation = field(default_factory=Crown)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {}

    @property
    def title(self) -> str:
        return f"{self.rule.title}, slopes only"

    @property
    def choice(self) -> AbstractLineChoice | None:
        return self.rule.choice

    @property
    def holds_samples(self) -> bool:
        return self.rule.holds_samples

    def stage(self, state: PreactivationState, k: int) -> Interval:
        return self.rule.stage(state, k)

    def bound(self, state: PreactivationState, k: int, chosen: Tensor | None) -> Interval:
        if k < state.network.depth:
            return self.rule.bound(state, k, chosen)
        x, shape = state.region.x, state.network.output_shape
        ball = (state.region.scale > 0).flatten(1).any(1)
        if bool(ball.all()):
            end = x.new_full((len(x), *shape), inf)
            return Interval(-end, end)
        known, wide = self.rule.output(state), ball.reshape(-1, *[1] * len(shape))
        return Interval(torch.where(wide, -inf, known.lower), torch.where(wide, inf, known.upper))
