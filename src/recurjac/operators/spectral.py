"""Spectral norms of whole operators, proved: compositions count as the one matrix that they are.

‖A‖₂² is the largest eigenvalue of AᵀA, or of A Aᵀ if that is smaller or of a better shape.  Its entries are had by
pushing unit vectors, with their rounding.  Where A is local, entries of its input that are far apart meet in no output;
in layers, each of what meets the one before, AᵀA is block tridiagonal.  `arithmetic.definite` proves the rest.
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
"""A Gram matrix up to this size is one block: layers would save nothing."""
_WORK = 2**36
"""The most multiplications of a product of the blocks: one block of 4096, or twenty-one of 1024 in a row."""
_BESIDE = 3
"""What blocks in a row cost more each than one block alone."""
_ROOM = 2**22
"""Unit vectors are pushed together as long as their images have so many entries."""
_STEPS = 300
"""The most steps to find singular vectors, along which norms are differentiated."""
_WEIGHTS = 12
"""Steps towards the weights of Schur's test."""


@runtime_checkable
class LinearOperator(Protocol):
    """What is needed of an operator here (`operators.AbstractOperator`)."""

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
    """A number not below ‖A‖₂, rounding covered: a scalar of the dtype of the operator's tensors.

    It exceeds ‖A‖₂ by about 1e-10 of it where the Gram matrix can be factored (see `_WORK`); elsewhere it is the norm
    of |A| that Schur's test proves with good weights.  The proof is computed in float64.  The derivative is that of
    ‖A‖₂ itself.
    """
    tensors = list(operator.tensors())
    some = tensors[0] if tensors else torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        bound = round_up_to(_proved(operator.to(torch.float64, some.device), some.device), some.dtype)
    if not any(t.requires_grad for t in tensors):
        return bound
    return with_derivative_of(_along(operator, _STEPS), bound)


def spectral_estimate(operator: LinearOperator, steps: int = 8) -> Tensor:
    """About ‖A‖₂, mostly from below and by a few per cent at most: a scalar.  It is quickly had and nothing is proved.

    steps: products with AᵀA, from which Lanczos' iteration takes the largest singular vector.
    """
    with torch.no_grad():
        return _along(operator, steps)


def _along(operator: LinearOperator, steps: int) -> Tensor:
    """uᵀ A v for about the largest singular vectors, whose derivative is then that of ‖A‖₂: a scalar."""
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
    """`spectral_norm` of an operator in float64."""
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
    """An upper bound of √(‖A‖₁ ‖A‖∞), at least ‖A‖₂ (Schur's test); NaN or infinite if they are."""
    exact = Rigorous().exact
    roots = [exact(root_up(operator.norm(p, Rigorous()).to(torch.float64))) for p in (1, inf)]
    return float((roots[0] * roots[1]).upper())


def _weighted(operator: LinearOperator, device: torch.device) -> Tensor:
    """An upper bound of the spectral norm of |A|, or of what bounds it in a composition.

    For x > 0, ‖A‖₂² <= max_i (|A|ᵀ|A| x)_i / x_i (Schur's test with the weights x and |A| x).  A vector that is known
    to be 0 within x has an image known to be 0 within at least |A| x.  The best x is the first eigenvector of |A|ᵀ|A|.
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
    """What the image of a vector known to be 0 within `radius` is known to be 0 within: (*in) -> (*out).

    Infinite for a matrix without a radius, of which nothing is known.
    """
    found = operator.push(Rigorous().ball(torch.zeros_like(radius), radius))
    return torch.full_like(found.mid, inf) if found.rad is None else found.rad.expand_as(found.mid)


@final
@dataclass(frozen=True)
class _Gram:
    """AᵀA in the order of `layers`: rising flat positions of the input of A, of which each meets the next only."""

    operator: LinearOperator
    layers: tuple[Tensor, ...]

    @property
    def work(self) -> int:
        """About the multiplications of one product of all blocks with themselves."""
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
        """Images (k, *out) through Aᵀ, times the square of `factor`: (k, in); no number on the way is very small."""
        scale, n, back = Rigorous().exact(factor), prod(self.operator.in_shape), self.operator.transpose()
        large = images * scale
        found = back.push(large * scale) if bool(factor > 1) else back.push(large) * scale
        return found.map(lambda t: t.reshape(-1, n))


def _lots(operator: LinearOperator, most: int) -> int:
    """How many vectors are pushed together."""
    return max(1, min(most, _ROOM // max(prod(operator.in_shape), prod(operator.out_shape), 1)))


@final
@dataclass(frozen=True)
class _Compact:
    """Which unit vectors are pushed through AᵀA together, so that every entry of it can be told from their images.

    Entry (i, j) is 0 unless i and j are within `reach` of each other along every axis.  Vectors j of one colour are
    further apart than twice that along some axis, so that entry i of the image of their sum is (i, j) of one j alone.
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
        """The sums of the unit vectors of each colour: (colours, *shape)."""
        count = int(self.colours.max()) + 1
        flat = like.new_zeros(count, len(self.colours))
        flat[self.colours, torch.arange(len(self.colours), device=like.device)] = 1
        return flat.reshape(count, *self.shape)

    def block(self, images: Ball, rows: Tensor, columns: Tensor) -> Ball:
        """The entries at `rows` and `columns`, from the `images` (colours, n) of the vectors."""
        near = torch.ones(len(rows), len(columns), dtype=torch.bool, device=rows.device)
        for c, r in zip(self.coordinates, self.reach, strict=True):
            near &= (c[rows].unsqueeze(1) - c[columns]).abs() <= r
        colours = self.colours[columns]
        return images.map(lambda t: torch.where(near, t[:, rows].index_select(0, colours).mT, 0.0))


def _coordinates(shape: Shape, device: torch.device) -> Tensor:
    """The coordinates of the flat positions of a tensor of `shape`: (axes, n)."""
    return torch.stack(torch.unravel_index(torch.arange(prod(shape), device=device), shape))


def _reach(operator: LinearOperator, coordinate: Tensor, size: int) -> int:
    """How far apart along one axis two entries of the input may be that meet; `size` if it is half of the axis."""
    furthest = 0
    for c in range(size):
        met = coordinate[_met(operator, coordinate == c)]
        furthest = max(furthest, int((met - c).abs().max()) if len(met) else 0)
        if 2 * furthest + 1 >= size:
            return size
    return furthest


def _met(operator: LinearOperator, chosen: Tensor) -> Tensor:
    """Where entries of the input meet any of the `chosen` in an output, both (n,); perhaps elsewhere, too."""
    touched = _radius(operator, chosen.to(torch.float64).reshape(operator.in_shape)) != 0
    return (_radius(operator.transpose(), touched.to(torch.float64)) != 0).flatten()


def _grams(operator: LinearOperator, device: torch.device) -> Iterator[_Gram]:
    """The Gram matrices of the operator and its transpose, whole and in layers."""
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
    """The input's entries in layers, beginning with those of the least `coordinate`; each meets its neighbours only.

    None if the cubes of their sizes add up to more than `most`.
    """
    layers: list[Tensor] = []
    left = torch.ones_like(coordinate, dtype=torch.bool)
    front = torch.zeros_like(left)
    while bool(left.any()):
        if not bool(front.any()):  # the rest meets none of those before
            front = left & (coordinate == coordinate[left].min())
        layers.append(front.nonzero().flatten())
        if sum(len(layer) ** 3 for layer in layers) > most:
            return None
        left = left & ~front
        front = _met(operator, front) & left
    return tuple(layers)
