"""The function that returns bounds of a network's pre-activations as a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.deadline import check_time_limit
from recurjac.loading import Source
from recurjac.preactivation import AutoRanges, Crown, RuleLike
from recurjac.problem import Problem, as_problem, as_region
from recurjac.provenance import AbstractResult, Provenance
from recurjac.region import AbstractRegion, Numbers


@final
@dataclass(frozen=True, repr=False, eq=False)
class PreactivationBounds(AbstractResult):
    """lower[i] <= z_{i+1} <= upper[i] over the region, each (batch, *stage); the last stage is the output."""

    lower: tuple[Tensor, ...]
    upper: tuple[Tensor, ...]
    provenance: Provenance

    @property
    def stages(self) -> tuple[Interval, ...]:
        """The same bounds as one interval per stage."""
        return tuple(Interval.unchecked(low, high) for low, high in zip(self.lower, self.upper, strict=True))

    def __repr__(self) -> str:
        return f"PreactivationBounds({len(self.lower)} stages by {self.method}, {self._kind()})"


def preactivation_bounds(
    network: Source | Problem,
    region: AbstractRegion | Numbers | None = None,
    *,
    radius: Numbers | None = None,
    norm: float | None = None,
    pre: RuleLike | None = None,
    arithmetic: AbstractArithmetic | None = None,
    time_limit: float | None = None,
) -> PreactivationBounds:
    """Bounds of z_1, …, z_K over the region; a `Problem` can replace network and region.

    network, region, radius, norm: as in `lipschitz`.
    pre: the rule; the default is `Crown()`.
    arithmetic: the default is `Rigorous()` if rounding can be covered for the network and the region, otherwise
    `Fast()`.
    time_limit: seconds for all samples together, in place of a rule: that is then `AutoRanges(time_limit)`.
    Raises InvalidRegion if the region does not fit the network, InvalidRequest for a rule and a limit together.
    """
    problem = as_problem(network, as_region(region, radius, norm), pre, arithmetic)
    check_time_limit(time_limit, pre=None if pre is None and problem.pre == Crown() else problem.pre)
    problem = problem if time_limit is None else problem.by(AutoRanges(time_limit))
    state = problem.preactivations()
    bounds = [*(state.pre(k) for k in range(1, problem.network.depth)), problem.output(state)]
    lower, upper = (
        tuple(problem.detached(t) for t in ends) for ends in zip(*((b.lower, b.upper) for b in bounds), strict=True)
    )
    return PreactivationBounds(lower, upper, problem.provenance(problem.pre.title))
