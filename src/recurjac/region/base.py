"""The interface of a region, before and after it is bound to a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, final, runtime_checkable

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic, Ball, Fast, Interval, Rigorous

FAST, RIGOROUS = Fast(), Rigorous()
"""FAST is for points that are only inspected, RIGOROUS for ends that must be safe in any arithmetic of the caller."""


class AbstractRegion(ABC):
    """A set of inputs; `bind` fits it to a network and gives it a batch dimension and a dtype."""

    @abstractmethod
    def bind(self, input_shape: Shape, dtype: torch.dtype, device: torch.device) -> BoundRegion:
        """This region for inputs of `input_shape`, slightly larger where `dtype` cannot represent its numbers.

        Raises InvalidRegion if the shapes do not fit.
        """

    @property
    @abstractmethod
    def centre(self) -> Tensor:
        """A finite point, in the shape in which the region was given, as an example for reading a network."""

    @abstractmethod
    def holds(self, points: Tensor) -> Tensor:
        """True where points (batch, N, *input) of the bound region are certainly in this region: (batch, N).

        In float32, `bind` enlarges regions; in float64, the ends of the parts of an l∞ ball are rounded outwards.
        """


class BoundRegion(ABC):
    """A region bound to a network; `x` (batch, *input) is a point of it."""

    x: Tensor

    @property
    @final
    def batch(self) -> int:
        return int(self.x.shape[0])

    def holds(self, points: Tensor) -> Tensor:
        """True for all of the points (batch, N, *input), because nothing was enlarged: (batch, N)."""
        return torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)

    @final
    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.batch} of shape {tuple(self.x.shape[1:])})"

    @property
    def may_be_empty(self) -> bool:
        """Whether samples may have an empty region, so that proved bounds may cross."""
        return False

    @property
    def empty(self) -> Tensor:
        """True for samples whose region is proved to be empty: (batch,)."""
        return torch.zeros(self.batch, dtype=torch.bool, device=self.x.device)

    @property
    @abstractmethod
    def rigorous(self) -> bool:
        """Whether `box` and `support_function_` cover rounding under `Rigorous`."""

    @abstractmethod
    def box(self, arithmetic: AbstractArithmetic) -> Interval:
        """The smallest box around the region: (batch, *input)."""

    @abstractmethod
    def support_function_(self, forms: Ball, arithmetic: AbstractArithmetic) -> Ball:
        """A ball whose upper end bounds c·x over the region, for forms c (B, K, R, *input): (B, K, R).

        Dimensions B and K of the forms may be 1; in the result, K may be 1, but B is the batch.  The memory of the
        forms may be reused: they are invalid afterwards, unless a derivative needs them.
        """

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Points of the region, (batch, count, *input): in the interior, on the boundary and at corners."""

    @abstractmethod
    def project(self, points: Tensor) -> Tensor:
        """Points of the region near `points` (batch, count, *input)."""

    @abstractmethod
    def halves(self, axis: Tensor) -> tuple[BoundRegion, BoundRegion]:
        """Two regions that together cover this one, cut across the flat feature `axis` (batch,) of each sample."""

    @classmethod
    @abstractmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The regions of several batches as one batch; the reverse of `split`."""

    @abstractmethod
    def split(self, size: int) -> list[BoundRegion]:
        """This region in parts of at most `size` samples."""

    def at(self, index: Tensor) -> BoundRegion:
        """The regions of the samples `index` (count,), at least one, of which some may be repeated or left out."""
        each = self.split(1)
        return type(self).joined([each[i] for i in index.tolist()])

    @property
    def is_box(self) -> bool:
        """Whether the features vary independently of each other."""
        return False

    @property
    @abstractmethod
    def unbounded(self) -> Tensor:
        """True for samples whose region is not bounded: (batch,)."""

    @property
    @final
    def scale(self) -> Tensor:
        """The half-width of the region for each sample and feature; where it is infinite, a large finite value."""
        box = self.box(FAST)
        half = box.width / 2
        wide = 10 * self.x.abs().flatten(1).amax(1).clamp(min=1).reshape(-1, *[1] * (self.x.dim() - 1))
        return torch.where(half.isinf(), wide, half)


@runtime_checkable
class Convex(Protocol):
    """A set over which forms are maximised, with a point `x` (batch, *node) of it."""

    @property
    def x(self) -> Tensor: ...
    def support_function_(self, forms: Ball, arithmetic: AbstractArithmetic) -> Ball: ...


@final
@dataclass(frozen=True)
class One:
    """The set of the single vector (1,): `x` is (1, 1)."""

    x: Tensor

    def support_function_(self, forms: Ball, arithmetic: AbstractArithmetic) -> Ball:
        """The only coefficient of forms (B, K, R, 1): (B, K, R)."""
        return forms.map(lambda t: t[..., 0])


@final
@dataclass(frozen=True)
class BesideOne:
    """The vectors that consist of an input of `region`, flattened, followed by the number 1."""

    region: BoundRegion

    @property
    def x(self) -> Tensor:
        flat = self.region.x.flatten(1)
        return torch.cat([flat, torch.ones_like(flat[:, :1])], 1)

    def support_function_(self, forms: Ball, arithmetic: AbstractArithmetic) -> Ball:
        """Like `BoundRegion.support_function_`, for forms (B, K, R, inputs + 1)."""
        n, shape = forms.shape[-1] - 1, self.region.x.shape[1:]
        inside = forms.map(lambda t: t[..., :n].reshape(*t.shape[:-1], *shape))
        return self.region.support_function_(inside, arithmetic) + forms.map(lambda t: t[..., n])


def positive(computed: Tensor, active: Tensor) -> Tensor:
    """`computed`, but at least the smallest normal number where `active`, so that `at_least` covers underflow."""
    return torch.where(active, computed.clamp(min=torch.finfo(computed.dtype).tiny), computed)


def stretches(count: int, generator: torch.Generator) -> Tensor:
    """Factors from 1/100 to 1000, log-uniformly distributed, for samples of an unbounded region."""
    return 10 ** (5 * torch.rand(count, generator=generator, dtype=torch.float32) - 2)
