"""Signs by structure: they are those of paths, and decide what rounding leaves open, but no planted wrong sign."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, final

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac import testing
from recurjac.arithmetic import Interval, Rigorous
from recurjac.jacobian import Gradients, SignsByStructure
from recurjac.jacobian.sign_structure import possible_gradients
from recurjac.operators import AbstractLeaf, AbstractOperator, Compose, Dense
from recurjac.operators.interval_matrix import IntervalMatrix
from recurjac.operators.reindex import AbstractInPlace, Identity, Negate
from recurjac.operators.signs import Possible, possible_image
from recurjac.problem import Problem
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import DenseForms
from tests.helpers import examples, matrix

SEEDS = range(4)
MONOTONE: tuple[Callable[[], nn.Module], ...] = (
    nn.ReLU, lambda: nn.LeakyReLU(0.1), nn.ELU, nn.CELU, nn.SELU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardtanh,
    nn.ReLU6, nn.Softsign, nn.LogSigmoid, nn.Hardsigmoid,
)  # fmt: skip
WHOLE, FEW = rj.Limit(parts=1), rj.Probe(count=0, proofs=0)

every_seed = pytest.mark.parametrize("seed", SEEDS, ids=lambda s: f"seed{s}")


@pytest.mark.parametrize("operator", examples(AbstractLeaf))
def test_signs_are_those_of_the_coefficients(operator: AbstractLeaf) -> None:
    found = operator.signs()
    assert found is not None
    assert torch.equal(matrix(found).double().sign(), matrix(operator).double().sign())


@pytest.mark.parametrize("operator", examples(AbstractOperator))
@every_seed
def test_possible_images_are_those_of_all_terms(operator: AbstractOperator, seed: int) -> None:
    g, n = torch.Generator().manual_seed(seed), prod(operator.in_shape)
    masks = [torch.rand(2, 3, *operator.in_shape, generator=g) < 0.3 for _ in range(2)]
    found = possible_image(operator, Possible(masks[0], masks[1]))
    dense, (up, down) = matrix(operator), (m.reshape(2, 3, 1, n) for m in masks)
    positive = ((dense > 0) & up) | ((dense < 0) & down)
    negative = ((dense > 0) & down) | ((dense < 0) & up)
    for mine, truth in ((found.positive, positive), (found.negative, negative)):
        flat = mine.reshape(2, 3, -1)
        assert bool((flat | ~truth.any(-1)).all())  # nothing is missed
        if not isinstance(operator, Compose):  # whose middle entries can have both signs
            assert torch.equal(flat, truth.any(-1))


def test_terms_that_cancel_underflow_or_vanish_beside_others_count() -> None:
    weight = torch.tensor([[1.0, -1.0, 0.0], [1e300, -5e-324, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    every = torch.ones(3, dtype=torch.bool)
    found = possible_image(Dense.matrix(weight), Possible(every, ~every))
    assert found.positive.tolist() == [True, True, False]
    assert found.negative.tolist() == [True, True, False]


@final
@dataclass(frozen=True)
class Wrong(AbstractInPlace):
    """Negation that is said to be the identity's signs."""

    shape: tuple[int, ...]

    def apply(self, tensor: Tensor) -> Tensor:
        return -tensor

    def rows(self, index: Tensor) -> tuple[AbstractLeaf, Tensor]:
        return Negate((len(index),)), index

    def signs(self) -> AbstractLeaf:  # type: ignore[override, misc]
        return Identity(self.shape)

    @classmethod
    def examples(cls) -> list[Any]:
        return [cls((3,))]


def test_wrong_signs_of_an_operator_are_found() -> None:
    testing.check_operator(Negate((3,)))
    with pytest.raises(AssertionError, match="a sign that `signs` does not have"):
        testing.check_operator(Wrong((3,)))


def test_matrices_known_up_to_rounding_have_all_signs_of_their_entries() -> None:
    mid = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    known = IntervalMatrix(Rigorous().ball(mid, torch.tensor([[0.5, 0.1, 0.5]], dtype=torch.float64)), (3,), (1,))
    units = torch.eye(3, dtype=torch.bool)
    found = possible_image(known, Possible(units, torch.zeros_like(units)))
    assert found.positive.flatten().tolist() == [True, True, False]
    assert found.negative.flatten().tolist() == [False, True, True]


