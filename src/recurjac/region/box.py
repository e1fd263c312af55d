"""Boxes around a point, and the largest value of a linear form over them."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Interval, Value
from recurjac.region.base import FAST, RIGOROUS, BoundRegion, positive, stretches


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
        box = self.box(FAST)
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
        if torch.equal(left, right):
            extra = _spread(forms.mid.abs(), right)
        else:
            extra = _spread(forms.mid.clamp(min=0), right) + _spread((-forms.mid).clamp(min=0), left)
        if forms.rad is not None:
            extra = extra + _spread(forms.rad.expand_as(forms.mid), torch.maximum(left, right))
        return centre + arithmetic.exact(arithmetic.at_least(extra, 3 * prod(self.x.shape[1:]) + 3))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        box, shape = self.box(FAST), (self.batch, count, *self.x.shape[1:])
        low, high = _finite_ends(box, self.x, self.scale)
        uniform = torch.rand(shape, generator=generator, dtype=self.x.dtype).to(self.x.device)
        # a third of the points are corners, a third lie inside, a third have some coordinates at an end
        kind = torch.arange(count, device=self.x.device).reshape(1, -1, *[1] * (self.x.dim() - 1)) % 3
        corner = (uniform > 0.5).to(uniform.dtype)
        chosen = torch.rand(shape, generator=generator, dtype=self.x.dtype).to(self.x.device) > 0.5
        share = torch.where(kind == 0, uniform, torch.where((kind == 1) | chosen, corner, uniform))
        points = (1 - share) * low.unsqueeze(1) + share * high.unsqueeze(1)
        stretch = stretches(count, generator).to(points).reshape(1, -1, *[1] * (self.x.dim() - 1))
        wide = self.x.unsqueeze(1) + (points - self.x.unsqueeze(1)) * stretch
        return self.project(torch.where((box.width.isinf()).unsqueeze(1), wide, points))

    def project(self, points: Tensor) -> Tensor:
        """Clip to ends rounded inwards, which keep x inside."""
        x, radius = RIGOROUS.exact(self.x), RIGOROUS.exact(self.radius)
        low = torch.where(self.radius.isinf(), -inf, torch.minimum((x - radius).upper(), self.x))
        high = torch.where(self.radius.isinf(), inf, torch.maximum((x + radius).lower(), self.x))
        low, high = torch.maximum(low, self.low).unsqueeze(1), torch.minimum(high, self.high).unsqueeze(1)
        return torch.minimum(torch.maximum(points, low), high)

    def split(self, size: int) -> list[BoundRegion]:
        parts = zip(*(t.split(size) for t in (self.x, self.radius, self.low, self.high)), strict=True)
        return [BoundBox(*p) for p in parts]


def _spread(weights: Tensor, reach: Tensor) -> Tensor:
    """Σ weights * reach over the input, both non-negative: (B, K, R); 0 times infinity is 0, underflow is not 0."""
    flat, infinite = weights.flatten(3), reach.isinf().flatten(1)
    total = torch.einsum("bkrn,bn->bkr", flat, torch.where(infinite, 0.0, reach.flatten(1)))
    total = positive(total, (flat.amax(-1) > 0) & (reach.flatten(1).amax(-1) > 0)[:, None, None])
    if not bool(infinite.any()):
        return total
    met = torch.einsum("bkrn,bn->bkr", (flat > 0).to(flat.dtype), infinite.to(flat.dtype))
    return torch.where(met > 0, inf, total)


def _finite_ends(box: Interval, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return (
        torch.where(box.lower.isinf(), torch.minimum(x, box.upper) - scale, box.lower),
        torch.where(box.upper.isinf(), torch.maximum(x, box.lower) + scale, box.upper),
    )
