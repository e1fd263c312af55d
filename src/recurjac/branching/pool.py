"""The parts of a problem with their bounds, stacked in lots; nothing is changed in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from recurjac.problem import Problem, join
from recurjac.region.base import RIGOROUS

_JOINED = 48
"""The number of lots above which they are joined into one."""


@final
@dataclass(frozen=True)
class Bounded:
    """Upper bounds of several quantities over the region of each sample.

    upper: (batch, quantities); -inf where a region is known to be empty.
    effects: (batch, inputs), how much worse the bound is for the width of each input; None if nothing is known of it.
    points: (N, *input) of the box around the whole region at which much may be attained; None without any.
    """

    upper: Tensor
    effects: Tensor | None = None
    points: Tensor | None = None


@final
@dataclass(frozen=True)
class Lot:
    """Some parts: one problem with a sample for each, bounds (parts, quantities), and effects of the inputs."""

    problem: Problem
    upper: Tensor
    effects: Tensor | None

    def __len__(self) -> int:
        return len(self.upper)

    def at(self, index: Tensor) -> Lot:
        effects = None if self.effects is None else self.effects[index]
        return Lot(self.problem.at(index), self.upper[index], effects)

    @classmethod
    def joined(cls, lots: Sequence[Lot]) -> Lot:
        """The parts of several lots as one."""
        if len(lots) == 1:
            return lots[0]
        effects = [lot.effects for lot in lots if lot.effects is not None]
        return cls(
            join([lot.problem for lot in lots]),
            torch.cat([lot.upper for lot in lots]),
            torch.cat(effects) if len(effects) == len(lots) else None,
        )


@final
@dataclass(frozen=True)
class Goals:
    """For each quantity, (quantities,): a part whose bound is at most `target` need not be divided for it.

    scale: what counts as one unit above the target; positive.
    """

    target: Tensor
    scale: Tensor

    @classmethod
    def none(cls, like: Tensor) -> Goals:
        """No bound of the one quantity is good enough."""
        return cls(like.new_full((1,), -inf), like.new_ones(1))

    def excess(self, upper: Tensor) -> Tensor:
        """How far bounds (parts, quantities) are above the targets: (parts,); 0 or less if no quantity is."""
        above = (upper - self.target) / self.scale
        return torch.where(upper <= self.target, -inf, torch.where(above.isnan(), inf, above)).amax(1)


@final
@dataclass(frozen=True)
class Shelf:
    """A lot of parts.  closed: which cannot be divided; gone: which are not in the pool any more; each (parts,)."""

    lot: Lot
    closed: Tensor
    gone: Tensor

    @classmethod
    def of(cls, lot: Lot, closed: Tensor) -> Shelf:
        return cls(lot, closed, torch.zeros_like(closed))

    @property
    def upper(self) -> Tensor:
        """The bounds of the parts, -inf where they are gone: (parts, quantities)."""
        return torch.where(self.gone.unsqueeze(1), -inf, self.lot.upper)

    def excess(self, goals: Goals) -> Tensor:
        """How far parts that can be divided are above the targets: (parts,)."""
        return torch.where(self.gone | self.closed, -inf, goals.excess(self.lot.upper))

    def without(self, chosen: Tensor) -> Shelf:
        """The shelf without some parts; the memory of those that are gone is given back once they are most of it."""
        gone = self.gone | chosen
        if int(gone.sum()) * 2 <= len(gone):
            return Shelf(self.lot, self.closed, gone)
        kept = (~gone).nonzero().flatten()
        return Shelf.of(self.lot.at(kept), self.closed[kept]) if len(kept) else Shelf(self.lot, self.closed, gone)


@final
@dataclass(frozen=True)
class Pool:
    """Parts that cover the region, except for what is proved to be empty."""

    shelves: tuple[Shelf, ...] = ()

    def __len__(self) -> int:
        return sum(int((~s.gone).sum()) for s in self.shelves)

    @property
    def upper(self) -> Tensor | None:
        """The largest bound of each quantity, (quantities,); None without parts."""
        if not self.shelves:
            return None
        return torch.stack([s.upper.amax(0) for s in self.shelves]).amax(0)

    def open(self, goals: Goals) -> int:
        """The number of parts that have a bound above a target and can be divided."""
        return sum(int((s.excess(goals) > 0).sum()) for s in self.shelves)

    def taken(self, most: int, goals: Goals) -> tuple[Lot | None, Pool]:
        """Up to `most` of the parts that are farthest above the targets, and the pool without them."""
        if not self.shelves:
            return None, self
        scores = [s.excess(goals) for s in self.shelves]
        every = torch.cat(scores)
        best = every.topk(min(most, len(every)))
        chosen = torch.zeros(len(every), dtype=torch.bool, device=every.device)
        chosen[best.indices[best.values > 0]] = True
        lots, left = list[Lot](), list[Shelf]()
        for shelf, mask in zip(self.shelves, chosen.split([len(s) for s in scores]), strict=True):
            index = mask.nonzero().flatten()
            if len(index):
                lots.append(shelf.lot.at(index))
                left.append(shelf.without(mask))
            else:
                left.append(shelf)
        return Lot.joined(lots) if lots else None, Pool(tuple(s for s in left if not bool(s.gone.all())))

    def adding(self, lot: Lot, closed: Tensor) -> Pool:
        """The pool with further parts."""
        shelves = (*self.shelves, Shelf.of(lot, closed))
        if len(shelves) <= _JOINED:
            return Pool(shelves)
        kept = [(s, (~s.gone).nonzero().flatten()) for s in shelves]
        lots, marks = [s.lot.at(i) for s, i in kept], [s.closed[i] for s, i in kept]
        return Pool((Shelf.of(Lot.joined(lots), torch.cat(marks)),))

    def lot(self) -> Lot | None:
        """All parts as one lot; None without parts."""
        lots = [s.lot.at((~s.gone).nonzero().flatten()) for s in self.shelves]
        return Lot.joined(lots) if lots else None


@final
@dataclass(frozen=True)
class Leaves:
    """Parts that together cover a region, except for what is proved to be empty, and their bounds.

    lower, upper: the box around each part, (parts, *input).  bounds: (parts, quantities).
    constrained: whether some parts are only those inputs of their box whose pre-activations lie in given intervals.
    """

    lower: Tensor
    upper: Tensor
    bounds: Tensor
    constrained: bool

    @classmethod
    def of(cls, pool: Pool) -> Leaves | None:
        """The parts of a pool; None if it has none."""
        lot = pool.lot()
        if lot is None:
            return None
        box = lot.problem.bound.box(RIGOROUS)
        return cls(box.lower, box.upper, lot.upper, bool(lot.problem.known))

    def __len__(self) -> int:
        return len(self.bounds)

    def save(self, path: str | Path) -> None:
        """Write `lower`, `upper` and `bounds` to an `.npz` file."""
        arrays = {n: getattr(self, n).detach().cpu().numpy() for n in ("lower", "upper", "bounds")}
        np.savez(path, **arrays)
