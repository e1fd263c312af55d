"""The network as it runs: what programs compute is within the stated error, in every order of summation."""

from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.activations import Abs, HardTanh, LeakyReLU, ReLU, ReLU6, Tanh
from recurjac.network import Network, chain
from tests import exact

SINGLE = torch.float32


def drawn(seed: int) -> Network:
    """A chain of random sizes, depths, scales and activations, sometimes with much cancellation."""
    draw, g = random.Random(seed), torch.Generator().manual_seed(seed)  # noqa: S311  # (no secret)
    depth = draw.choice([1, 2, 3, 5, 12])
    sizes = [draw.randint(2, 9) for _ in range(depth + 1)]
    scale = draw.choice([1.0, 1.0, 1e-3, 30.0, 1e-8]) if depth < 6 else 1.0
    layers = []
    for n, m in pairwise(sizes):
        weight = torch.randn(m, n, generator=g, dtype=torch.float64) * scale / n**0.5
        if draw.random() < 0.3 and n > 2:  # rows that nearly cancel
            weight[:, 1] = -weight[:, 0] * (1 + 2.0**-20)
        bias = torch.randn(m, generator=g, dtype=torch.float64) * draw.choice([0.0, 0.3, 100.0])
        layers.append((weight.to(draw.choice([SINGLE, torch.float64])).double(), bias.float().double()))
    kinds = [ReLU(), LeakyReLU(0.3), Abs(), ReLU6(), HardTanh(-0.7, 1.3)]
    return chain(layers, [draw.choice(kinds) for _ in range(depth - 1)])


def orders(weight: Tensor, bias: Tensor, h: Tensor, draw: random.Random) -> Iterator[Tensor]:
    """W h + b in float32, in several orders of summation."""
    n = weight.shape[1]
    products = weight * h
    for order in (list(range(n)), list(range(n))[::-1], draw.sample(range(n), n)):
        first = bias.clone()
        last = torch.zeros_like(bias)
        for i in order:
            first, last = first + products[:, i], last + products[:, i]
        yield first
        yield last + bias
    yield torch.nn.functional.linear(h, weight, bias)
    yield products[:, ::2].sum(1) + (products[:, 1::2].sum(1) + bias)


def programs(network: Network, x: Tensor, seed: int) -> Iterator[Tensor]:
    """Outputs of float32 programs, of which each has its own order of summation in every layer."""
    for which in range(8):
        draw, h = random.Random(seed), x.float()  # noqa: S311  # (no secret)
        for stage in network.stages:
            weight = stage.edges[0].operator.weight.float()  # type: ignore[attr-defined]
            h = list(orders(weight, stage.constants[0].tensor.float(), h, draw))[which]
            h = stage.activation.rounded(SINGLE).value(h)
        yield h


def truth(network: Network, x: Tensor) -> list[Fraction]:
    z: Any = exact.rational(x.double()).reshape(-1, 1)
    for stage in network.stages:
        z = exact.apply(stage.edges[0].operator, z)
        z = z + exact.rational(stage.constants[0].tensor).reshape(-1, 1)
        if not stage.linear:
            z = exact.activate(stage.activation, z, torch.zeros(stage.shape, dtype=torch.float64))
    return list(z[:, 0])


def corners(x: Tensor, radius: float, seed: int) -> Iterator[Tensor]:
    g = torch.Generator().manual_seed(seed)
    yield x
    for _ in range(3):
        yield x + radius * torch.randn(x.shape, generator=g, dtype=x.dtype).sign()
    yield x + radius * (2 * torch.rand(x.shape, generator=g, dtype=x.dtype) - 1)


