"""Ranges by centred secants: how far pre-activations lie from their values at the centre of the region."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import final

from torch import Tensor

from recurjac.deadline import Deadline, check_seconds, shorter
from recurjac.errors import expect_counts
from recurjac.preactivation.base import AbstractPreactivation, Refine
from recurjac.preactivation.centred import AbstractCentred, SecantSystem
from recurjac.preactivation.relaxation import Crown


@final
@dataclass(frozen=True)
class SecantRanges(AbstractCentred):
    """|z - z_c| <= √(W P Wᵀ)_ii from a P-chain of secants' slopes, with multipliers that all neurons of a stage share.

    steps: of the search for multipliers, for each stage.  seconds: for the search, for each stage; it ends earlier if
    its steps take longer.
    Source: docs/mathematics.md, §3.4.
    """

    steps: int = 30
    seconds: float = inf

    def __post_init__(self) -> None:
        check_seconds("SecantRanges", self.seconds)
        expect_counts("SecantRanges", steps=self.steps)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {"secants": Secants()}

    @property
    def title(self) -> str:
        return "secants"

    def within(self, seconds: float) -> SecantRanges:
        return replace(self, seconds=shorter(self.seconds, seconds))

    def ranges(self, system: SecantSystem) -> tuple[Tensor, Tensor]:
        chain = system.system()
        half = system.half_widths(
            chain, system.multipliers(chain, self.steps, Deadline.after(self.seconds / system.state.region.batch))
        )
        return system.around(half, half)


def Secants(steps: int = 30) -> Refine:  # noqa: N802  (it stands for an object)
    """CROWN, then centred secants on the neurons that it leaves unstable."""
    return Refine(Crown(), SecantRanges(steps))
