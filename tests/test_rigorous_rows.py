"""Closed forms of normalisations in rigorous arithmetic, compared with exact fractions without a tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import inf, isfinite

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.activations import LengthRows, NormalisedRows
from recurjac.activations.row_bounds import divided, inverse_root, largest_squares, least_squares, others_of
from recurjac.arithmetic import Interval
from tests.marks import DTYPES, in_turn

RIGOROUS = rj.Rigorous()
FUNCTIONS = NormalisedRows.examples()
CENTRES = ("usual", "constant", "shifted", "tiny", "huge", "apart", "zero")


def rows_of(kind: str, count: int, dtype: torch.dtype) -> Tensor:
    """One row: (n,)."""
    x = torch.randn(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    extreme = 1e-25 if dtype == torch.float32 else 1e-200
    rows = {
        "usual": x, "constant": torch.full_like(x, 0.7), "shifted": x + 1e4, "tiny": x * extreme, "huge": x / extreme,
        "apart": x * 10.0 ** torch.arange(0, 3 * count, 3), "zero": 0 * x,
    }  # fmt: skip
    return rows[kind].to(dtype)


def boxes(count: int, dtype: torch.dtype) -> Interval:
    """(1, rows, n), of several radii."""
    g = torch.Generator().manual_seed(7)
    ends = []
    for kind in CENTRES:
        x = rows_of(kind, count, dtype)
        size = float(x.abs().max()) or 1.0
        for radius in (0.0, 1e-6, 0.02, 0.5, 3.0):
            half = (size * radius * torch.rand(count, generator=g, dtype=torch.float64)).to(dtype)
            ends.append(torch.stack([x - half, x + half]))
    low, high = torch.stack(ends, 1).unsqueeze(1)
    return Interval(low, high)


def points_of(z: Interval, count: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(3)
    share = torch.rand(count, *z.shape, generator=g, dtype=torch.float64).to(z.lower.dtype)
    share[1:] = share[1:].round()
    at = z.lower + share * (z.upper - z.lower)
    return torch.minimum(torch.maximum(at, z.lower), z.upper)


class Exact:
    """A normalisation at a point: every quantity is a fraction over the root of the fraction `square`."""

    def __init__(self, function: NormalisedRows, row: Tensor) -> None:
        x, n = [Fraction(float(t)) for t in row], len(row)
        mean = sum(x, Fraction(0)) / n if function.centred else Fraction(0)
        c = [t - mean for t in x]
        eps = Fraction(float(torch.tensor(function.eps, dtype=torch.float64).to(row.dtype)))
        self.square = sum((t * t for t in c), Fraction(0)) / n + eps
        self.defined = self.square > 0
        if self.defined:
            part = Fraction(1, n) if function.centred else Fraction(0)
            self.values = c
            self.slopes = [
                [Fraction(i == j) - part - c[i] * c[j] / (n * self.square) for j in range(n)] for i in range(n)
            ]

    def below(self, number: float, numerator: Fraction) -> bool:
        """number <= numerator / √square."""
        if not isfinite(number):
            return number < 0
        q = Fraction(number)
        return bool(q * abs(q) * self.square <= numerator * abs(numerator))

    def inside(self, low: Tensor, high: Tensor, numerators: Sequence[Fraction]) -> bool:
        ends = zip(low.flatten().tolist(), high.flatten().tolist(), numerators, strict=True)
        return all(self.below(a, t) and self.below(-b, -t) for a, b, t in ends)


@pytest.mark.parametrize(("function", "count", "dtype"), in_turn(FUNCTIONS, [1, 2, 3, 5], DTYPES))
def test_exact_values_and_slopes_are_inside(function: NormalisedRows, count: int, dtype: torch.dtype) -> None:
    z = boxes(count, dtype)
    values, slopes = function.value_range(z, RIGOROUS), function.slope_range(z, RIGOROUS)
    way = torch.randn(count, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(dtype)
    ways = [Fraction(float(t)) for t in way]
    along = function.slope_along(z, Interval.point(way.expand(1, 1, *z.shape[1:])), RIGOROUS)
    other = torch.randn(count, generator=torch.Generator().manual_seed(6), dtype=torch.float64).to(dtype)
    covectors, tangents = (Interval.point(t.expand(1, 1, *z.shape[1:])) for t in (other, way))
    forms = function.slope_between(z, covectors, tangents, RIGOROUS)
    norms = {p: function.norm(z, p, RIGOROUS)[0] for p in (1.0, 2.0, inf)}
    for at in points_of(z):
        for k, row in enumerate(at[0]):
            true = Exact(function, row)
            if not true.defined:
                continue
            assert true.inside(values.lower[0, k], values.upper[0, k], true.values)
            assert true.inside(slopes.lower[0, k], slopes.upper[0, k], [t for r in true.slopes for t in r])
            moved = [sum((a * b for a, b in zip(r, ways, strict=True)), Fraction(0)) for r in true.slopes]
            assert true.inside(along.lower[0, 0, k], along.upper[0, 0, k], moved)
            form = sum((Fraction(float(a)) * b for a, b in zip(other, moved, strict=True)), Fraction(0))
            assert true.inside(forms.lower[0, 0, k], forms.upper[0, 0, k], [form])
            most = max(sum((abs(t) for t in r), Fraction(0)) for r in true.slopes)
            assert all(true.below(-float(norms[p][k]), -most) for p in (1.0, inf))
            size = float(norms[2.0][k])
            if isfinite(size):
                lengths = [sum((t * t for t in v), Fraction(0)) for v in (moved, ways)]
                assert lengths[0] <= lengths[1] * Fraction(size) ** 2 * true.square


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_rigorous_bounds_are_close_to_plain_ones(function: NormalisedRows, dtype: torch.dtype) -> None:
    x = rows_of("usual", 6, dtype).reshape(1, 1, -1)
    eps = torch.finfo(dtype).eps
    for radius in (0.0, 0.01, 0.1):
        z = Interval(x - radius, x + radius)
        for found, plain in (
            (function.value_range(z, RIGOROUS), function.value_range(z, rj.Fast())),
            (function.slope_range(z, RIGOROUS), function.slope_range(z, rj.Fast())),
        ):
            slack = 1e3 * eps + 0.01 * plain.width
            assert bool((found.lower >= plain.lower - slack).all() & (found.upper <= plain.upper + slack).all())


def test_networks_are_rigorous_and_as_tight() -> None:
    x = torch.randn(1, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for module in (nn.LayerNorm(6), nn.RMSNorm(6)):
        network = rj.load(module.double(), x)
        found, plain = (
            rj.lipschitz(network, rj.LpBall(x, 0.03), method=rj.ClosedForms(rj.Chords()), arithmetic=a)
            for a in (rj.Rigorous(), rj.Fast())
        )
        assert found.provenance.rigorous
        torch.testing.assert_close(found.upper, plain.upper, rtol=1e-9, atol=0.0)


def test_eps_is_that_of_the_stored_constant() -> None:
    """A network that was read in float32 keeps its rounded constants in float64."""
    x = torch.tensor([[0.3, 0.3001, 0.2999]])
    network = rj.load(nn.LayerNorm(3, 1e-7), x, dtype=torch.float32).to(dtype=torch.float64)
    size, closed = (s.closed for s in network.stages if s.closed is not None)
    assert isinstance(size.function, LengthRows)
    assert isinstance(closed.function, NormalisedRows)
    assert size.function.eps == closed.function.eps
    assert closed.function.eps == float(torch.tensor(1e-7, dtype=torch.float32))
    bounds = rj.jacobian_bounds(network, rj.LpBall(x.double(), 0.0))
    assert bool(bounds.upper.isfinite().all())


def test_plain_bounds_do_not_hold_exactly() -> None:
    """The comparison is sharp enough to see rounding."""
    z, function = boxes(3, torch.float32), FUNCTIONS[0]
    values = function.value_range(z, rj.Fast())
    trues = [Exact(function, row) for row in z.lower[0]]
    assert not all(t.inside(values.lower[0, k], values.upper[0, k], t.values) for k, t in enumerate(trues) if t.defined)


def test_roots_and_quotients_hold() -> None:
    for dtype in (torch.float64, torch.float32):
        g = torch.Generator().manual_seed(0)
        s = torch.exp(20 * torch.randn(200, generator=g, dtype=torch.float64)).to(dtype)
        found, parts = inverse_root(Interval.point(s), RIGOROUS), divided(Interval(-s, s), 3, RIGOROUS)
        for k in range(len(s)):
            size, low, high = (Fraction(float(t[k])) for t in (s, found.lower, found.upper))
            assert low * low * size <= 1 <= high * high * size
            assert Fraction(float(parts.lower[k])) <= -size / 3 < size / 3 <= Fraction(float(parts.upper[k]))


def test_sums_of_squares_hold() -> None:
    """At the least sum, whose numbers are as near to their mean as they may be."""
    for dtype in (torch.float64, torch.float32):
        for count in (2, 3, 6):
            z = boxes(count, dtype)
            least = least_squares(z, torch.ones(count, dtype=dtype), RIGOROUS)[0]
            most = largest_squares(z, RIGOROUS)[0]
            others = others_of(most, RIGOROUS)
            for k in range(z.shape[1]):
                low, high = ([Fraction(float(t)) for t in end[0, k]] for end in (z.lower, z.upper))
                m = sum(low + high, Fraction(0)) / (2 * count)
                for _ in range(30):
                    x = [min(max(m, a), b) for a, b in zip(low, high, strict=True)]
                    m = Fraction(float(sum(x, Fraction(0)) / count))
                nearest = _spread(x)
                assert not isfinite(float(least[k])) or Fraction(float(least[k])) <= nearest
                sizes = [Fraction(float(t)) for t in most[k]] if bool(most[k].isfinite().all()) else []
                assert not sizes or sum(sizes) >= max(_spread(low), _spread(high))
                for i, size in enumerate(sizes):
                    rest = sum(sizes) - size
                    up = float(others.upper[k, i])
                    assert Fraction(float(others.lower[k, i])) <= rest
                    assert up == inf or rest <= Fraction(up)


def _spread(x: Sequence[Fraction]) -> Fraction:
    mean = sum(x, Fraction(0)) / len(x)
    return sum(((t - mean) ** 2 for t in x), Fraction(0))


def test_derivatives_reach_the_weights() -> None:
    layer = nn.LayerNorm(5).double()
    x = torch.randn(1, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = rj.lipschitz(rj.load(layer, x), rj.LpBall(x, 0.03), method=rj.ClosedForms(rj.Chords()))
    (slope,) = torch.autograd.grad(found.upper.sum(), layer.weight)
    assert bool(slope.isfinite().all())
    assert float(slope.abs().max()) > 0
