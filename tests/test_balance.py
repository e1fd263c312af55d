"""The search for multipliers of a P-chain: it pays, keeps to its limits, and what it finds is proved afterwards."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac.arithmetic import Fast, least_eigenvalue
from recurjac.deadline import Deadline
from recurjac.jacobian import Gradients
from recurjac.quadratic import Multipliers, System, least_of, optimised, positive, reach, system_of


def logarithms(reached: Tensor) -> Tensor:
    return positive(reached.diagonal()).log().sum()


def system(*sizes: int, radius: float = 0.3, activation: str = "relu") -> System:
    """Of a random dense network around a random point."""
    g = torch.Generator().manual_seed(len(sizes))
    layers = [
        (torch.randn(n, m, generator=g).double() * (2 / m) ** 0.5, torch.randn(n, generator=g).double() / 10)
        for m, n in pairwise(sizes)
    ]
    network = rj.load(layers, activation=activation)
    x = torch.rand(sizes[0], generator=g, dtype=torch.float64)
    return system_of(Gradients(rj.Problem(network, rj.LpBall(x, radius))).chain)


def value_of(chain: System, radius: Tensor, now: Multipliers) -> float:
    found = reach(replace(chain, arithmetic=Fast()), now.start(radius), now.choose)
    assert found is not None
    return float(logarithms(found.mid))


def by_adam(chain: System, radius: Tensor, begin: Multipliers, steps: int) -> Multipliers:
    def value(now):  # type: ignore[no-untyped-def]
        found = reach(replace(chain, arithmetic=Fast()), now.start(radius), now.choose)
        return None if found is None else logarithms(found.mid)

    return least_of(value, begin, steps)


@pytest.mark.parametrize("euclidean", [True, False])
@pytest.mark.parametrize("activation", ["relu", "tanh", "abs"])
def test_balancing_pays(activation: str, euclidean: bool) -> None:
    """With slopes from -1 to 1, t is best next to what is not feasible, where Adam's method has to follow."""
    chain = system(12, 30, 30, 20, activation=activation)
    radius = torch.full((12,), 0.3, dtype=torch.float64)
    begin = Multipliers.first(chain, radius, euclidean)
    adam = value_of(chain, radius, by_adam(chain, radius, begin, 30))
    found = value_of(chain, radius, optimised(chain, begin, radius, logarithms, 30))
    assert found <= adam + (1.5 if activation == "abs" else 0)
    assert found < value_of(chain, radius, begin) - 6


@pytest.mark.parametrize("rows", [2, 12])
def test_wide_layers_are_searched_in_single_precision_and_proved(rows: int) -> None:
    """G - J P Jᵀ has no negative eigenvalue, proved, for sampled slopes."""
    chain = system(10, 420, rows)
    radius = torch.ones(10, dtype=torch.float64)
    begin = Multipliers.first(chain, radius, False)
    best = optimised(chain, begin, radius, logarithms, 6)
    assert all(t.dtype == torch.float64 for t in best.leaves)
    assert value_of(chain, radius, best) < value_of(chain, radius, begin)
    start = best.start(radius)
    found, node = reach(chain, start, best.choose), chain.nodes[0]
    assert found is not None
    g = torch.Generator().manual_seed(0)
    first, last = node.edges[0].operator, next(iter(chain.rows.values())).mid
    columns = first.push(rj.Fast().exact(torch.eye(10, dtype=torch.float64))).mid
    for _ in range(5):
        signs = torch.randint(0, 2, node.half.shape, generator=g) * 2.0 - 1
        true = last @ ((node.middle + signs * node.half).unsqueeze(1) * columns.mT)
        assert float(least_eigenvalue(found - rj.Rigorous().exact(true @ torch.diag(start) @ true.mT))) >= -1e-9


def test_multipliers_above_the_largest_eigenvalue_are_feasible() -> None:
    """Also where Lanczos' iteration finds it."""
    g = torch.Generator().manual_seed(0)
    for n in (5, 150, 260, 500):
        root = torch.randn(n, n, generator=g, dtype=torch.float64)
        q, shape = root @ root.mT, torch.randn(n, generator=g, dtype=torch.float64)
        now = Multipliers(None, {1: shape}, {1: torch.tensor(-40.0, dtype=torch.float64)})
        for numbers, to in ((now, torch.float64), (now.map(Tensor.float), torch.float32)):
            t = numbers.choose(1, q.to(to)).double()
            assert int(torch.linalg.cholesky_ex(torch.diag(t) - q)[1]) == 0
            units = t.rsqrt()
            assert float(torch.linalg.eigvalsh(q * units * units.unsqueeze(1))[-1]) > 0.999


@pytest.mark.parametrize("share", [1.0001, 1.5, 1e3, 1e12])
def test_multipliers_are_made_from_t(share: float) -> None:
    chain = system(6, 9, 8, 7)
    radius = torch.ones(6, dtype=torch.float64)
    begin = Multipliers.first(chain, radius, True)
    t = {k: share * v for k, v in begin.chosen(chain, radius).items()}
    found = begin.near(chain, radius, None, {k: v.log() for k, v in t.items()}).chosen(chain, radius)
    if share > 1e9:
        assert all(bool(v.isfinite().all()) for v in found.values())
        return
    for k, v in t.items():
        torch.testing.assert_close(found[k], v, rtol=1e-6, atol=0)


def test_nothing_is_searched_after_the_deadline() -> None:
    chain = system(6, 9, 8, 7)
    radius = torch.ones(6, dtype=torch.float64)
    begin = Multipliers.first(chain, radius, False)
    assert optimised(chain, begin, radius, logarithms, 100, Deadline.after(0.0)) is begin
    assert optimised(chain, begin, radius, logarithms, 0) is begin


def test_systems_without_unknown_slopes_keep_their_multipliers() -> None:
    chain = system(6, 9, 8, 7, radius=0.0)
    radius = torch.ones(6, dtype=torch.float64)
    begin = Multipliers.first(chain, radius, True)
    found = optimised(chain, begin, radius, logarithms, 10)
    assert reach(chain, found.start(radius), found.choose) is not None
