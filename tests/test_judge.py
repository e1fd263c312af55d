"""The exact judge of bounds (`tests/truth`) agrees with what is known in other ways, and notices what is wrong."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch

pytest.importorskip("flint", reason="the judge needs python-flint")
from flint import arb, arb_mat

from recurjac.activations import AbstractActivation, Derivative, ReLU
from recurjac.network import Network, chain
from recurjac.operators import AbstractOperator, Divide, Standardise
from recurjac.operators.interval_matrix import IntervalMatrix
from recurjac.testing.networks import KINDS, PIECEWISE, random_network, true_jacobians
from tests import exact
from tests.helpers import examples, matrix
from tests.truth import measures
from tests.truth.claims import Claim, judged
from tests.truth.elementary import UndefinedError, branches, derivatives
from tests.truth.judge import Judge, digits
from tests.truth.operators import applied
from tests.truth.regions import Exact


def _fraction(ball: Any) -> Fraction:
    """The number that a ball without radius is."""
    assert ball.is_exact()
    mantissa, exponent = ball.man_exp()
    return Fraction(int(mantissa)) * Fraction(2) ** int(exponent)


@pytest.mark.parametrize(
    "operator", [e for e in examples(AbstractOperator) if not isinstance(e.values[0], IntervalMatrix)]
)
def test_operators_are_their_matrices(operator: AbstractOperator) -> None:
    """Every class of operators: what is exact in floating point is equal, and the others are near."""
    n = math.prod(operator.in_shape)
    found = applied(operator, arb_mat([[arb(int(i == j)) for j in range(n)] for i in range(n)]))
    true = matrix(operator)
    for i, row in enumerate(true.tolist()):
        for j, value in enumerate(row):
            if isinstance(operator, Divide | Standardise):
                assert abs(float(found[i, j]) - value) <= 1e-14 * abs(value)
            else:
                assert _fraction(found[i, j]) == Fraction(value)


@pytest.mark.parametrize(
    "activation", [a for a in examples(AbstractActivation) if not isinstance(a.values[0], Derivative)]
)
def test_activations_are_near_what_floating_point_computes(activation: AbstractActivation) -> None:
    points = torch.cat(
        [torch.linspace(-8, 8, 17) + 0.0137, torch.tensor([-60.0, -20.0, -1e-3, 1e-9, 3e-5, 20.0, 60.0])]
    ).double()
    values = activation.value(points)
    slopes = torch.autograd.functional.jacobian(lambda z: activation.value(z).sum(), points)
    for z, value, slope in zip(points.tolist(), values.tolist(), slopes.tolist(), strict=True):
        try:
            with digits(300):
                function = branches(activation, torch.float64, 0, (1,)).at(arb(z), lambda: 1)
                found = [float(v) for v in derivatives(function, arb(z), 1)]
        except UndefinedError:
            assert not (math.isfinite(value) and math.isfinite(slope))
            continue
        assert found[0] == pytest.approx(value, rel=1e-9, abs=1e-12)
        assert found[1] == pytest.approx(slope, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("kind", PIECEWISE)
def test_piecewise_linear_networks_have_rational_jacobians(kind: str, residual: bool) -> None:
    """They are equal, number by number, to those that fractions give."""
    for seed in range(3):
        network = random_network(kind, seed, residual, torch.float32, width=4)
        x = torch.randn(2, 2, generator=torch.Generator().manual_seed(seed))
        jet = Judge(network).jet(x.double().flatten().tolist(), 1, 6000)
        true = exact.jacobian(network, x)
        assert [[_fraction(v) for v in row] for row in jet.jacobian] == true.tolist()


@pytest.mark.parametrize("kind", [*KINDS, "mixed", "gated"])
def test_jets_are_near_automatic_derivatives(kind: str) -> None:
    network = random_network(kind, 3, True)
    x = torch.randn(2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    jet = Judge(network).jet(x.flatten().tolist(), 2, 200)
    slopes = true_jacobians(network, x[None])[0].reshape(3, 4)
    torch.testing.assert_close(_floats(jet.jacobian), slopes, rtol=1e-10, atol=1e-12)
    bends = torch.autograd.functional.hessian(lambda y: network(y[None])[0, 1], x).reshape(4, 4)
    torch.testing.assert_close(_floats(jet.hessian(1)), bends, rtol=1e-9, atol=1e-11)


def _floats(rows: list[list[Any]]) -> torch.Tensor:
    return torch.tensor([[float(v) for v in row] for row in rows], dtype=torch.float64)


def _line() -> Network:
    """relu(x) - relu(-x), which is x."""
    first, second = torch.tensor([[1.0], [-1.0]]).double(), torch.tensor([[1.0, -1.0]]).double()
    return chain([(first, None), (second, None)], [ReLU()])


def test_derivatives_at_kinks_are_limits_from_one_direction() -> None:
    """With a slope of 1 for both neurons, the derivative of x would be 2."""
    jet = Judge(_line()).jet((0.0,), 1, 200)
    assert jet.kinked
    assert [_fraction(v) for v in jet.jacobian[0]] == [1]


def test_wrong_claims_are_noticed() -> None:
    judge, up, third = Judge(_line()), math.nextafter(1.0, 2.0), 1 / 3
    for low, high, wrong in (
        (1.0, 1.0, 0),
        (up, 2.0, 1),
        (0.0, 1 - 2.0**-53, 1),
        (math.nan, 2.0, 1),
        (math.inf, math.inf, 1),
    ):
        found = judged(judge, Claim("", (3.0,), 1, measures.entries, [low], [high]))
        assert len(found.wrong) == wrong
    found = judged(judge, Claim("", (third,), 0, lambda jet: [3 * jet.values[0]], [-math.inf], [1 - 2.0**-54]))
    assert found.compared == 1
    assert not found.wrong
    assert not judged(judge, Claim("", (0.0,), 1, measures.entries, [2.0], [2.0], anywhere=False)).wrong


def test_regions_are_exact() -> None:
    """0.1 + 0.2 in floating point is farther from 0.1 than 0.2."""
    for p in (1.0, 2.0, math.inf):
        region = Exact((0.1,), (0.2,), p, (-math.inf,), (math.inf,))
        assert not region.holds((0.1 + 0.2,))
        found = region.nearest((0.1 + 0.2,))
        assert found is not None
        assert region.holds(found)
        assert found[0] >= 0.3 - 1e-15
    assert not Exact((0.0,), (math.inf,), math.inf, (-1.0,), (1.0,)).holds((1.5,))
