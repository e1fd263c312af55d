"""Softmax, attention and normalisation: ranges and Jacobians hold over regions of every size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor, nn

import recurjac as rj
from recurjac.activations import FlooredPower
from recurjac.jacobian import AbstractJacobianMethod
from recurjac.preactivation import AbstractPreactivation
from recurjac.testing.networks import true_jacobians
from tests.marks import often
from tests.torch_cases import Fn

Formula = Callable[[Tensor], Tensor]
HIDDEN = torch.ones(3, 3, dtype=torch.bool).triu(1)


def _block(first: bool) -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 5, batch_first=True, norm_first=first, activation="gelu")


def _plain(f: Formula) -> Callable[[], nn.Module]:
    return lambda: Fn(lambda p, x: f(p[0](x)), nn.Linear(4, 4))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "softmax": _plain(lambda z: z.softmax(-1)),
    "log-softmax": _plain(lambda z: z.log_softmax(1)),
    "product": _plain(lambda z: z @ z.mT @ z),
    "attention": _plain(lambda z: F.scaled_dot_product_attention(z, z, z)),
    "masked": _plain(lambda z: (z @ z.mT).masked_fill(HIDDEN, -torch.inf).softmax(-1) @ z),
    "norm": _plain(lambda z: F.layer_norm(z, (4,), eps=1e-2)),
    "length": _plain(lambda z: F.normalize(z, dim=-1, eps=0.1)),
    "post": lambda: _block(False),
    "pre": lambda: _block(True),
}
METHODS: dict[str, AbstractJacobianMethod] = {
    "fastlip": rj.FastLip(), "recurjac": rj.RecurJac(), "chords": rj.Chords(), "reversed": rj.Reversed(rj.Chords()),
}  # fmt: skip
RULES: dict[str, AbstractPreactivation] = {"ibp": rj.IBP(), "crown": rj.Crown(), "fastlin": rj.FastLin()}
BALLS = ((0.0, 2), (0.01, rj.inf), (0.3, 2), (20.0, rj.inf))


def network_of(name: str, seed: int = 0) -> rj.Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = MODULES[name]().double()
    return rj.load(module, torch.ones(1, 3, 4)).detached()


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", often(MODULES, MODULES.keys() - {"post", "pre"}))
def test_sampled_values_and_jacobians_are_inside(name: str, seed: int) -> None:
    network = network_of(name, seed)
    centre = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for radius, p in BALLS:
        region = rj.LpBall(centre, radius, p)
        bound = region.bind((3, 4), network.dtype, network.device)
        points = torch.cat([bound.x, bound.sample(12, torch.Generator().manual_seed(seed))[0]])
        true = true_jacobians(network, points)
        slack = 1e-9 * float(true.abs().max())
        for method in METHODS.values():
            bounds = rj.jacobian_bounds(network, region, method=method)
            assert bool((true >= bounds.lower - slack).all() & (true <= bounds.upper + slack).all()), method
            if radius == 0:
                assert float((bounds.upper[0] - true[0]).abs().max()) <= slack
                assert float((bounds.lower[0] - true[0]).abs().max()) <= slack
        for rule in RULES.values():
            stages = rj.preactivation_bounds(network, region, pre=rule).stages
            for z, range_ in zip(network.preactivations(points), stages, strict=True):
                size = 1e-9 * (1 + z.abs())
                assert bool((z >= range_.lower - size).all() & (z <= range_.upper + size).all()), rule


@pytest.mark.parametrize("name", MODULES)
def test_an_unbounded_region_is_no_error(name: str) -> None:
    bounds = rj.jacobian_bounds(network_of(name), rj.LpBall(torch.zeros(1, 3, 4), rj.inf), method=rj.Chords())
    assert not bool(bounds.lower.isnan().any() | bounds.upper.isnan().any())
    if name in ("softmax", "log-softmax"):
        assert bool(bounds.lower.isfinite().all() & bounds.upper.isfinite().all())


def test_slopes_of_a_softmax_are_near_the_truth() -> None:
    """Its largest entries, on a box of logits."""
    network = rj.load(Fn(lambda _, x: x.softmax(1)), torch.ones(1, 4), dtype=torch.float64)
    logits = torch.tensor([[0.3, -1.0, 1.2, 0.1]], dtype=torch.float64)
    for radius, most in ((0.01, 1.02), (0.1, 1.2)):
        bounds = rj.jacobian_bounds(network, rj.LpBall(logits, radius, rj.inf), method=rj.Chords())
        corners = torch.cartesian_prod(*[torch.tensor([-radius, 0.0, radius], dtype=torch.float64)] * 4)
        true = true_jacobians(network, logits + corners).abs().amax(0)
        found = torch.maximum(bounds.upper[0].abs(), bounds.lower[0].abs())
        assert float((found / true).max()) <= most, float((found / true).max())


def test_two_classes_are_a_sigmoid() -> None:
    network = rj.load(Fn(lambda _, x: x.softmax(1)), torch.ones(1, 2))
    assert [s.activation.name for s in network.stages if not s.linear] == ["sigmoid"]
    assert network.depth == 2


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13])
def test_shares_of_any_number_add_up(count: int) -> None:
    """Large logits do not overflow, and hidden ones have no share."""
    hidden = torch.arange(count) % 3 == 1
    module = Fn(lambda _, x: torch.cat([x.softmax(1), x.masked_fill(hidden, -torch.inf).softmax(1)], 1))
    network = rj.load(module, torch.ones(1, count), dtype=torch.float64)
    x = 300 * torch.randn(5, count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    torch.testing.assert_close(network(x), module(x), rtol=1e-9, atol=1e-300)
    torch.testing.assert_close(network(x).sum(1), torch.full((5,), 2.0, dtype=torch.float64))


def _applied(form: Formula) -> nn.Module:
    return Fn(lambda _, x: form(x))


def test_sums_that_are_positive_stay_away_from_zero() -> None:
    """Where a relaxation of a sum of squares goes below 0, its root has finite slopes, as eps is known."""
    forms: list[Formula] = [
        lambda x: x / torch.sqrt((x - x.mean(1, True)).pow(2).mean(1, keepdim=True) + 0.01),
        lambda x: x * torch.rsqrt((x * x).sum(1, keepdim=True) / 3 + 0.01),
        lambda x: x / (torch.exp(x).sum(1, keepdim=True) + 0.5),
        lambda x: 1 / (x.abs().sum(1, keepdim=True) + torch.relu(x) + 0.5),
    ]
    for form in forms:
        network = rj.load(_applied(form), torch.ones(1, 4), dtype=torch.float64)
        assert any(isinstance(s.activation, FlooredPower) for s in network.stages)
        bounds = rj.jacobian_bounds(network, rj.LpBall(torch.zeros(4), 3.0, rj.inf), method=rj.Chords())
        assert bool(bounds.upper.isfinite().all() & bounds.lower.isfinite().all())


def _weighted_squares() -> Any:
    """The root of a sum of squares with positive weights, which may change while the network is used."""
    module: Any = Fn(lambda p, x: torch.sqrt(p[0](x.square()) + 4.0), nn.Linear(2, 1, bias=False)).double()
    nn.init.constant_(module.parts[0].weight, 1.0)
    return module


def test_weights_that_a_sum_relies_on_are_watched() -> None:
    module = _weighted_squares().requires_grad_(False)
    network = rj.load(module, torch.ones(1, 2))
    assert any(isinstance(s.activation, FlooredPower) for s in network.stages)
    rj.jacobian_bounds(network, rj.LpBall(torch.zeros(2), 0.1))
    module.parts[0].weight[0, 0] = -1.0
    with pytest.raises(rj.InvalidNetwork):
        rj.jacobian_bounds(network, rj.LpBall(torch.zeros(2), 0.1))


def test_sums_that_may_be_negative_are_not_taken_for_positive() -> None:
    module = _weighted_squares()
    networks = [
        rj.load(module, torch.ones(1, 2)),
        rj.load(Fn(lambda _, x: torch.sqrt(4.0 - x.square())), torch.ones(1, 2)),
        rj.load(Fn(lambda _, x: torch.sqrt(x.square() - 0.01)), torch.ones(1, 2)),
        rj.load(Fn(lambda _, x: torch.sqrt(x + 1.0)), torch.ones(1, 2)),
    ]
    assert not any(isinstance(s.activation, FlooredPower) for n in networks for s in n.stages)


@pytest.mark.parametrize("radius", [0.1, 2.0])
def test_secants_where_no_path_leads_through_a_stage(radius: float) -> None:
    """The share of a single token is 1, so that nothing depends on the product from which it is."""
    torch.manual_seed(0)
    network = rj.load(Fn(lambda p, x: F.scaled_dot_product_attention(z := p[0](x).tanh(), z, z), nn.Linear(3, 4)),
                      torch.zeros(1, 1, 3))  # fmt: skip
    problem = rj.Problem(network, rj.LpBall(torch.zeros(1, 1, 3), radius, p=2), pre=rj.Secants(4))
    bounds = rj.jacobian_bounds(problem, method=rj.Chords())
    points = problem.bound.sample(50, torch.Generator().manual_seed(0))[0].to(network.dtype)
    true = true_jacobians(network, points).reshape(50, *bounds.lower.shape[1:])
    assert bool(((bounds.lower[0] <= true + 1e-12) & (true - 1e-12 <= bounds.upper[0])).all())
