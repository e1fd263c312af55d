"""Jacobians whose entries are given by affine forms of the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.jacobian.base import AbstractPrepared
from recurjac.jacobian.fast_lip import interval_dot
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
        """By the forms, and by interval products of the entries."""
        if isinstance(tangents, Units):
            return self._whole(self.bounds.map(tangents.entries))
        arithmetic, weights = self.chain.arithmetic, tangents.tensor()
        plain = interval_dot(arithmetic.exact(weights), self.bounds, arithmetic)
        return self._whole(arithmetic.intersect(plain, self._by_forms(weights.flatten(3))))

    def _by_forms(self, weights: Tensor) -> Interval:
        """Bounds of the combinations of entries with weights (B or 1, K or 1, R, inputs): (B, K, R)."""
        exact, symbols = self.chain.arithmetic.exact, self.symbols
        rest = spread(weights, self.forms.rest.flatten(2), self.chain.arithmetic)
        rows = exact(self.forms.rows.flatten(3).transpose(1, 2))  # (B, K, S, inputs)
        each = []
        for r in range(weights.shape[2]):
            along = rows.dot(exact(weights[:, :, r]))  # (B, K, S)
            each.append(symbols.bounds(symbols.settled(along.map(lambda t: t.mT), rest[..., r])))
        low, high = (torch.stack(ends, -1) for ends in zip(*((e.lower, e.upper) for e in each), strict=True))
        return Interval.unchecked(low, high)


def spread(weights: Tensor, rests: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
    """Upper bounds of Σ |w| r for weights (B, K, R, n) and rests (B, K, n) that may be infinite: (B, K, R).

    0 times infinity is 0.
    """
    exact, infinite = arithmetic.exact, rests.isinf()
    known = exact(weights.abs()).dot(exact(torch.where(infinite, 0.0, rests))).upper()
    met = exact((weights != 0).to(rests)).dot(exact(infinite.to(rests))).mid > 0
    return torch.where(met, torch.inf, known)


def stacked(forms: Sequence[AffineForms]) -> AffineForms:
    """Forms of entries (B, …) of several outputs as forms of entries (B, K, …)."""
    length = max(f.rows.shape[1] for f in forms)
    rows = torch.stack([some_rows(f, 0, length) for f in forms], 2)
    return AffineForms(rows, torch.stack([f.rest for f in forms], 1))


def stack(bounds: Sequence[Interval]) -> Interval:
    """Bounds (B, …) of several outputs as bounds (B, K, …)."""
    return Interval.unchecked(torch.stack([b.lower for b in bounds], 1), torch.stack([b.upper for b in bounds], 1))
