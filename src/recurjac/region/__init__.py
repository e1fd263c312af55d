"""Regions of inputs: balls, boxes and their intersections."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import round_to, round_up_to
from recurjac.errors import InvalidRegion
from recurjac.region.ball import BoundBall, BoundPiece
from recurjac.region.base import AbstractRegion, BesideOne, BoundRegion, Convex, One
from recurjac.region.box import BoundBox
from recurjac.region.numbers import Numbers, batched, finite, first, numbers, radius_like, up
from recurjac.tensors import shown

__all__ = [
    "AbstractRegion",
    "BesideOne",
    "BoundBall",
    "BoundBox",
    "BoundPiece",
    "BoundRegion",
    "Box",
    "Convex",
    "One",
    "LpBall",
    "Numbers",
]


@final
@dataclass(frozen=True)
class LpBall(AbstractRegion):
    """All inputs within `radius` of `x` in the l_p norm, and within the box `clip` if one is given.

    x: one input or a batch.
    radius: a number; a tensor (batch,) or (batch, 1, ...); for p = inf also one number for each input feature, (*input)
    or (batch, *input).  Radius 0 is a single point, and inf is the whole space (or the whole clip box).
    p: 1, 2 or inf.
    clip: (lo, hi), numbers or tensors that broadcast against x.
    Raises InvalidRegion for NaN or infinite centres, negative or NaN radii, an unknown norm, an empty batch, or a
    centre outside the clip box.
    """

    x: Numbers
    radius: Numbers
    p: float = inf
    clip: tuple[Numbers, Numbers] | None = None

    def __post_init__(self) -> None:
        if self.p not in (1, 2, inf):
            raise InvalidRegion(f"the norm p={self.p!r} is not known; use 1, 2 or inf")
        x, radius = numbers("the centre x", self.x), numbers("the radius", self.radius)
        finite("the centre x", x)
        if not bool((radius >= 0).all()):
            bad = radius[radius.isnan() | (radius < 0)].flatten()[0]
            raise InvalidRegion(f"the radius must be 0 or more, not {float(bad)}; use inf for the whole space")
        if self.clip is not None:
            self._check_clip(x)

    def _check_clip(self, x: Tensor) -> None:
        assert self.clip is not None  # noqa: S101  # (narrows the type; checked by the caller)
        ends = [numbers("the clip box", c) for c in self.clip]
        if len(ends) != 2:
            raise InvalidRegion(f"the clip box has {len(ends)} ends; give (lo, hi)")
        try:
            low, high = (end.broadcast_to(x.shape) for end in ends)
        except RuntimeError as error:
            raise InvalidRegion(
                f"the clip box of shapes {', '.join(str(tuple(e.shape)) for e in ends)} does not broadcast against "
                f"inputs of shape {tuple(x.shape)}"
            ) from error
        if bool(((low <= x) & (x <= high)).all()):
            return
        wrong = ~(low <= high)
        if bool(wrong.any()):
            at = first(wrong)
            ends_at = f"from {float(low[at])} to {float(high[at])}"
            raise InvalidRegion(f"the clip box is empty or NaN at index {list(at)}: {ends_at}")
        outside = (x < low) | (x > high)
        if bool(outside.any()):
            at = first(outside)
            raise InvalidRegion(
                f"the centre x is outside the clip box: x{list(at)} = {float(x[at])}; clamp x or widen clip"
            )

    def bind(self, input_shape: Shape, dtype: torch.dtype, device: torch.device) -> BoundRegion:
        wide, _ = batched("the centre x", numbers("x", self.x), input_shape)
        x, moved = round_to(wide, dtype)
        finite(f"the centre x in {dtype}", x)
        radius = radius_like(numbers("the radius", self.radius), wide, input_shape)
        featured = radius.shape[1:] != (1,) * len(input_shape)
        if featured and self.p != inf:
            raise InvalidRegion(f"a radius for each feature describes a box and needs p=inf, not p={self.p:g}")
        if bool(moved.any()):
            grown = radius + moved if self.p == inf else radius + moved.flatten(1).sum(1).reshape(radius.shape)
            rounded = moved.flatten(1).amax(1).reshape(-1, *[1] * len(input_shape)) > 0
            radius = torch.where(rounded, up(grown), radius)
        radius = round_up_to(radius, dtype).to(device)
        x = x.to(device)
        low, high = self._clip(input_shape, dtype, device)
        if self.p == inf:
            return BoundBox(x, radius.expand_as(x), low, high)
        return BoundBall(x, radius.flatten(), float(self.p), low, high)

    @property
    def centre(self) -> Tensor:
        return numbers("the centre x", self.x)

    def holds(self, points: Tensor) -> Tensor:
        if points.dtype == torch.float64 and self.p != inf:
            return torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)
        wide, shape = points.double().cpu(), tuple(points.shape[2:])
        centre, _ = batched("the centre x", numbers("x", self.x), shape)
        radius = radius_like(numbers("the radius", self.radius), centre, shape).unsqueeze(1)
        if self.p == inf:
            near = _within(wide, centre.unsqueeze(1), radius).flatten(2).all(2)
        else:
            step = (wide - centre.unsqueeze(1)).flatten(2)
            covered = 1 + (step.shape[2] + 6) * torch.finfo(torch.float64).eps
            near = torch.linalg.vector_norm(step, self.p, dim=2) * covered <= radius.flatten(1)
        low, high = (end.double().unsqueeze(1) for end in self._clip(shape, torch.float64, torch.device("cpu")))
        return (near & ((low <= wide) & (wide <= high)).flatten(2).all(2)).to(points.device)

    def __repr__(self) -> str:
        clip = "" if self.clip is None else f", clip=({', '.join(map(shown, self.clip))})"
        return f"LpBall(x={shown(self.x)}, radius={shown(self.radius)}, p={self.p:g}{clip})"

    def _clip(self, input_shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """The ends of the clip box, (batch, *input), rounded outwards; infinite if there is none."""
        clip, shape = (-inf, inf) if self.clip is None else self.clip, torch.as_tensor(self.x).shape
        low, high = (numbers("the clip box", c) for c in clip)
        ends = (-round_up_to(-low, dtype), round_up_to(high, dtype))
        low, high = (batched("the clip box", e.broadcast_to(shape), input_shape)[0] for e in ends)
        return low.to(device), high.to(device)


@final
@dataclass(frozen=True)
class Box(AbstractRegion):
    """All inputs between `lower` and `upper`, each one input or a batch; ends may be infinite.

    Raises InvalidRegion for NaN, for lower > upper, and for ends of different shapes.
    """

    lower: Numbers
    upper: Numbers

    def __post_init__(self) -> None:
        low, high = numbers("the lower end", self.lower), numbers("the upper end", self.upper)
        if low.shape != high.shape:
            raise InvalidRegion(f"a box needs ends of the same shape, not {tuple(low.shape)} and {tuple(high.shape)}")
        wrong = ~(low <= high) | (low == inf) | (high == -inf)
        if bool(wrong.any()):
            at = first(wrong)
            raise InvalidRegion(f"the box is empty at index {list(at)}: from {float(low[at])} to {float(high[at])}")

    def bind(self, input_shape: Shape, dtype: torch.dtype, device: torch.device) -> BoundRegion:
        low, _ = batched("the box", numbers("lower", self.lower), input_shape)
        high, _ = batched("the box", numbers("upper", self.upper), input_shape)
        down, up = -round_up_to(-low, dtype).to(device), round_up_to(high, dtype).to(device)
        middle = _middle(down, up)
        return BoundBox(middle, torch.full_like(middle, inf), down, up)

    @property
    def centre(self) -> Tensor:
        return _middle(numbers("the lower end", self.lower), numbers("the upper end", self.upper))

    def holds(self, points: Tensor) -> Tensor:
        wide, shape = points.double().cpu(), tuple(points.shape[2:])
        low, high = (batched("the box", numbers("an end", e), shape)[0].unsqueeze(1) for e in (self.lower, self.upper))
        return ((low <= wide) & (wide <= high)).flatten(2).all(2).to(points.device)

    def __repr__(self) -> str:
        return f"Box(lower={shown(self.lower)}, upper={shown(self.upper)})"


def _within(a: Tensor, b: Tensor, radius: Tensor) -> Tensor:
    """Where |a - b| <= radius, without rounding: the rounded difference, and its error where it is the radius itself.

    Source: Knuth, The Art of Computer Programming, volume 2, section 4.2.2, theorem B.
    """
    step = a - b
    virtual = a - step
    error = (a - (step + virtual)) + (virtual - b)
    return (step.abs() < radius) | ((step.abs() == radius) & (error * step.sign() <= 0))


def _middle(low: Tensor, high: Tensor) -> Tensor:
    """A finite point between the ends, which may be infinite: their mean, the finite one, or 0."""
    both = torch.minimum(torch.maximum(low / 2 + high / 2, low), high)  # halving subnormal numbers rounds
    return torch.where(low.isinf(), torch.where(high.isinf(), 0.0, high), torch.where(high.isinf(), low, both))
