"""Balls in which no point is stationary, because each of their parts has a derivative that keeps its sign."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from math import inf, isfinite, prod, sqrt
from typing import final

import torch
from torch import Tensor

from recurjac.applications.signs import strict_signs
from recurjac.branching import BranchAndBound, EntrySigns, InputBisection, Limit
from recurjac.branching.branched import untied
from recurjac.branching.cells import two_piece
from recurjac.branching.some_sign import SomeSign
from recurjac.jacobian import AbstractJacobianMethod, jacobian_bounds
from recurjac.problem import Problem

_GROWTH, _FASTEST = 1.5, 8.0
"""The first and the largest factor by which radii grow."""
_BALLS = 48
"""The largest number of balls for each input."""
_INPUTS = 6
"""With up to so many inputs, balls are halved along them; with more, neurons are divided by their signs."""
_NARROW = 2.0**-10
"""The widths of parts, relative to those of the ball, at which a ball is given up."""
_MOST = 4096
"""The largest number of inputs."""


@final
@dataclass(frozen=True)
class Parted:
    """Bounds of the entries of the gradient over a whole ball, (n,), some of whose parts were bounded one by one.

    proved: whether in each part some entry has a proved sign; parts: how many were bounded.
    """

    lower: Tensor
    upper: Tensor
    proved: bool
    parts: int


@final
@dataclass(frozen=True)
class PartSigns:
    """How balls are divided.  method: bounds each part.  limit: for each ball.  Source: docs/mathematics.md, §7.6."""

    method: AbstractJacobianMethod
    limit: Limit

    def divides(self, problem: Problem) -> bool:
        """Whether balls of a network of one output can be divided: few inputs, or neurons of two pieces."""
        size = prod(problem.network.input_shape)
        able = self.limit.parts > 1 and not problem.pre.holds_samples
        return able and (size <= _INPUTS or (size <= _MOST and two_piece(problem.network)))

    def within(self, seconds: float) -> PartSigns:
        return replace(self, limit=replace(self.limit, seconds=max(1e-3, min(self.limit.seconds, seconds))))

    def __call__(self, ball: Problem) -> Parted | None:
        """What is proved of one ball; None if it cannot be divided.  Raises KeyboardInterrupt if the user stops it."""
        if bool(ball.bound.unbounded.any()) or not self.divides(ball):
            return None
        return self._by_inputs(ball) if prod(ball.network.input_shape) <= _INPUTS else self._by_signs(ball)

    def _by_inputs(self, ball: Problem) -> Parted:
        """Each part may have an entry of its own."""
        own = untied(ball)
        margin = 0.0 if ball.arithmetic.rigorous else torch.finfo(own.network.dtype).eps ** 0.5
        bound = SomeSign(self.method, margin, ball.bound.scale[0] * _NARROW)
        state = BranchAndBound(InputBisection(), self.limit).last(own, bound)
        if state.status == "interrupted":
            raise KeyboardInterrupt
        least, uppers = float(state.uppers[0]), state.uppers[1:].cpu()
        most, minus = uppers.chunk(2)
        return Parted(-minus, most, len(state.pool) > 0 and -inf < least < 0, state.parts)

    def _by_signs(self, ball: Problem) -> Parted | None:
        """All parts have the entry in common of which least has the wrong sign over the ball."""
        found = jacobian_bounds(ball, method=self.method)
        lower, upper = found.lower.flatten().cpu(), found.upper.flatten().cpu()
        wrong = (torch.minimum(upper, -lower) / (upper - lower)).nan_to_num(inf)
        splits = EntrySigns(self.limit, InputBisection(_MOST))
        if not splits.divides(ball):
            return None
        wanted = torch.zeros(len(lower), dtype=torch.bool).scatter(0, wrong.argmin(0, keepdim=True), True)
        margin = 0.0 if found.rigorous else torch.finfo(lower.dtype).eps ** 0.5
        signs = splits.decided(ball, wanted.to(ball.network.device), margin)
        if signs.interrupted:
            raise KeyboardInterrupt
        most, minus = signs.uppers.cpu().chunk(2)
        lower, upper = torch.fmax(lower, -minus), torch.fmin(upper, most)
        positive, negative = strict_signs(lower, upper, found.rigorous)
        return Parted(lower, upper, bool((positive | negative).any()), signs.parts)


def parted_radii(
    low: float, whole: float, dtype: torch.dtype, tolerance: float
) -> Generator[list[float], list[bool], None]:
    """Radii to try: yields one at a time and receives whether it was proved.

    low: a radius that is proved.  whole: from this radius on, a ball is the whole region, for which inf is tried.
    They grow from `low` by growing factors, and then halve what is open.  They are numbers of `dtype`.
    """
    failed, factor = inf, _GROWTH
    for _ in range(_BALLS):
        if failed <= low * (1 + tolerance):
            return
        asked = _between(low, failed) if isfinite(failed) else factor * low if low > 0 else 1.0
        asked = inf if asked >= whole else float(torch.tensor(asked, dtype=dtype))
        if not low < asked < failed and asked != inf:
            return
        (is_proved,) = yield [asked]
        if is_proved:
            low, factor = asked, min(_GROWTH * factor, _FASTEST)
        else:
            failed = min(asked, whole)
        if low == inf:
            return


def _between(low: float, failed: float) -> float:
    return failed / 4 if low == 0 else (low + failed) / 2 if failed < 4 * low else sqrt(low) * sqrt(failed)
