"""Linear relaxations: each activation lies between two lines, which are substituted back to the input.

The rules are CROWN and Fast-Lin.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recurjac.activations import AbstractActivation
from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.preactivation.base import AbstractPreactivation, Refine
from recurjac.preactivation.forward import Quick
from recurjac.preactivation.ibp import IBP
from recurjac.preactivation.pull_route import PullRoute
from recurjac.preactivation.state import AbstractLineChoice, PreactivationState
from recurjac.propagation.forms import Units
from recurjac.propagation.neuron_subset import NeuronSubset
from recurjac.propagation.sweep import sweep
from recurjac.relaxations import LinearRelaxation


class AbstractLineRule(AbstractPreactivation, AbstractLineChoice):
    """A rule that pulls the unit forms of neurons back to the input through lines, and maximises them over the region.

    Source: docs/mathematics.md, §3; arXiv:1811.00866, Theorem 3.2.
    """

    @property
    @final
    def choice(self) -> AbstractLineChoice:
        return self

    @property
    @final
    def separable(self) -> bool:
        return True

    @abstractmethod
    def lines(self, activation: AbstractActivation, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """The lines of `activation` on z (batch, *stage): (batch, 1, *stage)."""

    @final
    def bound(self, state: PreactivationState, k: int, chosen: Tensor | None) -> Interval:
        relaxed, dtype = state.relaxed(self), state.network.dtype
        shape = (state.region.batch, *state.stage(k).shape)
        subset = NeuronSubset.of(chosen, shape, state.network.device)
        along = relaxed.along_skeleton(k)
        if along is None:
            bounds = sweep(PullRoute(relaxed, k), k, subset.units(dtype))
        else:
            bounds = sweep(along, k, Units(subset.index, (state.network.sizes[k],), dtype))
        low, high = (b[:, 0].expand(shape[0], -1) for b in (bounds.lower, bounds.upper))
        return Interval.unchecked(subset.scatter(low, -torch.inf), subset.scatter(high, torch.inf))


@final
@dataclass(frozen=True)
class CrownLines(AbstractLineRule):
    """CROWN's lines on every neuron: adaptive for two-piece activations, tangents and chords for smooth activations.

    Source: arXiv:1811.00866, Section 3 (CROWN-Ada, CROWN-general).
    """

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {"crown": Crown()}

    @property
    def title(self) -> str:
        return "CROWN"

    def lines(self, activation: AbstractActivation, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        return activation.lines(z, arithmetic)


@final
@dataclass(frozen=True)
class FastLinLines(AbstractLineRule):
    """Fast-Lin's lines on every neuron: two parallel lines.  Source: arXiv:1804.09699, Section 3.3."""

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {"fastlin": FastLin()}

    @property
    def title(self) -> str:
        return "Fast-Lin"

    def lines(self, activation: AbstractActivation, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        return activation.parallel_lines(z, arithmetic)


def Crown() -> Refine:  # noqa: N802  (it stands for an object)
    """CROWN on the neurons that a cheaper rule leaves unstable; this is the default rule.

    The cheaper rule is interval propagation, with forward forms after it where that saves work.
    """
    return Refine(Quick(), CrownLines())


def FastLin() -> Refine:  # noqa: N802  (it stands for an object)
    """Fast-Lin on the neurons that interval propagation leaves unstable."""
    return Refine(IBP(), FastLinLines())
