"""Norms and entries of a Jacobian of which few slopes are unknown, from all combinations of the ends of their ranges.

Each slope is a factor of J once on every path, so that J is affine in each slope while the others are fixed.  A norm of
J and an entry are therefore largest where every slope is at one end of its range (docs/mathematics.md, §6.6).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.jacobian import Chords, Gradients
from recurjac.norms import JacobianNorm, PlainSum
from recurjac.propagation.chain_rule import ChainRule

MOST = 6
"""The largest number of unknown slopes of which all combinations are tried."""
_TOGETHER = 4096
"""The largest number of combinations that are bounded together."""


@final
@dataclass(frozen=True)
class Vertices:
    """All combinations for some samples.

    chain: with one sample for each of `index` and each combination, in which all slopes are known.
    """

    index: Tensor
    chain: ChainRule

    def largest(self, values: Tensor) -> Tensor:
        """The largest of values (samples times combinations, …) for each of the samples: (samples, …)."""
        return values.reshape(len(self.index), -1, *values.shape[1:]).amax(1)


def vertices(chain: ChainRule, chosen: Tensor) -> Iterator[Vertices]:
    """All combinations for those samples of `chosen` (batch,) that have from 1 to `MOST` unknown slopes, in groups."""
    masks = [chain.unstable(k) for k in range(len(chain.shapes))]
    counts = torch.zeros(chain.batch, dtype=torch.long, device=chain.device)
    for mask, slopes in zip(masks, chain.slopes, strict=True):
        counts = counts if mask is None else counts + mask.flatten(1).sum(1)
        if slopes is not None:
            chosen = chosen & slopes.magnitude.isfinite().flatten(1).all(1)
    for m in range(1, MOST + 1):
        index = (chosen & (counts == m)).nonzero().flatten()
        for part in index.split(max(1, _TOGETHER >> m)):
            if len(part):
                yield Vertices(part, _fixed(chain, part, masks, m))


def _fixed(chain: ChainRule, index: Tensor, masks: list[Tensor | None], m: int) -> ChainRule:
    """The chain rule with every combination of the ends of the m unknown slopes of some samples."""
    pattern = torch.arange(2**m, device=chain.device)
    before = torch.zeros(len(index), 1, dtype=torch.long, device=chain.device)
    slopes: list[Interval | None] = []
    for known, mask in zip(chain.slopes, masks, strict=True):
        if known is None:
            slopes.append(None)
            continue
        low, high = known.lower.flatten(1)[index].unsqueeze(1), known.upper.flatten(1)[index].unsqueeze(1)
        value = low.expand(-1, 2**m, -1)
        if mask is not None:
            free = mask.flatten(1)[index]
            number = before + free.long().cumsum(1) - 1
            before = before + free.long().sum(1, keepdim=True)
            bit = (pattern[None, :, None] >> number.clamp(min=0).unsqueeze(1)) & 1
            value = torch.where(free.unsqueeze(1) & (bit == 1), high, low)
        slopes.append(Interval.point(value.reshape(-1, *known.shape[1:])))
    covectors = chain.covectors
    if covectors is not None and len(covectors) > 1:
        covectors = covectors[index].repeat_interleave(2**m, 0)
    return replace(
        chain, slopes=tuple(slopes), batch=len(index) * 2**m, covectors=covectors, skeleton=None, places=None
    )


def vertex_norms(chain: ChainRule, chosen: Tensor, upper: Tensor, norms: tuple[float, float]) -> Tensor:
    """Upper bounds of ‖J‖_{p→q}, (batch,), not above `upper`: for `chosen` samples also from all combinations."""
    for found in vertices(chain, chosen):
        values = JacobianNorm(Chords(), PlainSum()).norm(Gradients(given=found.chain), *norms)
        most = found.largest(torch.where(values.isnan(), torch.inf, values))
        upper = upper.index_copy(0, found.index, torch.minimum(upper[found.index], most))
    return upper
