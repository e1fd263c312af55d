"""Small random networks of every kind, and their true Jacobians by automatic differentiation."""

from __future__ import annotations

import torch
from torch import Tensor

from recurjac.activations import (
    ELU,
    GELU,
    SELU,
    Abs,
    AbstractActivation,
    Arctan,
    HardSwish,
    HardTanh,
    LeakyReLU,
    PReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Sin,
    Softplus,
    Tanh,
)
from recurjac.loading.expression import Builder, Expression
from recurjac.network import Network
from recurjac.operators import Dense, Reshape, Scale

KINDS: dict[str, AbstractActivation] = {
    "relu": ReLU(), "leaky": LeakyReLU(0.3), "steep": LeakyReLU(1.7), "falling": LeakyReLU(-0.5),
    "prelu": PReLU(torch.tensor(0.2, dtype=torch.float64)), "sigmoid": Sigmoid(), "tanh": Tanh(), "arctan": Arctan(),
    "softplus": Softplus(2.0), "elu": ELU(), "elu1.6": ELU(1.6), "abs": Abs(), "hard_tanh": HardTanh(-0.4, 0.9),
    "gelu": GELU(), "silu": SiLU(), "selu": SELU(), "hard_swish": HardSwish(), "sin": Sin(),
}  # fmt: skip
PIECEWISE = ("relu", "leaky", "steep", "falling", "prelu", "abs", "hard_tanh")


def random_network(
    kind: str, seed: int, residual: bool, dtype: torch.dtype = torch.float64, width: int = 7, depth: int = 3
) -> Network:
    """A network of 2 x 2 inputs and 3 outputs; `kind` names an activation, or "mixed" draws one for each stage.

    "gated" multiplies a drawn activation of one affine map and `tanh` of another one of the same node.
    In a residual network, each stage adds an earlier stage, a branch is scaled, and the input also goes to the output.
    """
    g = torch.Generator().manual_seed(seed)
    names = sorted(KINDS)

    def activation() -> AbstractActivation:
        drawn = kind in ("mixed", "gated")
        name = names[int(torch.randint(len(names), (), generator=g))] if drawn else kind
        return KINDS[name].to(dtype, torch.device("cpu"))

    def matrix(out: int, inn: int) -> Dense:
        return Dense.matrix((torch.randn(out, inn, generator=g, dtype=torch.float64) * (1.5 / inn**0.5)).to(dtype))

    def bias(n: int) -> Tensor:
        return (0.5 * torch.randn(n, generator=g, dtype=torch.float64)).to(dtype)

    def activated(z: Expression, h: Expression) -> Expression:
        if kind != "gated":
            return z.activate(activation())
        return z.activate(activation()).times(h.apply(matrix(width, h.shape[0])).shift(bias(width)).activate(Tanh()))

    builder = Builder((2, 2), False, dtype, torch.device("cpu"))
    x = builder.input().apply(Reshape((2, 2), (4,)))
    h = activated(x.apply(matrix(width, 4)).shift(bias(width)), x)
    for _ in range(depth - 1):
        z = h.apply(matrix(width, width)).shift(bias(width))
        if residual:
            z = z.plus(h.apply(Scale(torch.linspace(-1, 1, width, dtype=torch.float64).to(dtype))))
        new = activated(z, h)
        h = new.plus(h) if residual else new
    out = h.apply(matrix(3, width)).shift(bias(3))
    return builder.finish(out.plus(x.apply(matrix(3, 4))) if residual else out)


def true_jacobians(network: Network, points: Tensor) -> Tensor:
    """Jacobians at points (n, *input) by reverse-mode differentiation: (n, *output, *input)."""
    one = torch.func.jacrev(lambda x: network(x[None])[0])
    return torch.func.vmap(one)(points)  # type: ignore[no-any-return]
