"""The search for a large gain ‖J(x) v‖_q / ‖v‖_p in a region: samples, climbers, proofs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.deadline import Deadline, check_seconds, until
from recurjac.errors import OutOfTime, expect_amounts, expect_counts, expect_whole
from recurjac.jacobian import Gradients
from recurjac.problem import Problem
from recurjac.search.attained import MET, NO_AIM, Aim, Attained
from recurjac.search.climb import Climbers, finite
from recurjac.search.jacobians import gains_at
from recurjac.search.plan import group_size, plan
from recurjac.search.proof import proved
from recurjac.search.rounds import Hunt, evaluated, joined


@final
@dataclass(frozen=True)
class Search:
    """Samples of the region, the best of which climb along smoothed gradients of their gains, all at once.

    In each round, a half of the climbers starts where earlier ones were best, the other half anywhere.  A sample is
    done if its slopes are constant over the region, if its gain meets an upper bound that is known, or if several
    rounds found nothing better.
    work: multiply-adds, shared by the samples of a batch; with 0, only the centre is evaluated, and points that are
    known before.  A step counts as a million at least.
    kept: how many points of a sample climb at once, if the work allows.
    seed: of the random generator; the same seed gives the same result.
    seconds: the search ends earlier if it takes longer, for each batch; the result then depends on the clock.
    """

    work: float = 4e9
    kept: int = 32
    seed: int = 0
    seconds: float = inf

    def __post_init__(self) -> None:
        check_seconds("Search", self.seconds)
        expect_amounts("Search", work=self.work)
        expect_counts("Search", kept=self.kept)
        expect_whole("Search", seed=self.seed)

    def attained(self, problem: Problem, p: float, q: float, aim: Aim = NO_AIM) -> Attained:
        """The best proved gain of a network with a vector of outputs, at points that are proved to be in the region.

        Where a pre-activation may be at a kink, because it is as close to it as its rounding error, only what holds
        for every element of Clarke's Jacobian counts.  The gain is therefore one that the network really has.  If the
        problem has constraints, only points that are proved to satisfy them count.

        Source: docs/mathematics.md, §6.5.
        """
        with torch.no_grad():
            problem, seconds = problem.merged(), min(self.seconds, aim.deadline.left)
            found = self._found(problem, (p, q), aim, Deadline.after(_LOOKING * seconds))
            points = torch.cat([found.points, problem.bound.x.unsqueeze(1)], 1) if self._looks(aim) else found.points
            return proved(problem, points, found.gains, (p, q), Deadline.after((1 - _LOOKING) * seconds))

    def _looks(self, aim: Aim) -> bool:
        """Whether it looks at more points than the centre."""
        return self.work > 0 or aim.points is not None

    def _found(self, problem: Problem, norms: tuple[float, float], aim: Aim, deadline: Deadline) -> Climbers:
        """The best points of each sample."""
        region, network = problem.bound, problem.network
        known = region.x.unsqueeze(1)
        if aim.points is not None:
            known = torch.cat([known, finite(region.project(aim.points), region.x)], 1)
        if not self._looks(aim):
            gains, ways = gains_at(network, known, norms)
            return Climbers(known, ways.flatten(2), gains)
        start = evaluated(network, known, norms, _PROVED, deadline)
        upper = start.gains.new_full((region.batch,), inf) if aim.upper is None else aim.upper
        open_ = start.gains[:, 0] * (1 + MET) < upper
        if self.work <= 0 or deadline.over or not bool(open_.any()):
            return start
        rows = (open_ & _bent(problem)).nonzero().squeeze(1)
        parts, found, groups = region.split(1), start, list(rows.split(group_size(network, region.batch)))
        generator = torch.Generator().manual_seed(self.seed)
        for i, group in enumerate(groups if len(rows) else []):
            own = Deadline.after(deadline.left / (len(groups) - i))
            numbers = plan(network, len(group), self.work * len(group) / len(rows), self.kept)
            regions = joined([parts[r] for r in group.tolist()])
            hunt = Hunt(network, regions, norms, upper[group], numbers, generator, own)
            with suppress(OutOfTime), until(problem.planner.watched(network, own)):
                for here in hunt.best(start.of(group), _PROVED):
                    found = found.replaced(group, here)
        return found


_PROVED = 8
"""The number of points of a sample whose gains may be proved."""
_LOOKING = 0.8
"""The share of the time, if it is limited, for looking; the rest is for proofs."""


def _bent(problem: Problem) -> Tensor:
    """Whether some slope may change over the region, (batch,)."""
    chain = Gradients(problem.by_intervals()).chain
    found = torch.zeros(chain.batch, dtype=torch.bool, device=problem.network.device)
    for k in range(1, chain.end):
        mask = chain.unstable(k)
        if mask is not None:
            found = found | mask.flatten(1).any(1)
    return found
