"""What a region states, before and after it is fitted to a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic, Ball, Fast, Interval, Rigorous

FAST, RIGOROUS = Fast(), Rigorous()
"""For points that are only looked at, and for ends that must be on the safe side whatever the caller's arithmetic."""


class AbstractRegion(ABC):
    """A set of inputs; `bind` fits it to a network, and only then it has a batch dimension and a dtype."""

    @abstractmethod
    def bind(self, input_shape: Shape, dtype: torch.dtype, device: torch.device) -> BoundRegion:
        """This region for inputs of `input_shape`, a little larger where `dtype` cannot hold its numbers.

        Raises InvalidRegion if the shapes do not fit.
        """

    @abstractmethod
    def holds(self, points: Tensor) -> Tensor:
        """True where points (batch, N, *input) of the bound region are certainly in this one: (batch, N).

        In float64 `bind` enlarges nothing, so all are; in float32 those near the boundary may not be.
        """


class BoundRegion(ABC):
    """A region that fits a network: `x` (batch, *input) is a point of it."""

    x: Tensor

    @property
    @final
    def batch(self) -> int:
        return int(self.x.shape[0])

    @final
    def holds(self, points: Tensor) -> Tensor:
        """True for all of the points (batch, N, *input), as nothing was enlarged: (batch, N)."""
        return torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)

    @property
    @abstractmethod
    def rigorous(self) -> bool:
        """Whether `box` and `support_function_` cover rounding under `Rigorous`."""

    @abstractmethod
    def box(self, arithmetic: AbstractArithmetic) -> Interval:
        """The smallest box around the region: (batch, *input)."""

    @abstractmethod
    def support_function_(self, forms: Ball, arithmetic: AbstractArithmetic) -> Ball:
        """A value whose upper end bounds c·x over the region, for forms c (B, K, R, *input): (B, K, R).

        Dimensions B and K of the forms may be 1; so may K of the result, never B.  The memory of the forms may be used:
        they are gone thereafter, unless a derivative needs them.
        """

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Points of the region, (batch, count, *input): inside, on the boundary and at corners."""

    @abstractmethod
    def project(self, points: Tensor) -> Tensor:
        """Points of the region near `points` (batch, count, *input)."""

    @abstractmethod
    def split(self, size: int) -> list[BoundRegion]:
        """The same region in parts of at most `size` samples."""

    @property
    def is_box(self) -> bool:
        """Whether the features range independently of each other."""
        return False

    @property
    @abstractmethod
    def unbounded(self) -> Tensor:
        """True for samples whose region is not bounded: (batch,)."""

    @property
    @final
    def scale(self) -> Tensor:
        """The half-width of the region for each sample and feature, where it is infinite a wide stand-in."""
        box = self.box(FAST)
        half = box.width / 2
        wide = 10 * self.x.abs().flatten(1).amax(1).clamp(min=1).reshape(-1, *[1] * (self.x.dim() - 1))
        return torch.where(half.isinf(), wide, half)


@runtime_checkable
class Convex(Protocol):
    """A set with a point `x` (batch, *node) over which forms are maximised."""

    @property
    def x(self) -> Tensor: ...
    def support_function_(self, forms: Ball, arithmetic: AbstractArithmetic) -> Ball: ...


@final
@dataclass(frozen=True)
class One:
    """One vector of one number, 1: (1, 1)."""

    x: Tensor

    def support_function_(self, forms: Ball, arithmetic: AbstractArithmetic) -> Ball:
        """The one coefficient of forms (B, K, R, 1): (B, K, R)."""
        return forms.map(lambda t: t[..., 0])


@final
@dataclass(frozen=True)
class BesideOne:
    """The vectors of an input of `region`, flat, and then the number 1."""

    region: BoundRegion

    @property
    def x(self) -> Tensor:
        flat = self.region.x.flatten(1)
        return torch.cat([flat, torch.ones_like(flat[:, :1])], 1)

    def support_function_(self, forms: Ball, arithmetic: AbstractArithmetic) -> Ball:
        """As `BoundRegion.support_function_`, of forms (B, K, R, inputs + 1)."""
        n, shape = forms.shape[-1] - 1, self.region.x.shape[1:]
        inside = forms.map(lambda t: t[..., :n].reshape(*t.shape[:-1], *shape))
        return self.region.support_function_(inside, arithmetic) + forms.map(lambda t: t[..., n])


def positive(computed: Tensor, active: Tensor) -> Tensor:
    """`computed`, at least the smallest normal number where `active`: what `at_least` needs to cover underflow."""
    return torch.where(active, computed.clamp(min=torch.finfo(computed.dtype).tiny), computed)


def stretches(count: int, generator: torch.Generator) -> Tensor:
    """Factors from 1/100 to 1000, evenly spread in their logarithm, for samples of an unbounded region."""
    return 10 ** (5 * torch.rand(count, generator=generator, dtype=torch.float32) - 2)
