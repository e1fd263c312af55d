"""Boxes around a point, and the maximum of a linear form over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Interval, around_
from recurjac.region.base import FAST, RIGOROUS, BoundRegion, positive, stretches


@final
@dataclass(frozen=True, repr=False)
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
    def is_box(self) -> bool:
        return True

    @cached_property
    def unbounded(self) -> Tensor:
        box = self.box(FAST)
        return (box.lower.isinf() | box.upper.isinf()).flatten(1).any(1)

    def box(self, arithmetic: AbstractArithmetic) -> Interval:
        x, radius = arithmetic.exact(self.x), arithmetic.exact(self.radius)
        low, high = (x - radius).lower(), (x + radius).upper()
        infinite = self.radius.isinf()
        low, high = torch.where(infinite, -inf, low), torch.where(infinite, inf, high)
        return Interval(torch.maximum(low, self.low), torch.minimum(high, self.high))

    def support_function_(self, forms: Ball, arithmetic: AbstractArithmetic) -> Ball:
        right, left = self._reach
        if left is right and right.infinite is None:
            return around_(forms, self.x, right.size)
        if left is right:
            extra = right.spread(forms.mid.abs(), arithmetic)
        else:
            extra = right.spread(forms.mid.clamp(min=0), arithmetic)
            extra = extra + left.spread((-forms.mid).clamp(min=0), arithmetic)
        if forms.rad is not None and not forms.exact:
            wider = right if left is right else _Reach.of(torch.maximum(right.size, left.size))
            extra = extra + wider.spread(forms.rad.expand_as(forms.mid), arithmetic)
        centre = forms.dot(arithmetic.exact(self.x.unsqueeze(1)))
        return centre + arithmetic.exact(arithmetic.at_least(extra, 3 * prod(self.x.shape[1:]) + 3))

    @cached_property
    def _reach(self) -> tuple[_Reach, _Reach]:
        """The extent of the box to the right and to the left of x, which is exact if not clipped, otherwise rounded up.

        Returns the same object twice if both are equal.
        """
        box, x = self.box(RIGOROUS), RIGOROUS.exact(self.x)
        room = [RIGOROUS.exact(box.upper) - x, x - RIGOROUS.exact(box.lower)]
        right, left = (
            torch.where(r.mid.isinf(), inf, torch.minimum(r.upper(), self.radius)).clamp(min=0) for r in room
        )
        first = _Reach.of(right)
        return first, first if torch.equal(right, left) else _Reach.of(left)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        box, shape = self.box(FAST), (self.batch, count, *self.x.shape[1:])
        low, high = _finite_ends(box, self.x, self.scale)
        uniform = torch.rand(shape, generator=generator, dtype=self.x.dtype).to(self.x.device)
        # a third of the points are corners, a third are interior, a third have some coordinates at an end
        kind = torch.arange(count, device=self.x.device).reshape(1, -1, *[1] * (self.x.dim() - 1)) % 3
        corner = (uniform > 0.5).to(uniform.dtype)
        chosen = torch.rand(shape, generator=generator, dtype=self.x.dtype).to(self.x.device) > 0.5
        share = torch.where(kind == 0, uniform, torch.where((kind == 1) | chosen, corner, uniform))
        points = (1 - share) * low.unsqueeze(1) + share * high.unsqueeze(1)
        stretch = stretches(count, generator).to(points).reshape(1, -1, *[1] * (self.x.dim() - 1))
        wide = self.x.unsqueeze(1) + (points - self.x.unsqueeze(1)) * stretch
        return self.project(torch.where((box.width.isinf()).unsqueeze(1), wide, points))

    def project(self, points: Tensor) -> Tensor:
        """Clip to ends that are rounded inwards but still contain x."""
        x, radius = RIGOROUS.exact(self.x), RIGOROUS.exact(self.radius)
        low = torch.where(self.radius.isinf(), -inf, torch.minimum((x - radius).upper(), self.x))
        high = torch.where(self.radius.isinf(), inf, torch.maximum((x + radius).lower(), self.x))
        low, high = torch.maximum(low, self.low).unsqueeze(1), torch.minimum(high, self.high).unsqueeze(1)
        return torch.minimum(torch.maximum(points, low), high)

    @classmethod
    def between(cls, low: Tensor, high: Tensor) -> BoundBox:
        """The box between two ends (batch, *input), which may be infinite."""
        middle = torch.minimum(torch.maximum(low / 2 + high / 2, low), high)
        known = torch.where(low.isfinite(), low, torch.where(high.isfinite(), high, 0.0))
        x = torch.where(low.isfinite() & high.isfinite(), middle, known)
        return cls(x, torch.full_like(x, inf), low, high)

    def halves(self, axis: Tensor) -> tuple[BoundRegion, BoundRegion]:
        box, at = self.box(RIGOROUS), axis.unsqueeze(1)
        low, high = (end.flatten(1) for end in (box.lower, box.upper))
        a, b, x = (t.gather(1, at) for t in (low, high, self.x.flatten(1)))
        middle = torch.where(a.isfinite() & b.isfinite(), a / 2 + b / 2, x)
        middle = torch.minimum(torch.maximum(middle, a), b)
        left, right = (
            high.scatter(1, at, middle).reshape(self.x.shape),
            low.scatter(1, at, middle).reshape(self.x.shape),
        )
        return BoundBox.between(box.lower, left), BoundBox.between(right, box.upper)

    @classmethod
    def joined(cls, parts: Sequence[BoundBox]) -> BoundBox:
        return cls(*(torch.cat(t) for t in zip(*((p.x, p.radius, p.low, p.high) for p in parts), strict=True)))

    def split(self, size: int) -> list[BoundRegion]:
        parts = zip(*(t.split(size) for t in (self.x, self.radius, self.low, self.high)), strict=True)
        return [BoundBox(*p) for p in parts]

    def at(self, index: Tensor) -> BoundBox:
        return BoundBox(*(t[index] for t in (self.x, self.radius, self.low, self.high)))


@final
@dataclass(frozen=True)
class _Reach:
    """Non-negative numbers for each entry of the input, (batch, *input), with the infinite ones kept separately."""

    size: Tensor
    finite: Tensor
    infinite: Tensor | None

    @classmethod
    def of(cls, size: Tensor) -> _Reach:
        infinite = size.isinf()
        if not bool(infinite.any()):
            return cls(size, size.flatten(1), None)
        return cls(size, torch.where(infinite, 0.0, size).flatten(1), infinite.flatten(1).to(size.dtype))

    def spread(self, weights: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
        """Σ weights times these numbers, (B, K, R); weights are non-negative; 0 times infinity is 0.

        In rigorous arithmetic, a sum that underflows is not 0.
        """
        flat = weights.flatten(3)
        total = _times(flat, self.finite)
        if arithmetic.rigorous:
            total = positive(total, (flat.amax(-1) > 0) & (self.finite.amax(-1) > 0)[:, None, None])
        if self.infinite is None:
            return total
        return torch.where(_times((flat > 0).to(flat.dtype), self.infinite) > 0, inf, total)


def _times(flat: Tensor, numbers: Tensor) -> Tensor:
    return torch.matmul(flat, numbers[0]) if len(numbers) == 1 else torch.einsum("bkrn,bn->bkr", flat, numbers)


def _finite_ends(box: Interval, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return (
        torch.where(box.lower.isinf(), torch.minimum(x, box.upper) - scale, box.lower),
        torch.where(box.upper.isinf(), torch.maximum(x, box.lower) + scale, box.upper),
    )