class Foreign(nn.Module):
    """A residual block of convolutions, pooling, and a dense layer."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.first, self.inner = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.act, self.last, self.pool = activation, nn.Linear(12, 2), nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.first(x))
        return torch.sigmoid(self.last(self.pool(self.act(self.inner(h)) + h).flatten(1)))


def signed(module: nn.Module, seed: int) -> nn.Module:
    """The module in float64 with weights that are not negative, a third of them 0."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.double().parameters():
            values = torch.randn(p.shape, generator=g, dtype=torch.float64)
            p.copy_(values if p.dim() == 1 else values.abs() * (torch.rand(p.shape, generator=g) > 0.33) / p[0].numel())
    return module


def dense(activation: Callable[[], nn.Module], wide: Tensor, seed: int) -> nn.Sequential:
    """Four inputs in units of which `wide` is the range; the second and the fourth only lower the output."""
    net = nn.Sequential(nn.Linear(4, 9), activation(), nn.Linear(9, 7), activation(), nn.Linear(7, 1), nn.Sigmoid())
    signed(net, seed)
    first = net[0]
    assert isinstance(first, nn.Linear)
    with torch.no_grad():
        first.weight.mul_(torch.tensor([1.0, -1.0, 1.0, -1.0]).double() / wide)
    return net


RAW = torch.tensor([200000.0, 1.0, 90.0, 1e-4]).double()


@every_seed
@pytest.mark.parametrize("activation", MONOTONE, ids=lambda a: str(a()).split("(")[0])
def test_networks_that_are_monotone_by_their_weights_are_decided(
    activation: Callable[[], nn.Module], seed: int
) -> None:
    net = dense(activation, RAW, seed)
    found = rj.monotone(net, rj.Box(torch.zeros(4).double(), RAW), probe=FEW, limit=WHOLE)
    assert found.rigorous
    assert bool(found.increasing[0, 0, [0, 2]].all())
    assert bool(found.decreasing[0, 0, [1, 3]].all())


@every_seed
@pytest.mark.parametrize("activation", MONOTONE, ids=lambda a: str(a()).split("(")[0])
def test_images_and_residual_blocks_are_decided(activation: Callable[[], nn.Module], seed: int) -> None:
    net = signed(Foreign(activation()), seed)
    found = rj.monotone(net, torch.zeros(1, 2, 4, 4).double(), radius=0.7, norm=rj.inf, probe=FEW, limit=WHOLE)
    assert bool(found.increasing.all())


@every_seed
def test_a_planted_wrong_sign_is_not_decided(seed: int) -> None:
    """One negative weight of a first layer whose neurons all matter, down to the least sizes."""
    for small in (1e-3, 1e-9, 1e-30, 1e-300):
        net = dense(nn.Tanh, torch.ones(4).double(), seed)
        first, second, third = net[0], net[2], net[4]
        assert isinstance(first, nn.Linear)
        with torch.no_grad():
            for layer in (second, third):
                layer.weight.abs_().add_(0.1)  # type: ignore[operator]
            first.weight[:, 0] = 0.0
            first.weight[seed, 0] = -small
        region = rj.Box(torch.zeros(4).double(), torch.ones(4).double())
        found = rj.monotone(net, region, probe=FEW, limit=WHOLE)
        assert not bool(found.increasing[0, 0, 0])
        assert bool(found.decreasing[0, 0, 0])
        with torch.no_grad():
            first.weight[(seed + 1) % 9, 0] = small
        # one path of each sign: numbers alone decide
        signs = possible_gradients(Gradients(Problem(rj.load(net, torch.zeros(1, 4).double()), region)).chain)
        assert bool(signs.positive[0, 0, ..., 0].all())
        assert bool(signs.negative[0, 0, ..., 0].all())


