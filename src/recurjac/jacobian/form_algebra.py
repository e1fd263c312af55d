"""Sums, products and functions of entries that are enclosed by affine forms and by intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic, Ball, Interval, MoveTensor
from recurjac.jacobian.jets import Enclosed
from recurjac.operators import AbstractOperator, Gather, Identity, Reshape
from recurjac.operators.base import AbstractLeaf
from recurjac.operators.interval import affine_image
from recurjac.propagation.affine_forms import AffineForms, Band, Symbols, midrad_of, shifted, some_rows


@final
@dataclass(frozen=True)
class FormAlgebra:
    """Operations on what is enclosed, (B, *entries); every result is also bounded by interval arithmetic.

    Forms are computed in lots of rows, so that besides its operands and its result an operation needs little memory.
    """

    symbols: Symbols

    @property
    def arithmetic(self) -> AbstractArithmetic:
        return self.symbols.arithmetic

    def settled(self, form: AffineForms, plain: Interval) -> Enclosed:
        """The forms with their bounds, intersected with others."""
        return Enclosed(form, self.arithmetic.intersect(plain, self.symbols.bounds(form)))

    def image(self, terms: Sequence[tuple[AbstractOperator, Enclosed]], bias: Ball | None, shape: Shape) -> Enclosed:
        """Σ A h + b, of shape (B, *shape)."""
        if len(terms) == 1 and bias is None and _only_moves(terms[0][0]):
            return _applied(*terms[0])
        region = self.symbols.region
        known = self.arithmetic.exact(region.x.new_zeros(shape)) if bias is None else bias
        form = self.symbols.image([(operator, h.forms) for operator, h in terms], known)
        if not terms:
            both = self.arithmetic.between(known, known).map(lambda t: t.expand(region.batch, *shape))
            return self.settled(form, both)
        return self.settled(form, affine_image([(operator, h.bounds) for operator, h in terms], bias, self.arithmetic))

    def banded(self, z: Enclosed, band: Band, values: Interval) -> Enclosed:
        """A function of z in a band, and in `values`."""
        return self.settled(self.symbols.between(z.forms, band, values), values)

    def product(self, a: Enclosed, b: Enclosed) -> Enclosed:
        """a b, where b broadcasts to a."""
        values = self.arithmetic.product(a.bounds, b.bounds)
        y, delta, both = (i.map(lambda t: t.unsqueeze(1)) for i in (a.bounds, b.bounds, values))
        form = AffineForms(a.forms.rows.unsqueeze(2), a.forms.rest.unsqueeze(1))
        found = self.symbols.product(form, y, b.forms, delta, both)
        return self.settled(AffineForms(found.rows[:, :, 0], found.rest[:, 0]), values)

    def difference(self, a: Enclosed, b: Enclosed) -> Enclosed:
        """a - b, where b broadcasts to a."""
        exact = self.arithmetic.exact
        rest = (exact(a.forms.rest) + exact(b.forms.rest)).upper()

        def made(begin: int, end: int) -> Ball:
            return exact(some_rows(a.forms, begin, end)) - exact(some_rows(b.forms, begin, end))

        length = max(a.forms.rows.shape[1], b.forms.rows.shape[1])
        form = self.symbols.assembled(length, rest, made)
        return self.settled(form, self.arithmetic.sum([a.bounds, -b.bounds]))

    def matrices(self, a: Enclosed, b: Enclosed) -> Enclosed:
        """A Bᵀ for matrices (B, groups, m, n) and (B, groups, k, n).

        With any matrices C and D, A Bᵀ = C Bᵀ + A Dᵀ - C Dᵀ + (A - C)(B - D)ᵀ; the last product is part of the rest.
        """
        arithmetic, exact, values = self.arithmetic, self.arithmetic.exact, self.arithmetic.matmul(a.bounds, b.bounds)
        (c, near), (d, far) = midrad_of(a.bounds, arithmetic), midrad_of(b.bounds, arithmetic)
        centre, spread = midrad_of(values, arithmetic)
        first, second = exact(c.abs()).matmul(exact(b.forms.rest)), exact(a.forms.rest).matmul(exact(d.abs()))
        rest = (exact(near).matmul(exact(far)) + first + second).upper()
        flat = ~(rest < spread)
        shift = exact(torch.where(flat, centre, 0.0)) - _kept(exact(c).matmul(exact(d)), ~flat)

        def made(begin: int, end: int) -> Ball:
            left, right = (some_rows(x.forms, begin, end) for x in (a, b))
            rows = _times(exact(left), exact(d)) + _times(exact(right), exact(c)).map(_turned)
            rows = _kept(rows, ~flat.unsqueeze(1))
            return shifted(rows, shift) if begin == 0 else rows

        length = max(a.forms.rows.shape[1], b.forms.rows.shape[1])
        form = self.symbols.assembled(length, torch.where(flat, spread, rest), made)
        return self.settled(form, values)

    def middle(self, z: Enclosed) -> Tensor:
        """The middle of the bounds, 0 where they are infinite."""
        return midrad_of(z.bounds, self.arithmetic)[0]

    def linearised(self, z: Enclosed, at_middle: Interval, slopes: Interval, values: Interval) -> Enclosed:
        """A function of rows z (B, rows, n) with bounded values and slopes: (B, rows, m).

        at_middle: (B, rows, m), of the values at `middle(z)`.  slopes: (B, rows, m, n), over all of the bounds.  With
        any matrix S, f(z) = f(c) + S (z - c) + (S' - S)(z - c) for a matrix S' between the bounds of the slopes.
        """
        arithmetic, exact = self.arithmetic, self.arithmetic.exact
        (c, half), (s, off), (value, error) = (midrad_of(i, arithmetic) for i in (z.bounds, slopes, at_middle))
        centre, spread = midrad_of(values, arithmetic)
        lost = _rows_of(exact(off), half, exact) + _rows_of(exact(s.abs()), z.forms.rest, exact)
        rest = (lost + exact(error)).upper()
        flat = ~(rest < spread)
        shift = _kept(exact(value) - _rows_of(exact(s), c, exact), ~flat) + exact(torch.where(flat, centre, 0.0))

        def made(begin: int, end: int) -> Ball:
            own = exact(some_rows(z.forms, begin, end).transpose(1, 2))
            rows = own.matmul(exact(s)).map(_exchanged)
            rows = _kept(rows, ~flat.unsqueeze(1))
            return shifted(rows, shift) if begin == 0 else rows

        form = self.symbols.assembled(z.forms.rows.shape[1], torch.where(flat, spread, rest), made)
        return self.settled(form, values)


def moved(a: Enclosed, move: MoveTensor) -> Enclosed:
    """The same entries after `move`, which reads the last axes and is valid with any axes before them."""
    return Enclosed(AffineForms(move(a.forms.rows), move(a.forms.rest)), a.bounds.map(move))


def constant(value: Interval, arithmetic: AbstractArithmetic) -> Enclosed:
    """Entries in an interval (B, …) that is not known to depend on anything."""
    middle, half = midrad_of(value, arithmetic)
    return Enclosed(AffineForms(middle.unsqueeze(1), half), value)


def _only_moves(operator: AbstractOperator) -> bool:
    """Whether each entry of the result is one of the operand, or 0."""
    return isinstance(operator, Gather | Identity | Reshape) and operator.summands == 0


def _applied(operator: AbstractOperator, h: Enclosed) -> Enclosed:
    assert isinstance(operator, AbstractLeaf)  # noqa: S101  (as `_only_moves`)
    return moved(h, operator.apply)


def _times(rows: Ball, matrix: Ball) -> Ball:
    """Rows (B, S, groups, m, n) times Dᵀ for matrices D (B, groups, k, n): (B, S, groups, m, k)."""
    b, s, groups, m, n = rows.shape
    flat = rows.map(lambda t: t.transpose(1, 2).reshape(b, groups, s * m, n))
    return flat.matmul(matrix).map(lambda t: t.reshape(b, groups, s, m, t.shape[-1]).transpose(1, 2))


def _rows_of(matrices: Ball, rows: Tensor, exact: Callable[[Tensor], Ball]) -> Ball:
    """Matrices (B, rows, m, n) times rows (B, rows, n)."""
    return exact(rows.unsqueeze(-2)).matmul(matrices).map(lambda t: t.squeeze(-2))


def _kept(value: Ball, mask: Tensor) -> Ball:
    """The value where `mask` is True, 0 elsewhere; also where it overflowed."""
    return value.map(lambda t: torch.where(mask, t, 0.0))


def _turned(t: Tensor) -> Tensor:
    return t.mT


def _exchanged(t: Tensor) -> Tensor:
    return t.transpose(1, 2)
