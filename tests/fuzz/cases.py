"""Random questions: a module as it is read, a region, and the methods that bound it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import recurjac as rj
from recurjac.jacobian import AbstractJacobianMethod
from recurjac.network import Network
from recurjac.norms import AbstractNormMethod
from recurjac.preactivation import AbstractPreactivation
from recurjac.region import AbstractRegion
from recurjac.region.base import BoundRegion
from tests.fuzz.modules import Drawn, drawn_module
from tests.fuzz.truth import jacobians, points_of

METHODS: tuple[AbstractJacobianMethod, ...] = (
    rj.FastLip(), rj.RecurJac(), rj.Chords(), rj.Reversed(rj.RecurJac()), rj.Reversed(rj.Chords()),
    rj.ReversedAfterFirst(rj.RecurJac()), rj.Intersection(rj.Chords(), rj.RecurJac()),
    rj.NodeIntersection(rj.Chords(), rj.RecurJac()),
    rj.Cut(rj.Chords(), most=5), rj.ForwardTangents(), rj.ForwardTangents(5), rj.XLinear(), rj.XLinear(2),
    rj.Centred(), rj.Clamped(rj.Chords(), rj.QuadraticNorm(2)), rj.QuadraticClamped(), rj.InTime(),
    rj.GradientForms(10**9, 8),  # by single steps, as so many noises do not fit
    rj.BranchedEntries(rj.Chords(), limit=rj.Limit(60, 4)),
)  # fmt: skip
RULES: tuple[AbstractPreactivation, ...] = (
    rj.IBP(), rj.FastLin(), rj.Crown(), rj.Alone(rj.Crown()), rj.Forward(), rj.ForwardForms(4), rj.Secants(4),
    rj.HalfSpaces(3), rj.Dual(2, 2), rj.PreIntersection(rj.FastLin(), rj.Crown()),
)  # fmt: skip
NORMS: tuple[AbstractNormMethod | AbstractJacobianMethod, ...] = (
    rj.Chords(), rj.ProductOfNorms(), rj.QuadraticNorm(3), rj.CoupledNorm(2), rj.SplitNorm(2, 2),
    rj.TightestNorm(rj.ProductOfNorms(), rj.QuadraticNorm(2)), rj.Branched(limit=rj.Limit(60, 4)),
    rj.Branched(rj.QuadraticNorm(2), limit=rj.Limit(60, 4)), rj.CornerNorm(),
    rj.JacobianNorm(rj.ClosedForms(rj.Chords()), rj.PatternSum(2)), rj.TurnedNorm(rj.ClosedForms(rj.Chords())),
    rj.LinearNetworkNorm(),
    rj.JacobianNorm(rj.Chords(), rj.ChordSum()), rj.JacobianNorm(rj.RecurJac(), rj.SignSum()),
)  # fmt: skip
RADII = (0.0, 0.0, 1e-6, 1e-3, 0.01, 0.1, 0.1, 0.5, 2.0, 30.0, rj.inf)


_CLOSE = 1e-9
"""How exactly numbers are computed with usual weights."""


@dataclass(frozen=True)
class Case:
    """A network, the module that it was read from, a region, and a source of random choices."""

    seed: int
    module: Drawn
    network: Network
    region: AbstractRegion
    bound: BoundRegion
    draw: random.Random = field(repr=False)

    def value(self, x: Tensor) -> Tensor:
        """The module's outputs (N, k) at inputs (N, n); attention is spelled out, so that it has second derivatives."""
        with sdpa_kernel(SDPBackend.MATH):
            return self.module(x)  # type: ignore[no-any-return]

    @property
    def accuracy(self) -> float:
        """How exactly, relative to their sizes, numbers are computed where rounding is not covered.

        Where weights are large, what cancels is larger than what is left.
        """
        return _CLOSE if all(float(p.abs().max()) < 10 for p in self.module.parameters()) else 1e-3

    @cached_property
    def points(self) -> Tensor:
        """(batch, N, n)."""
        return points_of(self.bound, 30, self.seed)

    @cached_property
    def jacobians(self) -> Tensor:
        """The true Jacobians at the points: (batch, N, k, n); NaN where they are not known.

        With large weights, some are nothing but rounding, as of normalisations, whose terms cancel: those that are
        others an ulp or two beside the point.
        """
        points = self.points.flatten(0, 1)
        flat = jacobians(self.value, points)
        if self.accuracy > _CLOSE:
            near = [jacobians(self.value, points * (1 + k * torch.finfo(points.dtype).eps)) for k in (-2, 1, 3)]
            same = torch.stack([(flat - t).abs() <= 0.1 * flat.abs() for t in near]).all(0)
            flat = torch.where(same, flat, torch.nan)
        return flat.reshape(*self.points.shape[:2], *flat.shape[1:])

    def __str__(self) -> str:
        return f"{self.seed}: {self.module!r} over {self.region!r}"


def drawn_case(seed: int) -> Case:
    """The case of that number.  Raises what loading raises for modules that are refused."""
    module = drawn_module(seed)
    draw = random.Random(seed + 10**6)  # noqa: S311  (reproducible test data)
    g = torch.Generator().manual_seed(seed)
    n = module.shape[0] * module.shape[1]
    x = torch.randn(draw.choice((1, 1, 2)), n, generator=g, dtype=torch.float64)
    if draw.random() < 0.1:
        x = x.round()
    network = rj.load(module, torch.randn(1, n, generator=g, dtype=torch.float64))
    region = _region(x, draw, g)
    return Case(seed, module, network, region, region.bind((n,), torch.float64, x.device), draw)


def _region(x: Tensor, draw: random.Random, g: torch.Generator) -> AbstractRegion:
    radius: Any = draw.choice(RADII)
    if draw.random() < 0.2 and radius < rj.inf:
        half = radius * torch.rand(x.shape, generator=g, dtype=torch.float64)
        half[:, 0] = 0.0 if draw.random() < 0.5 else radius
        return rj.Box(x - half, x + half)
    clip = None if draw.random() < 0.7 else (float(x.min()) - 0.05, float(x.max()) + 0.3)
    return rj.LpBall(x, radius, draw.choice((1, 2, rj.inf)), clip)
