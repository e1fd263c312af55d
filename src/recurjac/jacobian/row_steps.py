"""Softmax and normalisations as single steps of forms: their values, and the gradients that go back through them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import final

import torch
from torch import Tensor

from recurjac.activations import AbstractRowFunction, NormalisedRows, SoftmaxRows
from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.jacobian.form_algebra import FormAlgebra, constant, moved
from recurjac.jacobian.jets import Enclosed
from recurjac.operators import Dense


class AbstractRowStep(ABC):
    """A function of rows (B, rows, n): its values, and its Jacobian J as needed for gradients."""

    value: Enclosed

    @abstractmethod
    def pulled(self, algebra: FormAlgebra, gradient: Enclosed) -> Enclosed:
        """Jᵀ g for each row of g."""

    @abstractmethod
    def valued(self, value: Enclosed) -> AbstractRowStep:
        """The same step with other forms of its values."""


@singledispatch
def row_step(function: AbstractRowFunction, algebra: FormAlgebra, z: Enclosed) -> AbstractRowStep:
    """The step of `function` at z; J is an interval unless more is known of the function.

    Source: docs/mathematics.md, §5.13.
    """
    return _Plain(_value(function, algebra, z), function.slope_range(z.bounds, algebra.arithmetic))


@row_step.register
def _softmax_step(function: SoftmaxRows, algebra: FormAlgebra, z: Enclosed) -> AbstractRowStep:
    return _Softmax(_value(function, algebra, z))


@row_step.register
def _normalised_step(function: NormalisedRows, algebra: FormAlgebra, z: Enclosed) -> AbstractRowStep:
    value = _value(function, algebra, z)
    return _Normalised(value, _inverse_length(function, algebra, z), function.centred)


def _value(function: AbstractRowFunction, algebra: FormAlgebra, z: Enclosed) -> Enclosed:
    arithmetic, middle = algebra.arithmetic, Interval.point(algebra.middle(z))
    slopes = mean_slope(z.bounds, middle.lower, arithmetic, lambda box: function.slope_range(box, arithmetic))
    return algebra.linearised(
        z, function.value_range(middle, arithmetic), slopes, function.value_range(z.bounds, arithmetic)
    )


def mean_slope(
    z: Interval, middle: Tensor, arithmetic: AbstractArithmetic, slopes: Callable[[Interval], Interval]
) -> Interval:
    """Bounds of ∫₀¹ J(c + t (z - c)) dt, where c is the middle: the mean of those over the halved box and the whole.

    Of subnormal numbers, the middle is outside z where the box is a point whose halves round.
    """
    whole = Interval.unchecked(torch.minimum(z.lower, middle), torch.maximum(z.upper, middle))
    parts = [slopes(_nearer(z, middle, arithmetic)), slopes(whole)]
    total, half = arithmetic.sum(parts), parts[0].lower.new_tensor(0.5)
    return arithmetic.product(total, Interval.point(half))


def _nearer(z: Interval, middle: Tensor, arithmetic: AbstractArithmetic) -> Interval:
    """A box that holds all c + t (z - c) for t <= 1/2."""
    half, exact = arithmetic.exact(middle.new_tensor(0.5)), arithmetic.exact
    low, high = ((exact(end) + exact(middle)) * half for end in (z.lower, z.upper))
    near = arithmetic.between(low, high)
    return Interval.unchecked(torch.minimum(near.lower, middle), torch.maximum(near.upper, middle))


def _inverse_length(function: NormalisedRows, algebra: FormAlgebra, z: Enclosed) -> Enclosed:
    """1 / (n s), (B, rows, 1), whose derivative is -y / (n s)²."""
    arithmetic = algebra.arithmetic
    found = function.inverse_length(z.bounds, arithmetic)
    middle = Interval.point(algebra.middle(z))

    def slopes(box: Interval) -> Interval:
        inverse = function.inverse_length(box, arithmetic)
        y = function.value_range(box, arithmetic)
        return -arithmetic.product(y, arithmetic.product(inverse, inverse)).map(lambda t: t.unsqueeze(-2))

    mean = mean_slope(z.bounds, middle.lower, arithmetic, slopes)
    return algebra.linearised(z, function.inverse_length(middle, arithmetic), mean, found)


@final
@dataclass(frozen=True)
class _Plain(AbstractRowStep):
    """A function of which only the range of J is known, (B, rows, n, n)."""

    value: Enclosed
    slopes: Interval

    def valued(self, value: Enclosed) -> AbstractRowStep:
        return replace(self, value=value)

    def pulled(self, algebra: FormAlgebra, gradient: Enclosed) -> Enclosed:
        back = constant(self.slopes.map(_turned), algebra.arithmetic)
        return moved(algebra.matrices(moved(gradient, _as_matrix), back), _as_row)


@final
@dataclass(frozen=True)
class _Softmax(AbstractRowStep):
    """Jᵀ g = p ⊙ (g - p · g)."""

    value: Enclosed

    def valued(self, value: Enclosed) -> AbstractRowStep:
        return replace(self, value=value)

    def pulled(self, algebra: FormAlgebra, gradient: Enclosed) -> Enclosed:
        mean = _dot(algebra, self.value, gradient)
        return algebra.product(algebra.difference(gradient, mean), self.value)


@final
@dataclass(frozen=True)
class _Normalised(AbstractRowStep):
    """Jᵀ g = (n P g - y (y · g)) / (n s), where n P g = n g - Σ g, or n g if it is not centred.

    inverse: 1 / (n s), (B, rows, 1).
    """

    value: Enclosed
    inverse: Enclosed
    centred: bool

    def valued(self, value: Enclosed) -> AbstractRowStep:
        return replace(self, value=value)

    def pulled(self, algebra: FormAlgebra, gradient: Enclosed) -> Enclosed:
        along = algebra.product(self.value, _dot(algebra, self.value, gradient))
        return algebra.product(algebra.difference(self._projected(algebra, gradient), along), self.inverse)

    def _projected(self, algebra: FormAlgebra, gradient: Enclosed) -> Enclosed:
        """n P g."""
        rows, count = gradient.bounds.shape[1:]
        like = gradient.bounds.lower
        matrix = count * torch.eye(count, dtype=like.dtype, device=like.device) - float(self.centred)
        operator = Dense(matrix, (rows, count), (rows, count))
        return algebra.image([(operator, gradient)], None, (rows, count))


def _dot(algebra: FormAlgebra, a: Enclosed, b: Enclosed) -> Enclosed:
    """Inner products of rows (B, rows, n): (B, rows, 1)."""
    return moved(algebra.matrices(moved(a, _as_matrix), moved(b, _as_matrix)), _as_row)


def _as_matrix(t: Tensor) -> Tensor:
    return t.unsqueeze(-2)


def _as_row(t: Tensor) -> Tensor:
    return t.squeeze(-2)


def _turned(t: Tensor) -> Tensor:
    return t.mT
