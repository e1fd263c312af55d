"""Softmax and normalisations of rows: ranges of values and derivatives, and networks that know them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import product
from math import inf

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.activations import AbstractRowFunction, LengthRows, NormalisedRows, ShiftedRows, SoftmaxRows
from recurjac.activations.shrunk_rows import AbstractShrunkRows
from recurjac.arithmetic import Interval
from recurjac.jacobian.closed_forms import shortened
from tests.helpers import concrete_classes
from tests.marks import in_turn
from tests.test_attention import MODULES, network_of
from tests.torch_cases import Fn

FAST = rj.Fast()
FUNCTIONS: list[AbstractRowFunction] = [f for kind in concrete_classes(AbstractRowFunction) for f in kind.examples()]
HIDDEN = SoftmaxRows(torch.tensor([[False, True, False, False, False]]).expand(4, 5))
"""A softmax of rows of five numbers, of which one counts as -∞."""
SIZES = (1, 2, 3, 5, 16)
RADII = (0.0, 1e-3, 0.1, 0.7, 4.0, 400.0)


def boxes(count: int, radius: float) -> Interval:
    """Rows around random numbers of several sizes, of several widths: (2, 4, n)."""
    g = torch.Generator().manual_seed(count)
    x = torch.randn(2, 4, count, generator=g, dtype=torch.float64) * torch.tensor([1.0, 0.1, 5.0, 1.0]).reshape(-1, 1)
    half = radius * torch.rand(2, 4, count, generator=g, dtype=torch.float64)
    half[:, :2] = radius
    return Interval(x - half, x + half)


def points_of(z: Interval, count: int = 300) -> Tensor:
    """Corners and other points: (count, *shape)."""
    g = torch.Generator().manual_seed(0)
    share = torch.rand(count, *z.shape, generator=g, dtype=torch.float64)
    share[::2] = share[::2].round()
    return z.lower + share * (z.upper - z.lower)


def slopes_at(function: AbstractRowFunction, points: Tensor) -> Tensor:
    flat = points.reshape(-1, points.shape[-1])
    found: Tensor = torch.func.vmap(torch.func.jacrev(function.value))(flat)
    return found.reshape(*points.shape, points.shape[-1])


def holds(bounds: Interval, true: Tensor) -> bool:
    slack = 1e-10 * (1 + true.abs())
    known = true.isfinite()  # without an eps, it may be undefined
    return bool(((bounds.lower <= true + slack) & (true <= bounds.upper + slack) | ~known).all())


@pytest.mark.parametrize(("function", "count", "radius"), in_turn(FUNCTIONS, SIZES, RADII))
def test_sampled_values_and_slopes_are_inside(function: AbstractRowFunction, count: int, radius: float) -> None:
    z = boxes(count, radius)
    points = points_of(z)
    values, slopes = function.value_range(z, FAST), function.slope_range(z, FAST)
    true = slopes_at(function, points)
    assert holds(values, function.value(points))
    assert holds(slopes, true)
    assert not bool((values.lower.isnan() | values.upper.isnan()).any())
    assert not bool((slopes.lower.isnan() | slopes.upper.isnan()).any())
    ways = torch.randn(2, 3, 4, count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    along = function.slope_along(z, Interval.point(ways), FAST)
    assert holds(along, (true.unsqueeze(2) @ ways.unsqueeze(-1)).squeeze(-1))
    assert not bool((along.lower.isnan() | along.upper.isnan()).any())
    finite = torch.where(true.isfinite(), true, 0.0)
    for p in (1, 2, inf):
        size = torch.linalg.matrix_norm(finite, p).amax(0)
        assert bool((size <= function.norm(z, p, FAST) * (1 + 1e-9) + 1e-12).all())
    if radius == 0:
        torch.testing.assert_close(values.lower, values.upper, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(slopes.lower, slopes.upper, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(along.lower, along.upper, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("arithmetic", [FAST, rj.Rigorous()], ids=str)
@pytest.mark.parametrize(("radius", "half"), [(0.0, 0.5), (0.1, 1e-3), (0.1, 0.5), (4.0, 0.5)])
@pytest.mark.parametrize("function", [*FUNCTIONS, HIDDEN], ids=str)
def test_uncertain_tangents_and_covectors(
    function: AbstractRowFunction, radius: float, half: float, arithmetic: rj.Fast | rj.Rigorous
) -> None:
    """Derivatives along tangents that are only known to lie between numbers, and their products with such covectors."""
    z, g = boxes(5, radius), torch.Generator().manual_seed(2)
    points = points_of(z, 60)
    true = slopes_at(function, points) if function is not HIDDEN else _hidden_slopes(points)
    ways, covectors = (torch.randn(2, 3, 4, 5, generator=g, dtype=torch.float64) for _ in range(2))
    apart = half * torch.rand(2, 2, 3, 4, 5, generator=g, dtype=torch.float64)
    tangents, rows = Interval(ways - apart[0], ways + apart[0]), Interval(covectors - apart[1], covectors + apart[1])
    some, others = points_of(tangents, len(points)), points_of(rows, len(points))
    values = (true.unsqueeze(2) @ some.unsqueeze(-1)).squeeze(-1)
    assert holds(function.slope_along(z, tangents, arithmetic), values)
    assert holds(function.slope_between(z, rows, tangents, arithmetic), (values * others).sum(-1))
    slopes, low, high = true.unsqueeze(2), tangents.lower.unsqueeze(-2), tangents.upper.unsqueeze(-2)
    largest = (slopes * torch.where(slopes > 0, high, low)).sum(-1)
    assert holds(function.slope_along(z, tangents, arithmetic), largest)
    assert holds(function.slope_along(z, -tangents, arithmetic), -largest)


def _hidden_slopes(points: Tensor) -> Tensor:
    """Of `HIDDEN`: those of the other numbers, and 0."""
    shown = [0, 2, 3, 4]
    found = points.new_zeros(*points.shape, 5)
    found[..., torch.tensor(shown)[:, None], torch.tensor(shown)] = slopes_at(SoftmaxRows(), points[..., shown])
    return found


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_unbounded_boxes(function: AbstractRowFunction) -> None:
    z = Interval(
        torch.tensor([[[-inf, 0.0, -1.0], [-inf, -inf, -inf]]]).double(),
        torch.tensor([[[inf, inf, 1.0]] * 2])[0].double()[None],
    )
    points = torch.cat([points_of(Interval(z.lower.clamp(min=-s), z.upper.clamp(max=s))) for s in (1.0, 30.0, 1e5)])
    assert holds(function.value_range(z, FAST), function.value(points))
    assert holds(function.slope_range(z, FAST), slopes_at(function, points))
    assert bool(function.value_range(z, FAST).upper.isfinite().all()) or isinstance(function, LengthRows)


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_unbounded_boxes_of_rows_that_are_not_0(function: AbstractRowFunction) -> None:
    """Their length has a lower bound above 0 and no upper one."""
    z = Interval(torch.tensor([[[0.5, -0.1, -0.3]]]).double(), torch.tensor([[[inf, 0.1, -0.2]]]).double())
    points = torch.cat([points_of(Interval(z.lower, z.upper.clamp(max=s))) for s in (0.6, 30.0, 1e5)])
    assert holds(function.value_range(z, FAST), function.value(points))
    assert holds(function.slope_range(z, FAST), slopes_at(function, points))


@pytest.mark.parametrize("arithmetic", [FAST, rj.Rigorous()], ids=["fast", "rigorous"])
def test_derivatives_of_a_length_are_exact(arithmetic: rj.Fast | rj.Rigorous) -> None:
    """z_1 in [3, 6] beside 4, beside 8 and 0, and where the row may be 0, also at the end of its box."""
    low = torch.tensor([[[3.0, 4.0], [3.0, -8.0], [-1.0, -2.0], [0.0, 0.0], [-6.0, 4.0], [1e-300, 0.0]]]).double()
    high = torch.tensor([[[6.0, 4.0], [6.0, 8.0], [1.0, 2.0], [1.0, 1.0], [-3.0, 4.0], [1e-300, 1e-300]]]).double()
    found = LengthRows().slope_range(Interval(low, high), arithmetic)
    wanted = [(0.6, 6 / 52**0.5), (3 / 73**0.5, 1.0), (-1.0, 1.0), (-1.0, 1.0), (-6 / 52**0.5, -0.6), (0.5**0.5, 1.0)]
    for k, (least, most) in enumerate(wanted[:5]):
        assert float(found.lower[0, k, 0, 0]) == pytest.approx(least, rel=1e-12)
        assert float(found.upper[0, k, 0, 0]) == pytest.approx(most, rel=1e-12)
    assert float(found.lower[0, 5, 0, 0]) <= wanted[5][0]  # squares underflow
    assert float(found.upper[0, 5, 0, 0]) == 1.0
    assert bool((found.lower[..., 1:, :] == 0).all() & (found.upper[..., 1:, :] == 0).all())
    values = LengthRows().value_range(Interval(low, high), arithmetic)
    assert float(values.lower[0, 0, 0]) == pytest.approx(5.0, rel=1e-12)
    assert float(values.upper[0, 0, 0]) == pytest.approx(52**0.5, rel=1e-12)
    assert float(values.lower[0, 0, 0]) <= 5.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_rounding_of_lengths_is_covered(dtype: torch.dtype) -> None:
    """At points with positive coordinates, by the squares of both sides, as fractions."""
    g = torch.Generator().manual_seed(0)
    z = Interval.point(torch.rand(1, 1000, 3, generator=g, dtype=torch.float64).to(dtype) + 2.0**-10)
    value, slope = (f(z, rj.Rigorous()) for f in (LengthRows().value_range, LengthRows().slope_range))
    for k, row in enumerate(z.lower[0].tolist()):
        squares = [Fraction(v) ** 2 for v in row]
        low, high = (Fraction(float(end[0, k, 0])) for end in (value.lower, value.upper))
        assert low**2 <= sum(squares) <= high**2
        for j, square in enumerate(squares):
            low, high = (Fraction(float(end[0, k, 0, j])) for end in (slope.lower, slope.upper))
            assert low**2 * sum(squares) <= square <= high**2 * sum(squares)


@pytest.mark.parametrize("p", [1, 2, inf])
def test_the_length_of_a_layer_is_lipschitz_where_it_may_be_zero(p: float) -> None:
    """|W x| over a ball around 0: the constant is that of W at most, and attained but for the sign of rows."""

    class Distance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2, bias=False)
            with torch.no_grad():
                self.layer.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))

        def forward(self, x: Tensor) -> Tensor:
            length: Tensor = torch.linalg.vector_norm(self.layer(x), dim=-1, keepdim=True)
            return length

    network = rj.load(Distance().double().requires_grad_(False), torch.zeros(1, 2).double())
    region = rj.LpBall(torch.zeros(1, 2, dtype=torch.float64), 0.5, p)
    bounds = rj.jacobian_bounds(network, region)
    assert bounds.lower.flatten().tolist() == pytest.approx([-3.0, -1.0])
    assert bounds.upper.flatten().tolist() == pytest.approx([3.0, 1.0])
    found = float(rj.lipschitz(network, region, p=p, q=2, method=rj.Auto(2)).upper)
    assert 3.0 - 1e-12 <= found <= {1: 3.0, 2: 10**0.5, inf: 4.0}[p] + 1e-9


def test_slopes_of_a_softmax_are_exact() -> None:
    """At the best of a fine grid of the two numbers, with the others at ends."""
    z = boxes(4, 1.0)
    found = SoftmaxRows().slope_range(z, FAST)
    grid = torch.linspace(0, 1, 41, dtype=torch.float64)
    for i, j in product(range(4), repeat=2):
        rest = [k for k in range(4) if k not in (i, j)]
        shares = torch.zeros(41, 41, 2, 4, dtype=torch.float64)
        shares[..., i], shares[..., j] = grid.reshape(-1, 1, 1), grid.reshape(1, -1, 1)
        shares[:, :, 1, rest] = 1.0
        points = z.lower + shares.reshape(-1, 1, 1, 4) * (z.upper - z.lower)
        true = slopes_at(SoftmaxRows(), points)[..., i, j]
        torch.testing.assert_close(found.lower[..., i, j], true.amin(0), rtol=1e-3, atol=1e-9)
        torch.testing.assert_close(found.upper[..., i, j], true.amax(0), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("centred", [True, False])
def test_slopes_of_normalisations_lose_at_second_order(centred: bool) -> None:
    function, x = NormalisedRows(1e-5, centred), torch.tensor([[[1.0, -0.4, 0.3, -1.5, 0.9]]], dtype=torch.float64)
    for radius in (1e-2, 1e-3):
        z = Interval(x - radius, x + radius)
        found, true = function.slope_range(z, FAST), slopes_at(function, points_of(z, 3000))
        width = found.width.amax()
        assert float((found.width - (true.amax(0) - true.amin(0))).max()) <= (0.02 if radius == 1e-2 else 0.002) * width


def test_the_dtype_is_kept_where_numbers_are_large_in_float32() -> None:
    for function in FUNCTIONS:
        z = boxes(5, 30.0).map(Tensor.float)
        found = function.slope_range(z, FAST)
        assert found.lower.dtype == torch.float32
        assert holds(
            Interval(found.lower.double() - 1e-4, found.upper.double() + 1e-4),
            slopes_at(function, points_of(z.map(Tensor.double))),
        )


@pytest.mark.parametrize("radius", [0.0, 0.05, 0.5, 20.0])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in ("post", "pre") else n for n in MODULES]
)
def test_chain_rules_with_closed_forms_hold(name: str, radius: float) -> None:
    network = network_of(name)
    x = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    problem = rj.Problem(network, rj.LpBall(x, radius))
    gradients = rj.Gradients(problem)
    short = shortened(gradients.state, gradients.chain)
    known = sum(s.closed is not None for s in network.stages)
    assert (
        (short is not None)
        == (known > 0)
        == (name in {"softmax", "attention", "masked", "norm", "post", "pre", "length"})
    )
    if short is None:
        return
    found = rj.Chords().prepare(rj.Gradients(given=short)).push_all()
    points = points_of(Interval(x[0] - radius, x[0] + radius), 40)
    true = _jacobians(network, points)
    assert holds(found.map(lambda t: t[0]), true)
    if radius == 0:
        assert float(found.width.max()) <= 1e-6 * (1 + float(true.abs().max()))
    ways = torch.randn(1, len(true[0]), *x.shape[1:], generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    whole = rj.ClosedForms(rj.Chords()).prepare(gradients).push_each(ways)
    assert holds(whole.map(lambda t: t[0]), (true * ways[0].flatten(1)).sum(-1))
    for p in (1, 2, inf):
        most = rj.ProductOfNorms().norm(
            rj.Gradients(rj.Problem(network.flattened_output(), rj.LpBall(x, radius))), p, p
        )
        assert float(torch.linalg.matrix_norm(true, p).max()) <= float(most) * (1 + 1e-9)


def _jacobians(network: rj.Network, points: Tensor) -> Tensor:
    """(points, outputs, inputs)."""
    each = [torch.autograd.functional.jacobian(network, p.unsqueeze(0)) for p in points]
    return torch.stack([j.reshape(-1, p.numel()) for j, p in zip(each, points, strict=True)])


def test_a_layer_alone_is_bounded_closely_by_default() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 8, generator=g, dtype=torch.float64)
    modules = (nn.LayerNorm(8, 1e-5, False), nn.RMSNorm(8, 1e-5, False), nn.Softmax(-1))
    functions = (NormalisedRows(1e-5, True), NormalisedRows(1e-5, False), SoftmaxRows())
    for module, function in zip(modules, functions, strict=True):
        network = rj.load(module.double(), x)
        for radius in (0.01, 0.03):
            found = rj.jacobian_bounds(network, rj.LpBall(x, radius))
            true = slopes_at(function, points_of(Interval(x[0] - radius, x[0] + radius), 4000))
            size = torch.maximum(found.lower.abs(), found.upper.abs())[0]
            assert float((size - 1.05 * true.abs().amax(0)).max()) <= 1e-3


def test_row_sums_of_a_layer_alone() -> None:
    """Between linear layers and beside a residual connection; sums of entries lose what they have in common."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(2, 8, generator=g, dtype=torch.float64)

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 5)

        def forward(self, t: Tensor) -> Tensor:
            y: Tensor = self.b(self.norm(self.a(t))) + t[:, :5]
            return y

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Residual()
    for network, most in ((rj.load(nn.LayerNorm(8), x), 1.01), (rj.load(module.double(), x), inf)):
        found = rj.lipschitz(network, rj.LpBall(x, 0.03), method=rj.ClosedForms(rj.Chords()))
        plain = rj.lipschitz(network, rj.LpBall(x, 0.03), method=rj.Chords())
        assert bool((found.upper >= found.lower).all())
        assert bool((found.upper <= most * found.lower).all())
        assert bool((found.upper <= plain.upper * (1 + 1e-12)).all())
        assert most == inf or bool((found.upper < plain.upper).all())


