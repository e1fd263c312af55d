"""Gradients and Lie derivatives as networks, against automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
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


INSIDE: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "grad": lambda v, x: torch.func.vmap(torch.func.grad(lambda z: v(z[None])[0, 0]))(x),
    "jacrev": lambda v, x: torch.func.vmap(torch.func.jacrev(v))(x),
    "jvp": lambda v, x: torch.func.jvp(v, (x,), (x.sin(),))[1],
    "autograd": lambda v, x: torch.autograd.grad(v(x.requires_grad_()).sum(), x, create_graph=True)[0],
}


@pytest.mark.parametrize("name", INSIDE)
def test_a_derivative_inside_a_module_is_refused_with_what_to_do(name: str) -> None:
    module = Fn(lambda p, x: INSIDE[name](p[0], x), deep(nn.Tanh()))
    with pytest.raises((rj.InvalidNetwork, rj.UnsupportedLayer), match=r"rj\.lie_derivative"):
        rj.load(module.double(), torch.ones(2))
