"""Certified radii of the network as it runs: margins less what rounding may change of them.

Let g be a margin in real arithmetic and ρ a bound of the deviation of the program's margin from g on a ball.  A proof
that g - ρ > 0 on smaller balls, whose slopes are those of g, is one for every program.  ρ grows with the ball; so the
ball is the one that is proved in real arithmetic, and what is lost is about ρ divided by the slope.

Source: docs/mathematics.md, §8.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite, nextafter
from typing import final

import torch
from torch import Tensor

from recurjac.applications.attack import distance_between
from recurjac.applications.centres import Centres
from recurjac.applications.deployed import deployed_error, in_double
from recurjac.applications.radii import RadiusBound, least_proved
from recurjac.arithmetic import Deployed
from recurjac.preactivation import IBP
from recurjac.problem import Problem
from recurjac.region import LpBall

_SHARES = (1.0, 0.8, 0.5, 0.25, 0.05, 1e-3, 1e-6)
"""The balls over which rounding is bounded, relative to what is proved in real arithmetic, as long as it helps."""
_BEYOND = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1)
"""How much farther than an adversary in real arithmetic points are tried, relative to its distance."""


@final
@dataclass(frozen=True)
class DeployedMargins:
    """Margins, the outputs of a network, as a program computes them.

    problem: about the network of the margins, in real arithmetic.  centres: the inputs.
    """

    deployed: Deployed
    problem: Problem
    centres: Centres

    def less_rounding(self, i: int, rungs: Sequence[RadiusBound]) -> tuple[list[RadiusBound], list[float]]:
        """The bounds of one input, less what rounding may change of each margin; and these changes.

        The bounds state nothing outside the ball over which rounding is bounded.
        """
        best: tuple[list[RadiusBound], list[float]] | None = None
        for radius in _balls(rungs):
            if best is not None and radius <= least_proved(best[0]):
                break
            errors = self._errors(i, radius)
            own = [replace(r, radius=min(r.radius, radius), margins=_less(r.margins, errors)) for r in rungs]
            if best is None or least_proved(own) >= least_proved(best[0]):
                best = own, errors
        assert best is not None  # noqa: S101  # (narrows the type; there is always a ball of radius 0)
        return best

    def losing(self, i: int, distance: float, point: Tensor) -> tuple[float, Tensor]:
        """An adversary of every program near an adversary in real arithmetic, with its distance; inf if none is found.

        It is a number of the program's precision, at which a margin is below what rounding may change of it.
        """
        nothing = inf, self.centres.x[i]
        if not isfinite(distance):
            return nothing
        centre, inside = self.centres.x[i : i + 1], replace(self.centres.taken([i]).points(), radius=inf)
        for excess in _BEYOND:
            tried = centre + (1 + excess) * (point.cpu().double() - centre)
            tried = torch.minimum(torch.maximum(tried, self.centres.low[i : i + 1]), self.centres.high[i : i + 1])
            tried = tried.to(self.deployed.dtype).double()
            if bool(tried.isfinite().all()) and bool(inside.holds(tried.unsqueeze(1)).all()) and self._loses(tried):
                return float(distance_between(tried, centre, self.centres.p)), tried[0]
        return nothing

    def _loses(self, point: Tensor) -> bool:
        asked = Problem(self.problem.network, LpBall(point, 0.0), pre=IBP(), arithmetic=self.deployed)
        return bool((deployed_error(asked).upper <= 0).any())

    def _errors(self, i: int, radius: float) -> list[float]:
        """For each margin, a bound of what rounding changes on the ball of one input."""
        ball = self.centres.taken([i]).balls(torch.tensor([radius], dtype=torch.float64))
        asked = self.problem.over(ball)
        found: list[float] = deployed_error(
            Problem(asked.network, ball, pre=asked.pre, arithmetic=self.deployed, planner=asked.planner)
        ).error[0].tolist()  # fmt: skip
        return found


def checked_margins(problem: Problem) -> Deployed | None:
    """What the problem says of the program, if it is about one.  Raises InvalidRequest for programs not known."""
    deployed = problem.arithmetic
    if not isinstance(deployed, Deployed):
        return None
    in_double(problem, deployed)
    return deployed


def _balls(rungs: Sequence[RadiusBound]) -> Iterator[float]:
    """The radii over which rounding is bounded, from that of what is proved down to 0."""
    reach = least_proved(rungs)
    if reach == inf:
        yield inf
        reach = max((r.radius for r in rungs if r.radius < inf), default=0.0) or 1.0
    if reach > 0:
        yield from (reach * share for share in _SHARES)
    yield 0.0


def _less(margins: Sequence[float], errors: Sequence[float]) -> tuple[float, ...]:
    """The differences, rounded downwards; minus infinity where an error is infinite."""
    pairs = zip(margins, errors, strict=True)
    return tuple(nextafter(m - e, -inf) if e < inf else -inf for m, e in pairs)