def random_chain(seed: int) -> tuple[ChainRule, tuple[Interval, ...]]:
    """The chain rule of a random network with activations that also fall, and its slopes."""
    g = torch.Generator().manual_seed(seed)
    sizes, layers = (3, 4, 4, 2), []
    for before, after in pairwise(sizes):
        weight = torch.randn(after, before, generator=g, dtype=torch.float64)
        layers.append((weight * (torch.rand(after, before, generator=g) < 0.5), torch.zeros(after).double()))
    net = rj.load(layers, activation=["silu", "sin"][seed % 2])
    chain = Gradients(Problem(net, rj.LpBall(torch.randn(2, 3, generator=g).double(), 0.3))).chain
    return chain, tuple(s for s in chain.slopes if s is not None)


@pytest.mark.parametrize("seed", range(12), ids=lambda s: f"seed{s}")
def test_gradients_with_any_slopes_have_possible_signs(seed: int) -> None:
    """Exact on paths: gradients with each slope at an end have no other signs, and every sign is that of some path."""
    chain, slopes = random_chain(seed)
    found, g = possible_gradients(chain), torch.Generator().manual_seed(seed)
    weights = [matrix(into[0].operator) for into in chain.edges[1:]]
    for _ in range(50):
        product = weights[0].expand(2, -1, -1)
        for weight, s in zip(weights[1:], slopes, strict=True):
            at = torch.where(torch.rand(s.lower.shape, generator=g) < 0.5, s.lower, s.upper)
            product = weight @ (at.unsqueeze(2) * product)
        assert not bool(((product > 0) & ~found.positive).any())
        assert not bool(((product < 0) & ~found.negative).any())
    for mine, sign in ((found.positive, 1.0), (found.negative, -1.0)):
        assert torch.equal(mine, paths(weights, slopes, sign))


def paths(weights: list[Tensor], slopes: tuple[Interval, ...], sign: float) -> Tensor:
    """Where some path has this sign, one by one: (batch, outputs, inputs)."""
    a, b, c = weights
    found = torch.zeros(2, 2, 3, dtype=torch.bool)
    for sample in range(2):
        ends = [[(float(s.lower[sample, i]), float(s.upper[sample, i])) for i in range(4)] for s in slopes]
        for x in range(3):
            for i in range(4):
                for j in range(4):
                    for y in range(2):
                        weight = float((a[i, x].sign() * b[j, i].sign() * c[y, j].sign()) * sign)
                        for p in ends[0][i]:
                            for q in ends[1][j]:
                                found[sample, y, x] |= weight * p * q > 0
    return found


@every_seed
def test_other_methods_are_not_changed_away_from_0(seed: int) -> None:
    """Ends beyond rounding of 0 are those of the method, bit for bit; signs along tangents are those of the sums."""
    g = torch.Generator().manual_seed(seed)
    net = dense(nn.Tanh, torch.ones(4).double(), seed)
    problem = Problem(rj.load(net, torch.zeros(1, 4).double()), rj.Box(torch.zeros(4).double(), torch.ones(4).double()))
    plain = rj.RecurJac().prepare(Gradients(problem)).push_all()
    signs = SignsByStructure(rj.RecurJac()).prepare(Gradients(problem)).push_all()
    for mine, its in ((signs.lower, plain.lower), (signs.upper, plain.upper)):
        assert bool(((mine == its) | (mine == 0)).all())
        assert bool(((mine == its) | (its.abs() < 1e-9)).all())
    ways = torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 2.0], [1.0, 50.0, 0.0, 0.0]]).double()
    ways = ways * (0.1 + torch.rand(4, generator=g, dtype=torch.float64))
    found = SignsByStructure(rj.FastLip()).prepare(Gradients(problem))
    along = found.push(DenseForms(ways[None, None], problem.arithmetic))
    assert bool(along.lower[0, 0, 0] >= 0)
    assert bool(along.upper[0, 0, 1] <= 0)
    plain = rj.FastLip().prepare(Gradients(problem)).push(DenseForms(ways[None, None], problem.arithmetic))
    assert along.lower[0, 0, 2] == plain.lower[0, 0, 2] < 0
    assert along.upper[0, 0, 2] == plain.upper[0, 0, 2]
