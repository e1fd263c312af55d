"""Products of two affine functions of (z, σ(z)) that are not negative on the graph of an activation.

Both arguments are measured from a centre c: y = z - c and w = σ(z) - σ(c) (docs/mathematics.md, §3.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Interval, concatenate


@final
@dataclass(frozen=True)
class Factor:
    """p y + q w + r for each neuron, where p and q are exact; all (*shape,)."""

    y: Tensor
    w: Tensor
    one: Ball


@final
@dataclass(frozen=True)
class Product:
    """left · right >= 0 on the graph of the activation, or = 0 if `zero`."""

    left: Factor
    right: Factor
    zero: bool = False


@final
@dataclass(frozen=True)
class Graph:
    """Makes factors from affine functions of z and h = σ(z), for a centre c in `at` with σ(c) in `values`."""

    at: Interval
    values: Interval
    arithmetic: AbstractArithmetic

    def affine(self, z: Tensor | float, h: Tensor | float, one: Ball | Tensor | float) -> Factor:
        """z · z + h · h + one as a function of y and w."""
        z, h = (torch.as_tensor(t, dtype=self.at.lower.dtype).expand_as(self.at.lower) for t in (z, h))
        exact = self.arithmetic.exact
        if not isinstance(one, Ball):
            one = exact(torch.as_tensor(one, dtype=z.dtype).expand_as(z))
        return Factor(z, h, one + exact(z) * self._ball(self.at) + exact(h) * self._ball(self.values))

    def _ball(self, interval: Interval) -> Ball:
        return self.arithmetic.ball(*self.arithmetic.midrad(interval))

    @property
    def unit(self) -> Factor:
        """The constant 1."""
        zero = torch.zeros_like(self.at.lower)
        return Factor(zero, zero, self.arithmetic.exact(torch.ones_like(zero)))

    def sector(self, secants: Interval) -> Product:
        """(w - d y) (D y - w) >= 0, where [d, D] contains the slopes of all secants from the centre."""
        one = torch.ones_like(secants.lower)
        zero = self.arithmetic.exact(torch.zeros_like(one))
        return Product(Factor(-secants.lower, one, zero), Factor(secants.upper, -one, zero))


@final
@dataclass(frozen=True)
class Coefficients:
    """The products of several pairs of factors, as coefficients of y², y w, w², y, w and 1: (6, C, n).

    A product with a number that is not finite is left out: its coefficients are 0.
    zero: whether a product is 0, (C, n).  typical: how large the two factors are, multiplied, (C, n).
    """

    terms: Ball
    zero: Tensor
    typical: Tensor

    @classmethod
    def of(cls, products: Sequence[Product], points: Tensor, arithmetic: AbstractArithmetic) -> Coefficients:
        """points: some (y, w) of the graph for each neuron, (2, N, n)."""
        (a, b, c), (p, q, r), zero = _factors(products, arithmetic)
        terms = (a * p, a * q + b * p, b * q, a * r + c * p, b * r + c * q, c * r)
        return cls(_together(terms), zero, _size((a, b, c), points) * _size((p, q, r), points))

    @classmethod
    def of_tangents(cls, products: Sequence[Product], points: Tensor, arithmetic: AbstractArithmetic) -> Coefficients:
        """Of products of a factor in (y, w) and one in the tangents (y', w') without a constant term.

        Coefficients of y', w', y y', y w', w y' and w w': (6, C, n).
        """
        (a, b, c), (p, q, _), zero = _factors(products, arithmetic)
        terms = (c * p, c * q, a * p, a * q, b * p, b * q)
        typical = _size((a, b, c), points) * (p.mid.abs() + q.mid.abs())
        return cls(_together(terms), zero, typical)

    def at(self, index: Tensor) -> Coefficients:
        """Of the neurons at these positions."""
        return Coefficients(self.terms.map(lambda t: t[..., index]), self.zero[:, index], self.typical[:, index])

    @classmethod
    def joined(cls, parts: Sequence[Coefficients]) -> Coefficients:
        """Of the neurons of all parts, one after the other; products that a part does not have are left out there."""
        most = max(len(p.zero) for p in parts)
        terms = concatenate([p.terms.map(partial(_padded, rows=most)) for p in parts], -1)
        zero, typical = (
            torch.cat([_padded(p.zero, most) for p in parts], -1),
            torch.cat([_padded(p.typical, most) for p in parts], -1),
        )
        return cls(terms, zero, typical)


def _factors(
    products: Sequence[Product], arithmetic: AbstractArithmetic
) -> tuple[tuple[Ball, Ball, Ball], tuple[Ball, Ball, Ball], Tensor]:
    """Coefficients of y, w and 1 of the left and of the right factors, (C, n) each, and which products are 0."""
    left, right = _stacked([p.left for p in products], arithmetic), _stacked([p.right for p in products], arithmetic)
    known = reduce(torch.logical_and, (t.upper().isfinite() & t.lower().isfinite() for t in (*left, *right)))
    a, b, c, p, q, r = (t.map(partial(_where, known)) for t in (*left, *right))
    zero = torch.tensor([p.zero for p in products], device=known.device).unsqueeze(1).expand_as(known)
    return (a, b, c), (p, q, r), zero


def _together(terms: Sequence[Ball]) -> Ball:
    return concatenate([t.map(lambda x: x.unsqueeze(0)) for t in terms], 0)


def _padded(numbers: Tensor, rows: int) -> Tensor:
    """(…, C, n) with zeros appended up to `rows` products."""
    return torch.cat([numbers, numbers.new_zeros(*numbers.shape[:-2], rows - numbers.shape[-2], numbers.shape[-1])], -2)


def _size(factor: tuple[Ball, Ball, Ball], points: Tensor) -> Tensor:
    """The mean magnitude of factors at points of the graph: (C, n)."""
    y, w = points.unsqueeze(2)
    found: Tensor = (factor[0].mid * y + factor[1].mid * w + factor[2].mid).abs().mean(0)
    return found


def _stacked(factors: Sequence[Factor], arithmetic: AbstractArithmetic) -> tuple[Ball, Ball, Ball]:
    y, w = (
        arithmetic.exact(torch.stack([t.flatten() for t in parts]))
        for parts in zip(*((f.y, f.w) for f in factors), strict=True)
    )
    one = concatenate([f.one.map(lambda t: t.flatten().unsqueeze(0)) for f in factors], 0)
    return y, w, one


def _where(known: Tensor, numbers: Tensor) -> Tensor:
    return torch.where(known, numbers, 0.0)
