"""Second derivatives: sampled ones are inside the bounds, for smooth activations, products and domain functions."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.activations import Exp, ReLU, Softplus, Tanh, curvature_lines
from recurjac.activations.bends import fourth_size
from recurjac.activations.smooth import AbstractSmooth
from recurjac.arithmetic import Fast, Interval, Rigorous
from recurjac.cli import main
from recurjac.jacobian.hessian import derivatives
from recurjac.jacobian.jets import square
from recurjac.network import Network, chain
from tests.helpers import examples
from tests.marks import in_turn, often

RADII = (0.0, 0.02, 0.3)


def smooth(activation: AbstractSmooth) -> bool:
    return activation.curvature_range(Interval.point(torch.ones(1, 1, dtype=torch.float64)), Fast()) is not None


SMOOTH = [e for e in examples(AbstractSmooth) if smooth(e.values[0])]  # type: ignore[arg-type]


class _Gates(nn.Module):
    """Products of terms of different depth, and of inputs, one of them read again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(n, 5) for n in (3, 3, 5, 5))
        self.last = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x) * torch.sigmoid(self.b(x))
        y: Tensor = self.last(torch.tanh(self.c(h)) * self.d(h))
        return y + x[:, :1] * x[:, 1:2] * torch.sin(x[:, 2:])


class _Cubic(nn.Module):
    """A polynomial: rounding is covered."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        value = (self.p(x) * x).sum(-1, keepdim=True)
        return torch.cat([value, value * x[:, :1]], 1)


class _Domain(nn.Module):
    """A quotient, a logarithm and a root."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        y: Tensor = self.b(torch.log(2 + h) / (2 + h.flip(1))) + torch.sqrt(9 + x[:, :1] * x[:, 1:2])
        return y


class _Rows(nn.Module):
    """A function of rows of four numbers, on tokens that are affine functions of the input."""

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.a, self.function, self.b = nn.Linear(3, 8), function, nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.function(self.a(x).reshape(-1, 2, 4)).reshape(-1, 8))
        return y


class _Attend(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x.flip(-1), x)


NORMALISED: dict[str, Callable[[], nn.Module]] = {
    "layer norm": lambda: _Rows(nn.LayerNorm(4)),
    "rms norm": lambda: _Rows(nn.RMSNorm(4)),
    "softmax": lambda: _Rows(nn.Softmax(-1)),
    "log-softmax": lambda: _Rows(nn.LogSoftmax(-1)),
    "attention": lambda: _Rows(_Attend()),
    "encoder": lambda: _Rows(nn.TransformerEncoderLayer(4, 2, 5, activation="gelu", batch_first=True, norm_first=True)),
}
MODULES: dict[str, Callable[[], nn.Module]] = {"gates": _Gates, "cubic": _Cubic, "domain": _Domain, **NORMALISED}
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n in ("encoder", "attention") else n for n in MODULES]


def network_of(name: str, seed: int = 0) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = MODULES[name]().double()
    return rj.load(module, torch.zeros(1, 3)).detached()


def random_net(activation: AbstractSmooth, seed: int) -> Network:
    g = torch.Generator().manual_seed(seed)
    weights = [torch.randn(m, n, generator=g, dtype=torch.float64) / n for n, m in pairwise((3, 5, 4, 1))]
    return chain([(w, 3 * w.abs().sum(1)) for w in weights], [activation] * 2)


def inputs(seed: int) -> Tensor:
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def points_of(x: Tensor, radius: float, count: int = 12) -> Tensor:
    """The centre, corners and other points of l∞ balls: (samples, count, n)."""
    g = torch.Generator().manual_seed(1)
    share = 2 * torch.rand(len(x), count, x.shape[1], generator=g, dtype=torch.float64) - 1
    share[:, ::2] = share[:, ::2].sign()
    share[:, 0] = 0
    return x.unsqueeze(1) + radius * share


