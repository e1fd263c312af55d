"""Gradients and Lie derivatives as networks, against automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from tests import derivative_cases
from tests.derivative_cases import WAYS
from tests.marks import often
from tests.torch_cases import Fn


def deep(*activations: nn.Module) -> nn.Module:
    layers: list[nn.Module] = []
    for k, activation in enumerate(activations):
        layers += [nn.Linear(2 if k == 0 else 5, 5), activation]
    return nn.Sequential(*layers, nn.Linear(5, 1))


def quadratic() -> nn.Module:
    return Fn(lambda p, x: ((x @ p[0].weight) * x).sum(1, keepdim=True), nn.Linear(2, 2))


def mixed() -> nn.Module:
    """Products, powers and functions with a domain."""

    def value(parts: nn.ModuleList, x: Tensor) -> Tensor:
        h, size = torch.tanh(parts[0](x)), 1 + x.square().sum(1, keepdim=True)
        return (h**2 + h**3 + h**5).sum(1, keepdim=True) * x[:, :1].sin() + size.log() + size.sqrt() - h[:, :1] / size

    return Fn(value, nn.Linear(2, 5))


VALUES: dict[str, Callable[[], nn.Module]] = {
    "tanh": lambda: deep(nn.Tanh(), nn.Tanh()),
    "sigmoid": lambda: deep(nn.Sigmoid()),
    "softplus": lambda: deep(nn.Softplus(2.0), nn.LogSigmoid()),
    "gated": lambda: deep(nn.GELU(), nn.SiLU(), nn.Mish()),
    "waves": lambda: Fn(lambda p, x: p[1](p[0](x).sin() + p[0](x).cos().exp()), nn.Linear(2, 4), nn.Linear(4, 1)),
    "linear": lambda: nn.Linear(2, 1),
    "constant": lambda: Fn(lambda _, x: 0 * x[:, :1] + 1),
    "quadratic": quadratic,
    "mixed": mixed,
    "residual": lambda: Fn(lambda p, x: p[1](x + torch.tanh(p[0](x))), nn.Linear(2, 2), nn.Linear(2, 1)),
}


class Field(nn.Module):
    """A vector field with a product."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, 1:], x[:, :1].sin() + torch.tanh(self.inner(x)) * x[:, :1].cos()], 1)


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(len(name))
    return VALUES[name]().double(), Field().double()


@pytest.mark.parametrize("name", VALUES)
def test_a_gradient_is_that_of_autograd(name: str) -> None:
    module = pair(name)[0]
    value = rj.load(module, torch.zeros(2))
    network, x = rj.gradient_network(value), torch.randn(20, 2, dtype=torch.float64)
    one = lambda t: module(t.unsqueeze(0)).sum()  # noqa: E731
    torch.testing.assert_close(network(x), torch.func.vmap(torch.func.grad(one))(x), rtol=1e-9, atol=1e-9)
    region = rj.LpBall(x[:1], 0.1)
    points = x[:1] + 0.1 * (2 * torch.rand(50, 2, dtype=torch.float64) - 1)
    hessian = torch.func.vmap(torch.func.jacrev(torch.func.jacrev(one)))(points)
    bounds = rj.jacobian_bounds(network, region)
    assert bool((bounds.lower - 1e-9 <= hessian).all())
    assert bool((hessian <= bounds.upper + 1e-9).all())


@pytest.mark.parametrize("name", VALUES)
def test_a_lie_derivative_is_the_derivative_along_solutions(name: str) -> None:
    (module, field), radius = pair(name), 0.3
    network = rj.lie_derivative(rj.load(module, torch.zeros(2)), rj.load(field, torch.zeros(2)))
    assert network.output_shape == (1,)

    def along(x: Tensor) -> Tensor:
        slope = torch.func.grad(lambda t: module(t.unsqueeze(0)).sum())(x)
        return (slope * field(x.unsqueeze(0))[0]).sum()  # type: ignore[no-any-return]

    x = radius * (2 * torch.rand(100, 2, dtype=torch.float64) - 1)
    truth = torch.func.vmap(along)(x)
    torch.testing.assert_close(network(x)[:, 0], truth, rtol=1e-9, atol=1e-9)
    region = rj.Box(-radius * torch.ones(1, 2), radius * torch.ones(1, 2))
    last = rj.preactivation_bounds(network, region)
    assert bool((last.lower[-1] - 1e-12 <= truth).all())
    assert bool((truth <= last.upper[-1] + 1e-12).all())
    slopes, bounds = torch.func.vmap(torch.func.grad(along))(x), rj.jacobian_bounds(network, region)
    assert bool((bounds.lower[0] - 1e-9 <= slopes).all())
    assert bool((slopes <= bounds.upper[0] + 1e-9).all())


