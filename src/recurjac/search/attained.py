"""Gains that are proved to be attained, and what a search may start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recurjac.deadline import NEVER, Deadline


@final
@dataclass(frozen=True)
class Attained:
    """‖J v‖_q / ‖v‖_p is at least `gain` (batch,) at x = `witness` for v = `direction`, both (batch, *input)."""

    gain: Tensor
    witness: Tensor
    direction: Tensor

    def rows(self, begin: int, end: int) -> Attained:
        """That of some of the samples."""
        return Attained(self.gain[begin:end], self.witness[begin:end], self.direction[begin:end])

    @classmethod
    def joined(cls, parts: Sequence[Attained]) -> Attained:
        """That of several samples as one batch."""
        return cls(*(torch.cat(t) for t in zip(*((a.gain, a.witness, a.direction) for a in parts), strict=True)))


def better_of(known: Attained, found: Attained) -> Attained:
    """For each sample, the larger of two gains."""
    better = found.gain > known.gain
    wide = better.reshape(-1, *[1] * (found.witness.dim() - 1))
    return Attained(
        torch.where(better, found.gain, known.gain), torch.where(wide, found.witness, known.witness),
        torch.where(wide, found.direction, known.direction),
    )  # fmt: skip


@final
@dataclass(frozen=True)
class Aim:
    """What is known before a search, for each sample.

    points: (batch, N, *input), where the search looks first.  They need not be in the region: nearby ones that are take
    their place.  upper: (batch,), upper bounds of all gains; a sample whose gain meets it is not searched further.
    deadline: when the search ends at the latest, unless its proofs take longer.
    """

    points: Tensor | None = None
    upper: Tensor | None = None
    deadline: Deadline = NEVER

    def rows(self, begin: int, end: int) -> Aim:
        """That of some of the samples."""
        points, upper = (None if t is None else t[begin:end] for t in (self.points, self.upper))
        return Aim(points, upper, self.deadline)


NO_AIM = Aim()
"""Nothing is known."""
MET = 1e-6
"""The relative gap at which a gain counts as the largest."""
