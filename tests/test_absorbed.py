"""Errors that are absorbed at a node cover what products of forms really lose, in rational arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import final

import numpy as np
import pytest
import torch

import recurjac as rj
from recurjac.activations import ReLU
from recurjac.arithmetic import Ball, Loss, Sizes, paid, radius_beside
from recurjac.network import Network, chain
from recurjac.operators import AbstractOperator, Compose, Dense
from recurjac.operators.interval_matrix import IntervalMatrix, other_terms
from recurjac.operators.scale import Divide, Standardise
from recurjac.propagation.tally import Absorbing, AbstractMagnitudes
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
    dims = len(operator.in_shape)
    m = sizes_of(seed % 6, operator.out_shape, dtype, g)
    loss = Loss.of([operator.absorb(Sizes.of(m))], dims)
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


@pytest.mark.parametrize("turn", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 6))])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_a_form_pays_covers_its_rounding(dtype: torch.dtype, turn: int) -> None:
    """The kinds of magnitudes and scales take turns."""
    found = [violations(o, dtype, (i + turn) % 6) for i, o in enumerate(operators())]
    assert sum(lost for _, lost in found) > 20
    assert sum(wrong for wrong, _ in found) == 0


def test_paying_a_hundredth_does_not() -> None:
    """The test above can fail."""
    assert sum(violations(o, torch.float32, i % 6, 0.01)[0] for i, o in enumerate(operators())) > 5


def test_nothing_is_paid_where_entries_are_moved() -> None:
    for operator in operators():
        ones = torch.ones(1, 1, *operator.out_shape, dtype=torch.float64)
        sizes = operator.absorb(Sizes.of(ones))
        assert Loss.of([sizes], len(operator.in_shape)).free == (sizes.roundings == 0)


@pytest.mark.parametrize("others", [0, 1, 3])
def test_what_columns_lose_beside_other_summands(others: int) -> None:
    """Sums of float32 numbers in float64; numbers of most different sizes are summed exactly enough there."""
    g = torch.Generator().manual_seed(others)
    terms = torch.randn(others + 1, 4000, generator=g) * 2.0 ** torch.randint(-140, 0, (others + 1, 1), generator=g)
    exact_sum, total = terms.double().sum(0), terms[0]
    for more in terms[1:]:
        total = total + more
    budget = torch.stack([radius_beside(RIGOROUS.exact(t), others).double() for t in terms]).sum(0)
    lost = (total.double() - exact_sum).abs()
    assert bool((lost <= budget).all())
    assert bool((lost > 0).any()) == (others > 0)
    assert others > 0 or float(budget.max()) == 0


def test_matrices_that_are_multiplied_as_one_count_all_products() -> None:
    matrix = IntervalMatrix(RIGOROUS.exact(torch.ones(2, 3)), (3,), (2,))
    dense = Dense.matrix(torch.ones(2, 4))
    assert other_terms([dense]) == 0
    assert other_terms([dense, dense, dense]) == 2
    assert other_terms([matrix, dense, matrix]) == 2 + 3 + 3


@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 1e-43), (torch.float64, 1e-321)], ids=str)
def test_what_underflows_is_paid(dtype: torch.dtype, least: float) -> None:
    """Subnormal products, alone and after another layer, with magnitudes that make them count."""
    g = torch.Generator().manual_seed(3)
    once = Dense.matrix((least * torch.randn(5, 6, generator=g, dtype=torch.float64)).to(dtype))
    root = 0.3 * least**0.5
    first, second = (Dense.matrix(root * torch.randn(*n, generator=g).to(dtype)) for n in ((6, 6), (5, 6)))
    for operator in (once, Compose(second, first)):
        wrong, lost = violations(operator, dtype, 2)
        assert (wrong, lost > 4) == (0, True)


@final
@dataclass(frozen=True)
class Known(AbstractMagnitudes):
    """The same magnitudes (B, K, n) and lines at every node; forms are not multiplied after them."""

    numbers: torch.Tensor
    line: LinearRelaxation | None = None

    def loss(self, node: int) -> Loss:
        return Loss.of([Sizes.of(self.numbers).rounded()], 1)

    def absorption(self, node: int) -> Absorption:
        return Absorption(self.line, self.loss(node))

    def sizes(self, node: int) -> torch.Tensor:
        return self.numbers


@pytest.mark.parametrize("exact_lines", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_products_with_slopes_are_paid(dtype: torch.dtype, exact_lines: bool, scale: float) -> None:
    """Also where nothing is multiplied after them, so that this is all that is lost."""
    g = torch.Generator().manual_seed(1)
    slopes = [torch.rand(1, 1, 9, generator=g, dtype=torch.float64).to(dtype) for _ in range(2)]
    lower = slopes[1] if exact_lines else slopes[0]
    zero = torch.zeros_like(lower)
    lines = LinearRelaxation(lower, zero, slopes[1], zero, torch.ones_like(zero))
    forms = (scale * torch.randn(1, 1, 50, 9, generator=g, dtype=torch.float64)).to(dtype)
    m = torch.rand(1, 1, 9, generator=g, dtype=torch.float64).to(dtype)
    tally = Absorbing(RIGOROUS, Known(m, lines))
    found = tally.relax_(Ball(forms.clone(), None), 1, lines).mid[0, 0]
    (error,) = tally.errors
    lost = 0
    for r in range(50):
        chosen = torch.where(forms[0, 0, r] > 0, slopes[1][0, 0], lower[0, 0])
        gone = exact.rational(found[r]) - exact.rational(chosen) * exact.rational(forms[0, 0, r])
        spent = cost(gone, m[0, 0])
        assert spent <= Fraction(float(error[0, 0, r]))
        lost += spent > 0
    assert lost > 40


def test_columns_pay_for_what_is_added_beside_them() -> None:
    """Columns are exact and pay only for an addition; the other summand, of one node, pays its own share."""
    g = torch.Generator().manual_seed(2)
    column, other = torch.randn(1, 1, 400, 3, generator=g), 1e-3 * torch.randn(1, 1, 400, 3, generator=g)
    m, unit = torch.rand(1, 1, 3, generator=g), Fraction(2) ** -24
    tally = Absorbing(RIGOROUS, Known(m))
    sums = (tally.columns(RIGOROUS.exact(column), 1, 1, False).mid + other)[0, 0]
    (error,) = tally.errors
    lost = 0
    for r in range(400):
        gone = exact.rational(sums[r]) - exact.rational(column[0, 0, r]) - exact.rational(other[0, 0, r])
        spent = cost(gone, m[0, 0])
        share = cost(unit * exact.rational(other[0, 0, r]), m[0, 0])
        assert spent <= Fraction(float(error[0, 0, r])) + share
        lost += spent > share
    assert lost > 300


def deep(depth: int) -> tuple[Network, torch.Tensor]:
    """Layers of 100 neurons that neither grow nor shrink, although the products of |W| grow by a factor of 5.6 each."""
    g = torch.Generator().manual_seed(0)
    layers = [
        (torch.randn(100, 100, generator=g, dtype=torch.float64) * 0.02**0.5,
         0.1 * torch.randn(100, generator=g, dtype=torch.float64))
        for _ in range(depth)
    ]  # fmt: skip
    return chain(layers, [ReLU()] * (depth - 1)), torch.randn(1, 100, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("depth", [16, *(pytest.param(n, marks=pytest.mark.slow) for n in (24, 48, 100))])
def test_rounding_stays_small_in_deep_networks(depth: int) -> None:
    """Radii that travel make every neuron of 24 layers unstable."""
    network, x = deep(depth)
    found = []
    for arithmetic in (RIGOROUS, rj.Fast()):
        problem = rj.Problem(network.output(0), rj.LpBall(x, 1e-6), arithmetic=arithmetic, planner=rj.PlainOnly())
        found.append((problem.preactivations().pre(depth - 1), rj.jacobian_bounds(problem, method=rj.Chords())))
    (z, jacobian), (plain, other) = found
    assert jacobian.rigorous
    assert float((z.upper - plain.upper).abs().max()) <= 1e-6 * float(plain.magnitude.max())
    size = float(torch.maximum(other.upper.abs(), other.lower.abs()).max())
    assert float((jacobian.upper - other.upper).abs().max()) <= 1e-6 * size
    assert float((jacobian.lower - other.lower).abs().max()) <= 1e-6 * size
