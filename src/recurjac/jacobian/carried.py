"""Jacobians whose entries are given by affine forms of the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.jacobian.base import AbstractPrepared
from recurjac.propagation.affine_forms import AffineForms, Symbols, some_rows
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import AbstractSeeds, Units


@final
@dataclass(frozen=True)
class Carried(AbstractPrepared):
    """Forms of all entries of the Jacobian, and bounds of them: (B, K, *input)."""

    whole: ChainRule
    symbols: Symbols
    forms: AffineForms
    bounds: Interval

    @property
    def chain(self) -> ChainRule:
        return self.whole

    def push(self, tangents: AbstractSeeds) -> Interval:
        if isinstance(tangents, Units):
            return self._whole(self.bounds.map(tangents.entries))
        weights = tangents.tensor().flatten(3)  # (B or 1, K or 1, R, inputs)
        each = [self._along(weights[:, :, r]) for r in range(weights.shape[2])]
        low, high = (torch.stack(ends, -1) for ends in zip(*((e.lower, e.upper) for e in each), strict=True))
        return Interval.unchecked(low, high)

    def _along(self, weights: Tensor) -> Interval:
        """Bounds of the combinations of entries with weights (B or 1, K or 1, inputs): (B, K)."""
        exact, rest = self.chain.arithmetic.exact, self.forms.rest.flatten(2)
        used = ((weights != 0) & rest.isinf()).any(-1)
        left = (exact(weights.abs()) * exact(torch.where(rest.isinf(), 0.0, rest))).upper()
        left = self.chain.arithmetic.at_least(left.sum(-1), left.shape[-1])
        rows = exact(self.forms.rows.flatten(3).transpose(1, 2)).dot(exact(weights))  # (B, K, S)
        settled = self.symbols.settled(rows.map(lambda t: t.mT), torch.where(used, torch.inf, left))
        return self.symbols.bounds(settled)


def stacked(forms: Sequence[AffineForms]) -> AffineForms:
    """Forms of entries (B, …) of several outputs as forms of entries (B, K, …)."""
    length = max(f.rows.shape[1] for f in forms)
    rows = torch.stack([some_rows(f, 0, length) for f in forms], 2)
    return AffineForms(rows, torch.stack([f.rest for f in forms], 1))


def stack(bounds: Sequence[Interval]) -> Interval:
    """Bounds (B, …) of several outputs as bounds (B, K, …)."""
    return Interval.unchecked(torch.stack([b.lower for b in bounds], 1), torch.stack([b.upper for b in bounds], 1))
