"""The centred P-chain: sound for all smooth networks and regions, with a slack of second order."""

from __future__ import annotations

from math import inf

import pytest
import torch

import recurjac as rj
from recurjac.activations import Derivative
from recurjac.testing.networks import KINDS, random_network, true_jacobians
from tests.marks import in_turn

SMOOTH = [k for k, a in KINDS.items() if Derivative.known_for(a, torch.zeros(1, dtype=torch.float64))]
BALLS = ((0.0, inf), (1e-6, 2.0), (0.02, 1.0), (0.1, inf), (0.4, 2.0), (3.0, 1.0), (100.0, inf))


def test_the_kinds_that_are_smooth() -> None:
    assert {"sigmoid", "tanh", "arctan", "softplus", "gelu", "silu", "sin"} <= set(SMOOTH)
    assert not {"relu", "hard_tanh", "hard_swish", "selu", "elu1.6"} & set(SMOOTH)


@pytest.mark.parametrize(("kind", "residual"), in_turn(SMOOTH, [False, True]))
def test_sampled_jacobians_are_inside(kind: str, residual: bool) -> None:
    first = sum(map(ord, kind)) + 2 * residual
    for seed, (radius, p) in enumerate((BALLS * 2)[first % 7 : first % 7 + 3]):
        network = random_network(kind, seed, residual)
        x = torch.randn(1 + seed % 2, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        region = rj.LpBall(x, radius, p) if seed < 2 else rj.LpBall(x, radius, p, clip=(-4.0, 4.5))
        found = rj.jacobian_bounds(network, region, method=rj.Centred(4))
        bound = region.bind((2, 2), torch.float64, torch.device("cpu"))
        points = torch.cat([bound.x.unsqueeze(1), bound.sample(60, torch.Generator().manual_seed(1))], 1)
        for at, low, high in zip(points, found.lower, found.upper, strict=True):
            true = true_jacobians(network, at)
            slack = 1e-11 * true.abs().max() + 1e-300
            assert bool((true >= low - slack).all())
            assert bool((true <= high + slack).all())


@pytest.mark.parametrize("kind", ["relu", "hard_swish", "falling"])
def test_other_networks_and_the_whole_space_are_bounded_by_chords(kind: str) -> None:
    network, x = random_network(kind, 0, True), torch.zeros(2, 2)
    for net, radius in ((network, 0.3), (random_network("tanh", 0, False), inf)):
        found, plain = (rj.jacobian_bounds(net, rj.LpBall(x, radius), method=m) for m in (rj.Centred(), rj.Chords()))
        assert torch.equal(found.upper, plain.upper)
        assert torch.equal(found.lower, plain.lower)


def test_the_slack_is_of_second_order() -> None:
    network = random_network("tanh", 0, False)
    x = torch.randn(1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hessians = torch.func.jacrev(lambda v: true_jacobians(network, v[None])[0])(x[0]).flatten(-2)
    true, slack = true_jacobians(network, x)[0], {}
    for radius in (2e-3, 1e-3):
        b = rj.jacobian_bounds(network.output(0), rj.LpBall(x, radius, 2), method=rj.Centred(300))
        wide = b.upper[0, 0] - true[0] - radius * torch.linalg.vector_norm(hessians[0], dim=-1)
        slack[radius] = float(wide.sum())
        assert slack[radius] > 0
    plain = rj.jacobian_bounds(network.output(0), rj.LpBall(x, 1e-3, 2), method=rj.Chords())
    assert slack[1e-3] < 0.2 * float((plain.upper[0, 0] - true[0]).sum())


def test_tangents_of_each_output() -> None:
    network = random_network("gelu", 1, True)
    problem = rj.Problem(network, rj.LpBall(torch.zeros(2, 2, 2, dtype=torch.float64), 0.1))
    whole = rj.lipschitz(problem, method=rj.Centred(3), search=rj.Search(work=0)).upper
    points = problem.bound.sample(100, torch.Generator().manual_seed(0))
    for at, upper in zip(points, whole, strict=True):
        assert float(true_jacobians(network, at).flatten(2).abs().sum(-1).amax()) <= float(upper)
