"""Errors that are absorbed at a node cover what products of forms really lose, in rational arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch

import recurjac as rj
from recurjac.activations import LeakyReLU, ReLU
from recurjac.arithmetic import Ball, Loss, Sizes, paid
from recurjac.network import Network, chain
from recurjac.operators import AbstractOperator, Compose
from recurjac.operators.interval_matrix import IntervalMatrix
from recurjac.operators.scale import Divide, Standardise
from recurjac.propagation import push_route
from recurjac.propagation.route import loss_of
from recurjac.relaxations import Absorption, LinearRelaxation
from tests import exact
from tests.helpers import examples

RIGOROUS = rj.Rigorous()
DTYPES = (torch.float32, torch.float64)
SCALES = (1.0, 1e-30, 1e30)


def matrix(operator: AbstractOperator, dtype: torch.dtype, pick: float) -> exact.Exact:
    """The exact matrix of an operator; `pick` chooses one within the radius of an `IntervalMatrix`."""
    if isinstance(operator, Compose):
        return matrix(operator.outer, dtype, pick).dot(matrix(operator.inner, dtype, pick))
    if isinstance(operator, IntervalMatrix):
        mid, rad = operator.matrix.mid, operator.matrix.rad
        assert rad is not None
        return exact.rational(mid) + Fraction(pick) * exact.rational(rad.expand_as(mid))
    index = torch.arange(int(np.prod(operator.in_shape)))
    return exact.rational(operator.columns(index, dtype, rj.Fast()).mid.reshape(len(index), -1).mT)


def plain(operator: AbstractOperator) -> bool:
    """Whether `matrix` is exact for it."""
    if isinstance(operator, Compose):
        return plain(operator.outer) and plain(operator.inner)
    return not isinstance(operator, Divide | Standardise)


def operators() -> Iterator[AbstractOperator]:
    for parameter in examples(AbstractOperator):
        operator = parameter.values[0]
        assert isinstance(operator, AbstractOperator)
        if plain(operator):
            yield operator
    g = torch.Generator().manual_seed(5)
    mid = torch.randn(5, 7, generator=g, dtype=torch.float64)
    for rad in (1e-5, 1.0):
        yield IntervalMatrix(Ball(mid, rad * torch.rand(5, 7, generator=g, dtype=torch.float64)), (7,), (5,))


def sizes_of(kind: int, shape: tuple[int, ...], dtype: torch.dtype, g: torch.Generator) -> torch.Tensor:
    m = torch.rand(1, 2, *shape, generator=g, dtype=torch.float64).to(dtype) * SCALES[kind % 3]
    some = torch.rand(1, 2, *shape, generator=g)
    return torch.where(some < 0.2, 0.0, torch.where(some > 0.9, torch.inf, m) if kind >= 3 else m)


def cost(difference: exact.Exact, m: torch.Tensor) -> Fraction | float:
    """|difference| · m, where 0 times infinity is 0."""
    if any(d != 0 and s == torch.inf for d, s in zip(difference, m.tolist(), strict=True)):
        return float("inf")
    return sum((abs(d) * Fraction(s) for d, s in zip(difference, m.tolist(), strict=True) if d != 0), Fraction(0))


def violations(operator: AbstractOperator, dtype: torch.dtype, seed: int, scale: float = 1.0) -> tuple[int, int]:
    """How often `paid` (times `scale`) is below what a product lost, and how often something was lost."""
    g = torch.Generator().manual_seed(seed)
    operator = operator.to(dtype, torch.device("cpu"))
    dims, out = len(operator.in_shape), len(operator.out_shape)
    m = sizes_of(seed % 6, operator.out_shape, dtype, g)
    loss = Loss.of([operator.absorb(Sizes.of(m, out))], dims)
    forms = torch.randn(1, 2, 4, *operator.in_shape, generator=g, dtype=torch.float64).to(dtype)
    forms = forms * torch.where(torch.rand(forms.shape, generator=g) < 0.3, 0.0, 1.0) * SCALES[(seed * 5 // 3) % 3]
    forms[:, :, 0] = 0
    images = operator.push(Ball(forms, None)).mid
    true = matrix(operator, dtype, (-1.0, 0.0, 1.0)[seed % 3])
    errors = (paid([(forms.abs(), loss)]) * scale).expand(1, 2, 4)
    wrong, lost = 0, 0
    for k in range(2):
        for r in range(4):
            gone = exact.rational(images[0, k, r].flatten()) - true.dot(exact.rational(forms[0, k, r].flatten()))
            spent = cost(gone, m[0, k].flatten())
            wrong += spent > exact_or_inf(errors[0, k, r])
            lost += spent > 0
    assert float(errors[0, 0, 0]) == 0  # a form that is 0
    return wrong, lost


def exact_or_inf(number: torch.Tensor) -> Fraction | float:
    value = float(number)
    return Fraction(value) if value < float("inf") else float("inf")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_a_form_pays_covers_its_rounding(dtype: torch.dtype) -> None:
    found = [violations(o, dtype, seed) for o in operators() for seed in range(6)]
    assert sum(lost for _, lost in found) > 100
    assert sum(wrong for wrong, _ in found) == 0


def test_paying_a_hundredth_does_not() -> None:
    """The test above can fail."""
    assert sum(violations(o, torch.float32, seed, 0.01)[0] for o in operators() for seed in range(3)) > 20


def test_nothing_is_paid_where_entries_are_moved() -> None:
    for operator in operators():
        ones = torch.ones(1, 1, *operator.out_shape, dtype=torch.float64)
        sizes = operator.absorb(Sizes.of(ones, len(operator.out_shape)))
        assert Loss.of([sizes], len(operator.in_shape)).free == (sizes.roundings == 0)


def deep(depth: int) -> tuple[Network, torch.Tensor]:
    """Layers of 100 neurons that neither grow nor shrink, although the products of |W| grow by a factor of 5.6 each."""
    g = torch.Generator().manual_seed(0)
    layers = [
        (torch.randn(100, 100, generator=g, dtype=torch.float64) * 0.02**0.5,
         0.1 * torch.randn(100, generator=g, dtype=torch.float64))
        for _ in range(depth)
    ]  # fmt: skip
    return chain(layers, [ReLU()] * (depth - 1)), torch.randn(1, 100, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("depth", [24, *(pytest.param(n, marks=pytest.mark.slow) for n in (48, 100))])
def test_rounding_stays_small_in_deep_networks(depth: int) -> None:
    """Radii that travel make every neuron of 24 layers unstable."""
    network, x = deep(depth)
    found = []
    for arithmetic in (RIGOROUS, rj.Fast()):
        problem = rj.Problem(network.output(0), rj.LpBall(x, 1e-6), arithmetic=arithmetic, planner=rj.PlainOnly())
        found.append((problem.preactivations().pre(depth), rj.jacobian_bounds(problem, method=rj.Chords())))
    (z, jacobian), (plain, other) = found
    assert jacobian.rigorous
    assert float((z.upper - plain.upper).abs().max()) <= 1e-6 * float(plain.magnitude.max())
    size = float(torch.maximum(other.upper.abs(), other.lower.abs()).max())
    assert float((jacobian.upper - other.upper).abs().max()) <= 1e-6 * size
    assert float((jacobian.lower - other.lower).abs().max()) <= 1e-6 * size


def one_by_one(seed: int, slopes: bool) -> Network:
    """A hundred layers of one neuron whose gradient is a product of a hundred factors: of slopes, or of weights."""
    g = torch.Generator().manual_seed(seed)
    factors = 0.9 + 0.2 * torch.rand(100, 1, 1, generator=g)
    layers = [(torch.ones(1, 1) if slopes else f, None) for f in factors]
    return chain(layers, [LeakyReLU(float(f)) if slopes else LeakyReLU(1.0) for f in factors[1:]])


def outside(seed: int, slopes: bool) -> bool:
    """Whether the exact derivative of `one_by_one` is outside its rigorous bounds in float32."""
    network, x = one_by_one(seed, slopes), -torch.ones(1)
    problem = rj.Problem(network, rj.LpBall(x, 0.0), planner=rj.PlainOnly())
    bounds = rj.jacobian_bounds(problem, method=rj.Chords())
    assert bounds.rigorous
    true = exact.jacobian(network, x)
    return not (exact.at_most(true, bounds.upper[0]) and exact.at_most(-true, -bounds.lower[0]))


@pytest.mark.parametrize("slopes", [True, False], ids=["slopes", "weights"])
def test_a_long_product_pays_for_its_roundings(slopes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """If forms pay at their last node alone, the same bounds are wrong."""
    assert not any(outside(seed, slopes) for seed in range(3))
    monkeypatch.setattr(push_route, "loss_of", lambda _images, rows, _before, dims: loss_of([], rows, None, dims))
    assert any(outside(seed, slopes) for seed in range(3))


def losses_at_a_node(seed: int, scale: float) -> tuple[bool, bool]:
    """Whether slopes and a bias cost more than forms pay for them (times `scale`), and whether they cost anything."""
    g = torch.Generator().manual_seed(seed)
    form, slope, bias = (torch.randn(1, 1, 7, generator=g) for _ in range(3))
    size = SCALES[seed % 3] * torch.rand(1, 1, 7, generator=g)
    lines = LinearRelaxation.proportional(slope)
    rows = RIGOROUS.exact(bias) if seed % 2 else None
    absorption = Absorption(lines, loss_of([], rows, None if rows is not None else size, 1))
    left, constant, error = absorption.apply_(Ball(form.unsqueeze(2).clone(), None), RIGOROUS)
    assert constant is None
    c = exact.rational(left.mid.flatten())
    if rows is not None:
        value = Fraction(float(left.dot(Ball(bias, None)).mid))
        spent: Fraction | float = abs(value - sum(c * exact.rational(bias.flatten())))
    else:
        spent = cost(c - exact.rational(form.flatten()) * exact.rational(slope.flatten()), size.flatten())
    return spent > Fraction(float(error)) * Fraction(scale), spent > 0


def test_slopes_and_biases_are_paid() -> None:
    found = [losses_at_a_node(seed, 1.0) for seed in range(60)]
    assert sum(lost for _, lost in found) > 40
    assert not any(wrong for wrong, _ in found)
    for kind in (0, 1):
        assert any(losses_at_a_node(seed, 0.01)[0] for seed in range(kind, 60, 2))
