"""A network, a region, points that are in it in exact arithmetic, and what floating point makes of them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import recurjac as rj
from recurjac.network import Network
from recurjac.region import AbstractRegion
from tests.truth.judge import Judge
from tests.truth.networks import Drawn, drawn_network
from tests.truth.regions import Exact, Point, exact_regions

RADII = (0.0, 0.0, 0.0, 1e-30, 1e-7, 1e-3, 0.1, 0.1, 0.5, 2.0, 30.0, 1e10, 1e30, rj.inf)
_POINTS = 24


@dataclass(frozen=True)
class Case:
    """seed: its number.  draw: a source of random choices."""

    seed: int
    drawn: Drawn
    region: AbstractRegion
    exact: tuple[Exact, ...]
    draw: random.Random = field(repr=False)

    @property
    def network(self) -> Network:
        return self.drawn.network

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.network)

    @cached_property
    def points(self) -> tuple[list[Point], ...]:
        """For each sample of the batch."""
        draw = random.Random(self.seed)  # noqa: S311  (reproducible test data)
        return tuple(region.points(_POINTS, draw) for region in self.exact)

    @cached_property
    def computed(self) -> tuple[tuple[list[Tensor], Tensor], ...]:
        """For each sample, all pre-activations (N, …) and Jacobians (N, outputs, inputs) in floating point."""
        return tuple(_computed(self.network, points) for points in self.points)

    def nearest(self, sample: int, values: Tensor, lower: Tensor, upper: Tensor, count: int = 2) -> list[Point]:
        """The points whose numbers (N, m) are nearest to their bounds (m,) in floating point, and one more."""
        points = self.points[sample]
        size = values.abs() + (upper - lower).clamp(max=1e30)
        gaps = torch.minimum(upper - values, values - lower) / (size + 1e-300)
        gaps = torch.where(gaps.isnan(), -1.0, gaps)  # unbounded on one side, or not known
        order = gaps.flatten(1).amin(1).argsort().tolist()
        chosen = dict.fromkeys([*order[:count], self.draw.randrange(len(points))])
        return [points[i] for i in chosen]

    def __str__(self) -> str:
        return f"{self.seed}: {self.drawn} over {self.region!r}"


def _computed(network: Network, points: list[Point]) -> tuple[list[Tensor], Tensor]:
    wide = network.to(torch.float64)
    x = torch.tensor(points, dtype=torch.float64).requires_grad_()
    before = wide.preactivations(x)
    out = before[-1].flatten(1)
    rows = [torch.autograd.grad(o.sum() + 0 * x.sum(), x, retain_graph=True)[0] for o in out.unbind(1)]
    return [z.detach().flatten(1) for z in before], torch.stack(rows, 1).detach()


def drawn_case(seed: int) -> Case:
    """The case of that number.  Raises what making the network raises."""
    drawn = drawn_network(seed)
    draw = random.Random(seed + 10**6)  # noqa: S311  (reproducible test data)
    g = torch.Generator().manual_seed(seed)
    inputs = drawn.network.input_shape[0]
    x = torch.randn(draw.choice((1, 1, 1, 2)), inputs, generator=g, dtype=torch.float64)
    if draw.random() < 0.2:
        x = x.round()
    if draw.random() < 0.2:
        x = x * 10 ** draw.uniform(-30, 30)
    if drawn.network.dtype == torch.float32 and draw.random() < 0.7:
        x = x.float().double()
    region = _region(x, draw, g)
    return Case(seed, drawn, region, tuple(exact_regions(region, inputs)), draw)


def _region(x: Tensor, draw: random.Random, g: torch.Generator) -> AbstractRegion:
    radius: Any = draw.choice(RADII)
    if draw.random() < 0.3 and radius < 1e10:
        radius = radius * float(x.abs().max())
    kind = draw.random()
    if kind < 0.2 and radius < rj.inf:
        half = radius * torch.rand(x.shape, generator=g, dtype=torch.float64)
        half[:, 0] = 0.0 if draw.random() < 0.5 else radius
        low, high = x - half, x + half
        if draw.random() < 0.15:
            high = torch.where(torch.rand(x.shape, generator=g) < 0.5, rj.inf, high)
        return rj.Box(low, high)
    if kind < 0.3 and radius < rj.inf:
        return rj.LpBall(x, radius * torch.rand(x.shape, generator=g, dtype=torch.float64))
    size = float(x.abs().max())
    clip = None if draw.random() < 0.7 else (float(x.min()) - 0.05 * size, float(x.max()) + 0.3 * size)
    return rj.LpBall(x, radius, draw.choice((1, 2, rj.inf)), clip)
