"""Chain rules at the corners of the box of their unknown slopes, where few slopes are unknown.

Each slope is a factor of J once on every path, so that J is affine in each slope while the others are fixed.  A norm of
J and an entry are therefore largest where every slope is at one end of its range (docs/mathematics.md, §6.6).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.propagation.chain_rule import ChainRule

_TOGETHER = 4096
"""The largest number of corners that are bounded together."""


@final
@dataclass(frozen=True)
class Corners:
    """All corners of some samples.

    index: the samples.  chain: one sample for each of `index` and each of its corners, in which all slopes are known.
    """

    index: Tensor
    chain: ChainRule

    def tighter(self, bounds: Tensor, at_corners: Tensor) -> Tensor:
        """Bounds (batch, …), at most the largest of those at the corners (samples times corners, …)."""
        values = torch.where(at_corners.isnan(), torch.inf, at_corners)
        most = values.reshape(len(self.index), -1, *values.shape[1:]).amax(1)
        return bounds.index_copy(0, self.index, torch.minimum(bounds[self.index], most))


def unknown_slopes(chain: ChainRule) -> Tensor:
    """The number of unknown slopes of each sample, (batch,); infinite where one is unbounded."""
    low, high = _flat(chain)
    bounded = low.isfinite().all(1) & high.isfinite().all(1)
    return torch.where(bounded, (low != high).sum(1).double(), torch.inf)


def corners(chain: ChainRule, chosen: Tensor) -> Iterator[Corners]:
    """The corners of the samples `chosen` (batch,), all of whose slopes are bounded, in groups."""
    low, high = _flat(chain)
    counts = (low != high).sum(1)
    size = chain.rows * max(prod(shape) for shape in chain.shapes)
    together = min(_TOGETHER, chain.arithmetic.memory_on(chain.device) // (8 * max(1, size)))
    for count in counts[chosen].unique().tolist():
        rows = (chosen & (counts == count)).nonzero().flatten()
        for lot in rows.split(max(1, together >> int(count))):
            yield Corners(lot, _at(chain, lot, low[lot], high[lot]))


def _flat(chain: ChainRule) -> tuple[Tensor, Tensor]:
    """The ends of all slopes of each sample: (batch, slopes)."""
    slopes = [s for s in chain.slopes if s is not None]
    blank = torch.zeros(chain.batch, 0, dtype=chain.dtype, device=chain.device)
    low, high = ([end.expand(chain.batch, *end.shape[1:]).flatten(1) for end in ends]
                 for ends in ([s.lower for s in slopes], [s.upper for s in slopes]))  # fmt: skip
    return torch.cat([blank, *low], 1), torch.cat([blank, *high], 1)


def _at(chain: ChainRule, lot: Tensor, low: Tensor, high: Tensor) -> ChainRule:
    """The chain rule at all corners of some samples with the same number of unknown slopes."""
    unknown = low != high
    place = (unknown.cumsum(1) - 1).clamp(min=0)
    pattern = torch.arange(2 ** int(unknown[0].sum()), device=low.device)
    raised = (pattern[None, :, None] >> place.unsqueeze(1)) & 1
    values = torch.where(unknown.unsqueeze(1) & (raised == 1), high.unsqueeze(1), low.unsqueeze(1)).flatten(0, 1)
    parts: list[Interval | None] = []
    begin = 0
    for known in chain.slopes:
        if known is None:
            parts.append(None)
            continue
        shape = known.shape[1:]
        parts.append(Interval.point(values[:, begin : begin + shape.numel()].reshape(-1, *shape)))
        begin += shape.numel()
    covectors = chain.covectors
    if covectors is not None and len(covectors) > 1:
        covectors = covectors[lot].repeat_interleave(len(pattern), 0)
    return replace(chain, slopes=tuple(parts), covectors=covectors, batch=len(values), skeleton=None, places=None)
