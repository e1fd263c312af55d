"""Clamps by a P-chain from the outputs: no true gradient is larger, and entries are never looser."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac import testing
from recurjac.jacobian.quadratic_clamps import _ROWS
from recurjac.network import Network
from recurjac.search import point_jacobian
from tests.marks import often, some_kinds

QUIET = rj.Search(work=0)


def net(seed: int, sizes: tuple[int, ...], activation: str = "relu") -> Network:
    g = torch.Generator().manual_seed(seed)
    layers = [
        (torch.randn(n, m, generator=g).double() * (2.5 / m) ** 0.5, torch.randn(n, generator=g).double() / 4)
        for m, n in pairwise(sizes)
    ]
    return rj.load(layers, activation=activation)


def later(network: Network, stage: int) -> Network:
    """The stages after a stage, as a network of that stage's output."""
    return rj.load(
        [(s.edges[0].operator.weight, s.bias(rj.Fast()).mid) for s in network.stages[stage:]],  # type: ignore[attr-defined, union-attr]
        activation=network.stages[0].activation.name,
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("activation", ["relu", "tanh", "hard_tanh"])
@pytest.mark.parametrize("outputs", [1, 3, _ROWS + 1])
def test_no_true_gradient_is_larger(seed: int, activation: str, outputs: int) -> None:
    network = net(seed, (3, 8, 7, 6, outputs), activation)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed)).double()
    problem = rj.Problem(network, rj.LpBall(x, 0.7))
    chain = rj.Gradients(problem).chain
    sizes = rj.QuadraticClamped(steps=5)._sizes(chain)
    assert set(sizes) == {1, 2, 3}
    points = problem.bound.sample(60, torch.Generator().manual_seed(1))
    tightest = inf
    for k, most in sizes.items():
        assert most.shape == (2, outputs, *network.shape(k))
        for i in range(2):
            values = _post(network, points[i], k)
            true = point_jacobian(later(network, k), values).abs().amax(0)
            assert bool((true <= most[i] * (1 + 1e-12)).all())
            tightest = min(tightest, float((most[i] / true.clamp(min=1e-9)).min()))
    assert tightest < 2  # they say something


def _post(network: Network, x: Tensor, k: int) -> Tensor:
    return network.stages[k - 1].activation.value(network.preactivations(x)[k - 1])


@some_kinds
@pytest.mark.parametrize("seed", often(range(3), (0,)))
def test_on_random_networks(seed: int, kinds: tuple[str, ...]) -> None:
    method = rj.QuadraticClamped(rj.RecurJac() if seed else rj.Chords(), steps=2 * seed)
    testing.check_jacobian_method(method, seed, kinds)


@pytest.mark.parametrize("p", [2, inf])
def test_entries_are_tighter_where_many_neurons_are_unstable(p: float) -> None:
    network = net(0, (8, 20, 20, 20, 20, 20, 2))
    region = rj.LpBall(torch.zeros(8), 0.5, p)
    plain, clamped = (
        rj.jacobian_bounds(network, region, method=m) for m in (rj.Chords(), rj.QuadraticClamped(steps=10))
    )
    assert bool((clamped.lower >= plain.lower).all() & (clamped.upper <= plain.upper).all())
    assert float((clamped.upper - clamped.lower).max()) < 0.9 * float((plain.upper - plain.lower).max())
    assert clamped.rigorous


def test_wide_networks_are_not_clamped() -> None:
    wide = rj.load([(torch.ones(3000, 1), None), (torch.ones(1, 3000), None)], activation="relu")
    plain, clamped = (
        rj.jacobian_bounds(wide, rj.LpBall(torch.zeros(1), 1.0), method=m) for m in (rj.Chords(), rj.QuadraticClamped())
    )
    assert torch.equal(plain.upper, clamped.upper)


def test_the_search_ends_in_time() -> None:
    with pytest.raises(rj.InvalidRequest, match="positive number of seconds"):
        rj.QuadraticClamped(seconds=0)
    assert rj.QuadraticClamped(seconds=3).within(1).seconds == 1
    assert rj.QuadraticClamped(seconds=3).within(5).seconds == 3


@pytest.mark.parametrize("batch", [1, 2])
def test_clamps_of_bounds_that_all_rows_share(batch: int) -> None:
    """Behind a layer of dead neurons, all gradients are 0, and so are the bounds, of one row for all."""
    g = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(n, 3, generator=g, dtype=torch.float64) for n in (4, 3, 2))
    b = torch.cat([b, b[:, :1]], 1)
    network = rj.load([(a, None), (b, torch.full((3,), -1e3)), (c, None)], activation="relu")
    x = torch.randn(batch, 3, generator=g, dtype=torch.float64)
    for method in (rj.Clamped(rj.Chords(), rj.QuadraticNorm(2)), rj.QuadraticClamped()):
        found = rj.jacobian_bounds(network, rj.LpBall(x, 0.3), method=method)
        assert bool((found.lower == 0).all() & (found.upper == 0).all())
