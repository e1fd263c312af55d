"""Modules as programs compute them: layer by layer in float32, in any order of summation, or in rational arithmetic."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any, final

import flint
import numpy as np
import torch
from torch import Tensor, nn

from tests.exact import rational

Array = Any
"""A NumPy array of float32 numbers or of fractions."""


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = x + self.inner(x)
        return total


def statistics(layer: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Its mean, variance, weight and bias."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var, layer.weight, layer.bias


class AbstractProgram(ABC):
    """What a module computes of one input."""

    @abstractmethod
    def numbers(self, tensor: Tensor) -> Array:
        """Stored numbers, as the program has them."""

    @abstractmethod
    def product(self, matrix: Array, columns: Array, bias: Array) -> Array:
        """matrix @ columns + bias, for (m, n), (n, k) and (m, 1)."""

    @abstractmethod
    def plus(self, a: Array, b: Array) -> Array:
        """a + b."""

    @abstractmethod
    def normalised(self, x: Array, layer: nn.BatchNorm2d) -> Array:
        """Batch normalisation in evaluation."""

    @abstractmethod
    def smooth(self, x: Array, layer: nn.Module) -> Array:
        """tanh or sigmoid."""

    def value(self, module: nn.Module, x: Array) -> Array:
        """The output of a module for an input without a batch axis."""
        match module:
            case nn.Sequential():
                for layer in module:
                    x = self.value(layer, x)
                return x
            case Residual():
                return self.plus(x, self.value(module.inner, x))
            case nn.Linear():
                weight, bias = self.numbers(module.weight), self.numbers(module.bias).reshape(-1, 1)
                return self.product(weight, x.reshape(-1, 1), bias)[:, 0]
            case nn.Conv2d():
                columns, size = patches(x, module)
                assert module.bias is not None
                weight, bias = self.numbers(module.weight.flatten(1)), self.numbers(module.bias).reshape(-1, 1)
                return self.product(weight, columns, bias).reshape(-1, *size)
            case nn.AvgPool2d():
                (columns, size), count = patches(x, module), prod(_two(module.kernel_size))
                each = columns.reshape(len(x), count, -1).transpose(1, 0, 2).reshape(count, -1)
                row, zero = self.numbers(torch.full((1, count), 1 / count)), self.numbers(torch.zeros(1, 1))
                return self.product(row, each, zero).reshape(-1, *size)
            case nn.MaxPool2d():
                columns, size = patches(x, module)
                return columns.reshape(len(x), -1, columns.shape[1]).max(1).reshape(-1, *size)
            case nn.BatchNorm2d():
                return self.normalised(x, module)
            case nn.ReLU():
                return np.maximum(x, 0 * x)
            case nn.LeakyReLU():
                slope = self.numbers(torch.tensor([module.negative_slope], dtype=torch.float64))
                return np.where(x > 0, x, slope * x)
            case nn.Tanh() | nn.Sigmoid():
                return self.smooth(x, module)
            case nn.Flatten():
                return x.reshape(-1)
        raise TypeError(type(module))


@final
@dataclass
class Exact(AbstractProgram):
    """In rational arithmetic; roots have to be rational, and tanh and sigmoid are good to 60 digits."""

    def numbers(self, tensor: Tensor) -> Array:
        return rational(tensor)

    def product(self, matrix: Array, columns: Array, bias: Array) -> Array:
        return matrix @ columns + bias

    def plus(self, a: Array, b: Array) -> Array:
        return a + b

    def normalised(self, x: Array, layer: nn.BatchNorm2d) -> Array:
        mean, variance, weight, bias = (rational(t) for t in statistics(layer))
        total = [v + Fraction(layer.eps) for v in variance]
        roots = [Fraction(float(t) ** 0.5) for t in total]
        assert [r * r for r in roots] == total
        return np.stack([(c - m) / r * w + b for c, m, r, w, b in zip(x, mean, roots, weight, bias, strict=True)])

    def smooth(self, x: Array, layer: nn.Module) -> Array:
        return np.vectorize(lambda v: _elementary(layer, v), otypes=[object])(x)


def _elementary(layer: nn.Module, x: Fraction) -> Fraction:
    before = flint.ctx.prec
    try:
        flint.ctx.prec = 256
        ball = flint.arb(flint.fmpq(x.numerator, x.denominator))
        found = ball.tanh() if isinstance(layer, nn.Tanh) else 1 / (1 + (-ball).exp())
        man, exp = found.mid().man_exp()
        return Fraction(int(man)) * Fraction(2) ** int(exp)
    finally:
        flint.ctx.prec = before


@final
@dataclass
class Single(AbstractProgram):
    """In float32.  draw: the orders of summation.  flush: whether numbers below the smallest normal one become 0."""

    draw: random.Random
    flush: bool

    def numbers(self, tensor: Tensor) -> Array:
        return self._kept(tensor.detach().float().numpy())

    def product(self, matrix: Array, columns: Array, bias: Array) -> Array:
        terms = [self._kept(matrix[:, i : i + 1] * columns[i : i + 1]) for i in range(len(columns))]
        return self._sum([*terms, np.broadcast_to(bias, terms[0].shape)])

    def plus(self, a: Array, b: Array) -> Array:
        return self._kept(a + b)

    def normalised(self, x: Array, layer: nn.BatchNorm2d) -> Array:
        """Centred and divided, or by one factor and one summand, as a layer before it takes them over."""
        mean, variance, weight, bias = (self.numbers(t).reshape(-1, 1, 1) for t in statistics(layer))
        root = np.sqrt(variance + np.float32(layer.eps))
        if self.draw.random() < 0.5:
            return self._kept(self._kept(self._kept(self._kept(x - mean) / root) * weight) + bias)
        factor = self._kept(weight / root)
        return self._kept(self._kept(x * factor) + self._kept(bias - self._kept(mean * factor)))

    def smooth(self, x: Array, layer: nn.Module) -> Array:
        return self._kept(layer(torch.from_numpy(np.ascontiguousarray(x))).numpy())

    def _sum(self, terms: list[Array]) -> Array:
        """A random tree: one after the other, or in pairs, or anything between."""
        kind = self.draw.random()
        self.draw.shuffle(terms)
        while len(terms) > 1:
            i = 0 if kind < 0.3 else self.draw.randrange(len(terms) - 1)
            first, second = terms.pop(i), terms.pop(i if i < len(terms) else 0)
            total = self._kept(first + second)
            terms = [total, *terms] if kind < 0.3 else [*terms, total]
        return terms[0]

    def _kept(self, x: Array) -> Array:
        tiny = np.finfo(np.float32).tiny
        return np.where(np.abs(x) < tiny, np.float32(0), x) if self.flush else x


def patches(x: Array, layer: nn.Conv2d | nn.AvgPool2d | nn.MaxPool2d) -> tuple[Array, tuple[int, int]]:
    """The windows of an image as columns, in the order of `nn.functional.unfold`, and the size of the result."""
    kernel, stride = _two(layer.kernel_size), _two(layer.stride)
    padding = _two(layer.padding)
    places = torch.arange(1, x.size + 1, dtype=torch.float64).reshape(1, *x.shape)
    index = nn.functional.unfold(places, kernel, padding=padding, stride=stride)[0].long().numpy()
    size = tuple((n + 2 * p - k) // s + 1 for n, p, k, s in zip(x.shape[1:], padding, kernel, stride, strict=True))
    return np.concatenate([0 * x.reshape(-1)[:1], x.reshape(-1)])[index], (size[0], size[1])


def _two(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
