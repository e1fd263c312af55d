"""Residuals of networks, and the curvature of outputs, by branch and bound (docs/mathematics.md, §9.2)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.branching.branched import points_within
from recurjac.branching.pool import Bounded, Goals
from recurjac.branching.search import AbstractBounds
from recurjac.jacobian.differential import Differentials
from recurjac.jacobian.jets import Enclosed
from recurjac.norms.induced import induced_norm
from recurjac.preactivation import IBP
from recurjac.problem import Problem
from recurjac.region import LpBall
from recurjac.search import Attained

_MORE = 1e-9
"""How much larger a value must seem for a proof, relative to what is known."""
_SMALL = 1e-3
"""The least width of a range that counts, relative to the size of the quantity."""


class AbstractDifferentialBounds(AbstractBounds):
    """Quantities that are computed from residuals, over parts of a region.

    within: the region, of one sample.  whole: the residuals over it.  noises: of the forms over its parts.
    """

    differentials: Differentials
    within: Problem
    whole: Enclosed
    noises: int

    @abstractmethod
    def upper(self, found: Enclosed, problem: Problem) -> Tensor:
        """Upper bounds of the quantities from enclosures of the residuals: (batch, quantities)."""

    @abstractmethod
    def lower(self, found: Interval, problem: Problem) -> Tensor:
        """Lower bounds of the quantities from bounds of the residuals at a point: (batch, quantities)."""

    @abstractmethod
    def seeming(self, values: Tensor) -> Tensor:
        """About the quantities for residuals (N, residuals): (N, quantities)."""

    @final
    def bounded(self, problem: Problem, goals: Goals) -> Bounded:
        with torch.no_grad():
            uppers, effects = list[Tensor](), list[Tensor]()
            for part in problem.batches():
                found, empty = self._enclosed(part)
                uppers.append(torch.where(empty.unsqueeze(1), -inf, self.upper(found, part)))
                effects.append(_effects(found, part))
            return Bounded(torch.cat(uppers), torch.cat(effects))

    def first_parts(self, problem: Problem) -> int:
        """Many: bounds of second derivatives consist of thousands of small operations."""
        return problem.planner.first_parts(problem.network)

    def _enclosed(self, problem: Problem) -> tuple[Enclosed, Tensor]:
        """The residuals over each sample, and which of these regions are known to be empty."""
        if problem is self.within:
            return self.whole, problem.bound.empty
        algebra, found = self.differentials.enclosed(problem, self.noises, None)
        return found, algebra.symbols.region.empty

    @final
    def found(self, parts: Problem, known: Attained | None) -> Attained:
        """From those centres and random points of parts at which a quantity seems to be largest."""
        with torch.no_grad():
            points = points_within(self.within, parts)
            before = self._nothing(parts) if known is None else known
            if len(points) == 0:
                return before
            best = torch.nan_to_num(self.seeming(self.differentials.at(parts.network, points)), -inf, inf, -inf).max(0)
            wanted = best.values > before.gain + _MORE * before.gain.abs().nan_to_num(0.0, 0.0)
            if not bool(wanted.any()):
                return before
            return self._proved(points[best.indices[wanted].unique()], before)

    def _proved(self, points: Tensor, before: Attained) -> Attained:
        """The largest proved values at the points (N, *input), or what is known."""
        at = self.within.over(LpBall(points, 0.0)).by(IBP())
        proved = self.lower(self.differentials.enclosed(at, 0, None)[1].bounds, at)
        inside = self.within.holds(points.unsqueeze(0))[0].unsqueeze(1) & proved.isfinite()
        best = torch.where(inside, proved, -inf).max(0)
        better = best.values > before.gain
        wide = better.reshape(-1, *[1] * (points.dim() - 1))
        witness = torch.where(wide, points[best.indices], before.witness)
        return Attained(torch.where(better, best.values, before.gain), witness, before.direction)

    def _nothing(self, parts: Problem) -> Attained:
        count = self.seeming(parts.bound.x.new_zeros(1, len(self.differentials.residuals))).shape[1]
        point = parts.bound.x[:1].expand(count, *parts.bound.x.shape[1:])
        return Attained(parts.bound.x.new_full((count,), -inf), point, torch.zeros_like(point))


def _effects(found: Enclosed, problem: Problem) -> Tensor:
    """The roots of how much residuals change with each input over its width, relative to their ranges: (batch, n).

    The slack of forms is of second order in the widths.  Halving an input quarters its part, and halves the root.
    Nothing that is proved depends on this.
    """
    slopes = found.forms.rows[:, 1 : 1 + problem.network.sizes[0]].abs()
    width = found.bounds.width.clamp(min=torch.finfo(slopes.dtype).tiny).unsqueeze(1)
    change = (slopes / width).amax(2) if slopes.shape[1] else slopes.new_zeros(len(slopes), problem.network.sizes[0])
    scale = problem.bound.scale.flatten(1)
    least = _SMALL * scale / scale.amax(1, keepdim=True).clamp(min=torch.finfo(scale.dtype).tiny)
    return (change * scale + least).sqrt()


@final
@dataclass(frozen=True)
class ResidualsOver(AbstractDifferentialBounds):
    """The largest values of residuals, and then those of minus them."""

    differentials: Differentials
    within: Problem
    whole: Enclosed
    noises: int = 0

    def upper(self, found: Enclosed, problem: Problem) -> Tensor:
        ends = torch.cat([found.bounds.upper, -found.bounds.lower], 1)
        return torch.where(ends.isnan(), inf, ends)

    def lower(self, found: Interval, problem: Problem) -> Tensor:
        return torch.cat([found.lower, -found.upper], 1)

    def seeming(self, values: Tensor) -> Tensor:
        return torch.cat([values, -values], 1)

    def goals(self, attained: Attained, tolerance: float) -> Goals:
        """Within `tolerance` times the width of the attained range, or a thousandth of the size."""
        most, least = attained.gain.chunk(2)
        size = torch.maximum(most.abs(), least.abs())
        scale = torch.maximum(most + least, _SMALL * size).clamp(min=torch.finfo(most.dtype).tiny)
        scale = torch.where(scale.isfinite(), scale, 1.0)
        return Goals(attained.gain + tolerance * scale.repeat(2), scale.repeat(2))


@final
@dataclass(frozen=True)
class CurvatureOver(AbstractDifferentialBounds):
    """max ‖H‖₂, where the residuals are the entries of H on and above the diagonal, row by row."""

    differentials: Differentials
    within: Problem
    whole: Enclosed
    noises: int = 0

    def upper(self, found: Enclosed, problem: Problem) -> Tensor:
        matrix = found.bounds.map(self._matrix)
        sums = matrix.magnitude.sum(2)
        norm = induced_norm(matrix, 2, 2, problem.arithmetic, sums)
        return torch.where(norm.isnan(), inf, norm).unsqueeze(1)

    def lower(self, found: Interval, problem: Problem) -> Tensor:
        """‖H v‖₂ >= |vᵀ H v| / ‖v‖₂² for the eigenvector that seems to be the best."""
        matrix = found.map(self._matrix)
        values, vectors = torch.linalg.eigh((matrix.lower / 2 + matrix.upper / 2).nan_to_num(0.0, 0.0, 0.0))
        best = values.abs().argmax(1)
        v = vectors.gather(2, best.reshape(-1, 1, 1).expand(-1, vectors.shape[1], 1)).mT
        own, arithmetic = Interval.point(v), problem.arithmetic
        form = arithmetic.matmul(arithmetic.matmul(own, matrix), own)[:, :, 0]
        size = arithmetic.matmul(own, own)[:, :, 0]
        return arithmetic.at_most(form.mignitude / size.upper, 2)

    def seeming(self, values: Tensor) -> Tensor:
        sizes: Tensor = torch.linalg.eigvalsh(self._matrix(values.nan_to_num(0.0, 0.0, 0.0))).abs()
        return sizes.amax(1, keepdim=True)

    def goals(self, attained: Attained, tolerance: float) -> Goals:
        return Goals((attained.gain * (1 + tolerance)).clamp(min=0), torch.ones_like(attained.gain))

    def _matrix(self, entries: Tensor) -> Tensor:
        """(batch, n, n) from the entries (batch, n (n + 1) / 2)."""
        n = len(self.differentials.directions)
        place = torch.zeros(n, n, dtype=torch.long, device=entries.device)
        rows, columns = torch.triu_indices(n, n, device=entries.device)
        place[rows, columns] = place[columns, rows] = torch.arange(len(rows), device=entries.device)
        return entries[:, place]
