"""Proved spectral norms of operators; a composition is treated as one matrix.

‖A‖₂² is the largest eigenvalue of AᵀA and of A Aᵀ; the matrix that is cheaper to factor is used.  Its entries, with
their rounding errors, are computed by pushing unit vectors.  If A is local, inputs that are far apart do not influence
a common output.  If the inputs are ordered in layers such that each layer shares outputs only with the layers next to
it, then AᵀA is block tridiagonal.  `arithmetic.definite` proves the bound of the eigenvalue.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import frexp, inf, ldexp, prod
from typing import Protocol, Self, final, runtime_checkable

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import (
    AbstractArithmetic,
    Ball,
    BlockTridiagonal,
    Fast,
    Rigorous,
    concatenate,
    largest_eigenpair,
    root_up,
    round_up_to,
    with_derivative_of,
)

_SMALL = 256
"""A Gram matrix up to this size is one block, because layers would save nothing."""
_WORK = 2**36
"""The limit on multiplications of a product of the blocks: one block of 4096, or twenty-one of 1024 in a row."""
_BESIDE = 3
"""The cost of each block in a row, relative to a single block of the same size."""
_ROOM = 2**22
"""Unit vectors are pushed together as long as their images have at most this many entries."""
_STEPS = 300
"""The maximum number of steps to find the singular vectors along which norms are differentiated."""
_WEIGHTS = 12
"""The number of steps to find the weights of Schur's test."""


@runtime_checkable
class LinearOperator(Protocol):
    """The part of an operator (`operators.AbstractOperator`) that is used here."""

    @property
    def in_shape(self) -> Shape: ...
    @property
    def out_shape(self) -> Shape: ...
    def push(self, value: Ball) -> Ball: ...
    def transpose(self) -> LinearOperator: ...
    def columns(self, index: Tensor, dtype: torch.dtype, arithmetic: AbstractArithmetic) -> Ball: ...
    def rows(self, index: Tensor) -> tuple[LinearOperator, Tensor]: ...
    def norm(self, p: float, arithmetic: AbstractArithmetic) -> Tensor: ...
    def tensors(self) -> Iterable[Tensor]: ...
    def to(self, dtype: torch.dtype, device: torch.device) -> Self: ...


def spectral_norm(operator: LinearOperator) -> Tensor:
    """A number not below ‖A‖₂, with rounding covered: a scalar of the dtype of the operator's tensors.

    If the Gram matrix can be factored (see `_WORK`), the number exceeds ‖A‖₂ by about 1e-10 relative, or by up to about
    1e-4 where many singular values are close to the largest (long one-dimensional convolutions).  Otherwise it is
    a bound of the norm of |A| that Schur's test proves with good weights.  The proof is computed in float64.  The
    derivative is that of ‖A‖₂ itself.
    """
    tensors = list(operator.tensors())
    some = tensors[0] if tensors else torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        bound = round_up_to(_proved(operator.to(torch.float64, some.device), some.device), some.dtype)
    if not any(t.requires_grad for t in tensors):
        return bound
    return with_derivative_of(_along(operator, _STEPS), bound)


def schur_norm(operator: LinearOperator) -> Tensor:
    """A number not below √(‖A‖₁ ‖A‖∞) >= ‖A‖₂ (Schur's test), with rounding covered; quick, without derivatives."""
    some = next(iter(operator.tensors()), torch.zeros((), dtype=torch.float64))
    with torch.no_grad():
        found = torch.tensor(_schur(operator.to(torch.float64, some.device)), dtype=torch.float64, device=some.device)
        return round_up_to(found.nan_to_num(inf, inf), some.dtype)


def spectral_estimate(operator: LinearOperator, steps: int = 8) -> Tensor:
    """An estimate of ‖A‖₂, usually from below and within a few per cent: a scalar.  It is fast, and not a proved bound.

    steps: the number of products with AᵀA from which Lanczos' iteration computes the largest singular vector.
    """
    with torch.no_grad():
        return _along(operator, steps)


def _along(operator: LinearOperator, steps: int) -> Tensor:
    """uᵀ A v for approximate leading singular vectors u, v, so that its derivative is about that of ‖A‖₂: a scalar."""
    fast = Fast()
    some = next(iter(operator.tensors()), torch.zeros((), dtype=torch.float64))
    with torch.no_grad():
        double = operator.to(torch.float64, some.device)
        bound = _schur(double)
        factor = ldexp(1.0, -frexp(bound)[1]) if 0 < bound < inf else 1.0
        back, like = double.transpose(), torch.zeros((), dtype=torch.float64, device=some.device)

        def times(vector: Tensor) -> Tensor:
            image = double.push(fast.exact(vector.reshape(double.in_shape))).mid * factor
            return back.push(fast.exact(image)).mid.flatten() * factor

        v = like.new_zeros(prod(double.in_shape))
        if 0 < bound < inf:
            v = largest_eigenpair(times, len(v), steps, like).vector
        image = double.push(fast.exact(v.reshape(double.in_shape))).mid * factor
        length = torch.linalg.vector_norm(image)
        u = (image / torch.where(length > 0, length, 1.0)).to(some.dtype)
    live = operator.push(fast.exact(v.to(some.dtype).reshape(operator.in_shape))).mid
    return (live * u).sum()


