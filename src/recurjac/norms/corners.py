"""The largest norm at the corners of the box of unknown slopes, where few slopes are unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.errors import InvalidRequest, expect
from recurjac.jacobian import Gradients, RecurJac
from recurjac.norms.base import AbstractNormMethod
from recurjac.norms.entrywise import JacobianNorm
from recurjac.propagation.chain_rule import ChainRule

_LOT = 4096
"""The largest number of corners that are bounded together."""
_MOST = 20
"""The largest number of unknown slopes whose corners may be asked for."""


@final
@dataclass(frozen=True)
class CornerNorm(AbstractNormMethod):
    """The largest norm over all corners of the slopes' ranges for samples with at most `most` unknown slopes.

    J is affine in each slope, so that its norm is convex in it and largest at a corner.  There, J is one matrix, and
    the bound is its norm (for p = 1, q = inf and p = q = 2 exactly, up to rounding).  Other samples are bounded by
    `otherwise`.  Raises InvalidRequest unless 0 <= most <= 20.
    Source: docs/mathematics.md, §6.9.
    """

    most: int = 8
    otherwise: AbstractNormMethod = field(default_factory=JacobianNorm)

    def __post_init__(self) -> None:
        expect(self.otherwise, AbstractNormMethod, "the norm method", "give one such as JacobianNorm()")
        if isinstance(self.most, bool) or not 0 <= self.most <= _MOST:
            raise InvalidRequest(f"CornerNorm(most={self.most!r}) is not a number from 0 to {_MOST}")

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractNormMethod]:
        return {"corners": cls()}

    @property
    def title(self) -> str:
        return f"corners or {self.otherwise.title}"

    def supports(self, p: float, q: float) -> bool:
        return self.otherwise.supports(p, q)

    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        return self.otherwise.unproved_rounding(p, q, rows)

    def norm(self, gradients: Gradients, p: float, q: float) -> Tensor:
        few = self.few(gradients.chain)
        if bool(few.all()):
            return self.at_corners(gradients.chain, few, lambda known: _EXACT.norm(known, p, q))
        known = self.otherwise.norm(gradients, p, q)
        corners = self.at_corners(gradients.chain, few, lambda known: _EXACT.norm(known, p, q))
        return torch.minimum(torch.where(known.isnan(), torch.inf, known), corners)

    def rows(self, gradients: Gradients, p: float) -> Tensor:
        few = self.few(gradients.chain)
        known = self.otherwise.rows(gradients, p)
        corners = self.at_corners(gradients.chain, few, lambda known: _EXACT.rows(known, p))
        return torch.minimum(torch.where(known.isnan(), torch.inf, known), corners)

    def few(self, chain: ChainRule) -> Tensor:
        """Which samples have at most `most` unknown slopes, all of them bounded: (batch,)."""
        low, high = _flat(chain)
        return ((low != high).sum(1) <= self.most) & low.isfinite().all(1) & high.isfinite().all(1)

    def at_corners(self, chain: ChainRule, chosen: Tensor, bound: Callable[[Gradients], Tensor]) -> Tensor:
        """The largest `bound` at the corners of the samples `chosen` (batch,); infinite for others."""
        low, high = _flat(chain)
        unknown = (low != high).sum(1)
        found: Tensor | None = None
        for count in unknown[chosen].unique().tolist():
            rows = (chosen & (unknown == count)).nonzero().flatten()
            for lot in rows.split(max(1, _together(chain) >> int(count))):
                values = _largest(chain, lot, low[lot], high[lot], bound)
                if found is None:
                    found = values.new_full((chain.batch, *values.shape[1:]), torch.inf)
                found[lot] = values
        if found is None:
            return bound(Gradients(None, replace(chain, skeleton=None))) * 0 + torch.inf
        return found


def _together(chain: ChainRule) -> int:
    """How many corners are bounded together."""
    size = chain.rows * max(prod(shape) for shape in chain.shapes)
    return min(_LOT, chain.arithmetic.memory_on(chain.device) // (8 * max(1, size)))


_EXACT = JacobianNorm(RecurJac())
"""The norm of one matrix."""


def _flat(chain: ChainRule) -> tuple[Tensor, Tensor]:
    """The ends of all slopes of each sample: (batch, slopes)."""
    slopes = [s for s in chain.slopes if s is not None]
    blank = torch.zeros(chain.batch, 0, dtype=chain.dtype, device=chain.device)
    low, high = ([end.expand(chain.batch, *end.shape[1:]).flatten(1) for end in ends]
                 for ends in ([s.lower for s in slopes], [s.upper for s in slopes]))  # fmt: skip
    return torch.cat([blank, *low], 1), torch.cat([blank, *high], 1)


def _largest(chain: ChainRule, lot: Tensor, low: Tensor, high: Tensor, bound: Callable[[Gradients], Tensor]) -> Tensor:
    """The largest `bound` at the corners of some samples with the same number of unknown slopes."""
    unknown = low != high
    place = unknown.cumsum(1) - 1
    corners = torch.arange(2 ** int(unknown[0].sum()), device=low.device)
    rows = torch.arange(len(lot), device=low.device).repeat_interleave(len(corners))
    upper = (corners.repeat(len(lot)).unsqueeze(1) >> place[rows].clamp(min=0)) & 1
    slopes = torch.where(unknown[rows] & (upper == 1), high[rows], low[rows])
    values = bound(Gradients(None, _with_slopes(chain, lot[rows], slopes)))
    values = torch.where(values.isnan(), torch.inf, values)
    return values.reshape(len(lot), len(corners), *values.shape[1:]).amax(1)


def _with_slopes(chain: ChainRule, rows: Tensor, slopes: Tensor) -> ChainRule:
    """The chain rule with known slopes (new batch, slopes), of the samples `rows`."""
    parts: list[Interval | None] = []
    begin = 0
    for known in chain.slopes:
        if known is None:
            parts.append(None)
            continue
        shape = known.shape[1:]
        parts.append(Interval.point(slopes[:, begin : begin + shape.numel()].reshape(-1, *shape)))
        begin += shape.numel()
    covectors = chain.covectors
    if covectors is not None and len(covectors) > 1:
        covectors = covectors[rows]
    return replace(chain, slopes=tuple(parts), covectors=covectors, batch=len(rows), skeleton=None, places=None)
