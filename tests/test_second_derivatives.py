"""Second derivatives: sampled ones are inside the bounds, for smooth activations, products and domain functions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.activations.base import AbstractSmooth
from recurjac.arithmetic import Fast, Interval, Rigorous
from recurjac.jacobian.hessian import derivatives, square
from recurjac.network import Network, chain
from tests.helpers import examples

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
        y: Tensor = self.b(torch.log(2 + h) / (2 + h.flip(1))) + torch.sqrt(1 + (x * x).sum(1, keepdim=True))
        return y


MODULES: dict[str, Callable[[], nn.Module]] = {"gates": _Gates, "cubic": _Cubic, "domain": _Domain}


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


@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("name", MODULES)
def test_hessians_of_products(name: str, radius: float) -> None:
    for seed in range(3):
        network, x = network_of(name, seed), inputs(seed)
        for output in range(2):
            found = rj.hessian_bounds(network, rj.LpBall(x, radius), output=output)
            true = true_hessians(network, points_of(x, radius), output)
            assert inside(found.lower, found.upper, true)
            assert found.rigorous == (name == "cubic")
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
