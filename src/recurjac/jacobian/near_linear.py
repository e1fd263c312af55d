"""Functions of a few values, each near a linear map that is chosen in advance: what they differ by, with tangents.

Such a function is an activation, a product of matrices, or a softmax or normalisation of rows.
Source: docs/mathematics.md, §5.15.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.activations import AbstractActivation, AbstractRowFunction
from recurjac.arithmetic import AbstractArithmetic, Ball, Fast, Interval
from recurjac.jacobian.row_steps import mean_slope
from recurjac.propagation.affine_forms import gap_beside, midrad_of


@final
@dataclass(frozen=True)
class Near:
    """Values z with |z - centre| <= half, whose derivatives along any way of the unit ball are at most `tangent`."""

    centre: Tensor
    half: Tensor
    tangent: Tensor

    def box(self, arithmetic: AbstractArithmetic) -> Interval:
        """The box of z, (1, *shape)."""
        low, high = (arithmetic.exact(c) + arithmetic.exact(self.half) for c in (-self.centre, self.centre))
        return arithmetic.enclose(-low.upper().unsqueeze(0), high.upper().unsqueeze(0))


@final
@dataclass(frozen=True)
class Off:
    """f(z) is `centre` + L (z - c) up to `value`, and its derivatives are L times those of z up to `tangent`.

    Here c are the centres of z, and L is the linear map of the function.
    """

    centre: Ball
    value: Tensor
    tangent: Tensor


@final
@dataclass(frozen=True)
class NearPart:
    """A function of the entries at flat positions `reads` of each tensor, where the other entries of vectors are 0.

    None: nothing of that tensor.  shapes: those in which `near` takes these entries.  gives: the flat positions of its
    results in those of the whole function, of which the others are 0.
    """

    near: AbstractNearLinear
    reads: tuple[Tensor | None, ...]
    shapes: tuple[Shape, ...]
    gives: Tensor

    def carried(self, vectors: Sequence[Tensor | None]) -> Tensor:
        """L times vectors (N, reads): (N, gives)."""
        pairs = zip(vectors, self.shapes, strict=True)
        return self.near.carried([None if v is None else v.reshape(len(v), *s) for v, s in pairs]).flatten(1)


class AbstractNearLinear(ABC):
    """A function f of one or two tensors, and a linear map L of them that is known without error."""

    @abstractmethod
    def value(self, z: Sequence[Tensor]) -> Tensor:
        """f at points, in plain floating point."""

    @abstractmethod
    def carried(self, vectors: Sequence[Tensor | None]) -> Tensor:
        """L times vectors (N, *shape), where None is 0 and not all are None, in plain floating point."""

    @abstractmethod
    def part(self, reached: Sequence[Tensor | None]) -> NearPart:
        """The part for vectors that are 0 but at some flat positions of each tensor, in ascending order."""

    @abstractmethod
    def absolute(self, sizes: Sequence[Tensor], arithmetic: AbstractArithmetic) -> Ball:
        """|L| times sizes (2, *shape); its radius is at least what rounding adds to `carried`, but for underflow."""

    @property
    @abstractmethod
    def measures(self) -> Tensor | None:
        """Numbers (rows, p, n) that measure rows (rows, n) of the first tensor; None if nothing is measured.

        What they give is one more of the values that `off` reads, (rows, p).
        """

    @property
    @abstractmethod
    def products(self) -> int:
        """How many products `carried` adds for one result, at most."""

    @abstractmethod
    def off(self, z: Sequence[Near], arithmetic: AbstractArithmetic) -> Off:
        """What f differs by from L."""


@final
@dataclass(frozen=True)
class Activated(AbstractNearLinear):
    """An activation, with a slope for each neuron."""

    activation: AbstractActivation
    slope: Tensor

    @classmethod
    def at(cls, activation: AbstractActivation, z: Tensor) -> Activated:
        """With the slopes at z."""
        return cls(activation, middles_of(activation.slope_range(Interval.point(z.unsqueeze(0)), Fast())))

    def value(self, z: Sequence[Tensor]) -> Tensor:
        return self.activation.value(z[0])

    def carried(self, vectors: Sequence[Tensor | None]) -> Tensor:
        return _known(vectors[0]) * self.slope

    def part(self, reached: Sequence[Tensor | None]) -> NearPart:
        index = _known(reached[0])
        return NearPart(replace(self, slope=self.slope.flatten()[index]), (index,), ((len(index),),), index)

    def absolute(self, sizes: Sequence[Tensor], arithmetic: AbstractArithmetic) -> Ball:
        return arithmetic.exact(self.slope.abs()) * arithmetic.exact(sizes[0])

    @property
    def measures(self) -> Tensor | None:
        return None

    @property
    def products(self) -> int:
        return 1

    def off(self, z: Sequence[Near], arithmetic: AbstractArithmetic) -> Off:
        exact, box, slope = arithmetic.exact, z[0].box(arithmetic), self.slope
        choices = [self.activation.lines(box, arithmetic), self.activation.parallel_lines(box, arithmetic)]
        middle, half = midrad_of(gap_beside(slope.unsqueeze(0), box, choices, arithmetic), arithmetic)
        slopes = self.activation.slope_range(box, arithmetic)
        away = farthest(slopes.map(lambda t: t[0]), slope, arithmetic)
        centre = exact(slope) * exact(z[0].centre) + exact(middle[0])
        return Off(centre, half[0], (exact(away) * exact(z[0].tangent)).upper())


@final
@dataclass(frozen=True)
class Multiplied(AbstractNearLinear):
    """A Bᵀ for matrices A (groups, m, n) and B (groups, k, n), and L(dA, dB) = dA Dᵀ + C dBᵀ for matrices C and D.

    With A = a + dA and B = b + dB, A Bᵀ = a bᵀ + L(dA, dB) + dA (B - D)ᵀ + (a - C) dBᵀ.
    """

    first: Tensor
    second: Tensor

    def value(self, z: Sequence[Tensor]) -> Tensor:
        return z[0] @ z[1].mT

    def carried(self, vectors: Sequence[Tensor | None]) -> Tensor:
        first, second = vectors
        left = None if first is None else _by_groups(first, self.second)
        right = None if second is None else _by_groups(second, self.first).mT
        if left is None or right is None:
            return _known(right if left is None else left)
        return left + right

    def part(self, reached: Sequence[Tensor | None]) -> NearPart:
        """All of the rows of which something is reached in some group."""
        (groups, m, n), k = self.first.shape, self.second.shape[1]
        some = [None if i is None else (i // n % size).unique() for i, size in zip(reached, (m, k), strict=True)]
        if some[0] is not None and some[1] is not None:
            some = [torch.arange(size, device=self.first.device) for size in (m, k)]
        first = self.first if some[0] is None else self.first[:, some[0]]
        second = self.second if some[1] is None else self.second[:, some[1]]
        sizes, device = zip(some, (m, k), strict=True), self.first.device
        reads = [None if i is None else _positions((groups, size, n), i, None, device) for i, size in sizes]
        gives = _positions((groups, m, k), some[0], some[1], device)
        return NearPart(Multiplied(first, second), tuple(reads), (first.shape, second.shape), gives)

    def absolute(self, sizes: Sequence[Tensor], arithmetic: AbstractArithmetic) -> Ball:
        exact = arithmetic.exact
        left = exact(sizes[0]).matmul(exact(self.second.abs()))
        return left + exact(self.first.abs()).matmul(exact(sizes[1]))

    @property
    def measures(self) -> Tensor | None:
        return None

    @property
    def products(self) -> int:
        return 2 * self.first.shape[-1]

    def off(self, z: Sequence[Near], arithmetic: AbstractArithmetic) -> Off:
        exact, (a, b) = arithmetic.exact, z
        shifts = [_distance(t.centre, own, arithmetic) for t, own in ((a, self.first), (b, self.second))]
        far = [(exact(t.half) + exact(s)).upper() for t, s in zip(z, shifts, strict=True)]
        value = exact(a.half).matmul(exact(far[1])) + exact(shifts[0]).matmul(exact(b.half))
        tangent = exact(a.tangent).matmul(exact(far[1])) + exact(far[0]).matmul(exact(b.tangent))
        return Off(exact(a.centre).matmul(exact(b.centre)), value.upper(), tangent.upper())


class AbstractOfRows(AbstractNearLinear):
    """A function of rows (rows, n), and any matrix for each row, (rows, n, n)."""

    function: AbstractRowFunction
    matrices: Tensor

    @abstractmethod
    def of(self, rows: Tensor) -> AbstractOfRows:
        """The same for these rows only."""

    @final
    def value(self, z: Sequence[Tensor]) -> Tensor:
        return self.function.value(z[0])

    @final
    def carried(self, vectors: Sequence[Tensor | None]) -> Tensor:
        return torch.matmul(_known(vectors[0]).transpose(0, 1), self.matrices.mT).transpose(0, 1)

    @final
    def part(self, reached: Sequence[Tensor | None]) -> NearPart:
        """All of the rows of which something is reached."""
        count, n = self.matrices.shape[:2]
        rows = (_known(reached[0]) // n).unique()
        index = _positions((1, count, n), rows, None, rows.device)
        return NearPart(self.of(rows), (index,), ((len(rows), n),), index)

    @final
    def absolute(self, sizes: Sequence[Tensor], arithmetic: AbstractArithmetic) -> Ball:
        return rows_times(self.matrices.abs(), sizes[0], arithmetic)

    @final
    @property
    def products(self) -> int:
        return self.matrices.shape[-1]


@final
@dataclass(frozen=True)
class OfRows(AbstractOfRows):
    """Any function of rows, near any matrices.

    f(z) = f(c) + S (z - c) + (M - S)(z - c), where M is the mean of the Jacobian from the centre c to z.
    """

    function: AbstractRowFunction
    matrices: Tensor

    @classmethod
    def at(cls, function: AbstractRowFunction, z: Tensor) -> OfRows:
        """With the Jacobians at z."""
        return cls(function, jacobians_at(function, z))

    def of(self, rows: Tensor) -> OfRows:
        return replace(self, matrices=self.matrices[rows])

    @property
    def measures(self) -> Tensor | None:
        return None

    def off(self, z: Sequence[Near], arithmetic: AbstractArithmetic) -> Off:
        box, centre = z[0].box(arithmetic), z[0].centre.unsqueeze(0)
        whole = self.function.slope_range(box, arithmetic)
        part = partial(self.function.slope_range, arithmetic=arithmetic)
        mean = mean_slope(box, centre, arithmetic, lambda near: whole if near is box else part(near))
        value, error = midrad_of(self.function.value_range(Interval.point(centre), arithmetic), arithmetic)
        near, away = (farthest(s.map(lambda t: t[0]), self.matrices, arithmetic) for s in (mean, whole))
        return Off(
            arithmetic.ball(value[0], error[0]),
            rows_times(near, z[0].half, arithmetic).upper(),
            rows_times(away, z[0].tangent, arithmetic).upper(),
        )


def jacobians_at(function: AbstractRowFunction, z: Tensor) -> Tensor:
    """Those of a function at rows z (rows, n), in plain floating point: (rows, n, n)."""
    return middles_of(function.slope_range(Interval.point(z.unsqueeze(0)), Fast()))


def middles_of(slopes: Interval) -> Tensor:
    """The middles of slopes (1, …) of one sample, 0 where they are not finite."""
    return (slopes.lower / 2 + slopes.upper / 2)[0].nan_to_num(0.0, 0.0, 0.0)


def _known(vectors: Tensor | None) -> Tensor:
    if vectors is None:
        raise ValueError("nothing is pushed")
    return vectors


def _positions(shape: Shape, rows: Tensor | None, columns: Tensor | None, device: torch.device) -> Tensor:
    """The flat positions of some rows and columns of matrices (groups, rows, columns), in ascending order."""
    found = torch.arange(prod(shape), device=device).reshape(shape)
    found = found if rows is None else found[:, rows]
    return (found if columns is None else found[:, :, columns]).flatten()


def _by_groups(vectors: Tensor, matrices: Tensor) -> Tensor:
    """Vectors (N, groups, m, n) times the transposes of matrices (groups, k, n): (N, groups, m, k)."""
    count, groups, m, n = vectors.shape
    flat = vectors.transpose(0, 1).reshape(groups, count * m, n)
    return torch.bmm(flat, matrices.mT).reshape(groups, count, m, -1).transpose(0, 1)


def rows_times(matrices: Tensor, rows: Tensor, arithmetic: AbstractArithmetic) -> Ball:
    """Matrices (rows, m, n) times rows (…, rows, n): (…, rows, m)."""
    found = arithmetic.exact(rows.unsqueeze(-2)).matmul(arithmetic.exact(matrices))
    return found.map(_without_axis)


def _without_axis(t: Tensor) -> Tensor:
    return t.squeeze(-2)


def farthest(slopes: Interval, chosen: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
    """The largest distance of numbers in an interval from chosen ones."""
    exact = arithmetic.exact
    above, below = exact(slopes.upper) - exact(chosen), exact(chosen) - exact(slopes.lower)
    return torch.maximum(above.upper(), below.upper()).clamp(min=0)


def _distance(a: Tensor, b: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
    return farthest(Interval.point(a), b, arithmetic)
