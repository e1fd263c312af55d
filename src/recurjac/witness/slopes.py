"""Gradients of all neurons over one region, such that a small program can check them one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.jacobian import Chords, FastLip, Gradients
from recurjac.jacobian.fast_lip import last_product
from recurjac.jacobian.sign_structure import SignSweep
from recurjac.norms.induced import induced_norm
from recurjac.operators.signs import Possible
from recurjac.propagation.forms import DenseForms
from recurjac.witness.ranges import SLACK, Ranges, widened

MOST_SPECTRAL = 64
"""The number of rows or columns up to which the checker bounds spectral norms."""


@final
@dataclass(frozen=True)
class Slopes:
    """Bounds of the gradients of `rows` · f, for rows (K, *output), at all nodes over the region of `ranges`.

    nodes: bounds of the derivatives by the outputs of each stage, (1, K, *stage), by intervals from node to node and,
    if `by_lines`, by `Chords()` at the neurons whose slopes are not known.  An end is 0 where no path has the other
    sign, as it is by the checker's intervals.  signs: those that paths to the inputs have; None if there is no path.
    """

    ranges: Ranges
    rows: Tensor
    by_lines: bool
    known: Gradients
    nodes: Mapping[int, Interval]
    signs: Possible | None

    @classmethod
    def of(cls, ranges: Ranges, rows: Tensor, *, lines: bool = True) -> Slopes:
        """The gradients over the region of `ranges`."""
        known = Gradients(None, ranges.chain(rows)).own()
        signs = SignSweep.of(known.chain)
        signs.taken(known.chain.end)
        found: dict[int, Interval] = {}
        for node in range(known.chain.end - 1, 0, -1):
            possible, bounds = signs.taken(node), _bounds(known, node, lines)
            if bounds is not None:
                found[node] = _signed(_widened(bounds), possible, known.chain.arithmetic)
                known.learn(node, found[node])
        return cls(ranges, rows, lines, known, found, signs.taken(0))

    @cached_property
    def entries(self) -> Interval:
        """Bounds of the entries of the Jacobian of rows · f, rounded outward: (1, K, inputs)."""
        chain = self.known.chain
        found = last_product(self.known, chain.basis(0))
        if self.by_lines:
            found = chain.arithmetic.intersect(found, Chords().pushed(self.known, chain.basis(0)))
        signs = None if self.signs is None else self.signs.map(lambda t: t.flatten(2))
        wide = _widened(found.map(lambda t: t.expand(chain.batch, chain.rows, -1)))
        return _signed(wide, signs, chain.arithmetic)

    @cached_property
    def row_sums(self) -> Tensor:
        """Upper bounds of Σ_r |J_kr|, rounded outward: (K,)."""
        plain = self.entries.magnitude[0].sum(-1)
        if not self.by_lines:
            return plain * (1 + SLACK)
        slope = self._chords
        gaps = torch.stack([end[0].abs() - slope * end[0] for end in (self.entries.lower, self.entries.upper)])
        total = self._along(slope) + gaps.amax(0).clamp(min=0).sum(-1)
        return torch.minimum(plain, total.nan_to_num(torch.inf)) * (1 + SLACK)

    @property
    def _chords(self) -> Tensor:
        """The slopes of the chords of |y| over the bounds of the entries, (K, inputs)."""
        low, high = self.entries.lower[0], self.entries.upper[0]
        wide = torch.where(high > low, high - low, 1.0)
        slope = torch.where(high > low, (high.abs() - low.abs()) / wide, 0.0)
        return torch.where(low >= 0, 1.0, torch.where(high <= 0, -1.0, slope.nan_to_num(0.0)))

    def _along(self, tangents: Tensor) -> Tensor:
        """Upper bounds of the products of each row with its tangent, rounded outward: (K,)."""
        chain = self.known.chain
        forms = DenseForms(tangents.reshape(1, chain.rows, 1, *chain.shapes[0]), chain.arithmetic)
        return _widened(Chords().pushed(self.known, forms)).upper.reshape(-1)

    def norm(self, p: float, q: float) -> float:
        """An upper bound of the norm of the Jacobian from l_p to l_q, rounded outward."""
        arithmetic, size = self.known.chain.arithmetic, self.entries.magnitude
        if p == 2 and q == 2:
            return min(float(torch.linalg.vector_norm(size)), self._spectral) * (1 + SLACK)
        return float(induced_norm(self.entries, p, q, arithmetic, self.row_sums[None])) * (1 + SLACK)

    def measure(self, p: float) -> float:
        """An upper bound of the matrix measure μ_p of the Jacobian, which is square, rounded outward."""
        low, high = self.entries.lower[0], self.entries.upper[0]
        if not bool(low.isfinite().all() and high.isfinite().all()) or (p == 2 and len(low) > MOST_SPECTRAL):
            return inf
        if p == 2:
            middle, halves = ((m + m.mT) / 2 for m in ((low + high) / 2, (high - low) / 2))
            found = torch.linalg.eigvalsh(middle).amax() + torch.linalg.matrix_norm(halves, 2)
        else:
            own = torch.eye(len(low), dtype=torch.bool)
            found = torch.where(own, high, self.entries.magnitude[0]).sum(1 if p == inf else 0).amax()
        return float(found + SLACK * torch.linalg.vector_norm(self.entries.magnitude))

    @property
    def _spectral(self) -> float:
        """The spectral norms of the middle of the entries' bounds and of their half-widths, if there are few rows."""
        low, high = self.entries.lower[0], self.entries.upper[0]
        if min(low.shape) > MOST_SPECTRAL or not bool(low.isfinite().all() and high.isfinite().all()):
            return inf
        both = torch.stack([(low + high) / 2, (high - low) / 2])
        return float(torch.linalg.matrix_norm(both, 2).sum())


def _bounds(known: Gradients, node: int, lines: bool) -> Interval | None:
    """Bounds of the gradients at a node from those at later nodes, (1, K, *node); None if it leads nowhere."""
    wide = (known.chain.batch, known.chain.rows, *known.chain.shapes[node])
    methods = (FastLip(), Chords()) if lines else (FastLip(),)
    found = [bounds for method in methods if (bounds := method.node(known, node)) is not None]
    each = [bounds.map(lambda t: t.expand(wide)) for bounds in found]
    return reduce(known.chain.arithmetic.intersect, each) if each else None


def _signed(bounds: Interval, signs: Possible | None, arithmetic: AbstractArithmetic) -> Interval:
    """Bounds (1, K, *node), of which an end on the other side of 0 than all paths is 0."""
    return bounds if signs is None else arithmetic.intersect(bounds, signs.interval(bounds.lower))


def _widened(bounds: Interval) -> Interval:
    """The same with room for rounding in each row of (1 or batch, K, *node) on its own."""
    rows = bounds.map(lambda t: t.flatten(0, 1))
    return widened(rows).map(lambda t: t.reshape(bounds.shape))
