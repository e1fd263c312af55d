"""Bounds of entries that grow tighter while there is time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import inf
from typing import final

from recurjac.deadline import Deadline, check_seconds, shorter, until
from recurjac.errors import OutOfTime
from recurjac.jacobian.base import AbstractJacobianMethod, AbstractPrepared
from recurjac.jacobian.combine import All
from recurjac.jacobian.gradients import Gradients
from recurjac.jacobian.in_time import InTime, While
from recurjac.jacobian.one_pass import default_method
from recurjac.jacobian.quadratic_clamps import QuadraticClamped
from recurjac.preactivation import AbstractPreactivation, DualRanges, SecantRanges
from recurjac.preactivation.anytime import in_time, refined

_RANGES = 0.7
"""The share of the time for tighter ranges."""
_FIRST = 0.4
"""In large networks, the share of the time for the first ranges."""
_QUICK = 0.3
"""The share of what is left for bounds that are known at any time."""
_PREPARED = 0.6
"""The share of what is then left for everything before the last step, to the inputs."""


@final
@dataclass(frozen=True)
class AutoEntries(AbstractJacobianMethod):
    """The default method, intersected with bounds from tighter ranges, within a number of seconds.

    First come the bounds of `first`, which are always computed, so that the result is never looser than theirs.  If
    some slope is not known, the ranges are tightened by `rules`, and `first` and Chords with clamps are applied to
    them.  seconds: for all samples of a call; those that are bounded one by one share them.  In large networks,
    everything has a limit: bounds by `InTime` come first, and what is not done in time is left out.
    Source: docs/mathematics.md, §3.4, §5.4.
    """

    seconds: float = 10.0
    first: AbstractJacobianMethod = field(default_factory=default_method)
    rules: tuple[AbstractPreactivation, ...] = (SecantRanges(40), DualRanges(60, 12))

    def __post_init__(self) -> None:
        check_seconds("AutoEntries", self.seconds)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {"auto": cls(), "one-pass": default_method()}

    @property
    def title(self) -> str:
        return "auto"

    @property
    def total(self) -> float:
        return self.seconds

    def within(self, seconds: float) -> AutoEntries:
        return replace(self, seconds=shorter(self.seconds, seconds))

    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        deadline = Deadline.after(self.seconds)
        gradients, limit = limited(gradients, deadline)
        if limit.end < inf:
            return self._in_time(gradients, limit)
        prepared = [self.first.prepare(gradients)]
        prepared += self._others(gradients, deadline)
        return prepared[0] if len(prepared) == 1 else All(gradients.chain, tuple(prepared))

    def _in_time(self, gradients: Gradients, limit: Deadline) -> AbstractPrepared:
        """What gives a bound at any time, and then the others until they are given up."""
        quick = InTime().within(_QUICK * limit.left).prepare(gradients)
        prepared: list[AbstractPrepared] = []
        part = limit.part(_PREPARED)
        with suppress(OutOfTime), until(part.part(1 - _RANGES)):
            prepared.append(self.first.prepare(gradients))
        with suppress(OutOfTime), until(part):
            prepared.extend(self._others(gradients, part))  # keeps those that come before it is given up
        return While(quick, tuple(prepared), gradients.chain, limit)

    def _others(self, gradients: Gradients, deadline: Deadline) -> Iterator[AbstractPrepared]:
        """`first` with tighter ranges, and Chords with clamps."""
        best = gradients
        if not _open(gradients) or deadline.over:
            return
        if gradients.problem is not None and gradients.given is None:
            best = self._tightened(gradients, Deadline.after(_RANGES * deadline.left))
            yield self.first.prepare(best)
        yield QuadraticClamped().within(deadline.left).prepare(best)

    def _tightened(self, gradients: Gradients, deadline: Deadline) -> Gradients:
        """The same with tighter ranges."""
        best = gradients
        for rule in self.rules:
            problem = best.problem
            if problem is not None:
                best = Gradients(problem.by(refined(best.state, problem.pre, rule, deadline)))
        return best


def _open(gradients: Gradients) -> bool:
    """Whether some slope is not known exactly."""
    chain = gradients.chain
    return any(chain.unstable(k) is not None for k in range(1, chain.end))


def limited(gradients: Gradients, deadline: Deadline) -> tuple[Gradients, Deadline]:
    """For large networks, gradients with ranges that are made in a share of the time, and the deadline.

    For small ones, the same gradients, and no deadline between operations.
    """
    problem = gradients.problem
    if problem is None or gradients.given is not None:
        return gradients, gradients.chain.planner.watched(gradients.chain, deadline)
    limit = problem.planner.watched(problem.network, deadline)
    if limit.end == inf:
        return gradients, limit
    return Gradients(problem.by(in_time(problem.pre, limit.part(_FIRST)))), limit