def true_hessians(network: Network, points: Tensor, output: int = 0) -> Tensor:
    """By automatic differentiation, (..., n, n)."""
    flat = points.reshape(-1, points.shape[-1]).clone().requires_grad_()
    (first,) = torch.autograd.grad(network(flat)[:, output].sum(), flat, create_graph=True)
    rows = [torch.autograd.grad(own.sum() + 0 * flat.sum(), flat, retain_graph=True)[0] for own in first.unbind(1)]
    return torch.stack(rows, 1).reshape(*points.shape, points.shape[-1])


def inside(lower: Tensor, upper: Tensor, true: Tensor) -> bool:
    """Whether the values (samples, points, …) are between bounds (samples, …), and known where those are exact."""
    slack = 1e-9 * (1 + true.abs())
    return bool(((true >= lower.unsqueeze(1) - slack) & (true <= upper.unsqueeze(1) + slack)).all())


@pytest.mark.parametrize("seed", often(range(2), (0,)))
@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("name", NAMES)
def test_hessians_of_products(name: str, radius: float, seed: int) -> None:
    network, x, output = network_of(name, seed), inputs(seed), seed
    found = rj.hessian_bounds(network, rj.LpBall(x, radius), output=output)
    true = true_hessians(network, points_of(x, radius), output)
    assert inside(found.lower, found.upper, true)
    assert found.rigorous
    if radius == 0:
        assert float((found.upper - found.lower).max()) <= 1e-6 * (1 + float(true.abs().max()))


@pytest.mark.parametrize("radius", [0.02])
@pytest.mark.parametrize("activation", SMOOTH)
def test_hessians_along_tangents_are_those_of_all_entries(activation: AbstractSmooth, radius: float) -> None:
    """T H Tᵀ for a few tangents, inside what the entries give, and never wider on the diagonal of the basis."""
    network, x = random_net(activation, 1), inputs(2)
    problem = rj.Problem(network, rj.LpBall(x, radius))
    tangents = torch.randn(2, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = derivatives(problem, rj.Chords(), tangents)
    true = true_hessians(network, points_of(x, radius))
    assert inside(found.hessian.lower, found.hessian.upper, tangents @ true @ tangents.T)
    whole = derivatives(problem, rj.Chords(), torch.eye(3, dtype=torch.float64))
    assert inside(whole.hessian.lower, whole.hessian.upper, true)


def test_squares_of_intervals() -> None:
    z = Interval(torch.tensor([-1.0, 2.0, -3.0, 0.0]), torch.tensor([2.0, 3.0, -2.0, torch.inf]))
    for arithmetic in (Fast(), Rigorous()):
        found = square(z, arithmetic)
        assert found.lower.tolist() == pytest.approx([0, 4, 4, 0])
        assert found.upper.tolist() == pytest.approx([4, 9, 9, torch.inf])
        assert bool((found.lower >= 0).all())


def test_a_saddle_of_a_product_is_proved() -> None:
    """x y + 0.1 sin x: a network of products has stationary points like any other."""

    class Saddle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :1] * x[:, 1:] + x[:, :1]

    network = rj.load(Saddle(), torch.zeros(1, 2, dtype=torch.float64))
    found = rj.stationary_points(network, rj.Box([[-2.0, -2.0]], [[2.0, 2.0]]), output=0)
    ((point,),) = found.points
    assert point.kind is rj.StationaryKind.SADDLE
    torch.testing.assert_close(point.point, torch.tensor([0.0, -1.0], dtype=torch.float64), atol=1e-6, rtol=0)


# Lines of σ''


@pytest.mark.parametrize("activation", SMOOTH)
def test_lines_of_second_derivatives(activation: AbstractSmooth) -> None:
    g = torch.Generator().manual_seed(0)
    middle = 8 * torch.rand(300, generator=g, dtype=torch.float64) - 4
    half = 10 ** (5 * torch.rand(300, generator=g, dtype=torch.float64) - 4)
    z = Interval((middle - half).unsqueeze(0), (middle + half).unsqueeze(0))
    lines = curvature_lines(activation, z, Fast())
    out = activation.excluded(z)
    share = torch.linspace(0, 1, 65, dtype=torch.float64).reshape(-1, 1, 1)
    points = z.lower + share * (z.upper - z.lower)
    true = activation.curvature(points)
    assert true is not None
    true = true if out is None else torch.where(out, 0.0, true)
    slack = 1e-11 * (1 + true.abs() + (lines.upper_slope * points.unsqueeze(1)).abs().squeeze(1))
    assert bool((lines.lower_slope[:, 0] * points + lines.lower_intercept[:, 0] <= true + slack).all())
    assert bool((lines.upper_slope[:, 0] * points + lines.upper_intercept[:, 0] >= true - slack).all())