def _proved(operator: LinearOperator, device: torch.device) -> Tensor:
    """The `spectral_norm` of an operator in float64."""
    plain = _schur(operator)
    if not 0 < plain < inf:
        return torch.full((), inf if plain != 0 else 0.0, dtype=torch.float64, device=device)
    exponent = frexp(plain)[1]
    factor, back = (torch.full((), ldexp(1.0, s * exponent), dtype=torch.float64, device=device) for s in (-1, 1))
    exact = Rigorous().exact
    gram = min(_grams(operator, device), key=lambda g: g.work)
    if gram.work <= _WORK:
        root = root_up(gram.matrix(factor).largest_eigenvalue())
        found = (exact(root) * exact(back)).upper()
    else:
        found = _weighted(operator, device)
    return torch.fmin(found, torch.full_like(found, plain))


def _schur(operator: LinearOperator) -> float:
    """An upper bound of √(‖A‖₁ ‖A‖∞), which is at least ‖A‖₂ (Schur's test); NaN or infinite if the norms are."""
    exact = Rigorous().exact
    roots = [exact(root_up(operator.norm(p, Rigorous()).to(torch.float64))) for p in (1, inf)]
    return float((roots[0] * roots[1]).upper())


def _weighted(operator: LinearOperator, device: torch.device) -> Tensor:
    """An upper bound of the spectral norm of |A|; for a composition, |A| is the product of the absolute matrices.

    For x > 0, ‖A‖₂² <= max_i (|A|ᵀ|A| x)_i / x_i (Schur's test with the weights x and |A| x).  Pushing a zero vector
    with radius x gives a radius of at least |A| x.  The best x is the leading eigenvector of |A|ᵀ|A|.
    """

    def spread(vector: Tensor) -> Tensor:
        return _radius(operator.transpose(), _radius(operator, vector))

    x = torch.ones(operator.in_shape, dtype=torch.float64, device=device)
    for _ in range(_WEIGHTS):
        y = spread(x)
        y = y / y.max()
        x = torch.where(y.isfinite(), y, 0.0).clamp(min=torch.finfo(y.dtype).eps)
    ratios = Rigorous().at_least(spread(x) / x, 1)
    return root_up(ratios.max()).nan_to_num(inf, inf)


def _radius(operator: LinearOperator, radius: Tensor) -> Tensor:
    """The radius of the image of a zero vector with `radius`: (*in) -> (*out).

    It is infinite if the image has no radius, because its rounding error is then unknown.
    """
    found = operator.push(Rigorous().ball(torch.zeros_like(radius), radius))
    return torch.full_like(found.mid, inf) if found.rad is None else found.rad.expand_as(found.mid)


@final
@dataclass(frozen=True)
class _Gram:
    """AᵀA in the order of `layers`: ascending flat positions of the input of A.

    Each layer shares outputs only with itself and the layers next to it.
    """

    operator: LinearOperator
    layers: tuple[Tensor, ...]

    @property
    def work(self) -> int:
        """The approximate number of multiplications to multiply every block with itself."""
        cubes = sum(len(layer) ** 3 for layer in self.layers)
        return cubes if len(self.layers) == 1 else _BESIDE * cubes

    def matrix(self, factor: Tensor) -> BlockTridiagonal:
        """The matrix times the square of `factor`."""
        if len(self.layers) == 1:
            n = prod(self.operator.in_shape)
            lots = _lots(self.operator, n)
            columns = (self.operator.columns(some, torch.float64, Rigorous()) for some in self.layers[0].split(lots))
            return BlockTridiagonal((concatenate([self._back(c, factor) for c in columns], 0),), ())
        compact = _Compact.of(self.operator, factor.device)
        vectors = compact.vectors(factor)
        pushed = [self.operator.push(Rigorous().exact(v)) for v in vectors.split(_lots(self.operator, len(vectors)))]
        images = concatenate([self._back(p, factor) for p in pushed], 0)
        below = pairwise(self.layers)
        return BlockTridiagonal(
            tuple(compact.block(images, layer, layer) for layer in self.layers),
            tuple(compact.block(images, after, layer) for layer, after in below),
        )

    def _back(self, images: Ball, factor: Tensor) -> Ball:
        """Aᵀ applied to images (k, *out), times the square of `factor`: (k, in); intermediate numbers are not tiny."""
        scale, n, back = Rigorous().exact(factor), prod(self.operator.in_shape), self.operator.transpose()
        large = images * scale
        found = back.push(large * scale) if bool(factor > 1) else back.push(large) * scale
        return found.map(lambda t: t.reshape(-1, n))