def farthest(network: Network, seed: int) -> tuple[float, float]:
    """The largest quotient of a program's error and the stated one, and the stated error itself."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(network.input_shape, generator=g, dtype=torch.float64) * 3
    error = rj.deployed_error(network, rj.LpBall(x.unsqueeze(0), 0.01 * 1.0000001)).error[0]
    worst = Fraction(0)
    for point in corners(x, 0.01, seed):
        right = truth(network, point)
        for found in programs(network, point, seed):
            for value, true, most in zip(found.tolist(), right, error.tolist(), strict=True):
                off = abs(Fraction(value) - true)
                worst = max(worst, off / Fraction(most) if most < float("inf") and most > 0 else Fraction(bool(off)))
    return float(worst), float(error.max())


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(s, marks=pytest.mark.slow) for s in range(8, 60))])
def test_programs_are_within_the_error(seed: int) -> None:
    worst, _ = farthest(drawn(seed), seed)
    assert worst <= 1


def test_a_missing_factor_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that use a good part of the bound exist, so that a bound that is much too small fails."""
    monkeypatch.setattr(rj.Deployed, "gamma", lambda self, n: 0.002 * n * self.unit)
    assert max(farthest(drawn(seed), seed)[0] for seed in (0, 3, 4)) > 1


def test_what_has_no_derivative_is_refused() -> None:
    g = torch.Generator().manual_seed(0)
    sizes = [(4, 3), (2, 4)]
    network = chain([(torch.randn(*s, generator=g, dtype=torch.float64), None) for s in sizes], [Tanh()])
    ball = rj.LpBall(torch.zeros(1, *network.input_shape, dtype=torch.float64), 0.1)
    problem = rj.Problem(network, ball, arithmetic=rj.Deployed())
    asked = (
        rj.jacobian_bounds, rj.lipschitz, rj.monotone, rj.preactivation_bounds,
        lambda p: rj.hessian_bounds(p.of(p.network.output(0))),
    )  # fmt: skip
    for ask in asked:
        with pytest.raises(rj.InvalidRequest, match="no derivative"):
            ask(problem)


def test_programs_that_are_not_known_are_refused() -> None:
    for module, name in (
        (nn.Sequential(nn.Linear(2, 3), nn.SiLU(), nn.Linear(3, 2)), "silu"),
        (nn.Sequential(nn.Linear(2, 3), nn.Softmax(1)), "stage 2 has"),
    ):
        network = rj.load(module.double(), torch.zeros(1, 2, dtype=torch.float64))
        with pytest.raises(rj.InvalidRequest, match=name):
            rj.deployed_error(network, rj.LpBall(torch.zeros(1, 2), 0.1))


def test_radii_of_a_deployed_network() -> None:
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    network = rj.load(module, torch.zeros(1, 3, dtype=torch.float64))
    ball = rj.LpBall(torch.rand(2, 3), 0.0)
    real = rj.certified_radius(rj.Problem(network, ball))
    found = rj.certified_radius(rj.Problem(network, ball, arithmetic=rj.Deployed("float32")))
    assert bool((found.radius < real.radius).all())
    assert bool((found.radius > 0.999 * real.radius).all())
    assert bool((found.attack >= real.attack).all())
    assert bool((found.rounding > 0).all())
    assert found.provenance.arithmetic == "deployed float32"


def test_roundings_that_all_go_one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of single products: every weight and every product is rounded down by nearly half a unit."""
    unit, h, true, weights = 2.0**-24, np.float32(1), Fraction(1), []
    for _ in range(12):
        near = (1 + 2 * unit * np.arange(2000, 6000)).astype(np.float32)
        lost = near.astype(np.float64) * float(h) - (near * h).astype(np.float64)
        stored = near[lost.argmax()]
        weights.append(float(stored) + unit * (1 - 2.0**-10))
        assert np.float32(weights[-1]) == stored
        h, true = stored * h, true * Fraction(weights[-1])
    layers = [nn.Linear(1, 1, bias=False) for _ in weights]
    for layer, weight in zip(layers, weights, strict=True):
        layer.double().weight.data.fill_(weight)
    one = torch.ones(1, 1, dtype=torch.float64)
    network, off = rj.load(nn.Sequential(*layers), one), true - Fraction(float(h))
    assert off > 22 * Fraction(unit)
    assert off <= Fraction(float(rj.deployed_error(network, rj.LpBall(one, 0.0)).error))
    monkeypatch.setattr("recurjac.applications.program._MORE", 0)
    assert off > Fraction(float(rj.deployed_error(network, rj.LpBall(one, 0.0)).error))
