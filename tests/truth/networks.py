"""Random networks in normal form: of all activations, products, norms, softmax, convolutions, and of great depth."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch

from recurjac import activations as act
from recurjac.activations import AbstractActivation
from recurjac.loading.expression import Builder, Expression, Squares
from recurjac.loading.readers.sums import sum_over
from recurjac.loading.rewrites.maximum import maximum, maximum_of
from recurjac.loading.rewrites.norms import by_length, rows_over, size_of_rows, standardised
from recurjac.loading.rewrites.positive import power_of_positive
from recurjac.loading.rewrites.products import product, squared
from recurjac.loading.rewrites.softmax import log_softmax, softmax
from recurjac.network import Network
from recurjac.operators import Convolution, CumulativeSum, Dense, Divide, Gather, Reshape, Scale, Standardise
from recurjac.operators.convolution import Geometry
from tests.truth.weights import Character, Weights

Block = Callable[[Expression, Weights], Expression]
"""From a vector of some entries to one of any number."""

PIECEWISE: dict[str, AbstractActivation] = {
    "relu": act.ReLU(), "leaky": act.LeakyReLU(0.3), "steep": act.LeakyReLU(1.7), "falling": act.LeakyReLU(-0.5),
    "abs": act.Abs(), "hard tanh": act.HardTanh(-0.4, 0.9), "relu6": act.ReLU6(),
}  # fmt: skip
POLYNOMIAL: dict[str, AbstractActivation] = {
    "square": act.Square(), "squared relu": act.SquaredReLU(), "cube": act.Cube(), "fourth": act.IntegerPower(4),
}  # fmt: skip
SMOOTH: dict[str, AbstractActivation] = {
    "sigmoid": act.Sigmoid(), "tanh": act.Tanh(), "arctan": act.Arctan(), "softsign": act.Softsign(), "erf": act.Erf(),
    "softplus": act.Softplus(), "sharp softplus": act.Softplus(3.0), "log cosh": act.LogCosh(),
    "log sigmoid": act.LogSigmoid(), "celu": act.CELU(0.5), "elu": act.ELU(), "steep elu": act.ELU(1.75),
    "selu": act.SELU(), "gelu": act.GELU(), "gelu tanh": act.GELUTanh(), "silu": act.SiLU(), "mish": act.Mish(),
    "hard swish": act.HardSwish(0.25, 0.5), "sin": act.Sin(), "cos": act.Cos(), "exp": act.Exp(),
}  # fmt: skip
ACTIVATIONS = {**PIECEWISE, **POLYNOMIAL, **SMOOTH}
_WIDTHS = (1, 2, 3, 4, 4, 5, 6, 8)


def dense(x: Expression, w: Weights, out: int) -> Expression:
    """An affine map; with a large number, it is added here and taken away by another bias."""
    y = x.apply(Dense.matrix(w.matrix(out, x.shape[0]))).shift(w.vector(out))
    if w.character.large:
        number = torch.full((out,), w.character.large, dtype=w.dtype)
        y = y.shift(number).shift(w.vector(out, 0.1)).shift(-number)
    return y


def _activated(name: str) -> Block:
    def block(x: Expression, w: Weights) -> Expression:
        return dense(x, w, w.draw.choice(_WIDTHS)).activate(ACTIVATIONS[name])

    return block


def _prelu(x: Expression, w: Weights) -> Expression:
    y = dense(x, w, w.draw.choice(_WIDTHS))
    return y.activate(act.PReLU(w.vector(y.shape[0], 1.0)))


def _large_between(x: Expression, w: Weights) -> Expression:
    """relu(a + B) - relu(b + B): large values that the next layer cancels."""
    n, large = w.draw.choice(_WIDTHS), w.draw.choice((1e4, 1e7, 1e12))
    a, b = (dense(x, w, n).shift(torch.full((n,), large, dtype=w.dtype)).activate(act.ReLU()) for _ in range(2))
    return a.apply(Dense.matrix(torch.eye(n, dtype=w.dtype))).plus(b.apply(Scale(-torch.ones(n, dtype=w.dtype))))


def _product(x: Expression, w: Weights) -> Expression:
    n = w.draw.choice(_WIDTHS[:6])
    a, b = dense(x, w, n), dense(x, w, n)
    which = w.draw.choice((None, None, "relu", "tanh", "sigmoid", "sin"))
    return (a if which is None else a.activate(ACTIVATIONS[which])).times(b)


def _squares(x: Expression, w: Weights) -> Expression:
    return squared(dense(x, w, w.draw.choice(_WIDTHS)))


def _recognised(x: Expression, w: Weights) -> Expression:
    """A product that a reader makes one activation of, where it can."""
    a = dense(x, w, w.draw.choice(_WIDTHS))
    return product(a, a.activate(act.Sigmoid())) if w.draw.random() < 0.5 else product(a, a)


def _quotient(x: Expression, w: Weights) -> Expression:
    """a / (1 + b²)^e, a / relu-sum, or the root of a sum of squares."""
    n = w.draw.choice(_WIDTHS[:5])
    below = dense(x, w, n).activate(w.draw.choice((act.Square(), act.Abs(), act.Square())))
    floor = w.draw.choice((1.0, 1.0, 0.1, 1e-3, 0.0))
    below = below.shift(torch.full((n,), floor, dtype=w.dtype)) if floor else below
    power = power_of_positive(below, w.draw.choice((-1.0, -0.5, 0.5, -2.0, -1.5, 0.3)))
    return dense(x, w, n).times(power) if w.draw.random() < 0.6 else power


def _reciprocal(x: Expression, w: Weights) -> Expression:
    n = w.draw.choice(_WIDTHS[:5])
    return dense(x, w, n).shift(torch.full((n,), w.draw.choice((3.0, -5.0)), dtype=w.dtype)).activate(act.Reciprocal())


def _logarithm(x: Expression, w: Weights) -> Expression:
    n = w.draw.choice(_WIDTHS[:5])
    inside = dense(x, w, n).activate(act.Square()).shift(torch.full((n,), 0.5, dtype=w.dtype))
    return inside.activate(w.draw.choice((act.Log(), act.Power(1.3), act.Power(0.5), act.Power(-2.0))))


def _length(x: Expression, w: Weights) -> Expression:
    z = dense(x, w, w.draw.choice(_WIDTHS[1:6]))
    if w.draw.random() < 0.5:
        squares = Squares(z, rows_over(z, [0]), w.draw.choice((1, 3, 4)), w.draw.choice((0.0, 2.0**-7, 1.0)))
        return dense(x, w, 2).plus(size_of_rows(squares).broadcast((2,)))
    y = squared(z)
    return dense(x, w, 2).plus(sum_over(y, [0], True).activate(act.Length()).broadcast((2,)))


def _standardised(x: Expression, w: Weights) -> Expression:
    y = dense(x, w, w.draw.choice(_WIDTHS[1:6]))
    eps = w.draw.choice((1e-5, 1e-3, 0.1, 1.0))
    rows = rows_over(y, [0])
    return standardised(y, rows, eps) if w.draw.random() < 0.6 else by_length(y, rows, eps)


def _batch_norm(x: Expression, w: Weights) -> Expression:
    y = dense(x, w, w.draw.choice(_WIDTHS))
    n = y.shape[0]
    y = y.apply(Standardise(w.vector(n).abs(), 1e-5)).apply(Scale(w.vector(n, 1.0))).shift(w.vector(n))
    if w.draw.random() < 0.5:
        y = y.apply(Divide(torch.where(w.vector(n) < 0, -3.0, 7.0).to(w.dtype)))
    return y.activate(w.draw.choice((act.ReLU(), act.Abs(), act.Square())))


def _softmax(x: Expression, w: Weights) -> Expression:
    y = dense(x, w, w.draw.choice((2, 3, 4, 5)))
    return softmax(y, 0) if w.draw.random() < 0.7 else log_softmax(y, 0)


def _attention(x: Expression, w: Weights) -> Expression:
    """Two tokens of two features: softmax(q kᵀ) v, by products of entries."""
    scores = dense(x, w, 3)
    shares = softmax(scores, 0)
    return shares.times(dense(x, w, 3))


def _maximum(x: Expression, w: Weights) -> Expression:
    n = w.draw.choice((2, 3, 4))
    a = dense(x, w, n)
    if w.draw.random() < 0.5:
        return maximum(a, dense(x, w, n))
    return maximum_of(a, torch.arange(1, n + 1).reshape(n, 1)).plus(dense(x, w, 1))


def _convolution(x: Expression, w: Weights) -> Expression:
    """A convolution of two channels of a few places, an activation, and pooling or a running sum."""
    channels, places = 2, w.draw.choice((3, 4, 5))
    y = dense(x, w, channels * places)
    y = y.apply(Reshape(y.shape, (channels, places)))
    kernel = w.draw.choice((2, 3))
    weight = w.matrix(3, channels * kernel).reshape(3, channels, kernel)
    y = y.apply(Convolution(weight, (channels, places), Geometry((w.draw.choice((1, 2)),), (1,), (1,), 1)))
    y = y.activate(ACTIVATIONS[w.draw.choice((*PIECEWISE, "tanh", "softplus"))])
    if w.draw.random() < 0.4:
        y = y.apply(CumulativeSum(y.shape, 1))
    return y.apply(Gather(torch.arange(y.shape[0] * y.shape[1]).unsqueeze(0), y.shape, (y.shape[0] * y.shape[1],)))


def _residual(x: Expression, w: Weights) -> Expression:
    y = dense(x, w, x.shape[0]).activate(ACTIVATIONS[w.draw.choice((*PIECEWISE, *SMOOTH))])
    return y.plus(x.apply(Scale(w.vector(x.shape[0], 1.0))) if w.draw.random() < 0.5 else x)


OTHERS: dict[str, Block] = {
    "prelu": _prelu, "large": _large_between, "product": _product, "squares": _squares, "recognised": _recognised,
    "quotient": _quotient, "reciprocal": _reciprocal, "logarithm": _logarithm, "length": _length,
    "standardised": _standardised, "batch norm": _batch_norm, "softmax": _softmax, "attention": _attention,
    "maximum": _maximum, "convolution": _convolution, "residual": _residual,
}  # fmt: skip
BLOCKS: dict[str, Block] = {**{name: _activated(name) for name in ACTIVATIONS}, **OTHERS}
FAMILIES: dict[str, tuple[str, ...]] = {
    "piecewise": (*PIECEWISE, "prelu", "large", "maximum", "convolution", "batch norm"),
    "rational": (*PIECEWISE, *POLYNOMIAL, *(n for n in OTHERS if n not in ("softmax", "attention", "residual"))),
    "smooth": tuple(SMOOTH),
    "all": tuple(BLOCKS),
}
"""From which blocks networks are made."""
_TURNS = ("piecewise", "rational", "smooth", "all", "piecewise", "smooth")


@dataclass(frozen=True)
class Drawn:
    """A network and how it was made."""

    network: Network
    blocks: tuple[str, ...]
    character: Character

    def __str__(self) -> str:
        blocks = " > ".join(self.blocks) if len(self.blocks) < 8 else f"{len(self.blocks)} x {self.blocks[0]}"
        return f"{self.network!r} of {blocks} ({self.character})"


def drawn_network(seed: int) -> Drawn:
    """The network of that number.  Raises ValueError where a block cannot be made."""
    draw = random.Random(seed)  # noqa: S311  (reproducible test data)
    dtype = draw.choice((torch.float32, torch.float64))
    deep = draw.random() < 0.03
    family = FAMILIES[_TURNS[seed % len(_TURNS)]]
    character = Character.drawn(draw, deep)
    w = Weights(character, seed, dtype)
    inputs, outputs = draw.choice((1, 1, 2, 2, 3, 4, 5)), draw.choice((1, 2, 2, 3))
    builder = Builder((inputs,), False, dtype, torch.device("cpu"))
    if deep:
        names, y = _deep(builder.input(), w)
    else:
        names = [draw.choice(family) for _ in range(draw.choice((1, 1, 2, 2, 3, 4)))]
        y = builder.input()
        for name in names:
            y = BLOCKS[name](y, w)
    if draw.random() < 0.2:
        outputs = inputs
    return Drawn(builder.finish(dense(y, w, outputs)), tuple(names), character)


def _deep(x: Expression, w: Weights) -> tuple[list[str], Expression]:
    """Up to 200 layers of a few neurons, with or without skips."""
    name = w.draw.choice((*PIECEWISE, *PIECEWISE, "tanh", "sigmoid", "softplus", "sin"))
    depth, n, skips = w.draw.choice((20, 50, 100, 200)), w.draw.choice((1, 2, 3)), w.draw.random() < 0.5
    y = dense(x, w, n)
    for _ in range(depth):
        new = dense(y, w, n).activate(ACTIVATIONS[name])
        y = new.apply(Scale(torch.full((n,), 0.25, dtype=w.dtype))).plus(y) if skips else new
    return [name] * depth, y
