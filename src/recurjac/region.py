"""Regions of inputs: balls, boxes and their intersections, and the largest value of a linear form over them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import frexp, inf, prod
from typing import Any, final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic, Fast, Interval, Rigorous, Value, round_to, round_up_to
from recurjac.errors import InvalidRegion

_FAST, _RIGOROUS = Fast(), Rigorous()
"""For points that are only looked at, and for ends that must be on the safe side whatever the caller's arithmetic."""

Numbers = Any
"""What `torch.as_tensor` reads: a tensor, a NumPy array, nested lists, a number."""


class AbstractRegion(ABC):
    """A set of inputs; `bind` fits it to a network, and only then it has a batch dimension and a dtype."""

    @abstractmethod
    def bind(self, input_shape: Shape, dtype: torch.dtype, device: torch.device) -> BoundRegion:
        """This region for inputs of `input_shape`, a little larger where `dtype` cannot hold its numbers.

        Raises InvalidRegion if the shapes do not fit.
        """


@final
@dataclass(frozen=True)
class LpBall(AbstractRegion):
    """All inputs within `radius` of `x` in the l_p norm, and inside the box `clip` if one is given.

    x: one input or a batch.  radius: a number; a tensor (batch,) or (batch, 1, ...); for p = inf also one number for
    each input feature (*input) or (batch, *input); 0 is the point, inf the whole space (or the whole clip box).
    p: 1, 2 or inf.  clip: (lo, hi), numbers or tensors that broadcast against x.
    Raises InvalidRegion for NaN or infinite centres, negative or NaN radii, an unknown norm, an empty batch, a centre
    outside the clip box.
    """

    x: Numbers
    radius: Numbers
    p: float = inf
    clip: tuple[Numbers, Numbers] | None = None

    def __post_init__(self) -> None:
        if self.p not in (1, 2, inf):
            raise InvalidRegion(f"the norm p={self.p!r} is not known; use 1, 2 or inf")
        x, radius = _numbers("the centre x", self.x), _numbers("the radius", self.radius)
        _finite("the centre x", x)
        if bool(radius.isnan().any()) or bool((radius < 0).any()):
            bad = radius[radius.isnan() | (radius < 0)].flatten()[0]
            raise InvalidRegion(f"the radius must be 0 or more, not {float(bad)}; use inf for the whole space")
        if self.clip is not None:
            self._check_clip(x)

    def _check_clip(self, x: Tensor) -> None:
        assert self.clip is not None  # noqa: S101  # (narrows the type; the caller has checked)
        ends = [_numbers("the clip box", c) for c in self.clip]
        if len(ends) != 2:
            raise InvalidRegion(f"the clip box has {len(ends)} ends; give (lo, hi)")
        try:
            low, high = (end.broadcast_to(x.shape) for end in ends)
        except RuntimeError as error:
            raise InvalidRegion(
                f"the clip box of shapes {', '.join(str(tuple(e.shape)) for e in ends)} does not broadcast against "
                f"inputs of shape {tuple(x.shape)}"
            ) from error
        wrong = ~(low <= high)
        if bool(wrong.any()):
            at = _first(wrong)
            ends_at = f"from {float(low[at])} to {float(high[at])}"
            raise InvalidRegion(f"the clip box is empty or NaN at index {list(at)}: {ends_at}")
        outside = (x < low) | (x > high)
        if bool(outside.any()):
            at = _first(outside)
            raise InvalidRegion(
                f"the centre x is outside the clip box: x{list(at)} = {float(x[at])}; clamp x or widen clip"
            )

    def bind(self, input_shape: Shape, dtype: torch.dtype, device: torch.device) -> BoundRegion:
        wide, _ = _batched("the centre x", _numbers("x", self.x), input_shape)
        x, moved = round_to(wide, dtype)
        _finite(f"the centre x in {dtype}", x)
        radius = _radius_like(_numbers("the radius", self.radius), wide, input_shape)
        featured = radius.shape[1:] != (1,) * len(input_shape)
        if featured and self.p != inf:
            raise InvalidRegion(f"a radius for each feature is a box: it needs p=inf, not p={self.p:g}")
        grown = radius + moved if self.p == inf else radius + moved.flatten(1).sum(1).reshape(radius.shape)
        grown = torch.where(moved.flatten(1).amax(1).reshape(-1, *[1] * len(input_shape)) > 0, _up(grown), radius)
        radius = round_up_to(grown, dtype).to(device)
        x = x.to(device)
        low, high = self._clip(input_shape, dtype, device)
        if self.p == inf:
            return BoundBox(x, radius.expand_as(x), low, high)
        return BoundBall(x, radius.flatten(), float(self.p), low, high)

    def _clip(self, input_shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """The ends of the clip box, (batch, *input), rounded outwards; infinite without one."""
        clip, shape = (-inf, inf) if self.clip is None else self.clip, _numbers("x", self.x).shape
        ends = (_numbers("the clip box", c).broadcast_to(shape) for c in clip)
        low, high = (_batched("the clip box", e, input_shape)[0] for e in ends)
        return -round_up_to(-low, dtype).to(device), round_up_to(high, dtype).to(device)


@final
@dataclass(frozen=True)
class Box(AbstractRegion):
    """All inputs between `lower` and `upper`, one input or a batch each; ends may be infinite.

    Raises InvalidRegion for NaN, for lower > upper, and for ends of different shapes.
    """

    lower: Numbers
    upper: Numbers

    def __post_init__(self) -> None:
        low, high = _numbers("the lower end", self.lower), _numbers("the upper end", self.upper)
        if low.shape != high.shape:
            raise InvalidRegion(f"a box needs ends of one shape, not {tuple(low.shape)} and {tuple(high.shape)}")
        wrong = ~(low <= high) | (low == inf) | (high == -inf)
        if bool(wrong.any()):
            at = _first(wrong)
            raise InvalidRegion(f"the box is empty at index {list(at)}: from {float(low[at])} to {float(high[at])}")

    def bind(self, input_shape: Shape, dtype: torch.dtype, device: torch.device) -> BoundRegion:
        low, _ = _batched("the box", _numbers("lower", self.lower), input_shape)
        high, _ = _batched("the box", _numbers("upper", self.upper), input_shape)
        down, up = -round_up_to(-low, dtype).to(device), round_up_to(high, dtype).to(device)
        both = torch.minimum(torch.maximum(down / 2 + up / 2, down), up)  # halves of subnormal numbers round
        middle = torch.where(down.isinf(), torch.where(up.isinf(), 0.0, up), torch.where(up.isinf(), down, both))
        return BoundBox(middle, torch.full_like(middle, inf), down, up)


class BoundRegion(ABC):
    """A region that fits a network: `x` (batch, *input) is a point of it."""

    x: Tensor

    @property
    @final
    def batch(self) -> int:
        return int(self.x.shape[0])

    @property
    @abstractmethod
    def rigorous(self) -> bool:
        """Whether `box` and `maximum` cover rounding under `Rigorous`."""

    @abstractmethod
    def box(self, arithmetic: AbstractArithmetic) -> Interval:
        """The smallest box around the region: (batch, *input)."""

    @abstractmethod
    def maximum(self, forms: Value, arithmetic: AbstractArithmetic) -> Value:
        """A value whose upper end bounds c·x over the region, for forms c (B, K, R, *input): (B, K, R).

        Dimensions B and K of the forms may be 1; so may K of the result, never B.
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
    @abstractmethod
    def unbounded(self) -> Tensor:
        """True for samples whose region is not bounded: (batch,)."""

    @property
    @final
    def scale(self) -> Tensor:
        """The half-width of the region for each sample and feature, where it is infinite a wide stand-in."""
        box = self.box(_FAST)
        half = box.width / 2
        wide = 10 * self.x.abs().flatten(1).amax(1).clamp(min=1).reshape(-1, *[1] * (self.x.dim() - 1))
        return torch.where(half.isinf(), wide, half)


@final
@dataclass(frozen=True)
class BoundBox(BoundRegion):
    """{|x' - x| <= radius} ∩ [low, high], entry by entry; all four are (batch, *input)."""

    x: Tensor
    radius: Tensor
    low: Tensor
    high: Tensor

    @property
    def rigorous(self) -> bool:
        return True

    @property
    def unbounded(self) -> Tensor:
        box = self.box(_FAST)
        return (box.lower.isinf() | box.upper.isinf()).flatten(1).any(1)

    def box(self, arithmetic: AbstractArithmetic) -> Interval:
        x, radius = arithmetic.exact(self.x), arithmetic.exact(self.radius)
        low, high = (x - radius).lower(), (x + radius).upper()
        infinite = self.radius.isinf()
        low, high = torch.where(infinite, -inf, low), torch.where(infinite, inf, high)
        return Interval(torch.maximum(low, self.low), torch.minimum(high, self.high))

    def maximum(self, forms: Value, arithmetic: AbstractArithmetic) -> Value:
        box = self.box(arithmetic)
        # left and right of x, rather than a middle and a half-width: exact where nothing is clipped
        reach = [
            arithmetic.exact(box.upper) - arithmetic.exact(self.x),
            arithmetic.exact(self.x) - arithmetic.exact(box.lower),
        ]
        right, left = (
            torch.where(r.mid.isinf(), inf, torch.minimum(r.upper(), self.radius)).clamp(min=0) for r in reach
        )
        centre = forms.dot(arithmetic.exact(self.x.unsqueeze(1)))
        extra = _spread(forms.mid.clamp(min=0), right) + _spread((-forms.mid).clamp(min=0), left)
        if forms.rad is not None:
            extra = extra + _spread(forms.rad.expand_as(forms.mid), torch.maximum(left, right))
        return centre + arithmetic.exact(arithmetic.at_least(extra, 3 * prod(self.x.shape[1:]) + 3))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        box, shape = self.box(_FAST), (self.batch, count, *self.x.shape[1:])
        low, high = _finite_ends(box, self.x, self.scale)
        uniform = torch.rand(shape, generator=generator, dtype=self.x.dtype).to(self.x.device)
        # a third of the points are corners, a third lie inside, a third have some coordinates at an end
        kind = torch.arange(count, device=self.x.device).reshape(1, -1, *[1] * (self.x.dim() - 1)) % 3
        corner = (uniform > 0.5).to(uniform.dtype)
        chosen = torch.rand(shape, generator=generator, dtype=self.x.dtype).to(self.x.device) > 0.5
        share = torch.where(kind == 0, uniform, torch.where((kind == 1) | chosen, corner, uniform))
        points = (1 - share) * low.unsqueeze(1) + share * high.unsqueeze(1)
        stretch = _stretches(count, generator).to(points).reshape(1, -1, *[1] * (self.x.dim() - 1))
        wide = self.x.unsqueeze(1) + (points - self.x.unsqueeze(1)) * stretch
        return self.project(torch.where((box.width.isinf()).unsqueeze(1), wide, points))

    def project(self, points: Tensor) -> Tensor:
        """Clip to ends rounded inwards, which keep x inside."""
        x, radius = _RIGOROUS.exact(self.x), _RIGOROUS.exact(self.radius)
        low = torch.where(self.radius.isinf(), -inf, torch.minimum((x - radius).upper(), self.x))
        high = torch.where(self.radius.isinf(), inf, torch.maximum((x + radius).lower(), self.x))
        low, high = torch.maximum(low, self.low).unsqueeze(1), torch.minimum(high, self.high).unsqueeze(1)
        return torch.minimum(torch.maximum(points, low), high)

    def split(self, size: int) -> list[BoundRegion]:
        parts = zip(*(t.split(size) for t in (self.x, self.radius, self.low, self.high)), strict=True)
        return [BoundBox(*p) for p in parts]


@final
@dataclass(frozen=True)
class BoundBall(BoundRegion):
    """{‖x' - x‖_p <= radius} ∩ [low, high] for p = 1, 2; radius is (batch,), the others (batch, *input)."""

    x: Tensor
    radius: Tensor
    p: float
    low: Tensor
    high: Tensor

    @property
    def rigorous(self) -> bool:
        return True

    @property
    def unbounded(self) -> Tensor:
        box = self.box(_FAST)
        return (box.lower.isinf() | box.upper.isinf()).flatten(1).any(1)

    def box(self, arithmetic: AbstractArithmetic) -> Interval:
        return self._around().box(arithmetic)

    def _around(self) -> BoundBox:
        radius = self.radius.reshape(-1, *[1] * (self.x.dim() - 1)).expand_as(self.x)
        return BoundBox(self.x, radius, self.low, self.high)

    @property
    def _clipped(self) -> Tensor:
        """Whether the clip box cuts the ball: (batch,)."""
        r = self.radius.reshape(-1, *[1] * (self.x.dim() - 1))
        return ((self.x - r < self.low) | (self.x + r > self.high)).flatten(1).any(1)

    def maximum(self, forms: Value, arithmetic: AbstractArithmetic) -> Value:
        """The least of the ball's bound, the box's bound and, where both matter, a Lagrangian of their intersection.

        Any multiplier gives a valid bound (weak duality); the one used is optimal up to rounding, so that the bound is
        the exact maximum up to rounding.
        """
        flat = forms.mid.flatten(3)
        extra = self._ball(flat)
        if bool(self._clipped.any()):
            extra = torch.minimum(extra, self._intersection(flat, arithmetic))
        if forms.rad is not None:
            extra = extra + self._ball(forms.rad.expand_as(forms.mid).flatten(3))
        centre = forms.dot(arithmetic.exact(self.x.unsqueeze(1)))
        return centre + arithmetic.exact(arithmetic.at_least(extra, 4 * prod(self.x.shape[1:]) + 12))

    def _ball(self, flat: Tensor) -> Tensor:
        """radius times the dual norm of the form; 0 times infinity is 0."""
        dual = flat.abs().amax(-1) if self.p == 1 else _norm2(flat)
        radius, infinite = self.radius.reshape(-1, 1, 1), self.radius.isinf().reshape(-1, 1, 1)
        finite = dual * torch.where(infinite, 0.0, radius)
        return _positive(torch.where(infinite & (dual != 0), inf, finite), (dual > 0) & (radius > 0))

    def _intersection(self, flat: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
        box = self._around().box(arithmetic)
        right = (arithmetic.exact(box.upper) - arithmetic.exact(self.x)).upper().clamp(min=0)
        left = (arithmetic.exact(self.x) - arithmetic.exact(box.lower)).upper().clamp(min=0)
        right, left = (t.flatten(1)[:, None, None] for t in (right, left))
        gain, room = torch.broadcast_tensors(flat.abs(), torch.where(flat > 0, right, left))
        infinite, radius = room.isinf(), self.radius.reshape(-1, 1, 1)
        whole = (gain * torch.where(infinite, 0.0, room)).sum(-1)
        whole = torch.where((infinite & (gain > 0)).any(-1), inf, whole)
        # an infinite radius binds nothing; a stand-in keeps infinity out of what autograd sees
        reach = torch.where(radius.isinf(), 1.0, radius)
        dual = (_dual_l1 if self.p == 1 else _dual_l2)(gain, torch.minimum(room, reach.unsqueeze(-1)), reach)
        extra = torch.minimum(whole, torch.where(radius.isinf(), inf, dual))
        return _positive(extra, (gain.amax(-1) > 0) & (radius > 0))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        shape = (self.batch, count, *self.x.shape[1:])
        normal = torch.randn(shape, generator=generator, dtype=self.x.dtype).to(self.x.device)
        if self.p == 1:  # some points move along few coordinates, as the vertices of the ball do
            kept = torch.rand(shape, generator=generator, dtype=self.x.dtype).to(self.x.device)
            few = torch.arange(count, device=self.x.device).reshape(1, -1, *[1] * (self.x.dim() - 1)) % 2 == 0
            most = kept.flatten(2).amax(-1).reshape(self.batch, count, *[1] * (self.x.dim() - 1))
            normal = torch.where(few & (kept < most), 0.0, normal)
        size = torch.linalg.vector_norm(normal.flatten(2), self.p, dim=-1).clamp(min=torch.finfo(normal.dtype).tiny)
        far = torch.rand(self.batch, count, generator=generator, dtype=self.x.dtype).to(self.x.device)
        far = torch.where(far > 0.5, 1.0, 2 * far)
        radius = torch.where(self.radius.isinf(), self.scale.flatten(1).amax(1), self.radius).unsqueeze(1)
        stretch = torch.where(self.radius.isinf().unsqueeze(1), _stretches(count, generator).to(normal), 1.0)
        step = (far * radius * stretch / size).reshape(self.batch, count, *[1] * (self.x.dim() - 1))
        return self.project(self.x.unsqueeze(1) + step * normal)

    def project(self, points: Tensor) -> Tensor:
        """Clip to the box, then shrink towards x, which stays inside a convex set; both are rounded inwards."""
        x, ones = self.x.unsqueeze(1), [1] * (self.x.dim() - 1)
        inside = self._around().project(points)
        move = _RIGOROUS.exact(inside) - _RIGOROUS.exact(x)
        n, info = prod(self.x.shape[1:]), torch.finfo(x.dtype)
        size = torch.maximum(move.upper(), -move.lower()).flatten(2)
        length = _RIGOROUS.at_least(size.sum(-1) if self.p == 1 else _norm2(size), n + 8)
        radius = self.radius.unsqueeze(1)
        share = torch.where(radius > n * info.tiny / info.eps, radius / length * (1 - 4 * info.eps), 0.0)
        shrunk = _no_farther(x, move.mid * share.reshape(*share.shape, *ones))
        shrunk = torch.minimum(torch.maximum(shrunk, torch.minimum(x, inside)), torch.maximum(x, inside))
        return torch.where((length <= radius).reshape(*share.shape, *ones), inside, shrunk)

    def split(self, size: int) -> list[BoundRegion]:
        parts = zip(*(t.split(size) for t in (self.x, self.radius, self.low, self.high)), strict=True)
        return [BoundBall(x, r, self.p, low, high) for x, r, low, high in parts]


def _no_farther(x: Tensor, step: Tensor) -> Tensor:
    """x + step, no farther from x than `step` in exact arithmetic."""
    point = x + step
    moved = point - x
    error = (x - (point - moved)) + (step - moved)  # x + step - point, exactly (Knuth's two-sum)
    return torch.where(error * step.sign() < 0, torch.nextafter(point, x.expand_as(point)), point)


def _dual_l1(gain: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """max Σ gain δ, 0 <= δ <= room, Σ δ <= radius, is at most m radius + Σ room max(gain - m, 0) for any m >= 0.

    The best m is the gain at which the rooms of all larger gains fill the radius (a fractional knapsack).
    """
    order = gain.sort(-1, descending=True)
    used = room.gather(-1, order.indices).cumsum(-1)
    full = (used >= radius.unsqueeze(-1)).to(gain.dtype)
    first = full.argmax(-1, keepdim=True)
    m = torch.where(full.amax(-1) > 0, order.values.gather(-1, first).squeeze(-1), 0.0)
    return m * radius + ((gain - m.unsqueeze(-1)).clamp(min=0) * room).sum(-1)


def _dual_l2(gain: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """max Σ gain δ, 0 <= δ <= room, ‖δ‖₂ <= radius, is at most m radius²/2 + Σ max_δ (gain δ - m δ²/2), any m > 0.

    At the optimum δ = min(gain / m, room): the rooms of the coordinates with the largest gain / room are full, and m
    makes the rest fill what is left of radius².
    Powers of two bring the largest gain and the radius near 1, so that underflow is no more than `tiny` a term.
    """
    tiny = torch.finfo(gain.dtype).tiny
    most, reach = _exponent(gain.amax(-1)), _exponent(radius)
    gain, room = gain * _power(-most, gain).unsqueeze(-1), room * _power(-reach, gain).unsqueeze(-1)
    unit = radius * _power(-reach, gain)
    chosen = _multiplier_l2(gain.detach(), room, unit).clamp(min=tiny**0.5)
    c = chosen.unsqueeze(-1)
    inner = torch.where(gain <= c * room, gain * (gain / (2 * c)), (gain - c * room / 2) * room)
    value = chosen * unit.square() / 2 + inner.sum(-1) + 4 * gain.shape[-1] * tiny
    return value * _power(most + reach, gain)


def _multiplier_l2(gain: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """The best m of `_dual_l2`, up to rounding; 0 if the radius fills no room."""
    ratio = torch.where(gain == 0, 0.0, gain / room)
    order = ratio.sort(-1, descending=True).indices
    g2 = gain.square().gather(-1, order)
    r2 = room.square().gather(-1, order)
    filled = r2.cumsum(-1) - r2
    free = g2.flip(-1).cumsum(-1).flip(-1)
    left = radius.unsqueeze(-1).square() - filled
    m = (free / left.clamp(min=torch.finfo(gain.dtype).tiny)).sqrt()
    fits = (left > 0) & (ratio.gather(-1, order) <= m)
    first = fits.to(gain.dtype).argmax(-1, keepdim=True)
    return m.gather(-1, first).squeeze(-1)


def _exponent(numbers: Tensor) -> Tensor:
    """A whole number e with numbers / 2^e in [1/2, 1), up to the range of the dtype; 0 for 0 and infinity."""
    limit = frexp(torch.finfo(numbers.dtype).max)[1] - 2
    exponent = torch.frexp(torch.where(numbers.isfinite(), numbers.detach(), 0.0)).exponent
    return exponent.clamp(min=-limit, max=limit)


def _power(exponent: Tensor, like: Tensor) -> Tensor:
    """2^exponent in the dtype of `like`."""
    return torch.ldexp(torch.ones_like(exponent, dtype=like.dtype), exponent)


def _norm2(flat: Tensor) -> Tensor:
    """The 2-norm over the last dimension, scaled against overflow, with a derivative also at 0."""
    most = flat.detach().abs().amax(-1, keepdim=True)
    scale = torch.where((most > 0) & most.isfinite(), most, 1.0)
    squares = (flat / scale).square().sum(-1)
    safe = torch.where(squares > 0, squares, 1.0)
    return torch.where(squares > 0, safe.sqrt() * scale.squeeze(-1), 0.0)


def _spread(weights: Tensor, reach: Tensor) -> Tensor:
    """Σ weights * reach over the input, both non-negative: (B, K, R); 0 times infinity is 0, underflow is not 0."""
    flat, infinite = weights.flatten(3), reach.isinf().flatten(1)
    total = torch.einsum("bkrn,bn->bkr", flat, torch.where(infinite, 0.0, reach.flatten(1)))
    total = _positive(total, (flat.amax(-1) > 0) & (reach.flatten(1).amax(-1) > 0)[:, None, None])
    if not bool(infinite.any()):
        return total
    met = torch.einsum("bkrn,bn->bkr", (flat > 0).to(flat.dtype), infinite.to(flat.dtype))
    return torch.where(met > 0, inf, total)


def _positive(computed: Tensor, active: Tensor) -> Tensor:
    """`computed`, at least the smallest normal number where `active`: what `at_least` needs to cover underflow."""
    return torch.where(active, computed.clamp(min=torch.finfo(computed.dtype).tiny), computed)


def _stretches(count: int, generator: torch.Generator) -> Tensor:
    """Factors from 1/100 to 1000, evenly spread in their logarithm, for samples of an unbounded region."""
    return 10 ** (5 * torch.rand(count, generator=generator) - 2)


def _finite_ends(box: Interval, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return (
        torch.where(box.lower.isinf(), torch.minimum(x, box.upper) - scale, box.lower),
        torch.where(box.upper.isinf(), torch.maximum(x, box.lower) + scale, box.upper),
    )


def _numbers(what: str, value: Numbers) -> Tensor:
    try:
        # the dtype is named: a Python float would pass through float32 otherwise
        tensor = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidRegion(f"{what} is not an array of numbers: {error}") from error
    if tensor.numel() == 0:
        raise InvalidRegion(f"{what} is empty (shape {tuple(tensor.shape)}); give at least one input")
    return tensor


def _finite(what: str, tensor: Tensor) -> None:
    bad = ~tensor.isfinite()
    if bool(bad.any()):
        at = _first(bad)
        raise InvalidRegion(f"{what} holds {float(tensor[at])} at index {list(at)}; every number must be finite")


def _first(mask: Tensor) -> tuple[int, ...]:
    """The index of the first True."""
    return tuple(int(i) for i in mask.nonzero()[0])


def _batched(what: str, tensor: Tensor, input_shape: Shape) -> tuple[Tensor, bool]:
    """`tensor` with a batch dimension, and whether it had none."""
    if tuple(tensor.shape) == input_shape:
        return tensor.unsqueeze(0), True
    if tuple(tensor.shape[1:]) == input_shape and tensor.dim() == len(input_shape) + 1:
        return tensor, False
    if tensor.dim() == 2 and tensor.shape[1] == prod(input_shape):
        return tensor.reshape(-1, *input_shape), False
    if tensor.dim() == 1 and tensor.shape[0] == prod(input_shape):
        return tensor.reshape(1, *input_shape), True
    raise InvalidRegion(
        f"{what} has shape {tuple(tensor.shape)}, but the network takes inputs of shape {input_shape}; give one input "
        f"of that shape or a batch (batch, {', '.join(map(str, input_shape))})"
    )


def _radius_like(radius: Tensor, x: Tensor, input_shape: Shape) -> Tensor:
    """The radius as (batch or 1 -> batch, *input or *1) for centres x (batch, *input)."""
    batch, ones = x.shape[0], (1,) * len(input_shape)
    if radius.numel() == 1:
        return radius.reshape(1, *ones).expand(batch, *ones)
    per_sample = radius.shape == (batch,) or radius.shape == (batch, *ones)
    per_feature = tuple(radius.shape) == input_shape or tuple(radius.shape) in (
        (1, *input_shape),
        (batch, *input_shape),
    )
    if per_sample and per_feature and radius.dim() == 1:
        raise InvalidRegion(
            f"a radius of shape {tuple(radius.shape)} could count samples or features; write (batch, 1) or (1, features)"
        )
    if per_sample:
        return radius.reshape(batch, *ones)
    if per_feature:
        return (radius.unsqueeze(0) if tuple(radius.shape) == input_shape else radius).expand(batch, *input_shape)
    raise InvalidRegion(
        f"the radius has shape {tuple(radius.shape)}; give a number, one for each of the {batch} samples, or one for each "
        f"input feature {input_shape}"
    )


def _up(tensor: Tensor) -> Tensor:
    """A little more than `tensor` (float64): covers the additions that made it."""
    n = prod(tensor.shape[1:]) + 4
    return tensor * (1 + n * torch.finfo(torch.float64).eps)