def test_changed_inputs_leave_the_closed_form_out() -> None:
    """It names entries of the input that another network has no more."""
    network = rj.load(nn.Softmax(-1), torch.ones(1, 3))
    assert any(s.closed is not None for s in network.stages)
    fixed = network.fix({1: 0.5})
    assert all(s.closed is None for s in fixed.stages)
    x = torch.randn(4, 2, dtype=torch.float64)
    torch.testing.assert_close(fixed(x), torch.softmax(torch.cat([x[:, :1], torch.full((4, 1), 0.5), x[:, 1:]], 1), 1))
    assert rj.hessian_bounds(fixed, rj.LpBall(x, 0.1)).upper.isfinite().all()


@pytest.mark.parametrize("arithmetic", [FAST, rj.Rigorous()], ids=["fast", "rigorous"])
@pytest.mark.parametrize("radius", [0.0, 0.1, 4.0, 400.0, inf])
def test_a_softmax_of_some_numbers_is_that_of_the_others_absent(
    arithmetic: rj.Fast | rj.Rigorous, radius: float
) -> None:
    """Whatever is hidden, ranges are those of the numbers that are left, and 0 elsewhere."""
    z = boxes(5, radius)
    z.lower[..., 0, 2], z.upper[..., 0, 2] = -inf, inf  # hidden
    hidden = torch.tensor([[0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [1, 1, 0, 1, 1], [0, 0, 0, 0, 0]]).bool()
    whole = SoftmaxRows(hidden)
    value, slope = whole.value_range(z, arithmetic), whole.slope_range(z, arithmetic)
    assert not any(bool(t.isnan().any()) for t in (value.lower, value.upper, slope.lower, slope.upper))
    for k, row in enumerate(hidden):
        left = (~row).nonzero().flatten()
        few = Interval(z.lower[:, k : k + 1, left], z.upper[:, k : k + 1, left])
        values, slopes = SoftmaxRows().value_range(few, arithmetic), SoftmaxRows().slope_range(few, arithmetic)
        for found, wanted in (
            (value.lower[:, k][:, left], values.lower),
            (value.upper[:, k][:, left], values.upper),
            (slope.lower[:, k][:, left][..., left], slopes.lower),
            (slope.upper[:, k][:, left][..., left], slopes.upper),
        ):
            torch.testing.assert_close(found, wanted[:, 0], rtol=1e-9, atol=1e-10)
        gone = row.unsqueeze(-1) | row
        for t in (value.lower[:, k][:, row], value.upper[:, k][:, row], slope.lower[:, k][:, gone]):
            assert bool((t == 0).all())
        assert bool((slope.upper[:, k][:, gone] == 0).all())
    some = torch.tensor([2, 1])
    of_some = whole.of_rows(some).value_range(z.map(lambda t: t[:, some]), arithmetic)
    assert torch.equal(of_some.upper, value.upper[:, some])
    assert torch.equal(of_some.lower, value.lower[:, some])


@pytest.mark.parametrize("arithmetic", [FAST, rj.Rigorous()], ids=["fast", "rigorous"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_numbers_far_below_the_others_have_nearly_no_share(
    arithmetic: rj.Fast | rj.Rigorous, dtype: torch.dtype
) -> None:
    """A mask of large finite numbers leaves the ranges of the others as they are; wide ranges hold at their ends."""
    z = Interval(torch.tensor([[[0.0, 1.0, -1e9, 0.5, -1e9]]]), torch.tensor([[[0.2, 1.1, -1e9, 0.5, -1e9]]])).map(
        lambda t: t.to(dtype)
    )
    few = z.map(lambda t: t[..., [0, 1, 3]])
    for found, wanted in zip(
        (SoftmaxRows().value_range(z, arithmetic), SoftmaxRows().slope_range(z, arithmetic)),
        (SoftmaxRows().value_range(few, arithmetic), SoftmaxRows().slope_range(few, arithmetic)),
        strict=True,
    ):
        for whole, part in ((found.lower, wanted.lower), (found.upper, wanted.upper)):
            some = whole[..., [0, 1, 3]] if part.dim() == 3 else whole[..., [0, 1, 3], :][..., [0, 1, 3]]
            torch.testing.assert_close(some, part, rtol=1e-5, atol=1e-6)
            rest = whole[..., [2, 4]] if part.dim() == 3 else whole[..., [2, 4], :]
            assert float(rest.abs().max()) <= 1e-12
    wide = Interval(torch.tensor([[[-2000.0, -900.0, -1000.0]]]), torch.tensor([[[1000.0, -900.0, -1000.0]]])).map(
        lambda t: t.to(dtype)
    )
    value, slope = SoftmaxRows().value_range(wide, arithmetic), SoftmaxRows().slope_range(wide, arithmetic)
    points = points_of(wide.map(Tensor.double), 2000)
    points[:1000, ..., 0] = -900 + 20 * torch.rand(1000, 1, 1, generator=torch.Generator().manual_seed(0)).double() - 10
    assert holds(value.map(Tensor.double), SoftmaxRows().value(points))
    assert holds(slope.map(Tensor.double), slopes_at(SoftmaxRows(), points))


@pytest.mark.parametrize("function", [LengthRows(), LengthRows(3, 0.0), LengthRows(1, 0.1)], ids=str)
def test_derivatives_of_lengths_along_tangents_are_nearly_exact(function: LengthRows) -> None:
    """Where a row keeps its signs, sums of slopes lose what the slopes have in common; these do not."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 8, generator=g, dtype=torch.float64)
    z, w = Interval(x - 0.1, x + 0.1), torch.randn(1, 6, 1, 8, generator=g, dtype=torch.float64)
    w[0, 0] = x.sign()[0]
    for arithmetic in (FAST, rj.Rigorous()):
        found = function.slope_along(z, Interval.point(w), arithmetic)
        points = z.lower + torch.rand(20000, 1, 1, 8, generator=g, dtype=torch.float64).round() * 0.2
        true = (slopes_at(function, points)[:, 0, 0, 0] * w[0, :, 0].unsqueeze(1)).sum(-1)
        plain = AbstractRowFunction.slope_along(function, z, Interval.point(w), arithmetic)
        ends = (t[0, :, 0, 0] for t in (found.lower, found.upper, plain.upper))
        for low, high, sums, at in zip(*ends, true, strict=True):
            assert float(low) <= float(at.min())
            assert float(at.max()) <= float(high) <= float(sums)
            assert float(high) <= 1.03 * float(at.max()) or float(at.max()) < 0.5
        assert float(plain.upper[0, 0, 0, 0]) > 1.05 * float(true[0].max())


def test_derivatives_of_lengths_are_bounded_whatever_the_search_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound of `_most_along` is one for all t, v and q; a search may be wrong, and must not be believed."""
    g = torch.Generator().manual_seed(0)

    def anything(_self: LengthRows, _low: Tensor, _high: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        size = 0.6 if bool(torch.rand((), generator=g) < 0.5) else 3.0
        t, q = (size * torch.rand(*w.shape[:-1], 1, generator=g, dtype=w.dtype) for _ in range(2))
        return t, size * torch.randn(w.shape, generator=g, dtype=w.dtype), q

    monkeypatch.setattr(LengthRows, "_support", anything)
    z = boxes(3, 0.3)
    points = points_of(z, 100)
    for function in LengthRows.examples():
        true = slopes_at(function, points)[..., 0, :]
        for _ in range(40):
            w = torch.randn(2, 1, 4, 3, generator=g, dtype=torch.float64)
            found = function._most_along(z.map(lambda t: t.unsqueeze(1)), w, rj.Rigorous())
            along = (true.unsqueeze(2) * w).sum(-1, keepdim=True)
            assert bool((along.nan_to_num(-inf) <= found + 1e-12).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "function", [f for kind in concrete_classes(AbstractShrunkRows) for f in kind.examples()], ids=str
)
def test_sizes_and_shares_of_rows_cover_their_rounding(function: AbstractShrunkRows, dtype: torch.dtype) -> None:
    """In fractions, with no tolerance, for rows that are points and sizes that are numbers."""
    arithmetic, g = rj.Rigorous(), torch.Generator().manual_seed(0)
    function = replace(function, number=float(torch.tensor(function.number).to(dtype)), centred=False)
    rows = (torch.randn(1, 200, 3, generator=g, dtype=torch.float64) * 0.3).to(dtype)
    sizes = function._sizes(Interval.point(rows), arithmetic)
    for row, low, high in zip(rows[0], *(t[0, :, 0].tolist() for t in (sizes.lower, sizes.upper)), strict=True):
        square = sum((Fraction(v) ** 2 for v in row.tolist()), Fraction(0)) / function.divisor
        assert Fraction(low) ** 2 <= square <= Fraction(high) ** 2
    s = torch.cat([0.1 * torch.rand(200, generator=g, dtype=torch.float64), torch.rand(200, generator=g).double()])
    size = Interval.point(s.to(dtype).reshape(1, -1, 1))
    shares, rises = function._share(size, arithmetic), function._rise(size, arithmetic)
    ends = (t.flatten().tolist() for t in (size.lower, shares.lower, shares.upper, rises.lower, rises.upper))
    for at, low, high, least, most in zip(*ends, strict=True):
        t, e = Fraction(at), Fraction(function.number)
        over = t + e if isinstance(function, ShiftedRows) else max(t, e)
        steep = e / over**2 if isinstance(function, ShiftedRows) else 1 / e if t < e else Fraction(0)
        assert Fraction(low) <= t / over <= Fraction(high)
        assert Fraction(least) <= steep <= Fraction(most)


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
@pytest.mark.parametrize("radius", [0.0, 1e-3, 0.3])
def test_bounds_in_float32_hold_for_exact_functions(function: AbstractRowFunction, radius: float) -> None:
    """Against float64, whose errors are far below those of float32, with no tolerance for the latter."""
    z, arithmetic = boxes(5, radius).map(Tensor.float), rj.Rigorous()
    if isinstance(function, NormalisedRows | LengthRows):
        function = replace(function, eps=float(torch.tensor(function.eps)))
    if isinstance(function, AbstractShrunkRows):
        function = replace(function, number=float(torch.tensor(function.number)))
    points = points_of(z.map(Tensor.double), 60)
    points = torch.minimum(torch.maximum(points, z.lower.double()), z.upper.double())
    slopes = slopes_at(function, points)
    ways = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    along = (slopes.unsqueeze(2) @ ways.double().unsqueeze(-1)).squeeze(-1)
    for found, true in (
        (function.value_range(z, arithmetic), function.value(points)),
        (function.slope_range(z, arithmetic), slopes),
        (function.slope_along(z, Interval.point(ways), arithmetic), along),
    ):
        slack = 1e-13 * (1 + true.abs())
        assert bool((found.lower.double() <= true + slack).all() & (true - slack <= found.upper.double()).all())


def test_hypot_has_finite_derivatives_at_its_kink() -> None:
    """As the length of a row of two, also of tensors of different shapes."""
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    module = Fn(lambda _, x: torch.hypot((x @ weight.T).reshape(-1, 2, 3), x[:, :1, None]))
    centre = torch.zeros(1, 4, dtype=torch.float64)
    network = rj.load(module, centre)
    for radius in (1e-9, 0.1):
        found = rj.jacobian_bounds(network, rj.LpBall(centre, radius))
        points = points_of(Interval(centre - radius, centre + radius), 50)[:, 0]
        torch.testing.assert_close(network(points), module(points))
        true = _jacobians(network, points)
        lower, upper = found.lower.reshape(true.shape[1:]), found.upper.reshape(true.shape[1:])
        assert bool((lower <= true).all() & (true <= upper).all())
        assert bool((torch.maximum(-lower, upper) <= weight.abs() + 1.0 + 1e-9).all())