@pytest.mark.parametrize("activation", SMOOTH)
def test_bounds_of_fourth_derivatives(activation: AbstractSmooth) -> None:
    z = torch.cat([torch.linspace(-9, 9, 4001, dtype=torch.float64), torch.tensor([1e-3, 0.1], dtype=torch.float64)])
    out = activation.excluded(Interval(z - 1e-5, z + 1e-5))
    z = (z if out is None else z[~out]).clone().requires_grad_()
    bound = fourth_size(activation, Interval.point(z.detach()))
    if bound is None:
        return
    bend = activation.curvature(z)
    assert bend is not None
    (third,) = torch.autograd.grad(bend.sum() + 0 * z.sum(), z, create_graph=True)
    (fourth,) = torch.autograd.grad(third.sum() + 0 * z.square().sum(), z)
    assert bool((fourth.abs() <= bound * (1 + 1e-9)).all())


# Residuals, directions and curvature


def some_residuals(output: int = 0) -> list[rj.Residual]:
    """Linear ones, products and constants."""
    u, one, two, bent = (rj.partial(*i, output=output) for i in ((), (0,), (1,), (1, 2)))
    heat = one - 0.3 * rj.laplacian(1, 2, output=output)
    return [u, one, bent, heat, one + u * two - 0.5 * rj.partial(2, 2, output=output), 2 - u * u * one, bent * bent]


def true_residuals(network: Network, points: Tensor, output: int = 0) -> Tensor:
    """The values of `some_residuals`, by automatic differentiation: (..., residuals)."""
    flat = points.reshape(-1, points.shape[-1]).clone().requires_grad_()
    value = network(flat)[:, output]
    (first,) = torch.autograd.grad(value.sum(), flat)
    second = true_hessians(network, flat.detach(), output)
    u, a, b = value.detach(), first[:, 0], first[:, 1]
    heat = a - 0.3 * (second[:, 1, 1] + second[:, 2, 2])
    bent = second[:, 1, 2]
    found = torch.stack([u, a, bent, heat, a + u * b - 0.5 * second[:, 2, 2], 2 - u * u * a, bent * bent], 1)
    return found.reshape(*points.shape[:-1], -1)


def check_residuals(network: Network, x: Tensor, radius: float, output: int = 0) -> None:
    found = rj.residual_bounds(network, rj.LpBall(x, radius), residuals=some_residuals(output))
    true = true_residuals(network, points_of(x, radius), output)
    assert inside(found.lower, found.upper, true)
    if radius == 0:
        assert float((found.upper - found.lower).max()) <= 1e-6 * (1 + float(true.abs().max()))


@pytest.mark.parametrize("seed", often(range(2), (1,)))
@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("name", NAMES)
def test_residuals_of_products(name: str, radius: float, seed: int) -> None:
    check_residuals(network_of(name, seed), inputs(seed), radius, 1)


@pytest.mark.parametrize(("activation", "radius"), in_turn(SMOOTH, RADII))
def test_residuals_of_all_activations(activation: AbstractSmooth, radius: float) -> None:
    check_residuals(random_net(activation, 5), inputs(5), radius)


def test_the_slack_is_of_second_order() -> None:
    """A tenth of the radius leaves about a hundredth of what bounds lose."""
    network, x = random_net(Tanh(), 1), inputs(1)[:1]
    lost = []
    for radius in (1e-2, 1e-3):
        found = rj.residual_bounds(network, rj.LpBall(x, radius), residuals=rj.partial(1, 1))
        corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
        true = true_hessians(network, x + radius * corners)[:, 1, 1]
        lost.append(float(found.upper.max() - true.max()))
    assert 0 <= lost[1] < lost[0] / 50


