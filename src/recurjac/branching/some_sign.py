"""Whether in each part of a region some entry of the gradient keeps its sign; which one may differ."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.branching.branched import points_of
from recurjac.branching.branchers import InputBisection
from recurjac.branching.pool import Bounded, Goals
from recurjac.branching.search import AbstractBounds
from recurjac.jacobian import AbstractJacobianMethod, Chords, Gradients
from recurjac.problem import Problem
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.corners import corners, unknown_slopes
from recurjac.search import Attained, better_of, point_jacobian

_CALM = 1e-3
"""A point ends the search if its largest derivative is at most so much of the largest one that was seen."""
_FEW = 6
"""The largest number of unknown slopes of a part whose corners are tried."""


@final
@dataclass(frozen=True, eq=False)
class SomeSign(AbstractBounds):
    """Minus the largest distance from 0 of an entry of the gradient, then the entries, then minus them.

    It is for a network with one output, and for parts that are halves across inputs.  The first quantity is negative on
    a part if one of its entries has a proved sign there.  The others are bounded, but no part is divided for them.
    What is "attained" is computed in plain floating point: it raises bounds, and ends the search early, no more.
    narrow: half the widths of parts, (*input), at which the search ends, since there seems to be a kink with 0 in
    Clarke's gradient.
    margin: an end of a range proves a sign if it is farther from 0 than this share of the largest entry of the part.
    Parts are not constrained by signs of neurons: slopes at kinks would be one-sided, and where two parts with
    different entries meet, Clarke's gradient could contain 0.
    Source: docs/mathematics.md, §7.6.
    """

    method: AbstractJacobianMethod
    margin: float
    narrow: Tensor
    brancher: InputBisection = field(default_factory=InputBisection)

    def bounded(self, problem: Problem, goals: Goals) -> Bounded:
        with torch.no_grad():
            uppers, effects = list[Tensor](), list[Tensor]()
            for part in problem.batches():
                gradients = Gradients(part)
                upper = self._entries(self.method, gradients.chain, gradients)
                upper = self._at_corners(gradients.chain, self.least(upper) >= 0, upper)
                uppers.append(torch.cat([self.least(upper).unsqueeze(1), upper], 1))
                effects.append(self.brancher.effects(gradients.state, _weights(upper)))
            return Bounded(torch.cat(uppers), torch.cat(effects))

    def least(self, upper: Tensor) -> Tensor:
        """The first quantity, (batch,), from bounds of the entries and of minus them, (batch, 2n); NaN proves nothing.

        It is at least 0 if no sign is proved.
        """
        most, minus = upper.chunk(2, 1)
        nearer = torch.minimum(most, minus)
        size = torch.maximum(most.abs(), minus.abs()).amax(1, keepdim=True)
        needed = self.margin * size if self.margin > 0 else torch.zeros_like(size)
        proved = (nearer < -needed) & nearer.isfinite()
        return torch.where(proved, nearer, torch.where(nearer.isnan(), inf, nearer.clamp(min=0))).amin(1)

    def _entries(self, method: AbstractJacobianMethod, chain: ChainRule, gradients: Gradients) -> Tensor:
        """Upper bounds of the entries and of minus them, (batch, 2n); infinite in place of NaN."""
        found = method.prepare(gradients).push(chain.basis(0))
        upper = torch.cat([found.upper.flatten(1), -found.lower.flatten(1)], 1)
        return torch.where(upper.isnan(), inf, upper).expand(chain.batch, -1)

    def _at_corners(self, chain: ChainRule, chosen: Tensor, upper: Tensor) -> Tensor:
        count = unknown_slopes(chain)
        for found in corners(chain, chosen & (count >= 1) & (count <= _FEW)):
            upper = found.tighter(upper, self._entries(Chords(), found.chain, Gradients(given=found.chain)))
        return upper

    def found(self, parts: Problem, known: Attained | None) -> Attained:
        """The least of the largest derivatives at points of the parts, and the largest derivatives."""
        with torch.no_grad():
            points = points_of(parts)
            known = self._nothing(parts) if known is None else known
            if len(points) == 0:
                return known
            slopes = point_jacobian(parts.network, points).flatten(1)
            finite = slopes.isfinite().all(1, keepdim=True)
            calm = torch.where(finite[:, 0], -slopes.abs().amax(1), -inf)
            every = torch.cat([calm.unsqueeze(1), *(torch.where(finite, s, -inf) for s in (slopes, -slopes))], 1)
            best = every.max(0)
            known = better_of(known, Attained(best.values, points[best.indices], known.direction))
            ended = (parts.bound.scale <= self.narrow).flatten(1).all(1) & ~parts.bound.empty
            return replace(known, gain=known.gain.index_fill(0, self._first, 0.0)) if bool(ended.any()) else known

    @property
    def _first(self) -> Tensor:
        return torch.zeros(1, dtype=torch.long, device=self.narrow.device)

    def _nothing(self, parts: Problem) -> Attained:
        count = 1 + 2 * parts.network.sizes[0]
        point = parts.bound.x[:1].expand(count, *parts.bound.x.shape[1:])
        return Attained(parts.bound.x.new_full((count,), -inf), point, torch.zeros_like(point))

    def goals(self, attained: Attained, tolerance: float) -> Goals:
        """Below 0 for the first quantity, unless a point is as good as stationary; no goal for the others."""
        target = torch.full_like(attained.gain, inf)
        size = attained.gain[1:].max()
        if not bool(attained.gain[0] >= -_CALM * size):
            target = target.index_fill(0, self._first, -torch.finfo(target.dtype).tiny)
        return Goals(target, torch.ones_like(target))


def _weights(upper: Tensor) -> Tensor:
    """How much the width of each entry matters, (batch, 1, n): most for the one of which least has the wrong sign."""
    most, minus = upper.chunk(2, 1)
    width = most + minus
    wrong = (torch.minimum(most, minus) / width).nan_to_num(1.0).clamp(min=_LEAST)
    share = (wrong.amin(1, keepdim=True) / wrong).square()
    return (share / width).nan_to_num(0.0, 0.0, 0.0).unsqueeze(1)


_LEAST = 1e-6
"""The least share of a range that counts as of the wrong sign."""
