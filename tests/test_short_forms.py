"""Forms in which matrix products, softmax and normalisations are single steps (docs/mathematics.md, §5.13)."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, prod

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from benchmarks.architectures import ARCHITECTURES, Encoder, ViT
from recurjac.activations import NormalisedRows, SoftmaxRows
from recurjac.arithmetic import Interval
from recurjac.jacobian.base import AbstractPrepared
from recurjac.jacobian.form_algebra import FormAlgebra, moved
from recurjac.jacobian.gradient_forms import by_steps
from recurjac.jacobian.jets import Enclosed
from recurjac.jacobian.row_steps import mean_slope, row_step
from recurjac.jacobian.steps import Steps
from recurjac.network import Network
from recurjac.propagation.affine_forms import AffineForms, Symbols
from recurjac.propagation.forms import DenseForms
from recurjac.testing.networks import true_jacobians
from tests.torch_cases import Fn

RADII = (0.0, 1e-6, 1e-3, 0.1, 3.0)
INPUTS, NOISES = 3, 2


def random_of(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Cases:
    """Entries that are affine in three inputs and two noises, with rests, and points of them."""

    def __init__(self, radius: float, count: int = 200) -> None:
        problem = rj.Problem(rj.load(nn.Linear(INPUTS, 1).double(), torch.zeros(1, INPUTS).double()),
                             rj.LpBall(random_of(0, 2, INPUTS), radius))  # fmt: skip
        self.symbols = Symbols(problem.bound, rj.Rigorous(), 9, NOISES)
        self.algebra, self.radius, self.count = FormAlgebra(self.symbols), radius, count
        chance = torch.Generator().manual_seed(1)
        x = problem.bound.sample(count, chance)  # (2, N, inputs)
        noises = 2 * torch.rand(2, count, NOISES, generator=chance, dtype=torch.float64) - 1
        noises[:, ::3] = noises[:, ::3].sign()
        self.points = torch.cat([torch.ones_like(x[..., :1]), x, noises], -1)

    def entries(self, seed: int, *shape: int) -> tuple[Enclosed, Tensor]:
        """What is enclosed, and values at points (2, N, *shape)."""
        rows, rest = random_of(seed, 2, 1 + INPUTS + NOISES, *shape), random_of(seed + 1, 2, *shape).abs()
        rows[:, 1 + INPUTS :] *= self.radius
        form = AffineForms(rows, rest * self.radius**2)
        at = torch.einsum("bns,bse->bne", self.points, rows.flatten(2)).reshape(2, self.count, *shape)
        off = 2 * torch.rand(at.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1
        return Enclosed(form, self.symbols.bounds(form)), at + off.sign() * form.rest.unsqueeze(1)

    def hold(self, found: Enclosed, true: Tensor) -> bool:
        """Whether values at points are near the forms there, and between the bounds."""
        rows = found.forms.rows.flatten(2)
        middle = torch.einsum("bns,bse->bne", self.points[..., : rows.shape[1]], rows).reshape(true.shape)
        slack = 1e-12 * (1 + true.abs() + middle.abs())
        near = (true - middle).abs() <= found.forms.rest.unsqueeze(1) + slack
        low, high = (t.unsqueeze(1) for t in (found.bounds.lower, found.bounds.upper))
        return bool((near & (low - slack <= true) & (true <= high + slack)).all())


@pytest.mark.parametrize("radius", RADII)
def test_products_and_differences_hold_at_points(radius: float) -> None:
    cases = Cases(radius)
    (a, at_a), (b, at_b), (c, at_c) = (cases.entries(seed, 2, 4, 3) for seed in (3, 5, 7))
    column, at_column = cases.entries(9, 2, 4, 1)
    assert cases.hold(cases.algebra.matrices(a, b), at_a @ at_b.mT)
    assert cases.hold(cases.algebra.product(a, c), at_a * at_c)
    assert cases.hold(cases.algebra.product(a, column), at_a * at_column)
    assert cases.hold(cases.algebra.difference(a, column), at_a - at_column)


def test_unbounded_entries_say_nothing_of_what_they_reach() -> None:
    cases = Cases(0.1)
    (a, at_a), (b, at_b) = cases.entries(3, 1, 2, 3), cases.entries(5, 1, 4, 3)
    rest = a.forms.rest.clone()
    rest[:, :, 0] = inf
    open_ = AffineForms(torch.where(rest.isinf().unsqueeze(1), 0.0, a.forms.rows), rest)
    found = cases.algebra.matrices(Enclosed(open_, cases.symbols.bounds(open_)), b)
    assert bool(found.bounds.magnitude[:, :, 0].isinf().all())
    assert bool(found.bounds.magnitude[:, :, 1].isfinite().all())
    below = moved(found, lambda t: t[..., 1:, :])
    assert cases.hold(below, (at_a @ at_b.mT)[:, :, :, 1:])


@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("function", [SoftmaxRows(), NormalisedRows(1e-5, True), NormalisedRows(0.1, False)], ids=repr)
def test_functions_of_rows_and_gradients_through_them(function: SoftmaxRows | NormalisedRows, radius: float) -> None:
    cases = Cases(radius, 60)
    (z, at_z), (g, at_g) = cases.entries(3, 4, 5), cases.entries(5, 4, 5)
    step = row_step(function, cases.algebra, z)
    assert cases.hold(step.value, function.value(at_z))
    slopes = torch.func.vmap(torch.func.jacrev(function.value))(at_z.reshape(-1, 5)).reshape(*at_z.shape, 5)
    true = (slopes.mT @ at_g.unsqueeze(-1)).squeeze(-1)
    assert cases.hold(step.pulled(cases.algebra, g), true)


@pytest.mark.parametrize("function", [SoftmaxRows(), NormalisedRows(1e-5, True)], ids=repr)
def test_what_functions_of_rows_lose_is_of_second_order(function: SoftmaxRows | NormalisedRows) -> None:
    lost = []
    for radius in (1e-3, 1e-4):
        cases = Cases(radius)
        z, _ = cases.entries(3, 4, 5)
        g, _ = cases.entries(5, 4, 5)
        step = row_step(function, cases.algebra, z)
        lost.append([float(step.value.forms.rest.sum()), float(step.pulled(cases.algebra, g).forms.rest.sum())])
    assert all(0 < small <= 0.02 * large for large, small in zip(*lost, strict=True))


def prepared(network: Network, region: rj.LpBall | rj.Box, noises: int) -> tuple[rj.Problem, AbstractPrepared]:
    problem = rj.Problem(network, region, arithmetic=rj.Rigorous())
    found = by_steps(rj.Gradients(problem), problem, noises)
    assert found is not None
    return problem, found


def check(network: Network, region: rj.LpBall | rj.Box, noises: int) -> None:
    """Entries of the Jacobian and sums of them, at random points."""
    problem, found = prepared(network, region, noises)
    size = prod(network.input_shape)
    entries, ways = found.push_all(), random_of(0, 1, 1, 2, size)
    along = found.push(DenseForms(ways.reshape(1, 1, 2, *network.input_shape), problem.arithmetic))
    for i, points in enumerate(problem.bound.sample(12, torch.Generator().manual_seed(0))):
        true = true_jacobians(network, points).detach().flatten(-len(network.input_shape)).reshape(12, -1, size)
        for bounds, exact in ((entries, true), (along, true @ ways[0, 0].mT)):
            slack = 1e-11 * (1 + exact.abs().max())
            assert bool(((bounds.lower[i] - slack <= exact) & (exact <= bounds.upper[i] + slack)).all())


class Gated(nn.Module):
    """Attention between branches, a causal mask, and a product of entries beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.norm = nn.Linear(4, 3), nn.Linear(4, 3), nn.LayerNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.one(x).tanh(), self.norm(self.other(x))
        mixed: Tensor = (a @ b.mT / 2).softmax(-1) @ (b * torch.sigmoid(a)) + a @ (b.mT @ b)
        return mixed[:, 1:].sum(1)


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "gated": (Gated, (3, 4)),
    "input": (lambda: Fn(lambda _, x: (x @ x.mT).softmax(-1) @ x), (3, 2)),
    "constant": (lambda: Fn(lambda _, x: (x @ x.mT)[:, :1] * 0.0 + 1.0), (3, 2)),
    "vectors": (lambda: Fn(lambda _, x: (x @ x[:, 0].unsqueeze(-1)).squeeze(-1)), (3, 2)),
    "encoder": (lambda: Encoder(3, 4, 2, 1), (3, 4)),
    "encoder, norm first": (
        lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, norm_first=True, activation="gelu"), (3, 4)
    ),
    "ViT": (lambda: ViT(4, 2, 4, 2, 1), (3, 4, 4)),
}  # fmt: skip