def _lots(operator: LinearOperator, most: int) -> int:
    """The number of vectors that are pushed together."""
    return max(1, min(most, _ROOM // max(prod(operator.in_shape), prod(operator.out_shape), 1)))


@final
@dataclass(frozen=True)
class _Compact:
    """Groups (colours) of unit vectors that are pushed through AᵀA together, such that every entry can be recovered.

    Entry (i, j) is 0 unless i and j are within `reach` of each other along every axis.  Two unit vectors of one colour
    are more than twice that distance apart along some axis.  Hence entry i of the image of their sum is entry (i, j)
    of the matrix for a single j.
    coordinates: (axes, n) of the flat positions; colours: (n,).  Source: Curtis, Powell and Reid 1974.
    """

    shape: Shape
    coordinates: Tensor
    reach: Shape
    colours: Tensor

    @classmethod
    def of(cls, operator: LinearOperator, device: torch.device) -> Self:
        shape = operator.in_shape
        coordinates = _coordinates(shape, device)
        reach = tuple(_reach(operator, c, size) for c, size in zip(coordinates, shape, strict=True))
        colours = torch.zeros_like(coordinates[0])
        for c, size, r in zip(coordinates, shape, reach, strict=True):
            apart = min(size, 2 * r + 1)
            colours = colours * apart + c % apart
        return cls(shape, coordinates, reach, colours)

    def vectors(self, like: Tensor) -> Tensor:
        """The sum of the unit vectors of each colour: (colours, *shape)."""
        count = int(self.colours.max()) + 1
        flat = like.new_zeros(count, len(self.colours))
        flat[self.colours, torch.arange(len(self.colours), device=like.device)] = 1
        return flat.reshape(count, *self.shape)

    def block(self, images: Ball, rows: Tensor, columns: Tensor) -> Ball:
        """The entries of AᵀA at `rows` and `columns`, from the `images` (colours, n) of the vectors."""
        near = torch.ones(len(rows), len(columns), dtype=torch.bool, device=rows.device)
        for c, r in zip(self.coordinates, self.reach, strict=True):
            near &= (c[rows].unsqueeze(1) - c[columns]).abs() <= r
        colours = self.colours[columns]
        return images.map(lambda t: torch.where(near, t[:, rows].index_select(0, colours).mT, 0.0))


def _coordinates(shape: Shape, device: torch.device) -> Tensor:
    """The coordinates of the flat positions of a tensor of `shape`: (axes, n)."""
    return torch.stack(torch.unravel_index(torch.arange(prod(shape), device=device), shape))


def _reach(operator: LinearOperator, coordinate: Tensor, size: int) -> int:
    """The largest distance along an axis of two inputs that share an output; `size` if it is at least half the axis."""
    furthest = 0
    for c in range(size):
        met = coordinate[_met(operator, coordinate == c)]
        furthest = max(furthest, int((met - c).abs().max()) if len(met) else 0)
        if 2 * furthest + 1 >= size:
            return size
    return furthest


def _met(operator: LinearOperator, chosen: Tensor) -> Tensor:
    """True for inputs that share an output with a `chosen` input, both (n,); it may be True for others, too."""
    touched = _radius(operator, chosen.to(torch.float64).reshape(operator.in_shape)) != 0
    return (_radius(operator.transpose(), touched.to(torch.float64)) != 0).flatten()


def _grams(operator: LinearOperator, device: torch.device) -> Iterator[_Gram]:
    """The Gram matrices of the operator and its transpose, as one block and in layers."""
    for side in (operator, operator.transpose()):
        n = prod(side.in_shape)
        yield _Gram(side, (torch.arange(n, device=device),))
    if min(prod(operator.in_shape), prod(operator.out_shape)) <= _SMALL:
        return
    most = min(_WORK, min(prod(operator.in_shape), prod(operator.out_shape)) ** 3) // _BESIDE
    for side in (operator, operator.transpose()):
        coordinates = _coordinates(side.in_shape, device)
        for axis, size in enumerate(side.in_shape):
            layers = _layers(side, coordinates[axis], most) if size > 1 else None
            if layers is not None:
                yield _Gram(side, layers)


def _layers(operator: LinearOperator, coordinate: Tensor, most: int) -> tuple[Tensor, ...] | None:
    """The entries of the input in layers, starting at the least `coordinate`.

    Each layer shares outputs only with the layers next to it.  None if the sum of the cubed sizes exceeds `most`.
    """
    layers: list[Tensor] = []
    left = torch.ones_like(coordinate, dtype=torch.bool)
    front = torch.zeros_like(left)
    while bool(left.any()):
        if not bool(front.any()):  # the rest shares no output with the layers so far
            front = left & (coordinate == coordinate[left].min())
        layers.append(front.nonzero().flatten())
        if sum(len(layer) ** 3 for layer in layers) > most:
            return None
        left = left & ~front
        front = _met(operator, front) & left
    return tuple(layers)
