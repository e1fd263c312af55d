"""Convolutional networks: bounds hold, in rational arithmetic too, and sweeps along a part give those of the whole."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.jacobian import AbstractJacobianMethod
from recurjac.network import Network
from recurjac.propagation import receptive_field
from recurjac.propagation.forms import Units
from recurjac.propagation.planning import Thresholds
from recurjac.testing.networks import true_jacobians
from tests.conv_networks import CONVOLUTIONAL, PIECEWISE, convolutional
from tests.helpers import exact, exact_image
from tests.marks import in_turn

METHODS: dict[str, AbstractJacobianMethod] = {
    "chords": rj.Chords(),
    "recurjac": rj.RecurJac(),
    "fastlip": rj.FastLip(),
    "f0": rj.Reversed(rj.RecurJac()),
    "f1": rj.ReversedAfterFirst(rj.RecurJac()),
}
every_network = pytest.mark.parametrize("name", CONVOLUTIONAL)
every_method = pytest.mark.parametrize("method", METHODS)


def inputs(batch: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@every_method
@every_network
def test_sampled_jacobians_are_inside(name: str, method: str) -> None:
    _, network = convolutional(name)
    for radius, p in ((0.0, 2), (1e-3, math.inf), (0.1, 2), (0.3, math.inf), (2.0, 1), (math.inf, math.inf)):
        region = rj.LpBall(inputs(2), radius, p)
        bounds = rj.jacobian_bounds(network, region, method=METHODS[method])
        bound = region.bind(network.input_shape, network.dtype, network.device)
        points = torch.cat([bound.x.unsqueeze(1), bound.sample(30, torch.Generator().manual_seed(1))], 1)
        for sample, low, high in zip(points, bounds.lower.detach(), bounds.upper.detach(), strict=True):
            true = true_jacobians(network, sample).detach()
            slack = 1e-12 * float(true.abs().max())
            assert bool(((true >= low - slack) & (true <= high + slack)).all())


@pytest.mark.parametrize(("name", "arithmetic"), in_turn(list(CONVOLUTIONAL), [rj.Fast(), rj.Rigorous()]))
def test_going_along_a_part_changes_nothing(name: str, arithmetic: rj.Fast | rj.Rigorous) -> None:
    """Lots of a few forms that start near each other, against all forms through the whole network."""
    _, network = convolutional(name)
    for batch, radius in ((1, 0.05), (1, 1.0), (3, 0.2)):
        region, found = rj.LpBall(inputs(batch), radius), []
        for together, worth in ((10**6, 0.0), (6, 10.0)):
            planner = rj.Planner(Thresholds(tile=together, restricted_share=worth))
            problem = rj.Problem(network, region, arithmetic=arithmetic, planner=planner)
            pre = rj.preactivation_bounds(problem).stages
            method = rj.Intersection(rj.Chords(), rj.RecurJac())
            found.append((rj.jacobian_bounds(problem, method=method), pre))
        (whole, whole_pre), (parts, parts_pre) = found
        for a, b in ((whole, parts), *zip(whole_pre, parts_pre, strict=True)):
            size = max(float(getattr(a, end).detach().abs().max()) for end in ("lower", "upper"))
            for end in ("lower", "upper"):
                x, y = getattr(a, end).detach(), getattr(b, end).detach()
                assert float((x - y).abs().max()) <= 1e-12 * size


def test_lots_that_reach_nothing() -> None:
    """Positions that no later layer reads lie in lots of their own, and have gradients of 0 for every output."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4, stride=9), nn.Flatten(), nn.Linear(4, 4), nn.Tanh(),
        nn.Linear(4, 3),
    )  # fmt: skip
    x = torch.rand(2, 1, 12, 12, dtype=torch.float64)
    network, found = rj.load(module, x[:1].float()), []
    for together, worth in ((10**6, 0.0), (6, 10.0)):
        planner = rj.PlainOnly(Thresholds(tile=together, restricted_share=worth))
        problem = rj.Problem(network, rj.LpBall(x, 0.5), planner=planner)
        found.append(rj.jacobian_bounds(problem, method=rj.Chords()))
    assert torch.allclose(found[0].lower, found[1].lower, rtol=0, atol=1e-12)
    assert torch.allclose(found[0].upper, found[1].upper, rtol=0, atol=1e-12)
    assert not bool(found[1].upper[:, :, :, 6:, :].any())


