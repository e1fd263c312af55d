"""The truth of smooth activations and of networks of them, in Arb's ball arithmetic with hundreds of digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import flint
import torch
from torch import Tensor

from recurjac.activations import (
    CELU,
    ELU,
    GELU,
    SELU,
    AbstractActivation,
    Arctan,
    Cos,
    Cube,
    Derivative,
    Erf,
    Exp,
    FlooredPower,
    GELUTanh,
    HardSwish,
    IntegerPower,
    Length,
    Log,
    LogCosh,
    LogSigmoid,
    Mish,
    Power,
    Reciprocal,
    Sigmoid,
    SiLU,
    Sin,
    Softplus,
    Softsign,
    Square,
    SquaredReLU,
    Tanh,
)
from recurjac.network import Network
from recurjac.operators import AbstractOperator, Compose, Dense, Identity, Reshape, Scale

Arb = Any
"""A ball, or a matrix of balls."""
Series = Any
"""A power series of balls: a function around a point."""

flint.ctx.prec = 400
ORDERS = 4
"""One more than the order of the highest derivative."""


def number(value: float | Fraction) -> Arb:
    """A number, exactly or to the current precision."""
    if isinstance(value, Fraction):
        return flint.arb(value.numerator) / flint.arb(value.denominator)
    return flint.arb(value)


def precision(size: float) -> int:
    """Enough bits for differences of exponentials of numbers of that size."""
    return 400 + 8 * int(min(size, 1e3))


def _half(x: Series, a: float) -> Series:
    """x^a for x > 0."""
    return (x.log() * number(a)).exp()


def _sigmoid(x: Series) -> Series:
    return 1 / (1 + (-x).exp())


def _tanh(x: Series) -> Series:
    return 1 - 2 / ((2 * x).exp() + 1)


def _normal(x: Series) -> Series:
    return (1 + (x / flint.arb(2).sqrt()).erf()) / 2


def _gelu_tanh(a: GELUTanh, x: Series) -> Series:
    return x * _sigmoid(2 * number(a.c) * (x + number(a.k) * x**3))


Smooth = Callable[[Any, Series], Series]
SMOOTH: dict[type, Smooth] = {
    Tanh: lambda _, x: _tanh(x),
    Sigmoid: lambda _, x: _sigmoid(x),
    Arctan: lambda _, x: x.atan(),
    Erf: lambda _, x: x.erf(),
    Sin: lambda _, x: x.sin(),
    Cos: lambda _, x: x.cos(),
    Exp: lambda _, x: x.exp(),
    Log: lambda _, x: x.log(),
    Power: lambda a, x: _half(x, a.exponent),
    Reciprocal: lambda _, x: 1 / x,
    Square: lambda _, x: x * x,
    Cube: lambda _, x: x * x * x,
    IntegerPower: lambda a, x: x**a.exponent,
    Softplus: lambda a, x: (1 + (number(a.beta) * x).exp()).log() / number(a.beta),
    LogSigmoid: lambda _, x: -(1 + (-x).exp()).log(),
    LogCosh: lambda _, x: ((x / 2).exp() + (-x / 2).exp()).log(),
    GELU: lambda _, x: x * _normal(x),
    GELUTanh: _gelu_tanh,
    SiLU: lambda a, x: x * _sigmoid(number(a.beta) * x),
    Mish: lambda _, x: x * _tanh((1 + x.exp()).log()),
}
"""Functions with all their derivatives."""

Kinked = Callable[[Any, torch.dtype], tuple[list[Arb], list[Callable[[Series], Series]]]]


def _steps(a: HardSwish) -> tuple[list[Arb], list[Callable[[Series], Series]]]:
    alpha, beta = number(a.alpha), number(a.beta)
    return [-beta / alpha, (1 - beta) / alpha], [lambda x: 0 * x, lambda x: x * (alpha * x + beta), lambda x: x]


def _floored(a: FlooredPower, dtype: torch.dtype) -> tuple[list[Arb], list[Callable[[Series], Series]]]:
    least = number(float(torch.tensor(a.least, dtype=dtype)))
    value = (least.log() * number(a.exponent)).exp()
    return [least], [lambda x: 0 * x + value, lambda x: _half(x, a.exponent)]


PIECES: dict[type, Kinked] = {
    Softsign: lambda *_: ([number(0.0)], [lambda x: x / (1 - x), lambda x: x / (1 + x)]),
    SquaredReLU: lambda *_: ([number(0.0)], [lambda x: 0 * x, lambda x: x * x]),
    CELU: lambda a, _: ([number(0.0)], [lambda x: number(a.alpha) * ((x / number(a.alpha)).exp() - 1), lambda x: x]),
    ELU: lambda a, _: ([number(0.0)], [lambda x: number(a.alpha) * (x.exp() - 1), lambda x: x]),
    SELU: lambda a, _: (
        [number(0.0)],
        [lambda x: number(a.gamma) * number(a.alpha) * (x.exp() - 1), lambda x: number(a.gamma) * x],
    ),
    HardSwish: lambda a, _: _steps(a),
    Length: lambda *_: ([number(0.0)], [lambda x: 0 * x, lambda x: _half(x, 0.5)]),
    FlooredPower: _floored,
}
"""Functions that are put together of smooth pieces: their ends, and one function more than ends."""


def known(activation: AbstractActivation) -> bool:
    inner = activation.activation if isinstance(activation, Derivative) else activation
    return type(inner) in SMOOTH or type(inner) in PIECES


def derivatives(activation: AbstractActivation, z: float, dtype: torch.dtype) -> list[list[Arb]]:
    """σ, σ' and σ'' at a number, for each piece that it belongs to."""
    inner = activation.activation if isinstance(activation, Derivative) else activation
    first = 1 if inner is not activation else 0
    old = flint.ctx.prec
    flint.ctx.prec = precision(abs(z))
    flint.ctx.cap = ORDERS
    try:
        found = []
        for function in _functions(inner, z, dtype):
            series = function(flint.arb_series([number(z), 1]))
            found.append([series[k] * _FACTORIALS[k] for k in range(first, 3 + first)])
        return found
    finally:
        flint.ctx.prec = old


