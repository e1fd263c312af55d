"""Balls of the l1 and l2 norms intersected with a box, and the maximum of a linear form over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import frexp, inf, prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Interval
from recurjac.region.base import FAST, RIGOROUS, BoundRegion, positive, stretches
from recurjac.region.box import BoundBox


@final
@dataclass(frozen=True, repr=False)
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

    @cached_property
    def unbounded(self) -> Tensor:
        box = self.box(FAST)
        return (box.lower.isinf() | box.upper.isinf()).flatten(1).any(1)

    def box(self, arithmetic: AbstractArithmetic) -> Interval:
        return self._around().box(arithmetic)

    def _around(self) -> BoundBox:
        radius = self.radius.reshape(-1, *[1] * (self.x.dim() - 1)).expand_as(self.x)
        return BoundBox(self.x, radius, self.low, self.high)

    @cached_property
    def _clipped(self) -> Tensor:
        """Whether the clip box cuts off a part of the ball: (batch,)."""
        r = self.radius.reshape(-1, *[1] * (self.x.dim() - 1))
        return ((self.x - r < self.low) | (self.x + r > self.high)).flatten(1).any(1)

    def support_function_(self, forms: Ball, arithmetic: AbstractArithmetic) -> Ball:
        """The least of the bounds for the ball and, if the clip box cuts it, for the box and for their intersection.

        The bound for the intersection is a Lagrangian.  Any multiplier gives a valid bound (weak duality).  The
        multiplier used is optimal up to rounding, so the bound is the exact maximum up to rounding.
        """
        flat = forms.mid.flatten(3)
        extra = self._ball(flat)
        if bool(self._clipped.any()):
            extra = torch.minimum(extra, self._intersection(flat, arithmetic))
        if forms.rad is not None and not forms.exact:
            extra = extra + self._ball(forms.rad.expand_as(forms.mid).flatten(3))
        centre = forms.dot(arithmetic.exact(self.x.unsqueeze(1)))
        return centre + arithmetic.exact(arithmetic.at_least(extra, 4 * prod(self.x.shape[1:]) + 12))

    def _ball(self, flat: Tensor) -> Tensor:
        """radius times the dual norm of the form; 0 times infinity is 0."""
        dual = flat.abs().amax(-1) if self.p == 1 else _norm2(flat)
        radius, infinite = self.radius.reshape(-1, 1, 1), self.radius.isinf().reshape(-1, 1, 1)
        finite = dual * torch.where(infinite, 0.0, radius)
        return positive(torch.where(infinite & (dual != 0), inf, finite), (dual > 0) & (radius > 0))

    def _intersection(self, flat: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
        box = self._around().box(arithmetic)
        right = (arithmetic.exact(box.upper) - arithmetic.exact(self.x)).upper().clamp(min=0)
        left = (arithmetic.exact(self.x) - arithmetic.exact(box.lower)).upper().clamp(min=0)
        right, left = (t.flatten(1)[:, None, None] for t in (right, left))
        gain, room = torch.broadcast_tensors(flat.abs(), torch.where(flat > 0, right, left))
        infinite, radius = room.isinf(), self.radius.reshape(-1, 1, 1)
        whole = (gain * torch.where(infinite, 0.0, room)).sum(-1)
        whole = torch.where((infinite & (gain > 0)).any(-1), inf, whole)
        # an infinite radius is no constraint; a stand-in keeps infinity out of what autograd sees
        reach = torch.where(radius.isinf(), 1.0, radius)
        dual = (_dual_l1 if self.p == 1 else _dual_l2)(gain, torch.minimum(room, reach.unsqueeze(-1)), reach)
        extra = torch.minimum(whole, torch.where(radius.isinf(), inf, dual))
        return positive(extra, (gain.amax(-1) > 0) & (radius > 0))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        shape = (self.batch, count, *self.x.shape[1:])
        normal = torch.randn(shape, generator=generator, dtype=self.x.dtype).to(self.x.device)
        if self.p == 1:  # some points move along a few coordinates only, like the vertices of the ball
            kept = torch.rand(shape, generator=generator, dtype=self.x.dtype).to(self.x.device)
            few = torch.arange(count, device=self.x.device).reshape(1, -1, *[1] * (self.x.dim() - 1)) % 2 == 0
            most = kept.flatten(2).amax(-1).reshape(self.batch, count, *[1] * (self.x.dim() - 1))
            normal = torch.where(few & (kept < most), 0.0, normal)
        size = torch.linalg.vector_norm(normal.flatten(2), self.p, dim=-1).clamp(min=torch.finfo(normal.dtype).tiny)
        far = torch.rand(self.batch, count, generator=generator, dtype=self.x.dtype).to(self.x.device)
        far = torch.where(far > 0.5, 1.0, 2 * far)
        radius = torch.where(self.radius.isinf(), self.scale.flatten(1).amax(1), self.radius).unsqueeze(1)
        stretch = torch.where(self.radius.isinf().unsqueeze(1), stretches(count, generator).to(normal), 1.0)
        step = (far * radius * stretch / size).reshape(self.batch, count, *[1] * (self.x.dim() - 1))
        return self.project(self.x.unsqueeze(1) + step * normal)

    def project(self, points: Tensor) -> Tensor:
        """Clip to the box, then shrink towards x, which stays within the convex set; both steps round inwards."""
        x, ones = self.x.unsqueeze(1), [1] * (self.x.dim() - 1)
        inside = self._around().project(points)
        move = RIGOROUS.exact(inside) - RIGOROUS.exact(x)
        n, info = prod(self.x.shape[1:]), torch.finfo(x.dtype)
        size = torch.maximum(move.upper(), -move.lower()).flatten(2)
        length = RIGOROUS.at_least(size.sum(-1) if self.p == 1 else _norm2(size), n + 8)
        radius = self.radius.unsqueeze(1)
        share = torch.where(radius > n * info.tiny / info.eps, radius / length * (1 - 4 * info.eps), 0.0)
        shrunk = _no_farther(x, move.mid * share.reshape(*share.shape, *ones))
        shrunk = torch.minimum(torch.maximum(shrunk, torch.minimum(x, inside)), torch.maximum(x, inside))
        return torch.where((length <= radius).reshape(*share.shape, *ones), inside, shrunk)

    def halves(self, axis: Tensor) -> tuple[BoundRegion, BoundRegion]:
        return _halves(self, self.box(RIGOROUS), axis)

    @classmethod
    def joined(cls, parts: Sequence[BoundBall]) -> BoundBall:
        x, radius, low, high = (
            torch.cat(t) for t in zip(*((p.x, p.radius, p.low, p.high) for p in parts), strict=True)
        )
        return cls(x, radius, parts[0].p, low, high)

    def split(self, size: int) -> list[BoundRegion]:
        parts = zip(*(t.split(size) for t in (self.x, self.radius, self.low, self.high)), strict=True)
        return [BoundBall(x, r, self.p, low, high) for x, r, low, high in parts]

    def at(self, index: Tensor) -> BoundBall:
        return BoundBall(self.x[index], self.radius[index], self.p, self.low[index], self.high[index])


@final
@dataclass(frozen=True, repr=False)
class BoundPiece(BoundRegion):
    """A part of a ball: its intersection with a box, which may be empty.

    x: the point of the box that is nearest to the ball's centre; it lies in the ball unless the piece is empty.
    """

    x: Tensor
    ball: BoundBall
    piece: BoundBox

    @classmethod
    def of(cls, ball: BoundBall, piece: BoundRegion) -> BoundPiece:
        box = piece.box(RIGOROUS)
        nearest = torch.minimum(torch.maximum(ball.x, box.lower), box.upper)
        return cls(nearest, ball, BoundBox(nearest, torch.full_like(nearest, inf), box.lower, box.upper))

    @property
    def rigorous(self) -> bool:
        return True

    @property
    def unbounded(self) -> Tensor:
        return self.ball.unbounded & self.piece.unbounded

    @cached_property
    def around(self) -> BoundBall:
        """A ball around x, with the box as its clip box, that contains the piece.

        For points y of the box, no entry of y - x and of x - c, with c the centre of the ball, has opposite signs, as x
        is the nearest point.  Hence ‖y - c‖₁ = ‖y - x‖₁ + ‖x - c‖₁ and ‖y - c‖₂² >= ‖y - x‖₂² + ‖x - c‖₂².
        """
        far, radius = self._distance, self.ball.radius
        if self.ball.p == 1:
            left = (RIGOROUS.exact(radius) - RIGOROUS.exact(far)).upper()
        else:  # √((r - d) (r + d)), each with a relative error of one rounding
            left = ((radius - far).clamp(min=0) * (radius + far)).sqrt() * (1 + 8 * torch.finfo(far.dtype).eps)
            left = left + torch.finfo(far.dtype).tiny ** 0.5
        left = torch.where((far > 0) & radius.isfinite(), torch.minimum(left.clamp(min=0), radius), radius)
        return BoundBall(self.x, left, self.ball.p, self.piece.low, self.piece.high)

    @cached_property
    def _distance(self) -> Tensor:
        """A lower bound of the distance from the centre of the ball to x: (batch,)."""
        step = RIGOROUS.exact(self.x) - RIGOROUS.exact(self.ball.x)
        size = torch.maximum(step.lower(), -step.upper()).clamp(min=0).flatten(1)
        length = size.sum(-1) if self.ball.p == 1 else _norm2(size)
        return RIGOROUS.at_most(length, size.shape[-1] + 8)

    def box(self, arithmetic: AbstractArithmetic) -> Interval:
        return self.around.box(arithmetic)

    def support_function_(self, forms: Ball, arithmetic: AbstractArithmetic) -> Ball:
        """The smaller of the bounds for the ball and for the part of another ball in the box."""
        whole = self.ball.support_function_(forms.map(torch.clone), arithmetic).upper()
        return arithmetic.exact(torch.minimum(whole, self.around.support_function_(forms, arithmetic).upper()))

    @property
    def may_be_empty(self) -> bool:
        return True

    @property
    def empty(self) -> Tensor:
        """True where the point of the box that is nearest to the centre is certainly outside the ball."""
        return self._distance > self.ball.radius

    def holds(self, points: Tensor) -> Tensor:
        """True where points (batch, N, *input) are certainly in both the ball and the box."""
        step = RIGOROUS.exact(points) - RIGOROUS.exact(self.ball.x.unsqueeze(1))
        size = torch.maximum(step.upper(), -step.lower()).flatten(2)
        length = size.sum(-1) if self.ball.p == 1 else _norm2(size)
        near = RIGOROUS.at_least(length, size.shape[-1] + 8) <= self.ball.radius.unsqueeze(1)
        box = self.piece.box(RIGOROUS).map(lambda t: t.unsqueeze(1))
        return near & ((box.lower <= points) & (points <= box.upper)).flatten(2).all(2)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        return self.project(self.piece.sample(count, generator))

    def project(self, points: Tensor) -> Tensor:
        """Clip to the box; points outside the ball are moved halfway towards x several times, or finally to x."""
        x = self.x.unsqueeze(1).expand_as(points)
        tried = self.piece.project(points)
        for _ in range(_HALVINGS):
            inside = self.holds(tried).reshape(*points.shape[:2], *[1] * (points.dim() - 2))
            tried = torch.where(inside, tried, x + (tried - x) / 2)
        inside = self.holds(tried).reshape(*points.shape[:2], *[1] * (points.dim() - 2))
        return torch.where(inside, tried, x)

    def halves(self, axis: Tensor) -> tuple[BoundRegion, BoundRegion]:
        return _halves(self.ball, self.box(RIGOROUS), axis)

    @classmethod
    def joined(cls, parts: Sequence[BoundPiece]) -> BoundPiece:
        ball, piece = BoundBall.joined([p.ball for p in parts]), BoundBox.joined([p.piece for p in parts])
        return cls(torch.cat([p.x for p in parts]), ball, piece)

    def split(self, size: int) -> list[BoundRegion]:
        balls, pieces = self.ball.split(size), self.piece.split(size)
        rows = zip(self.x.split(size), balls, pieces, strict=True)
        return [BoundPiece(x, b, c) for x, b, c in rows if isinstance(b, BoundBall) and isinstance(c, BoundBox)]

    def at(self, index: Tensor) -> BoundPiece:
        return BoundPiece(self.x[index], self.ball.at(index), self.piece.at(index))


def _halves(ball: BoundBall, box: Interval, axis: Tensor) -> tuple[BoundRegion, BoundRegion]:
    left, right = BoundBox.between(box.lower, box.upper).halves(axis)
    return BoundPiece.of(ball, left), BoundPiece.of(ball, right)


_HALVINGS = 8
"""The number of times that a point outside a ball is moved halfway to a point inside."""


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
    """max Σ gain δ, 0 <= δ <= room, ‖δ‖₂ <= radius, is at most m radius²/2 + Σ max_δ (gain δ - m δ²/2) for m > 0.

    At the optimum, δ = min(gain / m, room): the coordinates with the largest gain / room use their whole room, and m
    makes the others use up the rest of radius².
    Powers of two scale the largest gain and the radius to about 1, so that underflow is at most `tiny` per term.
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
    """The best m for `_dual_l2`, up to rounding; 0 if the radius fills no room."""
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
    """An integer e with numbers / 2^e in [1/2, 1), within the range of the dtype; 0 for 0 and infinity."""
    limit = frexp(torch.finfo(numbers.dtype).max)[1] - 2
    exponent = torch.frexp(torch.where(numbers.isfinite(), numbers.detach(), 0.0)).exponent
    return exponent.clamp(min=-limit, max=limit)


def _power(exponent: Tensor, like: Tensor) -> Tensor:
    """2^exponent in the dtype of `like`."""
    return torch.ldexp(torch.ones_like(exponent, dtype=like.dtype), exponent)


def _norm2(flat: Tensor) -> Tensor:
    """The 2-norm over the last dimension, scaled against overflow, differentiable at 0 as well."""
    most = flat.detach().abs().amax(-1, keepdim=True)
    scale = torch.where((most > 0) & most.isfinite(), most, 1.0)
    squares = (flat / scale).square().sum(-1)
    safe = torch.where(squares > 0, squares, 1.0)
    return torch.where(squares > 0, safe.sqrt() * scale.squeeze(-1), 0.0)
