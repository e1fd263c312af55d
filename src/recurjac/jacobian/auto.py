"""Bounds of entries that grow tighter while there is time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import final

from recurjac.deadline import Deadline, check_seconds, shorter
from recurjac.jacobian.base import AbstractJacobianMethod, AbstractPrepared
from recurjac.jacobian.bounds import default_method
from recurjac.jacobian.combine import All
from recurjac.jacobian.gradients import Gradients
from recurjac.jacobian.quadratic_clamps import QuadraticClamped
from recurjac.preactivation import AbstractPreactivation, DualRanges, SecantRanges
from recurjac.preactivation.anytime import Within, refined

_RANGES = 0.7
"""The share of the time for tighter ranges."""


@final
@dataclass(frozen=True)
class AutoEntries(AbstractJacobianMethod):
    """The default method, intersected with bounds from tighter ranges, within a number of seconds.

    First come the bounds of `first`, which are always computed, so that the result is never looser than theirs.  If
    some slope is not known, the ranges are tightened by `rules`, and `first` and Chords with clamps are applied to
    them.  seconds: for all samples that are bounded together.  Only ranges and clamps have a limit: networks on which
    `first` takes longer take longer.  Source: docs/mathematics.md, §3.4, §5.4.
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

    def within(self, seconds: float) -> AutoEntries:
        return replace(self, seconds=shorter(self.seconds, seconds))

    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        deadline = Deadline.after(self.seconds)
        prepared = [self.first.prepare(gradients)]
        chain, best = gradients.chain, gradients
        if all(chain.unstable(k) is None for k in range(1, chain.end)) or deadline.over:
            return prepared[0]
        if gradients.problem is not None and gradients.given is None:
            best = self._tightened(gradients, Deadline.after(_RANGES * deadline.left))
            prepared.append(self.first.prepare(best))
        prepared.append(QuadraticClamped().within(deadline.left).prepare(best))
        return All(chain, tuple(prepared))

    def _tightened(self, gradients: Gradients, deadline: Deadline) -> Gradients:
        """The same with tighter ranges."""
        best = gradients
        for rule in self.rules:
            problem = best.problem
            if problem is not None:
                best = Gradients(problem.by(refined(best.state, problem.pre, Within(rule, deadline))))
        return best