@pytest.mark.parametrize("p", [1, 2, rj.inf])
def test_regions_of_all_norms_and_clips(p: float) -> None:
    network, x = network_of("gates"), inputs(0)
    region = rj.LpBall(x, 0.3, p, clip=(-1.0, 2.0)) if bool(((x >= -1) & (x <= 2)).all()) else rj.LpBall(x, 0.3, p)
    found = rj.residual_bounds(network, region, residuals=some_residuals())
    points = region.bind((3,), torch.float64, torch.device("cpu")).sample(40, torch.Generator().manual_seed(0))
    assert inside(found.lower, found.upper, true_residuals(network, points))


def test_unbounded_regions_and_float32() -> None:
    network = random_net(Tanh(), 0)
    found = rj.residual_bounds(network, rj.LpBall(inputs(0), rj.inf), residuals=rj.partial(0, 1), limit=rj.Limit(1.0))
    true = true_hessians(network, 3 * torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0)).double())
    assert inside(found.lower, found.upper, true[..., 0, 1].unsqueeze(-1))
    assert bool(found.upper.isfinite().all())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        narrow = rj.load(_Cubic(), torch.zeros(1, 3)).to(torch.float32)
    region = rj.LpBall(inputs(0).float(), 0.1)
    small = rj.residual_bounds(narrow, region, residuals=some_residuals())
    assert small.rigorous
    points = region.bind((3,), torch.float32, torch.device("cpu")).sample(40, torch.Generator().manual_seed(0)).double()
    assert inside(small.lower.double(), small.upper.double(), true_residuals(narrow.to(torch.float64), points))


@pytest.mark.parametrize("name", [pytest.param("gates", marks=pytest.mark.slow), "cubic"])
def test_divided_regions(name: str) -> None:
    network, x = network_of(name), inputs(0)[:1]
    whole = rj.residual_bounds(network, rj.LpBall(x, 0.3), residuals=some_residuals())
    limit = rj.Limit(parts=60, seconds=60)
    found = rj.residual_bounds(network, rj.LpBall(x, 0.3), residuals=some_residuals(), limit=limit)
    true = true_residuals(network, points_of(x, 0.3, 400))
    assert inside(found.lower, found.upper, true)
    assert bool((found.lower >= whole.lower).all() & (found.upper <= whole.upper).all())
    assert float((found.upper - found.lower).sum()) < 0.95 * float((whole.upper - whole.lower).sum())
    assert found.status == ("parts",) or found.status == ("exact",)


