"""The search for multipliers along vectors: its value and its derivatives are those of the P-chain itself."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac.preactivation.centred import SecantSystem, secant_system
from recurjac.quadratic import Multipliers, envelope, optimised_rows, reach, spread_evenly
from tests.marks import every_seed


class Branched(torch.nn.Module):
    """A branch around a hidden layer, and one around all of them."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(6, 12), (12, 12), (12, 12), (12, 5), (6, 5)]
        self.parts = torch.nn.ModuleList([torch.nn.Linear(*size, dtype=torch.float64) for size in sizes])

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.parts[0](x))
        g = torch.tanh(self.parts[1](h)) + h
        found: Tensor = self.parts[3](torch.relu(self.parts[2](g)) + 0.5 * h) + self.parts[4](x)
        return found


def system(seed: int, p: float, radius: float = 0.5, kind: str = "branched") -> SecantSystem:
    torch.manual_seed(seed)
    dense = torch.nn.Sequential(torch.nn.Linear(6, 20), torch.nn.ReLU(), torch.nn.Linear(20, 20), torch.nn.ReLU(),
                                torch.nn.Linear(20, 100)).double()  # fmt: skip
    x = torch.rand(1, 6, dtype=torch.float64)
    network = rj.load(Branched() if kind == "branched" else dense, x)
    state = rj.Problem(network, rj.LpBall(x, radius, p), arithmetic=rj.Fast()).preactivations()
    found = secant_system(state, 0, None)
    assert found is not None
    return found


def value(asked: SecantSystem, now: Multipliers) -> Tensor:
    """The mean logarithm of all rows from the whole matrix, in plain floating point, with derivatives."""
    whole = reach(replace(asked.system(), arithmetic=rj.Fast()), now.start(asked.radius), now.choose)
    assert whole is not None
    return whole.mid.diagonal().log().mean()


@every_seed
@pytest.mark.parametrize("kind", ["branched", "dense"])
@pytest.mark.parametrize("p", [2.0, inf])
def test_values_and_derivatives(seed: int, p: float, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "_SAFE", 0.0)
    asked = system(seed, p, kind=kind)
    whole = asked.system()
    begin = Multipliers.first(whole, asked.radius, asked.euclidean)
    generator = torch.Generator().manual_seed(seed)
    now = begin.map(lambda t: (t + 0.3 * torch.randn(t.shape, generator=generator, dtype=t.dtype)).requires_grad_())
    want, got = value(asked, now), envelope._value(whole, asked.radius, now)
    assert got is not None
    assert got.item() == pytest.approx(want.item(), rel=1e-9)
    for a, b in zip(torch.autograd.grad(want, now.leaves), torch.autograd.grad(got, now.leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@every_seed
@pytest.mark.parametrize("p", [2.0, inf])
def test_a_search_gains(seed: int, p: float) -> None:
    for kind in ("branched", "dense"):
        asked = system(seed, p, kind=kind)
        whole = asked.system()
        first = Multipliers.first(whole, asked.radius, asked.euclidean)
        begin = spread_evenly(whole, asked.radius, asked.euclidean)
        best = optimised_rows(whole, begin, asked.radius, 30)
        assert all(t.dtype == torch.float64 for t in best.leaves)
        assert value(asked, best).item() < value(asked, begin).item() - 0.01
        assert value(asked, best).item() < value(asked, first).item() - 0.01


@pytest.mark.parametrize("radius", [0.0, 1e-300, 1e-20, 1e20, 1e200])
def test_what_single_precision_cannot_represent_proves_less_but_not_wrongly(radius: float) -> None:
    asked = system(0, inf, radius)
    half = asked.half_widths(asked.system(), asked.multipliers(asked.system(), 10))
    assert bool((half >= 0).all())
    network, x = asked.state.network, asked.centre
    ways = torch.rand(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    away = (network(x + radius * ways.sign()) - network(x)).abs().amax(0)
    assert bool((away <= half * (1 + 1e-9) + 1e-12).all())


def test_nothing_to_search() -> None:
    network = rj.load([(torch.ones(1, 2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))])
    state = rj.Problem(network, rj.LpBall(torch.zeros(2), 0.5)).preactivations()
    asked: Any = secant_system(state, 0, None)
    assert asked.half_widths(asked.system(), asked.multipliers(asked.system(), 5)).tolist() == pytest.approx([1.0])


def test_nodes_without_unstable_neurons_and_rows_that_are_0() -> None:
    asked = system(1, inf, 1e-6)
    whole = asked.system()
    none = replace(whole, rows={k: r * rj.Fast().exact(torch.zeros_like(r.mid)) for k, r in whole.rows.items()})
    assert optimised_rows(none, spread_evenly(none, asked.radius, False), asked.radius, 3).leaves