def test_lots_are_of_neighbours_and_complete() -> None:
    seeds = Units.all((3, 16, 16), torch.float64, torch.device("cpu"))
    lots = receptive_field.tiles(seeds, rj.Planner())
    assert lots is not None
    assert torch.equal(torch.cat(list(lots)).sort().values, torch.arange(768))
    assert len(lots) == 4
    for lot in lots:
        rows = (lot % 256) // 16
        assert int(rows.max() - rows.min()) < 8
        assert torch.equal(lot, lot.sort().values)


def rational_jacobian(network: Network, x: Tensor) -> list[list[Fraction]]:
    """The Jacobian at one input where no pre-activation is at a kink, rows being inputs, in exact arithmetic."""
    n = x.numel()
    values = [exact(x)]
    tangents = [[[Fraction(int(i == j)) for j in range(n)] for i in range(n)]]

    def linear(images: list[list[Fraction]]) -> list[Fraction]:
        return [sum(entries, Fraction(0)) for entries in zip(*images, strict=True)]

    for stage in network.stages:
        z = linear(
            [exact_image(e.operator, values[e.source]) for e in stage.edges]
            + [exact_image(c.operator, exact(c.tensor)) for c in stage.constants]
            + [[Fraction(0)] * math.prod(stage.shape)]
        )
        g = [linear([exact_image(e.operator, tangents[e.source][i]) for e in stage.edges]) for i in range(n)]
        point = torch.tensor([float(v) for v in z], dtype=network.dtype).reshape(1, *stage.shape)
        slopes = stage.activation.slope_range(rj.Interval.point(point), rj.Fast())
        assert bool(slopes.is_point.all()), "a kink"
        steep = exact(slopes.lower)
        values.append([_value(stage.activation, v, s) for v, s in zip(z, steep, strict=True)])
        tangents.append([[s * t for s, t in zip(steep, row, strict=True)] for row in g])
    return tangents[-1]


def _value(activation: object, z: Fraction, slope: Fraction) -> Fraction:
    """σ(z) of a piecewise linear activation: through 0, or clipped."""
    low, high = getattr(activation, "low", None), getattr(activation, "high", None)
    if low is not None and high is not None:
        return min(max(z, Fraction(low)), Fraction(high))
    return slope * z


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "max-pool" else n for n in PIECEWISE])
def test_rigorous_bounds_hold_in_rational_arithmetic(name: str) -> None:
    _, network = convolutional(name, 3, torch.float32)
    assert not network.unproved_rounding()
    x = inputs(1, 5).float()
    true = rational_jacobian(network, x[0])
    for radius in (0.0, 1e-6, 0.05):
        for method in (rj.Chords(), rj.RecurJac(), rj.FastLip()):
            bounds = rj.jacobian_bounds(network, rj.LpBall(x, radius), method=method)
            assert bounds.rigorous
            for row, low, high in zip(true, _by_input(bounds.lower), _by_input(bounds.upper), strict=True):
                assert all(a <= t <= b for t, a, b in zip(row, low, high, strict=True))


def _by_input(bound: Tensor) -> list[list[float]]:
    """The bounds of one sample, one row for each input."""
    rows: list[list[float]] = bound[0].reshape(-1, 32).T.tolist()
    return rows


class _Total(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(1)


@pytest.mark.parametrize("deep", [False, True])
def test_a_convolution_with_a_bias_may_end_in_one_number(deep: bool) -> None:
    """Its bias, which comes without a batch, is then summed to a tensor without dimensions."""
    torch.manual_seed(0)
    more = (torch.nn.ReLU(), torch.nn.Conv2d(2, 2, 3, padding=1)) if deep else ()
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1), *more, _Total()).double()
    x = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    network = rj.load(module, x)
    assert network.output_shape == ()
    torch.testing.assert_close(network(x), module(x))
    bounds, point = rj.jacobian_bounds(network, rj.LpBall(x, 0.01)), x.clone().requires_grad_()
    (truth,) = torch.autograd.grad(module(point).sum(), point)
    assert bounds.rigorous
    assert bool(((bounds.lower <= truth) & (truth <= bounds.upper)).all())