def test_both_follow_live_weights() -> None:
    module, field = pair("tanh")
    value, dynamics = (rj.load(m, torch.zeros(2)) for m in (module, field))
    network, x = rj.lie_derivative(value, dynamics), torch.randn(1, 2, dtype=torch.float64)
    rj.jacobian_bounds(network, rj.LpBall(x, 0.1)).upper.sum().backward()
    weights = [p for m in (module, field) for p in m.parameters()]
    moved = [p for p in weights if p.grad is not None and bool((p.grad != 0).any())]
    assert len(moved) == len(weights) - 1  # all but the last bias of V
    torch.optim.SGD(moved, lr=0.1).step()
    torch.testing.assert_close(network(x), rj.lie_derivative(value, dynamics)(x), rtol=1e-12, atol=1e-12)


def test_a_quadratic_form_is_rigorous() -> None:
    network = rj.lie_derivative(*(rj.load(m().double(), torch.zeros(2)) for m in (quadratic, lambda: nn.Linear(2, 2))))
    assert rj.jacobian_bounds(network, rj.LpBall(torch.zeros(1, 2), 1.0)).rigorous


def test_what_has_no_continuous_gradient_is_refused() -> None:
    x = torch.zeros(2)
    field, smooth = rj.load(Field().double(), x), rj.load(deep(nn.Tanh()).double(), x)
    with pytest.raises(rj.InvalidRequest, match="relu is not continuous"):
        rj.gradient_network(rj.load(deep(nn.ReLU()).double(), x))
    with pytest.raises(rj.InvalidRequest, match="take one of them"):
        rj.gradient_network(field)
    with pytest.raises(rj.InvalidRequest, match="1 outputs for a state of 2"):
        rj.lie_derivative(smooth, smooth)
    with pytest.raises(rj.InvalidRequest, match="differ in the shape"):
        rj.lie_derivative(smooth, field.to(torch.float32))


@pytest.mark.parametrize("name", WAYS)
def test_a_derivative_inside_a_module_is_read(name: str) -> None:
    """Its values, and its Jacobian over a ball, are those of PyTorch's own derivatives."""
    torch.manual_seed(len(name))
    module = Fn(lambda p, x: WAYS[name](p[0], x), derivative_cases.deep(nn.Tanh(), nn.Softplus())).double()
    network, x = rj.load(module, torch.zeros(3)), torch.randn(1, 3, dtype=torch.float64)
    points = x + 0.1 * (2 * torch.rand(30, 3, dtype=torch.float64) - 1)
    each = [module(row.clone()) for row in points.split(1)]
    torch.testing.assert_close(network(points), torch.cat(each), rtol=1e-9, atol=1e-9)
    bounds = rj.jacobian_bounds(network, rj.Box(x - 0.1, x + 0.1))
    found = [torch.autograd.functional.jacobian(module, row.clone())[0] for row in points.split(1)]
    assert all(bool((bounds.lower[0] - 1e-9 <= j.squeeze(-2)).all()) for j in found)
    assert all(bool((j.squeeze(-2) <= bounds.upper[0] + 1e-9).all()) for j in found)


def along(value: nn.Module, field: nn.Module) -> nn.Module:
    """dV/dx · f, differentiated inside."""

    def inner(p: nn.ModuleList, x: Tensor) -> Tensor:
        slope = torch.func.vmap(torch.func.grad(derivative_cases.one(p[0])))(x)
        return (slope * p[1](x)).sum(1, keepdim=True)  # type: ignore[no-any-return]

    return Fn(inner, value, field)


@pytest.mark.parametrize(
    "name", often(("tanh", "softplus", "waves", "linear", "quadratic", "mixed"), ("tanh", "linear", "quadratic"))
)
def test_a_lie_derivative_inside_is_the_one_that_is_made(name: str) -> None:
    value, field = pair(name)
    x = torch.randn(1, 2, dtype=torch.float64)
    inside = rj.load(along(value, field), torch.zeros(2))
    made = rj.lie_derivative(rj.load(value, torch.zeros(2)), rj.load(field, torch.zeros(2)))
    torch.testing.assert_close(inside(x), made(x), rtol=1e-9, atol=1e-9)
    region = rj.LpBall(x, 0.1)
    one, other = ((b.upper - b.lower).detach().max() for b in (rj.jacobian_bounds(n, region) for n in (inside, made)))
    assert float(one) <= 1.5 * float(other) + 1e-9


