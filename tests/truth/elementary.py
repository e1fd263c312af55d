"""Activations as power series in Arb's balls: a value and its first two derivatives, with any number of digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any

import torch
from flint import arb, arb_series

from recurjac import activations as act
from recurjac.activations.clamp import AbstractClamp
from recurjac.activations.elu import AbstractELU
from recurjac.activations.two_piece import AbstractTwoPiece

Series = Callable[[Any], Any]
"""A function of a power series."""


class UnclearError(Exception):
    """More digits are needed to tell on which side of a kink a number is."""


class UndefinedError(Exception):
    """The function has no derivative there, as at a pole."""


class OutOfScopeError(Exception):
    """The judge does not know a class of activations or operators."""


class Branches:
    """A function that is another one between any two of its kinks; one more function than kinks, in order."""

    def __init__(self, kinks: Sequence[Any], functions: Sequence[Series]) -> None:
        self.kinks, self.functions = list(kinks), list(functions)

    def at(self, z: Any, side: Callable[[], int]) -> Series:
        """The function around z.  side: which way to look from a kink, 1 or -1."""
        place = 0
        for kink in self.kinks:
            if z > kink:
                place += 1
            elif z < kink:
                break
            elif (z - kink).is_zero():
                return self.functions[place + (side() > 0)]
            else:
                raise UnclearError
        return self.functions[place]


def number(value: float, dtype: torch.dtype | None = None) -> Any:
    """A parameter, exactly; rounded to the dtype in which it is stored, if one is given."""
    return arb(float(value if dtype is None else torch.tensor(value, dtype=torch.float64).to(dtype)))


@singledispatch
def branches(activation: act.AbstractActivation, dtype: torch.dtype, index: int, shape: tuple[int, ...]) -> Branches:
    """The function that neuron `index` of a stage applies in a network of a dtype."""
    raise OutOfScopeError(type(activation).__name__)


def _zero(z: Any) -> Any:
    return 0 * z


def _times(factor: Any) -> Series:
    return lambda z: factor * z


@branches.register
def _(a: AbstractTwoPiece, dtype: torch.dtype, index: int, shape: tuple[int, ...]) -> Branches:
    if isinstance(a, act.PReLU):
        below = arb(float(a.negative_slope.detach().expand(shape).flatten()[index]))
    elif isinstance(a, act.LeakyReLU):
        below = number(a.negative_slope, dtype)
    else:
        below = arb(-1 if isinstance(a, act.Abs) else 0)
    return Branches([arb(0)], [_times(below), lambda z: z])


@branches.register
def _(a: AbstractClamp, dtype: torch.dtype, index: int, shape: tuple[int, ...]) -> Branches:
    low, high = (number(k, dtype) for k in a.kinks)
    return Branches([low, high], [lambda z: low + 0 * z, lambda z: z, lambda z: high + 0 * z])


@branches.register
def _(a: AbstractELU, dtype: torch.dtype, index: int, shape: tuple[int, ...]) -> Branches:
    if isinstance(a, act.SELU):
        above, below = arb(a.gamma), arb(a.gamma) * arb(a.alpha)
    else:
        above, below = arb(1), arb(a.scales[1])
    return Branches([arb(0)], [lambda z: below * (z.exp() - 1), _times(above)])


@branches.register
def _(a: act.HardSwish, dtype: torch.dtype, index: int, shape: tuple[int, ...]) -> Branches:
    slope, shift = arb(a.alpha), arb(a.beta)
    return Branches([-shift / slope, (1 - shift) / slope], [_zero, lambda z: z * (slope * z + shift), lambda z: z])


@branches.register
def _(a: act.SquaredReLU, dtype: torch.dtype, index: int, shape: tuple[int, ...]) -> Branches:
    return Branches([arb(0)], [_zero, lambda z: z * z])


@branches.register
def _(a: act.CELU, dtype: torch.dtype, index: int, shape: tuple[int, ...]) -> Branches:
    scale = arb(a.alpha)
    return Branches([arb(0)], [lambda z: scale * ((z / scale).exp() - 1), lambda z: z])


@branches.register
def _(a: act.FlooredPower, dtype: torch.dtype, index: int, shape: tuple[int, ...]) -> Branches:
    least = number(a.least, dtype)
    flat = _power(arb_series([least], 1), a.exponent)[0]
    return Branches([least], [lambda z: flat + 0 * z, lambda z: _power(z, a.exponent)])


@branches.register
def _(a: act.Length, dtype: torch.dtype, index: int, shape: tuple[int, ...]) -> Branches:
    return Branches([arb(0)], [_zero, _positive(lambda z: z.sqrt())])


@branches.register
def _(a: act.Softsign, dtype: torch.dtype, index: int, shape: tuple[int, ...]) -> Branches:
    return Branches([arb(0)], [lambda z: z / (1 - z), lambda z: z / (1 + z)])


@branches.register
def _(a: act.Reciprocal, dtype: torch.dtype, index: int, shape: tuple[int, ...]) -> Branches:
    return Branches([arb(0)], [_off_zero(lambda z: 1 / z)] * 2)


def _off_zero(function: Series) -> Series:
    def held(z: Any) -> Any:
        if z[0].is_zero():
            raise UndefinedError
        return function(z)

    return held


def _positive(function: Series) -> Series:
    """The function where its argument is positive."""

    def held(z: Any) -> Any:
        if z[0] <= 0:
            raise UndefinedError
        if not z[0] > 0:
            raise UnclearError
        return function(z)

    return held


def _power(z: Any, exponent: float) -> Any:
    """z^a for z > 0: by products and a root if a is a multiple of 1/2, otherwise by its logarithm."""
    whole, half = divmod(2 * abs(exponent), 2)
    if half not in (0, 1) or whole > 64:
        return (arb(exponent) * z.log()).exp()
    result = z.sqrt() if half else 1 + 0 * z
    for _ in range(int(whole)):
        result = result * z
    return result if exponent > 0 else 1 / result


def _sigmoid(z: Any) -> Any:
    """1 / (1 + exp(-z)), by exp of a number that is not positive."""
    if z[0] > 0:
        return 1 / (1 + (-z).exp())
    return z.exp() / (1 + z.exp())


def _softplus(z: Any) -> Any:
    """log(1 + exp(z))."""
    return z + (1 + (-z).exp()).log() if z[0] > 0 else (1 + z.exp()).log()


def _gelu(z: Any) -> Any:
    return z * (-z / arb(2).sqrt()).erfc() / 2


def _mish(z: Any) -> Any:
    """z tanh(log(1 + e)) with e = exp(z): the quotient of e² + 2 e and e² + 2 e + 2."""
    if z[0] > 0:
        e = (-z).exp()
        return z * (1 + 2 * e) / (1 + 2 * e + 2 * e * e)
    e = z.exp()
    return z * (e * (e + 2)) / (e * e + 2 * e + 2)


@branches.register
def _(a: act.SiLU, dtype: torch.dtype, index: int, shape: tuple[int, ...]) -> Branches:
    beta = arb(a.beta)
    return Branches([], [lambda z: z * _sigmoid(beta * z)])


@branches.register
def _(a: act.GELUTanh, dtype: torch.dtype, index: int, shape: tuple[int, ...]) -> Branches:
    c, k = arb(a.c), arb(a.k)
    return Branches([], [lambda z: z * _sigmoid(2 * c * (z + k * z * z * z))])


@branches.register
def _(a: act.Softplus, dtype: torch.dtype, index: int, shape: tuple[int, ...]) -> Branches:
    beta = arb(a.beta)
    return Branches([], [lambda z: _softplus(beta * z) / beta])


@branches.register
def _(a: act.Power, dtype: torch.dtype, index: int, shape: tuple[int, ...]) -> Branches:
    return Branches([], [_positive(lambda z: _power(z, a.exponent))])


@branches.register
def _(a: act.IntegerPower, dtype: torch.dtype, index: int, shape: tuple[int, ...]) -> Branches:
    return Branches([], [lambda z: _power(z, a.exponent)])


_PLAIN: dict[type[act.AbstractActivation], Series] = {
    act.Sigmoid: _sigmoid,
    act.Tanh: lambda z: 2 * _sigmoid(2 * z) - 1,
    act.Arctan: lambda z: z.atan(),
    act.Erf: lambda z: z.erf(),
    act.Sin: lambda z: z.sin(),
    act.Cos: lambda z: z.cos(),
    act.GELU: _gelu,
    act.Mish: _mish,
    act.LogCosh: lambda z: _softplus(z) - z / 2,
    act.LogSigmoid: lambda z: -_softplus(-z),
    act.Exp: lambda z: z.exp(),
    act.Log: _positive(lambda z: z.log()),
    act.Square: lambda z: z * z,
    act.Cube: lambda z: z * z * z,
    act.Identity: lambda z: z,
}
for _class, _function in _PLAIN.items():
    branches.register(_class, lambda *_, known=_function: Branches([], [known]))


def derivatives(function: Series, z: Any, order: int) -> list[Any]:
    """The value at z and so many derivatives."""
    found = function(arb_series([z, 1][: order + 1], order + 1))
    return [found[0], found[1], 2 * found[2]][: order + 1]
