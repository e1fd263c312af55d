"""The interface of a pre-activation rule, and the rules that combine other rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import final

from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.preactivation.state import AbstractLineChoice, PreactivationState


class AbstractPreactivation(ABC):
    """A rule that bounds the pre-activations of a stage from those of all earlier stages; a frozen object."""

    @classmethod
    @abstractmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        """The names of objects of this class for the option `--pre`; empty if there are none."""

    @property
    @abstractmethod
    def title(self) -> str:
        """The name for tables and provenance."""

    @abstractmethod
    def bound(self, state: PreactivationState, k: int, chosen: Tensor | None) -> Interval:
        """Bounds of z_k, (batch, *stage), at the neurons `chosen` (batch, *stage); None means all neurons.

        The bounds of other neurons may be infinite.  All stages before k are bounded in `state`.
        """

    @property
    def holds_samples(self) -> bool:
        """Whether the rule holds numbers for each sample of a batch, so that the batch cannot be split."""
        return False

    @property
    def separable(self) -> bool:
        """Whether the bounds of a neuron do not depend on which others are chosen, so that lots of them can be."""
        return False

    def within(self, seconds: float) -> AbstractPreactivation:
        """The same rule, which takes about this time for a stage at most; by default without a limit."""
        return self

    @property
    def choice(self) -> AbstractLineChoice | None:
        """The choice of lines on whose relaxed network the bounds of this rule are based; None if there is none."""
        return None

    def stage(self, state: PreactivationState, k: int) -> Interval:
        """Bounds of z_k for use by later stages."""
        return self.bound(state, k, None)

    def open(self, state: PreactivationState, k: int, bounds: Interval) -> Tensor:
        """The neurons (batch, *stage) at which a dearer rule may find more than these bounds of z_k by this rule.

        They are not those that are known exactly, such as differences of neurons that are all 0.
        """
        return state.unstable(k, bounds) & ~bounds.is_point

    def output(self, state: PreactivationState) -> Interval:
        """Bounds of the network's output, for all entries."""
        return self.bound(state, state.network.depth, None)


class AbstractOffersRule(ABC):
    """An object of another kind that stands for a rule where one is asked for, as `Auto` does."""

    @property
    @abstractmethod
    def rule(self) -> AbstractPreactivation:
        """The rule that it stands for."""


RuleLike = AbstractPreactivation | AbstractOffersRule
"""What is taken for a rule."""


def as_rule(pre: RuleLike | None) -> AbstractPreactivation | None:
    """The rule that an object is or stands for; None for None."""
    return pre.rule if isinstance(pre, AbstractOffersRule) else pre


def extend(state: PreactivationState, rule: AbstractPreactivation, depth: int) -> None:
    """Bound the stages up to `depth` by `rule`."""
    for k in range(state.bounded + 1, depth + 1):
        state.append(rule.stage(state, k), rule.choice)


@final
@dataclass(frozen=True)
class Refine(AbstractPreactivation):
    """`first`, intersected with the more expensive rule `then` at the neurons that `first` leaves unstable."""

    first: AbstractPreactivation
    then: AbstractPreactivation

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {}

    @property
    def title(self) -> str:
        return self.then.title

    @property
    def holds_samples(self) -> bool:
        return self.first.holds_samples or self.then.holds_samples

    @property
    def choice(self) -> AbstractLineChoice | None:
        return self.then.choice or self.first.choice

    def bound(self, state: PreactivationState, k: int, chosen: Tensor | None) -> Interval:
        return state.arithmetic.intersect(self.then.bound(state, k, chosen), self.first.bound(state, k, chosen))

    def stage(self, state: PreactivationState, k: int) -> Interval:
        bounds = self.first.stage(state, k)
        if state.everywhere or state.intervals_suffice(k):
            return bounds
        unstable = self.first.open(state, k, bounds)
        if not bool(unstable.any()):
            return bounds
        return state.arithmetic.intersect(bounds, self.then.bound(state, k, unstable))

    def output(self, state: PreactivationState) -> Interval:
        return state.arithmetic.intersect(self.then.output(state), self.first.output(state))


def Alone(rule: AbstractPreactivation) -> AbstractPreactivation:  # noqa: N802  (it stands for an object)
    """`rule` on every neuron, without a cheaper rule before it."""
    return rule.then if isinstance(rule, Refine) else rule


@final
@dataclass(frozen=True, init=False)
class PreIntersection(AbstractPreactivation):
    """The intersection of several rules, stage by stage, so that each rule starts from the tightest bounds."""

    rules: tuple[AbstractPreactivation, ...]

    def __init__(self, *rules: AbstractPreactivation) -> None:
        object.__setattr__(self, "rules", rules)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {}

    @property
    def title(self) -> str:
        return " ∩ ".join(r.title for r in self.rules)

    @property
    def holds_samples(self) -> bool:
        return any(r.holds_samples for r in self.rules)

    def bound(self, state: PreactivationState, k: int, chosen: Tensor | None) -> Interval:
        return reduce(state.arithmetic.intersect, (r.bound(state, k, chosen) for r in self.rules))

    def stage(self, state: PreactivationState, k: int) -> Interval:
        return reduce(state.arithmetic.intersect, (r.stage(state, k) for r in self.rules))