def network_of(name: str) -> tuple[Network, Tensor]:
    make, shape = MODULES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = make().double().eval().requires_grad_(False)
    x = random_of(1, 2, *shape)
    return rj.load(module, x[:1]), x


@pytest.mark.parametrize("noises", [0, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MODULES)
def test_jacobians_at_points_are_inside(name: str, noises: int) -> None:
    network, x = network_of(name)
    for radius, p, clip in ((1e-4, 2, None), (1e-2, inf, (-1.0, 1.0)), (1.0, 1, None)):
        inside = x.clamp(*clip) if clip else x
        check(network, rj.LpBall(inside, radius, p, clip), noises)


@pytest.mark.parametrize("name", MODULES)
def test_at_a_point_it_is_the_jacobian(name: str) -> None:
    """Although entries that nothing reads are left out."""
    network, x = network_of(name)
    _, found = prepared(network, rj.LpBall(x, 0.0), 10)
    true = true_jacobians(network, x.unsqueeze(1)[0]).detach().flatten()
    entries = found.push_all()[:1].map(lambda t: t.flatten())
    assert torch.allclose(entries.lower, true, rtol=1e-8, atol=1e-9)
    assert torch.allclose(entries.upper, true, rtol=1e-8, atol=1e-9)


def test_what_is_lost_is_of_second_order() -> None:
    """A tenth of the radius has at most about a tenth of the width, and a hundredth of the rests of the forms."""
    module, x = ARCHITECTURES["encoder layer"].made(False)
    network = rj.load(module, x).output(5)
    rests, widths = [], []
    for radius in (1e-3, 1e-4):
        _, found = prepared(network, rj.LpBall(x, radius), 0)
        entries = found.push_all()
        widths.append(float(entries.width.sum()))
        rests.append(float(found.forms.rest.sum()))  # type: ignore[attr-defined]
    assert widths[1] <= 0.15 * widths[0]
    assert rests[1] <= 0.03 * rests[0]


def test_only_rows_that_are_read_are_kept() -> None:
    """Of the last block of a ViT, the query and the shares of the class token."""
    module, x = ARCHITECTURES["ViT, 2 blocks"].made(False)
    network = rj.load(module, x).output(3)
    steps = Steps.of(network)
    assert steps is not None
    products = [s.matrices.out_shape for s in steps.stages.values() if s.matrices is not None]
    assert products == [(2, 5, 5), (2, 5, 8), (2, 1, 5), (2, 1, 8)]
    norms = [s.closed.rows.out_shape for s in steps.stages.values() if s.closed is not None]
    assert norms == [(5, 16), (10, 5), (5, 16), (5, 16), (2, 5), (1, 16), (1, 16)]


@pytest.mark.parametrize("name", MODULES)
def test_stages_that_are_matrix_products_have_their_values(name: str) -> None:
    network, x = network_of(name)
    pre = network.preactivations(x)
    linear = {0: x, **{k: z for k, z in enumerate(pre, 1) if network.stages[k - 1].linear}}
    seen = 0
    for k, stage in enumerate(network.stages, 1):
        product = stage.matrices
        if product is None or {product.first.source, product.second.source} - linear.keys():
            continue
        a, b = (e.operator.push(rj.Fast().exact(linear[e.source])).mid for e in (product.first, product.second))
        assert torch.allclose((a @ b.mT).reshape(pre[k - 1].shape), pre[k - 1], rtol=1e-12, atol=1e-12)
        seen += 1
    assert seen


def of_input(network: Network) -> list[bool]:
    """For each product of matrices, whether a factor is read from the input."""
    found = [s.matrices for s in network.stages if s.matrices is not None]
    return [0 in (m.first.source, m.second.source) for m in found]


def test_other_inputs_forget_products_of_the_input() -> None:
    network, _ = network_of("input")
    assert of_input(network) == of_input(network.to(torch.float64)) == [True, True]
    other = network.precompose(torch.eye(6, dtype=torch.float64)[:, :4], random_of(2, 6))
    assert of_input(other) == []
    check(other, rj.LpBall(random_of(3, 1, 4), 0.01), 20)


def test_where_the_other_forms_do_not_fit_steps_are_taken() -> None:
    """Nor do those of steps in less memory; then it is Chords."""
    module, x = ARCHITECTURES["encoder layer"].made(False)
    network, region = rj.load(module, x).output(1), rj.LpBall(x, 1e-3)
    method, ratios = rj.GradientForms(noises=4000), list[float]()
    for memory in (2**20, 2**8):
        problem = rj.Problem(network, region, pre=rj.IBP(), arithmetic=rj.Rigorous(memory=memory))
        assert method.takes_steps(problem)
        found = rj.lipschitz(problem, method=rj.JacobianNorm(method))
        ratios.append(float(found.upper / found.lower))
    assert ratios[0] <= 1.05
    assert ratios[1] > ratios[0]


@pytest.mark.parametrize("end", [-8.0, 8.0])
def test_slopes_from_the_middle_are_those_on_the_whole_way(end: float) -> None:
    """Away from 0, the slopes of a softmax of two numbers grow or fall so much that half of the way has not enough."""
    function, arithmetic = SoftmaxRows(), rj.Rigorous()
    low, high = (torch.tensor([[[v, 0.0]]], dtype=torch.float64) for v in sorted((end, 0.0)))
    middle = low / 2 + high / 2
    slopes = mean_slope(Interval(low, high), middle, arithmetic, lambda box: function.slope_range(box, arithmetic))
    for z in (low, high):
        secant = (z.softmax(-1) - middle.softmax(-1)) / (z - middle)[..., :1]
        assert bool((slopes.lower[..., 0] <= secant).all())
        assert bool((secant <= slopes.upper[..., 0]).all())


def test_slopes_of_a_subnormal_point_are_those_on_the_way_from_its_rounded_middle() -> None:
    """Half of the least positive number rounds to 0; J(c + t (z - c)) is asked for between both."""
    z = torch.full((1, 1, 2), 5e-324, dtype=torch.float64)
    asked: list[Interval] = []

    def slopes(box: Interval) -> Interval:
        asked.append(box)
        return Interval.point(torch.zeros(1, 1, 2, 2, dtype=torch.float64))

    mean_slope(Interval.point(z), torch.zeros_like(z), rj.Rigorous(), slopes)
    near, whole = asked
    assert bool(((near.lower <= 0) & (near.upper >= z / 2)).all())
    assert bool(((whole.lower <= 0) & (whole.upper >= z)).all())


@pytest.mark.parametrize("numbers", [(-1, 0), (0, -1), (2, True)])
def test_numbers_of_noises_are_whole_and_not_negative(numbers: tuple[int, int]) -> None:
    with pytest.raises(rj.InvalidRequest, match=r"noises of GradientForms is .*; give"):
        rj.GradientForms(*numbers)
