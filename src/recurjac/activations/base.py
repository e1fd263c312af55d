"""The interface of an activation, and the methods that are derived from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Fast, Interval
from recurjac.quadratics import Graph, Product
from recurjac.relaxations import LinearRelaxation


class AbstractActivation(ABC):
    """An element-wise function σ with its slope σ'; where σ has a kink, σ' is the interval of Clarke's derivative."""

    name: ClassVar[str]
    """The name in weight lists and on the command line."""

    @property
    @abstractmethod
    def rigorous(self) -> bool:
        """Whether the ranges and lines below cover rounding under `Rigorous`."""

    @property
    def limited(self) -> bool:
        """Whether σ is not defined everywhere, or so steep that it easily overflows."""
        return False

    @property
    def piecewise_linear(self) -> bool:
        """Whether the slope is constant on some intervals, so that a neuron can be linear over a region."""
        return False

    @property
    def jumps(self) -> tuple[float, ...]:
        """The points beside which the slope is constant, and different on both sides; none by default."""
        return ()

    @abstractmethod
    def value(self, z: Tensor) -> Tensor:
        """σ(z)."""

    @abstractmethod
    def value_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The range of σ(v) for v in z; infinite ends mean limits."""

    @abstractmethod
    def slope_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """The range [d, D] of σ'(v) for v in z (docs/mathematics.md, §4); infinite ends mean limits."""

    def unstable(self, z: Interval, arithmetic: AbstractArithmetic) -> Tensor:
        """True where σ' is not constant on z, or not proved to be.

        Where computed slopes differ everywhere, no proved ones are needed.
        """
        differ = ~self.slope_range(z, Fast()).is_point
        if not arithmetic.rigorous or bool(differ.all()):
            return differ
        return ~self.slope_range(z, arithmetic).is_point

    def secant_range(self, z: Interval, centre: Interval, arithmetic: AbstractArithmetic) -> Interval:
        """Bounds of δ with σ(v) - σ(c) = δ (v - c), for v in z and c in `centre`; by default those of σ' between them.

        Where v = c, every δ is one.  Source: docs/mathematics.md, §3.4.
        """
        low, high = torch.minimum(z.lower, centre.lower), torch.maximum(z.upper, centre.upper)
        return self.slope_range(Interval(low, high), arithmetic)

    def quadratics(self, z: Interval, centre: Interval, arithmetic: AbstractArithmetic) -> list[Product]:
        """Products that are not negative on the graph of σ over z; the first one is the sector of the secants.

        centre: an enclosure of the point c that arguments are measured from.  Source: docs/mathematics.md, §3.5.
        """
        graph = Graph(centre, self.value_range(centre, arithmetic), arithmetic)
        lines, values = self.lines(z, arithmetic), self.value_range(z, arithmetic)
        above = graph.affine(lines.upper_slope[:, 0], -1.0, lines.upper_intercept[:, 0])
        below = graph.affine(-lines.lower_slope[:, 0], 1.0, -lines.lower_intercept[:, 0])
        left, right = graph.affine(1.0, 0.0, -z.lower), graph.affine(-1.0, 0.0, z.upper)
        least, most = graph.affine(0.0, 1.0, -values.lower), graph.affine(0.0, -1.0, values.upper)
        pairs = [(above, graph.unit), (below, graph.unit), (left, right), (least, most), (above, below)]
        pairs += [(line, end) for line in (above, below) for end in (left, right)]
        secants = self.secant_range(z, centre, arithmetic)
        return [graph.sector(secants), *(Product(a, b) for a, b in pairs)]

    def couplings(self, centre: Interval, arithmetic: AbstractArithmetic) -> list[Product]:
        """Products of a factor in (z, σ(z)) and one in a tangent (z', σ'(z) z') that are 0; none by default.

        They hold for every element of Clarke's derivative.  Source: docs/mathematics.md, §6.7.
        """
        return []

    def curvature_range(self, z: Interval, arithmetic: AbstractArithmetic) -> Interval | None:
        """The range of σ''(v) for v in z; infinite ends mean limits.

        None, which is the default, if σ'' is not continuous or not known.
        """
        return None

    @abstractmethod
    def lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """CROWN's lines of σ on z (batch, *node): two tight lines with independent slopes, of shape (batch, 1, *node).

        Source: arXiv:1811.00866, Section 3 and Table 2.
        """

    @abstractmethod
    def parallel_lines(self, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """Fast-Lin's lines of σ on z (batch, *node): two lines with the same slope, of shape (batch, 1, *node).

        Source: arXiv:1804.09699, Section 3.3.
        """

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        """The same activation with its parameters in `dtype` on `device`; most have no such parameters."""
        return self

    def rounded(self, dtype: torch.dtype) -> Self:
        """The activation that a computation in `dtype` applies, if that rounds numbers that are its parameters."""
        return self

    @classmethod
    def named(cls, parameters: Mapping[str, Any]) -> Self:  # noqa: ARG003  # (some classes use it)
        """The activation called `name` in a weight list, with the parameters given in the list.

        Raises InvalidNetwork if a parameter without a universal default is missing.
        """
        return cls()

    @classmethod
    @abstractmethod
    def examples(cls) -> list[Self]:
        """A few activations of this class, for the tests that run on every class."""


def within(lower: Tensor, upper: Tensor, *numbers: float) -> Tensor:
    """The numbers, each clamped to [lower, upper]: (len(numbers), *shape)."""
    points = lower.new_tensor(numbers).reshape(-1, *[1] * lower.dim())
    return torch.minimum(torch.maximum(points, lower), upper)


def bounded(z: Interval) -> Interval:
    """z clamped to ±`far`, so that values computed from it and their derivatives are finite."""
    return z.map(lambda end: end.clamp(min=-far(end), max=far(end)))


def far(tensor: Tensor) -> float:
    """The magnitude beyond which no product of a slope and a point is formed, because it could overflow."""
    return float(torch.finfo(tensor.dtype).max ** 0.25)