def test_the_first_division_is_as_fine_as_a_grid_that_takes_as_long() -> None:
    """Second derivatives of many parts take hardly longer than those of one."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = nn.Sequential(nn.Linear(2, 10), nn.Tanh(), nn.Linear(10, 10), nn.Tanh(), nn.Linear(10, 1))
    network = rj.load(layers.double(), torch.zeros(1, 2))
    burgers = rj.partial(0) + rj.partial() * rj.partial(1) - 0.1 * rj.partial(1, 1)
    ends = torch.linspace(-1, 1, 9, dtype=torch.float64)
    cells = rj.Box(torch.cartesian_prod(ends[:-1], ends[:-1]), torch.cartesian_prod(ends[1:], ends[1:]))
    grid = rj.residual_bounds(network, cells, residuals=burgers)
    box = rj.Box(torch.full((1, 2), -1.0), torch.ones(1, 2))
    limit = rj.Limit(seconds=1e-3, tolerance=1e-9)
    assert rj.residual_bounds(network, box, residuals=burgers, limit=limit).parts == (1,)
    found = rj.residual_bounds(network, box, residuals=burgers, limit=rj.Limit(seconds=600, parts=257, tolerance=1e-9))
    assert found.parts == (257,)
    assert "257 parts" in repr(found)
    assert float(found.lower) >= float(grid.lower.min())
    assert float(found.upper) <= float(grid.upper.max())
    assert grid.parts == (1,) * 64
    assert "parts" not in repr(grid)


def test_second_derivatives_along_directions() -> None:
    network, x = network_of("gates"), inputs(3)
    g = torch.Generator().manual_seed(4)
    v, w = (torch.randn(4, 3, generator=g, dtype=torch.float64) for _ in range(2))
    for radius in RADII:
        region = rj.LpBall(x, radius)
        true = true_hessians(network, points_of(x, radius), 1)
        own = rj.second_derivative(network, region, directions=v, output=1)
        assert inside(own.lower, own.upper, torch.einsum("ri,spij,rj->spr", v, true, v))
        both = rj.second_derivative(network, region, directions=v, others=w, output=1)
        assert inside(both.lower, both.upper, torch.einsum("ri,spij,rj->spr", v, true, w))
        times = rj.second_derivative(
            network, region, directions=v[:1].expand(3, 3), others=torch.eye(3, dtype=torch.float64), output=1
        )
        assert inside(times.lower, times.upper, true @ v[0])


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "cubic" else pytest.mark.slow) for n in MODULES])
def test_curvature(name: str) -> None:
    network, x = network_of(name), inputs(1)
    for radius, limit in ((0.0, None), (0.2, None), (0.2, rj.Limit(parts=30, seconds=60))):
        found = rj.curvature(network, rj.LpBall(x, radius), output=1, limit=limit)
        true = torch.linalg.matrix_norm(true_hessians(network, points_of(x, radius, 60), 1), 2)
        assert bool((found.upper.unsqueeze(1) >= true - 1e-9).all())
        attained = torch.linalg.matrix_norm(true_hessians(network, found.witness, 1), 2)
        torch.testing.assert_close(torch.maximum(attained, found.lower), attained, atol=1e-9, rtol=1e-9)
        assert bool((found.lower <= found.upper).all() & (found.lower > 0).all())
        if radius == 0:
            torch.testing.assert_close(found.lower, found.upper, atol=1e-6, rtol=1e-6)


def test_curvature_of_what_overflows_is_infinite() -> None:
    """Second derivatives that are not finite give no bound, but no error either."""
    for scale in (1e5, 1e200):
        weights = [(scale * w, None) for w in torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0)).double()]
        network = chain(weights, [Exp()])
        for radius in (0.0, 0.1):
            found = rj.curvature(network, rj.LpBall(inputs(0).abs(), radius))
            assert bool((found.upper == torch.inf).all() & (found.lower <= found.upper).all())


def test_curvature_where_infinite_values_cancel_is_infinite() -> None:
    """Points are tried at which the network itself is infinity less infinity in floating point."""
    weights = ([[1.0], [1.0], [-1.0], [-1.0]], [[1.0, -1.0, 1.0, -1.0]], [[1.0]])
    network = chain([(torch.tensor(w).double(), None) for w in weights], [Exp(), Softplus()])
    found = rj.curvature(network, rj.LpBall(torch.zeros(1, 1).double(), 1e30))
    assert bool((found.upper == torch.inf).all() & (found.lower <= found.upper).all())


def test_what_is_refused() -> None:
    network, region = random_net(Tanh(), 0), rj.LpBall(inputs(0), 0.1)
    relu = chain([(torch.eye(3, dtype=torch.float64), None)] * 2, [ReLU()])
    one = torch.ones(1, 3, dtype=torch.float64)
    for ask in (
        lambda: rj.residual_bounds(network, region, residuals=rj.partial(3)),
        lambda: rj.residual_bounds(network, region, residuals=rj.partial(output=1)),
        lambda: rj.residual_bounds(network, region, residuals=[]),
        lambda: rj.residual_bounds(relu, region, residuals=rj.partial(0, 0)),
        lambda: rj.partial(0, 1, 2),
        lambda: rj.partial(-1),
        lambda: rj.laplacian(),
        lambda: rj.partial(0) + float("nan"),
        lambda: 1e300 * (1e300 * rj.partial(0)),
        lambda: rj.second_derivative(network, region, directions=one[:, :2]),
        lambda: rj.second_derivative(network, region, directions=one, others=one.expand(2, 3)),
        lambda: rj.curvature(relu, region),
    ):
        with pytest.raises(rj.InvalidRequest):
            ask()


# The command


def ran(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str]:
    code = main([str(a) for a in args])
    out, err = capsys.readouterr()
    return code, out if code == 0 else err


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    g = np.random.default_rng(0)
    np.savez("net.npz", W0=g.normal(size=(6, 3)), W1=g.normal(size=(2, 6)), activation="tanh")
    np.save("x.npy", g.normal(size=(2, 3)))
    network, x = rj.load("net.npz"), torch.from_numpy(np.load("x.npy"))
    common = ("hessian", "net.npz", "--input", "x.npy", "--radius", 0.1, "--class", 1, "--json", "-", "--quiet")
    true = true_hessians(network, points_of(x, 0.1), 1)
    for extra, want in (
        (("--method", "chords"), true),
        (("--time-limit", 0.4), true),
        (("--laplacian",), true.diagonal(dim1=-2, dim2=-1).sum(-1)),
        (("--laplacian", "--time-limit", 0.4), true.diagonal(dim1=-2, dim2=-1).sum(-1)),
        (("--curvature",), torch.linalg.matrix_norm(true, 2)),
    ):
        code, out = ran(capsys, *common, *extra, "--output", "h")
        assert code == 0
        rows = json.loads(out)["results"]
        assert [(r["index"], r["class"]) for r in rows] == [(0, 1), (1, 1)]
        with np.load("h") as file:
            lower, upper = (torch.from_numpy(file[k]) for k in ("lower", "upper"))
        assert [r["upper"] for r in rows] == upper.flatten(1).amax(1).tolist() if upper.dim() > 1 else upper.tolist()
        least = lower if "--curvature" not in extra else torch.zeros_like(lower)
        assert inside(least, upper, want)
    shown = ran(capsys, *common[:-3], "--curvature")
    assert "curvature" in shown[1]
    for wrong in (
        ("--curvature", "--method", "chords"),
        ("--class", "each", "--output", "h"),
        ("--laplacian", "--method", "x"),
    ):
        assert ran(capsys, *common, *wrong)[0] == 2
    assert ran(capsys, *common[:6], "--quiet")[0] == 2


P = rj.partial
COEFFICIENTS: dict[str, tuple[rj.Residual, Fraction]] = {
    "tiny": (1e-300 * P(0), Fraction(1e-300)),
    "half of the least": (-1e-46 * P(1), Fraction(-1e-46) / 2),
    "tiny constant": (P(0) * 0 - 1e-300, -Fraction(1e-300)),
    "huge": (1e300 * P(0), Fraction(1e300)),
    "huge constant": (P(0) * 0 - 1e300, -Fraction(1e300)),
    "tenth": (0.1 * P(0) - 0.7, Fraction(0.1) - Fraction(0.7)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("limit", [None, rj.Limit(parts=2)], ids=["whole", "divided"])
@pytest.mark.parametrize("name", COEFFICIENTS)
def test_factors_that_the_dtype_cannot_represent(name: str, limit: rj.Limit | None, dtype: torch.dtype) -> None:
    """u = x + y / 2, whose derivatives are known: residuals are those with the factors that were given."""
    residual, true = COEFFICIENTS[name]
    network = rj.load([([[1.0, 0.5]], [0.25])], activation="tanh", dtype=dtype)
    found = rj.residual_bounds(network, rj.LpBall([[0.5, 0.5]], 0.0), residuals=residual, limit=limit)
    lower, upper = float(found.lower), float(found.upper)
    assert lower == -inf or (lower < inf and Fraction(lower) <= true)
    assert upper == inf or (upper > -inf and Fraction(upper) >= true)
    if dtype == torch.float64:
        assert upper - lower <= 1e-6 * abs(true)


@pytest.mark.parametrize("number", [10**400, 2**53 + 1, inf, nan, True])
def test_factors_that_are_no_numbers_of_float64_are_refused(number: float) -> None:
    with pytest.raises(rj.InvalidRequest, match="finite number"):
        number * P(0)
