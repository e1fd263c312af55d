"""Programs of convolutions, pooling, branches and normalisation are within the stated error, in any order of sums."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from tests.programs import Exact, Residual, Single, statistics

RADIUS = 0.01


def norm(channels: int) -> nn.BatchNorm2d:
    """Of variances whose sums with epsilon have rational roots."""
    layer = nn.BatchNorm2d(channels, eps=0.25)
    choices = torch.tensor([0.3125, 0.75, 2.0, 6.0])
    mean, variance, weight, bias = statistics(layer)
    with torch.no_grad():
        variance.copy_(choices[torch.randint(4, (channels,))])
        for numbers in (mean, weight, bias):
            numbers.normal_()
    return layer


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), norm(2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 2)
    )


def pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 2, stride=1), nn.MaxPool2d(3, stride=1), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(2, 3)
    )


def residual() -> nn.Module:
    inner = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), norm(2), nn.ReLU(), nn.Conv2d(2, 2, 1))
    return nn.Sequential(nn.Conv2d(1, 2, 2, stride=2), Residual(inner), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))


def normalised() -> nn.Module:
    """A normalisation before the convolution and one after a sum."""
    inner = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), norm(1))
    return nn.Sequential(norm(1), Residual(inner), norm(1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))


def smooth() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 2, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 4), nn.Sigmoid(), nn.Linear(4, 2)
    )


KINDS = (convolutional, pooled, residual, normalised, smooth)


def drawn(kind: Callable[[], nn.Module], seed: int) -> nn.Module:
    """In float64 with weights that float32 has or has not; sometimes with rows that nearly cancel, or of tiny size."""
    torch.manual_seed(seed)
    module, draw = kind().double().eval(), random.Random(seed)  # noqa: S311  # (no secret)
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        if draw.random() < 0.5:  # else the numbers of float32
            for layer in layers:
                layer.weight.add_(1e-10 * torch.randn_like(layer.weight))
        if draw.random() < 0.5:
            for layer in layers:
                flat = layer.weight.flatten(1)
                flat[:, 1::2] = -flat[:, : 2 * (flat.shape[1] // 2) : 2] * (1 + 2.0**-20)
    return shrunk(module) if draw.random() < 0.3 else module


def shrunk(module: nn.Module) -> nn.Module:
    """With a last layer whose products are below the smallest normal number."""
    last = [m for m in module.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        last.weight.mul_(1e-38)
        last.bias.mul_(1e-38)
    return module


def farthest(module: nn.Module, seed: int, deployed: rj.Deployed | None = None) -> float:
    """The largest quotient of a program's error and the stated one."""
    g = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(1, 4, 4, generator=g, dtype=torch.float64)
    network, ball = rj.load(module, x.unsqueeze(0)), rj.LpBall(x.unsqueeze(0), RADIUS * 1.0000001)
    error = rj.deployed_error(network, ball, arithmetic=deployed).error[0]
    assert bool(error.isfinite().all())
    worst = Fraction(0)
    for k, point in enumerate((x, x + RADIUS * torch.randn(x.shape, generator=g, dtype=x.dtype).sign())):
        right = outputs(module, point)
        for which in range(6):
            program = Single(random.Random(100 * seed + 10 * k + which), flush=which % 3 == 2)  # noqa: S311
            found = program.value(module, program.numbers(point)).tolist()
            quotients = (
                abs(Fraction(v) - t) / Fraction(e) for v, t, e in zip(found, right, error.tolist(), strict=True)
            )
            worst = max(worst, *quotients)
    return float(worst)


def outputs(module: nn.Module, x: Tensor) -> list[Fraction]:
    exact = Exact()
    found: list[Fraction] = exact.value(module, exact.numbers(x)).tolist()
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(s, marks=pytest.mark.slow) for s in range(2, 40))])
def test_programs_are_within_the_error(kind: Callable[[], nn.Module], seed: int) -> None:
    assert farthest(drawn(kind, seed), seed) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_is_the_module(kind: Callable[[], nn.Module]) -> None:
    """What the programs and the truth compute is the module, so that the tests compare what they say."""
    module = drawn(kind, 1)
    x = torch.randn(1, 4, 4, dtype=torch.float64)
    want = module(x.unsqueeze(0))[0].tolist()
    assert [float(v) for v in outputs(module, x)] == pytest.approx(want, rel=1e-12, abs=1e-50)


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_a_missing_factor_is_caught(kind: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rj.Deployed, "gamma", lambda self, n: 0.002 * n * self.unit)
    assert any(farthest(drawn(kind, seed), seed) > 1 for seed in range(6))


def test_errors_of_the_library_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rj.Deployed, "gamma", lambda self, n: 0.002 * n * self.unit)
    better = rj.Deployed("float32", ulps=0.001)
    assert any(farthest(drawn(smooth, seed), seed, better) > 1 for seed in range(6))


@pytest.mark.parametrize("kind", [convolutional, residual])
def test_a_missing_underflow_is_caught(kind: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    assert max(farthest(shrunk(drawn(kind, seed)), seed) for seed in range(2)) <= 1
    monkeypatch.setattr(rj.Deployed, "tiny", 1e-60)
    assert any(farthest(shrunk(drawn(kind, seed)), seed) > 1 for seed in range(2))
