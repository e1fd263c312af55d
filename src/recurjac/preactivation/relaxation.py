"""Linear relaxations: each activation between two lines, substituted back to the input (CROWN and Fast-Lin)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac.activations import AbstractActivation
from recurjac.arithmetic import AbstractArithmetic, Ball, Interval
from recurjac.operators import AbstractOperator
from recurjac.preactivation.base import AbstractPreactivation, AbstractRelaxation, Prefix
from recurjac.preactivation.ibp import IBP
from recurjac.propagation.forms import Units
from recurjac.propagation.neuron_subset import NeuronSubset
from recurjac.propagation.route import AbstractRoute
from recurjac.propagation.sweep import sweep
from recurjac.region import BoundRegion
from recurjac.relaxations import LinearRelaxation


class _LineRule(AbstractRelaxation):
    """Pull the chosen neurons' unit forms back to the input and maximise over the region."""

    @property
    @final
    def cheaper(self) -> AbstractPreactivation:
        return IBP()

    @final
    def alone(self, prefix: Prefix, k: int, chosen: Tensor | None) -> Interval:
        route = PullRoute(self, prefix, k)
        shape = (prefix.region.batch, *prefix.stage(k).shape)
        selection = NeuronSubset.of(chosen, shape, prefix.network.device)
        along = prefix.route(self, k)
        if along is None:
            bounds = sweep(route, k, selection.units(prefix.network.dtype))
        else:
            bounds = sweep(along, k, Units(selection.index, (prod(prefix.stage(k).shape),), prefix.network.dtype))
        low, high = (b[:, 0].expand(shape[0], -1) for b in (bounds.lower, bounds.upper))
        return Interval.unchecked(selection.scatter(low, -torch.inf), selection.scatter(high, torch.inf))


@final
@dataclass(frozen=True)
class Crown(_LineRule):
    """CROWN: the adaptive lower line for two-piece activations, tangents and chords for smooth ones.

    Source: arXiv:1811.00866, Section 3 (CROWN-Ada, CROWN-general).
    """

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {"crown": cls()}

    def lines(self, activation: AbstractActivation, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        return activation.lines(z, arithmetic)


@final
@dataclass(frozen=True)
class FastLin(_LineRule):
    """Fast-Lin: both lines of one slope.  Source: arXiv:1804.09699, Section 3.3."""

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {"fastlin": cls()}

    def lines(self, activation: AbstractActivation, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        return activation.parallel_lines(z, arithmetic)


@final
@dataclass(frozen=True)
class PullRoute(AbstractRoute):
    """From a stage back to the input: operators are transposed, biases are shed, the region ends it.

    Neurons that are always 0 are left out on the way, where that is worth it.
    """

    rule: AbstractRelaxation
    prefix: Prefix
    start: int

    @property
    def arithmetic(self) -> AbstractArithmetic:
        return self.prefix.arithmetic

    def nodes(self, start: int) -> Sequence[int]:
        return range(start, -1, -1)

    def edges(self, node: int) -> Sequence[tuple[int, AbstractOperator]]:
        return self.prefix.pulls(self.rule, node, node == self.start)

    def lines(self, node: int) -> LinearRelaxation | None:
        if node == 0 or self.prefix.stage(node).linear:
            return None
        return self.prefix.live_lines(self.rule, node)

    def rows(self, node: int) -> Ball | None:
        bias = None if node == 0 else self.prefix.stage(node).bias(self.arithmetic)
        if bias is None:
            return None
        live = self._live(node)
        return bias.map(lambda t: t[None, None] if live is None else t.flatten()[live][None, None])

    def _live(self, node: int) -> Tensor | None:
        return None if node == self.start else self.prefix.live(self.rule, node)

    def region(self, node: int) -> BoundRegion | None:
        return self.prefix.region if node == 0 else None

    def floats(self) -> int:
        return self.prefix.region.batch * self.widest()

    def widest(self) -> int:
        network = self.prefix.network
        return max(prod(network.shape(k)) for k in range(network.depth + 1))
