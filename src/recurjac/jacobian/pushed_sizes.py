"""Unit vectors that are pushed through a linear network, of which only weighted sums of their sizes are kept.

Of two weights of each vector, the first is the size of an input or of a noise in the region, the second that of its
tangents.  What is pushed is rounded in every operation; the errors of one vector are at most those of the vector of its
sizes under absolute coefficients, and their weighted sum is that of the sum of sizes.
Source: docs/mathematics.md, §5.14.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic, Ball
from recurjac.deadline import Deadline
from recurjac.operators import AbstractOperator
from recurjac.operators.base import AbstractLeaf
from recurjac.operators.compose import Compose
from recurjac.operators.interval_matrix import IntervalMatrix

_LOT = 64
"""How many unit vectors are pushed together."""
_LITTLE = 1e-11
"""The share of a range below which a noise is not pushed."""
_SCALES = {torch.float64: 2.0**-200, torch.float32: 2.0**-20}
"""Weights are multiplied by this power of 2, so that their sum is at most 1; errors by underflow then count once."""

Place = tuple[int, int]
"""A node, and which of the values that arrive there."""


class AbstractLinearNetwork(ABC):
    """A linear network with known coefficients."""

    @abstractmethod
    def shape(self, node: int) -> Shape:
        """The shape of the values of a node."""

    @abstractmethod
    def pushed(self, node: int, vectors: Tensor) -> Iterator[tuple[Place, Tensor]]:
        """What vectors (N, *node) of values of a node are where they arrive at later nodes: (N, *place)."""

    @abstractmethod
    def size(self, place: Place) -> int:
        """How many numbers arrive at a place."""

    @abstractmethod
    def parts(self, node: int) -> Sequence[AbstractLinearPart]:
        """The parts that lots of entries of a node reach, all of them together, if these are small; else none."""


class AbstractLinearPart(ABC):
    """A linear network from some entries of a node on, in which only those that they reach are computed.

    index: the flat positions of these entries.
    """

    index: Tensor

    @abstractmethod
    def pushed(self, vectors: Tensor) -> Iterator[tuple[Place, Tensor, Tensor]]:
        """Flat positions in places, and what vectors (N, entries) are there, (N, positions); elsewhere they are 0."""


@final
@dataclass(frozen=True)
class Arrived:
    """Values of a node, or what arrives at a place: the centre as it is stored, and sums of sizes.

    centre: (*shape).  size: upper bounds of Σ weights |pushed|, (2, *shape).  rest: what is known only by its size.
    """

    centre: Tensor
    size: Tensor
    rest: Tensor


@final
@dataclass
class PushedSizes:
    """Sums of the sizes of what was pushed, and arithmetic with such sums, whose first axis is that of the two weights.

    sums: for each place, Σ weights |pushed| as computed, (2, entries).  terms: how many numbers each of them is the sum
    of, at most.  weight: an upper bound of the sum of all weights.
    """

    linear: AbstractLinearNetwork
    arithmetic: AbstractArithmetic
    like: Tensor
    sums: dict[Place, Tensor] = field(default_factory=dict)
    terms: int = 0
    weight: float = 0.0

    @property
    def scale(self) -> float:
        """What all weights are multiplied by."""
        return _SCALES[self.like.dtype]

    @property
    def small(self) -> bool:
        """Whether the weights are so small that errors by underflow count once."""
        return self.weight <= 1.0

    def begin(self, centre: Tensor, radius: Tensor) -> Arrived:
        """Push unit vectors of all inputs, whose half-widths around the centre are `radius` (*input)."""
        flat, tiny = radius.flatten(), torch.finfo(radius.dtype).tiny
        scaled = torch.where(flat > 0, (flat * self.scale).clamp(min=tiny), 0.0)
        weights = torch.stack([scaled, torch.full_like(flat, self.scale)])
        self._weigh(weights)
        self._push_units(0, torch.arange(len(flat), device=flat.device), weights)
        sizes = weights.reshape(2, *radius.shape)
        return Arrived(centre, sizes, torch.zeros_like(sizes))

    def arrived(
        self, place: Place, shape: Shape, bias: Ball | None, terms: Sequence[tuple[AbstractOperator, Arrived]]
    ) -> Arrived:
        """What arrives at a place of that shape: images of values of earlier nodes, and a bias."""
        exact, centre, size = self.arithmetic.exact, bias, None
        rest = self.like.new_zeros(2, *shape)
        for operator, values in terms:
            image = operator.push(exact(values.centre))
            centre = image if centre is None else centre + image
            moved, left = through(operator, values.size, values.rest, self.arithmetic)
            size = exact(moved) if size is None else size + exact(moved)
            rest = self.plus(rest, left)
        if centre is None or size is None:
            centre = exact(self.like.new_zeros(shape)) if centre is None else centre
            return Arrived(centre.mid, torch.zeros_like(rest), self.with_error(rest, centre.rad))
        if size.rad is not None:
            rest = self.plus(rest, size.rad.expand_as(rest))
        return Arrived(centre.mid, self.summed(place, shape), self.with_error(rest, centre.rad))

    def lengths(self, outputs: Arrived) -> Tensor:
        """Upper bounds of the l1 norms of the gradients of all outputs, (K,)."""
        return (self.plus(outputs.size[1], outputs.rest[1]) / self.scale).flatten()

    def push_noises(self, node: int, noise: Tensor, size: Tensor, deadline: Deadline) -> Tensor:
        """Push the largest noises (2, *node) while there is time; returns the weights of those pushed, else 0.

        size: of the values beside which they are no more than rounding.
        """
        flat, done = noise.flatten(1), torch.zeros_like(noise).flatten(1)
        worth = flat[0] * ((flat > _LITTLE * size.flatten(1)).any(0) & flat.isfinite().all(0) & (flat[0] > 0))
        parts = self.linear.parts(node)
        if parts:
            self._push_parts(parts, worth, flat, done, deadline)
            return done.reshape(noise.shape)
        order = worth.argsort(descending=True)[: int((worth > 0).sum())]
        weights = flat[:, order]
        count = self._push_units(node, order, weights, deadline)
        self._weigh(weights[:, :count])
        done[:, order[:count]] = weights[:, :count]
        return done.reshape(noise.shape)

    def _push_parts(
        self, parts: Sequence[AbstractLinearPart], worth: Tensor, weights: Tensor, done: Tensor, deadline: Deadline
    ) -> None:
        """Push lots of unit vectors, the largest first, and note the weights of those that were pushed in `done`."""
        for part in sorted(parts, key=lambda p: -float(worth[p.index].sum())):
            lot, used = part.index, worth[part.index] > 0
            if deadline.over or not bool(used.any()):
                return
            some = torch.where(used, weights[:, lot], 0.0)
            units = torch.eye(len(lot), dtype=weights.dtype, device=weights.device)
            for place, at, pushed in part.pushed(units):
                if place not in self.sums:  # no input reaches it
                    self.sums[place] = self.like.new_zeros(2, self.linear.size(place))
                self.sums[place][:, at] += some @ pushed.abs()
            self.terms += len(lot) + 1
            self._weigh(some)
            done[:, lot] = some

    def _weigh(self, weights: Tensor) -> None:
        """Count weights, whose sum must be at most 1."""
        self.weight += float(weights.sum()) * (1 + 1e-6)

    def _push_units(self, node: int, index: Tensor, weights: Tensor, deadline: Deadline | None = None) -> int:
        """Push unit vectors of a node at these positions, with weights (2, index); returns how many in time."""
        shape = self.linear.shape(node)
        for begin in range(0, len(index), _LOT):
            if deadline is not None and deadline.over:
                return begin
            some = index[begin : begin + _LOT]
            units = torch.zeros(len(some), prod(shape), dtype=weights.dtype, device=weights.device)
            units = units.scatter_(1, some.unsqueeze(1), 1.0).reshape(len(some), *shape)
            for place, pushed in self.linear.pushed(node, units):
                found = weights[:, begin : begin + _LOT] @ pushed.flatten(1).abs()
                self.sums[place] = self.sums[place] + found if place in self.sums else found
            self.terms += len(units) + 1
        return len(index)

    def summed(self, place: Place, shape: Shape) -> Tensor:
        """Upper bounds of the sums of sizes at a place, which are never 0, as products may underflow: (2, *shape)."""
        found = self.sums.get(place, self.like.new_zeros(2, prod(shape))).reshape(2, *shape)
        least = 4 * (self.terms + 1) * torch.finfo(found.dtype).tiny
        return self.arithmetic.at_least(found + least, 2 * self.terms + 4)

    def with_error(self, rest: Tensor, error: Tensor | None) -> Tensor:
        """The rests (2, *node), where an error (*node) of values is added to the first."""
        if error is None:
            return rest
        more = error.expand(rest.shape[1:])
        least = torch.finfo(rest.dtype).tiny * (more > 0).to(rest.dtype)  # the scaled error may underflow
        return torch.stack([self.plus(self.plus(rest[0], more * self.scale), least), rest[1]])

    def plus(self, a: Tensor, b: Tensor) -> Tensor:
        """Upper bounds of sums."""
        return (self.arithmetic.exact(a) + self.arithmetic.exact(b)).upper()

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """Upper bounds of products."""
        return (self.arithmetic.exact(a) * self.arithmetic.exact(b)).upper()


def is_plain(operator: AbstractOperator) -> bool:
    """Whether it is composed of operators whose absolute values are known."""
    if isinstance(operator, Compose):
        return is_plain(operator.outer) and is_plain(operator.inner)
    return isinstance(operator, AbstractLeaf | IntervalMatrix)


def through(
    operator: AbstractOperator, size: Tensor, rest: Tensor, arithmetic: AbstractArithmetic
) -> tuple[Tensor, Tensor]:
    """Bounds of sizes and rests after an operator; rests include what its rounding adds to vectors of these sizes."""
    if isinstance(operator, Compose):
        return through(operator.outer, *through(operator.inner, size, rest, arithmetic), arithmetic)
    if not isinstance(operator, AbstractLeaf | IntervalMatrix):
        raise TypeError(f"{type(operator).__name__} is not composed of single operators")
    absolute, exact = operator.absolute(), arithmetic.exact
    moved, left = absolute.push(exact(size)), absolute.push(exact(rest)).upper()
    lost = lost_by(moved, prod(operator.in_shape))
    left = left if lost is None else (exact(left) + exact(lost)).upper()
    if isinstance(operator, IntervalMatrix) and operator.matrix.rad is not None and not operator.matrix.exact:
        width = operator.matrix.rad.expand_as(operator.matrix.mid)
        off = IntervalMatrix(exact(width), operator.inputs, operator.outputs).push(exact(size))
        left = (exact(left) + exact(off.upper())).upper()
    return moved.upper(), left


def lost_by(moved: Ball, products: int) -> Tensor | None:
    """What rounding adds to vectors whose sizes become `moved` by sums of at most so many products; None for nothing.

    Products of smaller vectors may underflow where those of sizes do not.
    """
    if moved.rad is None or moved.exact:
        return None
    least = 4 * (products + 1) * torch.finfo(moved.mid.dtype).tiny
    return (moved.rad + least).expand_as(moved.mid)