_FACTORIALS = (1, 1, 2, 6)


def _functions(activation: AbstractActivation, z: float, dtype: torch.dtype) -> list[Callable[[Series], Series]]:
    smooth = SMOOTH.get(type(activation))
    if smooth is not None:
        return [lambda x: smooth(activation, x)]
    ends, functions = PIECES[type(activation)](activation, dtype)
    at = number(z)
    inside = [True] * len(functions)
    for i, end in enumerate(ends):
        inside[: i + 1] = [b and not bool(at > end) for b in inside[: i + 1]]
        inside[i + 1 :] = [b and not bool(at < end) for b in inside[i + 1 :]]
    return [f for f, b in zip(functions, inside, strict=True) if b]


def outside(low: float, true: Arb, high: float) -> bool:
    """Whether the truth is certainly not between two numbers."""
    return bool((low != float("-inf") and true < number(low)) or (high != float("inf") and true > number(high)))


def rows(tensor: Tensor) -> list[list[Arb]]:
    """A matrix of exact numbers."""
    return [[number(v) for v in row] for row in tensor.double().tolist()]


def _apply(operator: AbstractOperator, h: Sequence[Sequence[Arb]]) -> list[list[Arb]]:
    """An operator applied to columns (n_in, columns)."""
    if isinstance(operator, Compose):
        return _apply(operator.outer, _apply(operator.inner, h))
    if isinstance(operator, Dense):
        weight = flint.arb_mat(rows(operator.weight))
        product = weight * flint.arb_mat([list(r) for r in h])
        return [[product[i, j] for j in range(product.ncols())] for i in range(product.nrows())]
    if isinstance(operator, Scale):
        return [[number(s) * v for v in r] for s, r in zip(operator.factor.flatten().tolist(), h, strict=True)]
    assert isinstance(operator, Identity | Reshape)
    return [list(r) for r in h]


def _total(parts: Sequence[list[list[Arb]]]) -> list[list[Arb]]:
    return [[sum(vs[1:], start=vs[0]) for vs in zip(*rs, strict=True)] for rs in zip(*parts, strict=True)]


def jacobian(network: Network, x: Tensor) -> tuple[list[Arb], list[list[Arb]]]:
    """The output and the Jacobian at one input; pre-activations are balls of hundreds of digits."""
    n = x.numel()
    values = [[[number(v)] for v in x.flatten().tolist()]]
    slopes = [[[number(float(i == j)) for j in range(n)] for i in range(n)]]
    for stage in network.stages:
        constants = [_apply(c.operator, [[number(v)] for v in c.tensor.flatten().tolist()]) for c in stage.constants]
        z = _total([*(_apply(e.operator, values[e.source]) for e in stage.edges), *constants])
        g = _total([_apply(e.operator, slopes[e.source]) for e in stage.edges])
        if not stage.linear:
            smooth, activation = SMOOTH[type(stage.activation)], stage.activation
            series = [smooth(activation, flint.arb_series([r[0], 1])) for r in z]
            z = [[s[0]] for s in series]
            g = [[s[1] * v for v in r] for s, r in zip(series, g, strict=True)]
        values.append(z)
        slopes.append(g)
    return [r[0] for r in values[-1]], slopes[-1]
