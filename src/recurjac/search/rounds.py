"""Rounds of climbers for several samples at once; samples that are done leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac.deadline import Deadline
from recurjac.network import Network
from recurjac.region import BoundRegion
from recurjac.search.attained import MET
from recurjac.search.climb import Climbers, Pace, climbed, finite
from recurjac.search.directions import dual
from recurjac.search.jacobians import gains_at
from recurjac.search.plan import Plan
from recurjac.search.smoothed import slanted, spreads, weights_for

_SAMPLED = 0.2
"""The share of the time, if it is limited, in which samples are looked at."""
_WORTH = 1e-4
"""A round that raises a gain by less than this share has found nothing."""
_SHAKE = 1e-3
"""The length of the steps, as a share of the region's half-width, that lead away from kinks."""
_SPREAD = 64
"""The number of samples whose pre-activations say how wide kinks are smoothed."""
_SHORTER, _LENGTHS = 0.6, 5
"""Each round has steps that are shorter by this factor, until one of this many begins again."""


@final
@dataclass(frozen=True)
class Hunt:
    """The search of several samples together.

    upper: (batch,); a sample is done if its gain meets it, or if `plan.patience` rounds in a row find nothing better.
    """

    network: Network
    region: BoundRegion
    norms: tuple[float, float]
    upper: Tensor
    plan: Plan
    generator: torch.Generator
    deadline: Deadline

    def best(self, start: Climbers, count: int) -> Iterator[Climbers]:
        """After each round, the best `count` points of each sample, of those of `start` and those found; best first."""
        start = start.beside(self._sampled())
        climbers, kept = start.best(self.plan.climbers), max(count, (self.plan.climbers + 1) // 2)
        spread, parts = self._spread(), self.region.split(1)
        found, stale = start.best(kept), torch.zeros_like(self.upper)
        yield found.best(count)
        for number in range(self.plan.rounds):
            rows = ((found.gains[:, 0] * (1 + MET) < self.upper) & (stale < self.plan.patience)).nonzero().squeeze(1)
            if len(rows) == 0 or (number > 0 and self.deadline.over):
                break
            region, before = joined([parts[r] for r in rows.tolist()]), found.of(rows)
            climbers = climbers.of(rows) if number == 0 else self._again(before, region)
            pace = self._pace(climbers.gains, number)
            here = climbed(self.network, region, climbers, [s[rows] for s in spread], self.norms, pace)
            shaken = _shaken(self.network, region, here, self.norms, self.generator)
            after = before.beside(here).beside(shaken).best(kept)
            found = found.replaced(rows, after)
            better = after.gains[:, 0] > before.gains[:, 0] * (1 + _WORTH)
            stale = stale.index_copy(0, rows, torch.where(better, 0.0, stale[rows] + 1))
            yield found.best(count)

    def _sampled(self) -> Climbers:
        """The best samples of the region."""
        points = finite(self.region.sample(self.plan.samples, self.generator), self.region.x)
        return evaluated(self.network, points, self.norms, self.plan.climbers, self._part(_SAMPLED))

    def _again(self, best: Climbers, region: BoundRegion) -> Climbers:
        """Climbers for the next round: the best ones, and as many more that start anywhere, with any weights."""
        old = best.best((self.plan.climbers + 1) // 2)
        fresh = self.plan.climbers - old.gains.shape[1]
        points = finite(region.sample(max(1, fresh), self.generator), region.x)[:, :fresh]
        shape = (region.batch, fresh, prod(self.network.output_shape))
        weights = torch.randn(shape, generator=self.generator, dtype=torch.float64).to(points)
        return old.beside(Climbers(points, dual(weights, self.norms[1]), points.new_zeros(shape[:2])))

    def _pace(self, gains: Tensor, number: int) -> Pace:
        """Some climbers feel kinks farther away than others, from a third to three times as far."""
        share = torch.rand(gains.shape, generator=self.generator, dtype=torch.float64).to(gains)
        left = self._part(1.0)
        return Pace(self.plan.steps, _SHORTER ** (number % _LENGTHS), 10 ** (share - 0.5), left)

    def _spread(self) -> list[Tensor]:
        points = finite(self.region.sample(_SPREAD, self.generator), self.region.x)
        return spreads(self.network, torch.cat([self.region.x.unsqueeze(1), points], 1))

    def _part(self, share: float) -> Deadline:
        return Deadline.after(share * self.deadline.left)


def evaluated(
    network: Network, points: Tensor, norms: tuple[float, float], count: int, deadline: Deadline
) -> Climbers:  # fmt: skip
    """The best `count` of points (batch, N, *input), with the weights of outputs that their gains have."""
    gains, ways = gains_at(network, points, norms, deadline)
    ranked = Climbers(points, ways.flatten(2), gains).best(count)
    ways = ranked.weights.reshape(ranked.points.shape)
    flat = ranked.points.flatten(0, 1)
    weights = weights_for(network, flat, ways.flatten(0, 1), norms[1])
    sure = slanted(network, flat, weights, norms, [flat.new_ones(1)] * network.depth).gain.reshape(ranked.gains.shape)
    return Climbers(ranked.points, weights.reshape(*sure.shape, -1), torch.minimum(sure, ranked.gains))


def _shaken(
    network: Network, region: BoundRegion, found: Climbers, norms: tuple[float, float], generator: torch.Generator
) -> Climbers:
    """Points beside those found, which are at fewer kinks."""
    noise = torch.randn(found.points.shape, generator=generator, dtype=torch.float64).to(found.points)
    points = finite(region.project(found.points + _SHAKE * region.scale.unsqueeze(1) * noise), region.x)
    flat, weights = points.flatten(0, 1), found.weights.flatten(0, 1)
    gains = slanted(network, flat, weights, norms, [flat.new_ones(1)] * network.depth).gain
    return Climbers(points, found.weights, gains.reshape(found.gains.shape))


def joined(parts: Sequence[BoundRegion]) -> BoundRegion:
    """The regions of samples of one kind as one batch."""
    return type(parts[0]).joined(parts)
