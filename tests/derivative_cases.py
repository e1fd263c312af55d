"""Small modules that differentiate a part of themselves, which between them use every reader of derivatives."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor, nn

from tests.torch_cases import Fn, Make, Shape

LINE = (3,)


def deep(*activations: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = []
    for k, activation in enumerate(activations):
        layers += [nn.Linear(3 if k == 0 else 4, 4), activation]
    return nn.Sequential(*layers, nn.Linear(4, 1))


def one(v: nn.Module) -> Callable[[Tensor], Tensor]:
    """The function of one input without a batch."""
    return lambda z: v(z[None])[0, 0]


def total(v: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda z: v(z).sum()


def by_autograd(v: nn.Module, x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x if x.requires_grad else x.requires_grad_()
        return torch.autograd.grad(v(x).sum(), x, create_graph=True)[0]


def divergence(v: nn.Module, x: Tensor) -> Tensor:
    field = lambda z: torch.cat([z[1:2] * v(z[None])[0], z[2:].sin(), z[:1]])  # noqa: E731
    return torch.func.vmap(lambda z: torch.func.jacrev(field)(z).trace())(x)[:, None]  # type: ignore[no-any-return]


WAYS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "grad": lambda v, x: torch.func.grad(total(v))(x),
    "grad-each": lambda v, x: torch.func.vmap(torch.func.grad(one(v)))(x),
    "jacrev": lambda v, x: torch.func.vmap(torch.func.jacrev(lambda z: v(z[None])[0]))(x),
    "jacfwd": lambda v, x: torch.func.vmap(torch.func.jacfwd(lambda z: v(z[None])[0]))(x),
    "jvp": lambda v, x: torch.func.jvp(v, (x,), (x.sin(),))[1],
    "vjp": lambda v, x: torch.func.vjp(v, x)[1](torch.ones_like(x[:, :1]))[0],
    "autograd": by_autograd,
    "divergence": divergence,
}
"""Derivatives of a network with one output, in all ways that PyTorch offers."""


def gradient(make: Callable[[], nn.Module]) -> Make:
    return lambda: Fn(lambda p, x: torch.func.grad(total(p[0]))(x), make())


def parted(p: nn.ModuleList, x: Tensor) -> Tensor:
    return (torch.tanh(p[0](x[:, 1:])[:, :3]) * x).sum(1, keepdim=True) + F.silu(p[0](x[:, :2]))


TORCH: dict[str, tuple[Make, Shape]] = {
    "gradient-smooth": (gradient(lambda: deep(nn.Tanh(), nn.Sigmoid(), nn.Softplus(2.0))), LINE),
    "gradient-gated": (gradient(lambda: deep(nn.GELU(), nn.SiLU())), LINE),
    "gradient-curved": (gradient(lambda: deep(nn.Mish(), nn.LogSigmoid())), LINE),
    "gradient-each": (lambda: Fn(lambda p, x: WAYS["grad-each"](p[0], x), deep(nn.SiLU())), LINE),
    "gradient-parts": (gradient(lambda: Fn(parted, nn.Linear(2, 4))), LINE),
    "gradient-images": (
        gradient(
            lambda: nn.Sequential(
                nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.Tanh(), nn.ConvTranspose2d(2, 1, 2), nn.Flatten()
            )
        ),
        (1, 3, 4),
    ),
    "gradient-of-a-gate": (gradient(lambda: Fn(lambda p, x: torch.tanh(p[0](x)).square() * 2, nn.Linear(3, 2))), LINE),
}
