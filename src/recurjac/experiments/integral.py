"""A rule for pre-activations with which certificates rest on Theorem 2 alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.preactivation import AbstractPreactivation, Crown, Prefix


@final
@dataclass(frozen=True)
class SlopesOnly(AbstractPreactivation):
    """As `rule`, but nothing is claimed of the network's output on balls of positive radius.

    A certified radius then is what the integral of local Lipschitz constants proves (arXiv:1810.11783, Theorem 2), on a
    grid that ends where that does; with a bound of the margin the grid would end farther out and be coarser for it.
    """

    rule: AbstractPreactivation = Crown()  # noqa: RUF009  # (a frozen object)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {}

    @property
    def cheaper(self) -> None:
        return None

    @property
    def holds_samples(self) -> bool:
        return self.rule.holds_samples

    def stage(self, prefix: Prefix, k: int) -> Interval:
        return self.rule.stage(prefix, k)

    def alone(self, prefix: Prefix, k: int, chosen: Tensor | None) -> Interval:
        if k < prefix.network.depth:
            return self.rule.alone(prefix, k, chosen)
        x, shape = prefix.region.x, prefix.network.output_shape
        ball = (prefix.region.scale > 0).flatten(1).any(1)
        if bool(ball.all()):
            end = x.new_full((len(x), *shape), inf)
            return Interval(-end, end)
        known, wide = self.rule.output(prefix), ball.reshape(-1, *[1] * len(shape))
        return Interval(torch.where(wide, -inf, known.lower), torch.where(wide, inf, known.upper))
