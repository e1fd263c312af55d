"""Pre-activation bounds that the user gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval, round_up_to
from recurjac.errors import InvalidRequest
from recurjac.preactivation.base import AbstractPreactivation
from recurjac.preactivation.state import PreactivationState
from recurjac.region import Numbers


@final
@dataclass(frozen=True, eq=False)
class Given(AbstractPreactivation):
    """Bounds `lower[i]`, `upper[i]` of the i-th stage with an activation, each of shape stage or (batch, *stage).

    Ends that the network's dtype cannot represent are rounded outwards.
    The bounds are not verified: results are certified only if the given bounds are correct.
    Raises InvalidRequest if their number or shapes do not fit the network, or if a lower bound exceeds its upper bound.
    """

    lower: Sequence[Numbers]
    upper: Sequence[Numbers]

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {}

    @property
    def title(self) -> str:
        return "given bounds"

    @property
    def holds_samples(self) -> bool:
        return True

    def bound(self, state: PreactivationState, k: int, chosen: Tensor | None) -> Interval:
        active = [i for i, s in enumerate(state.network.stages, 1) if not s.linear]
        if k not in active:
            everything = state.region.x.new_full((state.region.batch, *state.stage(k).shape), torch.inf)
            return Interval(-everything, everything)
        if not len(self.lower) == len(self.upper) == len(active):
            raise InvalidRequest(
                f"{len(self.lower)} lower and {len(self.upper)} upper bounds were given for a network with "
                f"{len(active)} activations; give one lower and one upper bound for each"
            )
        own = active.index(k)
        low, high = -self._above(state, k, -_wide(self.lower[own])), self._above(state, k, _wide(self.upper[own]))
        if not bool((low <= high).all()):
            raise InvalidRequest(f"the bounds given for stage {k} are NaN or have a lower end above the upper end")
        return Interval(low, high)

    def _above(self, state: PreactivationState, k: int, bound: Tensor) -> Tensor:
        """The smallest numbers of the network's dtype that are not below a bound."""
        x, shape = state.region.x, (state.region.batch, *state.stage(k).shape)
        if tuple(bound.shape) not in (shape, shape[1:], (1, *shape[1:])):
            raise InvalidRequest(f"the bound given for stage {k} has shape {tuple(bound.shape)}, not {shape}")
        return round_up_to(bound, x.dtype).to(x.device).expand(shape)


def _wide(bound: Numbers) -> Tensor:
    return torch.as_tensor(bound, dtype=torch.float64)
