"""Cuts: products at nodes that all paths go through; an activation on top of an output keeps the signs below it."""

from __future__ import annotations

from math import inf

import pytest
import torch
from torch import nn

import recurjac as rj
from recurjac.activations import AbstractActivation
from recurjac.jacobian.base import Descended
from recurjac.loading.expression import Builder
from recurjac.network import Network
from recurjac.operators import Dense
from recurjac.testing import check_jacobian_method
from recurjac.testing.networks import KINDS, true_jacobians
from tests.marks import in_turn, some_kinds

PLAIN = rj.Intersection(rj.Chords(), rj.RecurJac())
CUT = rj.Cut(PLAIN)
TOPS = {
    "relu": nn.ReLU(), "sigmoid": nn.Sigmoid(), "tanh": nn.Tanh(), "softplus": nn.Softplus(), "elu": nn.ELU(),
    "hard_tanh": nn.Hardtanh(),
}  # fmt: skip


def waisted(kind: str, seed: int, waist: int, outputs: int, past: bool = False) -> Network:
    """A network of 3 inputs with a stage of `waist` neurons in the middle, which paths may go `past`."""
    g, dtype, act = torch.Generator().manual_seed(seed), torch.float64, KINDS[kind]

    def matrix(out: int, inn: int) -> Dense:
        return Dense.matrix(torch.randn(out, inn, generator=g, dtype=dtype) * (1.5 / inn**0.5))

    builder = Builder((3,), False, dtype, torch.device("cpu"))
    x = builder.input()
    h = x.apply(matrix(6, 3)).activate(act)
    h = h.apply(matrix(waist, 6)).shift(torch.randn(waist, generator=g, dtype=dtype)).activate(act)
    h = h.apply(matrix(5, waist)).activate(act)
    out = h.apply(matrix(outputs, 5))
    return builder.finish(out.plus(x.apply(matrix(outputs, 3))) if past else out)


@pytest.mark.parametrize(("kind", "waist"), in_turn(sorted(KINDS), [1, 2, 3]))
def test_sampled_jacobians_are_inside_and_nothing_is_looser(kind: str, waist: int) -> None:
    for seed, (radius, p) in enumerate([(0.0, inf), (0.05, 2), (0.5, inf), (3.0, 1), (inf, inf)]):
        net = waisted(kind, seed, waist, 2, past=seed == 2)
        x = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        region = rj.LpBall(x, radius, p)
        whole, cut = (rj.jacobian_bounds(net, region, method=m) for m in (PLAIN, CUT))
        assert bool((cut.lower >= whole.lower).all())
        assert bool((cut.upper <= whole.upper).all())
        bound = region.bind((3,), torch.float64, torch.device("cpu"))
        points = torch.cat([bound.x.unsqueeze(1), bound.sample(60, torch.Generator().manual_seed(1))], 1)
        for at, low, high in zip(points, cut.lower, cut.upper, strict=True):
            true = true_jacobians(net, at)
            slack = 1e-12 * true.abs().max() + 1e-300
            assert bool((true >= low - slack).all())
            assert bool((true <= high + slack).all())


@some_kinds
def test_the_checks_of_methods_outside(kinds: tuple[str, ...]) -> None:
    check_jacobian_method(rj.Cut(rj.Chords(), most=7), 0, kinds)


def body(outputs: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    act = nn.LeakyReLU(0.3)
    return nn.Sequential(nn.Linear(2, 12), act, nn.Linear(12, 12), act, nn.Linear(12, outputs)).double()


class Rising(nn.Module):
    """A network that rises in both inputs, with an activation on top."""

    def __init__(self, inner: nn.Module, top: nn.Module | None) -> None:
        super().__init__()
        self.inner, self.top = inner, top

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x) + 2 * x.sum(-1, keepdim=True)
        return y if self.top is None else self.top(y)  # type: ignore[no-any-return]


@pytest.mark.parametrize("outputs", [1, 4])
@pytest.mark.parametrize("top", TOPS)
def test_an_activation_on_top_keeps_the_sign(top: str, outputs: int) -> None:
    inner, x = body(outputs, 0), torch.zeros(1, 2, dtype=torch.float64)
    box = rj.Box(x - 1, x + 1)
    bare, net = (rj.load(Rising(inner, t), x) for t in (None, TOPS[top]))
    whole = rj.Limit(parts=1)
    below, found = rj.monotone(bare, box, limit=whole), rj.monotone(net, box, limit=whole)
    assert bool(below.increasing.any())
    assert bool((found.increasing | ~below.increasing).all())
    assert bool((rj.jacobian_bounds(net, box).lower >= 0)[below.increasing].all())


def test_a_row_sum_is_pushed_through_the_product() -> None:
    """One tangent for each output, whose neurons differ: s [L, U] for each."""
    inner, x = body(4, 0), torch.zeros(1, 2, dtype=torch.float64)
    box = rj.Box(x - 1, x + 1)
    net = rj.load(nn.Sequential(inner, nn.Sigmoid()), x)
    whole, cut = (rj.lipschitz(net, box, method=m, search=rj.Search(work=0)).upper for m in (PLAIN, CUT))
    assert bool((cut <= whole).all())
    each = [rj.lipschitz(net.output(k), box, method=CUT).upper for k in range(4)]
    assert torch.allclose(torch.stack(each).amax(0), cut, rtol=1e-12)
    sampled = true_jacobians(net, torch.rand(500, 2, dtype=torch.float64) * 2 - 1).abs().sum(-1).amax()
    assert float(sampled.detach()) <= float(cut.detach())


def test_a_margin_of_two_probabilities() -> None:
    x = torch.zeros(1, 2, dtype=torch.float64)
    net = rj.load(nn.Sequential(body(4, 1), nn.Sigmoid()), x).margin(1, 3)
    region = rj.LpBall(x, 0.3)
    whole, cut = (rj.jacobian_bounds(net, region, method=m) for m in (PLAIN, CUT))
    points = torch.rand(300, 2, dtype=torch.float64) * 0.6 - 0.3
    true = true_jacobians(net, points)
    for found in (whole, cut):
        assert bool((true >= found.lower - 1e-13).all())
        assert bool((true <= found.upper + 1e-13).all())
    assert bool((cut.upper <= whole.upper).all())


@pytest.mark.parametrize("act", [KINDS["relu"], KINDS["tanh"]], ids=["relu", "tanh"])
def test_without_a_waist_nothing_else_runs(act: AbstractActivation) -> None:
    kind = next(k for k, v in KINDS.items() if v == act)
    net = waisted(kind, 0, 3, 2)
    prepared = CUT.prepare(rj.Gradients(rj.Problem(net, rj.LpBall(torch.zeros(3), 0.5))))
    assert isinstance(prepared, Descended)  # the method's own bounds, without products beside them