def test_a_derivative_inside_follows_live_weights_and_its_rounding_is_covered() -> None:
    exact = along(quadratic(), nn.Linear(2, 2)).double()
    network, x = rj.load(exact, torch.zeros(2)), torch.randn(1, 2, dtype=torch.float64)
    bounds = rj.jacobian_bounds(network, rj.LpBall(x, 0.1))
    assert bounds.rigorous
    value, field = pair("tanh")
    network = rj.load(along(value, field), torch.zeros(2))
    rj.jacobian_bounds(network, rj.LpBall(x, 0.1)).upper.sum().backward()
    weights = [p for m in (value, field) for p in m.parameters()]
    moved = [p for p in weights if p.grad is not None and bool((p.grad != 0).any())]
    assert len(moved) == len(weights) - 1  # all but the last bias of V
    torch.optim.SGD(moved, lr=0.1).step()
    torch.testing.assert_close(network(x), along(value, field)(x), rtol=1e-12, atol=1e-12)


def test_a_softplus_inside_is_differentiated_beyond_its_threshold() -> None:
    """PyTorch's derivative jumps by 2e-9 there, which is not the function's."""
    inner = nn.Linear(2, 3)
    nn.init.constant_(inner.bias, 20.0)
    module = Fn(lambda p, x: torch.func.grad(lambda z: nn.functional.softplus(p[0](z)).sum())(x), inner)
    network = rj.load(module.double(), torch.zeros(2))
    x = torch.zeros(1, 2, dtype=torch.float64)
    bounds = rj.jacobian_bounds(network, rj.LpBall(x, 0.1))
    assert bool((bounds.lower < bounds.upper).all())


JUMPS: dict[str, nn.Module] = {
    "threshold_backward": nn.ReLU(), "leaky_relu_backward": nn.LeakyReLU(), "elu_backward": nn.ELU(0.5),
    "sgn": nn.Softsign(), "hardtanh_backward": nn.Hardtanh(), "prelu_kernel_backward": nn.PReLU(),
}  # fmt: skip


@pytest.mark.parametrize("name", JUMPS)
def test_a_derivative_inside_that_jumps_is_refused(name: str) -> None:
    module = Fn(lambda p, x: WAYS["grad"](p[0], x), derivative_cases.deep(JUMPS[name])).double()
    with pytest.raises(rj.UnsupportedLayer, match=f"{name}.*jumps, so that a network that computes it has no Jacobian"):
        rj.load(module, torch.ones(3))


def test_a_layer_with_two_names_is_not_changed_by_reading() -> None:
    torch.manual_seed(5)
    inner = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    module = Fn(lambda p, x: torch.func.grad(lambda z: p[1](p[0](z)).sum())(x), inner, inner).double()
    module.register_module("again", inner)
    before = [p.detach().clone() for p in module.parameters()]
    network, x = rj.load(module, torch.zeros(2)), torch.randn(3, 2, dtype=torch.float64)
    assert all(type(p) is nn.Parameter and torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))
    torch.testing.assert_close(network(x), module(x), rtol=1e-9, atol=1e-9)


def test_a_second_derivative_of_powers_is_read() -> None:
    value = Fn(lambda p, x: (p[0](x) ** 2 + p[0](x) ** 3).sum(1, keepdim=True), nn.Linear(2, 3))

    def curved(p: nn.ModuleList, x: Tensor) -> Tensor:
        slope = torch.func.grad(derivative_cases.total(p[0]))
        return torch.func.grad(lambda z: (slope(z) * x.detach()).sum())(x)  # type: ignore[no-any-return]

    module, x = Fn(curved, value).double(), torch.randn(1, 2, dtype=torch.float64)
    network = rj.load(module, torch.zeros(2))
    torch.testing.assert_close(network(x), module(x), rtol=1e-9, atol=1e-9)


def test_control_flow_is_refused_in_derivatives_too() -> None:
    """The operations are recorded without numbers, so that no branch is taken for one input."""
    flow = lambda p, x: WAYS["grad"](p[0], x) * (1 if x.sum() > 0 else -1)  # noqa: E731
    with pytest.raises(rj.InvalidNetwork, match=r"computes a derivative inside|control flow"):
        rj.load(Fn(flow, derivative_cases.deep(nn.Tanh())).double(), torch.ones(3))


def test_a_loop_with_a_derivative_inside_is_read() -> None:
    """Descent along the gradient, step after step."""
    torch.manual_seed(3)
    value = derivative_cases.deep(nn.Tanh()).double()
    control = Fn(lambda p, x: -WAYS["grad"](p[0], x), value)
    network = rj.closed_loop(lambda x, u: x + 0.1 * u, control, 3, torch.zeros(3))
    x = torch.randn(2, 3, dtype=torch.float64)
    state = x
    for _ in range(3):
        state = state + 0.1 * control(state)
    torch.testing.assert_close(network(x), state, rtol=1e-9, atol=1e-9)
