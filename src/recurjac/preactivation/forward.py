"""Forward forms: each pre-activation as an affine function of the input, carried from stage to stage."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.errors import expect_counts
from recurjac.preactivation.base import AbstractPreactivation, Refine
from recurjac.preactivation.ibp import IBP
from recurjac.preactivation.state import PreactivationState
from recurjac.propagation.affine_forms import ROOM, AffineForms, Symbols, band

_SOME = 4
"""One noise is counted for so many smooth neurons of a network with products; few of them lose much."""
_LEAST = 1e-3
"""The least share of a range that a rest of a linear stage has, if it becomes a noise."""


@final
@dataclass(frozen=True)
class ForwardForms(AbstractPreactivation):
    """z is an affine function of the inputs and of up to `noises` numbers in [-1, 1], up to a rest.

    A pass costs as many evaluations of the network as there are inputs and noises, whatever its width and depth; CROWN
    pulls the forms of every neuron back through all earlier stages.  It suits few inputs, and loops that are unrolled.
    Where forms do not fit in the memory of the arithmetic, there are fewer noises; where not even those without noises
    fit, and over an unbounded region, nothing is stated.
    Source: docs/mathematics.md, §3.7.
    """

    noises: int = 512

    def __post_init__(self) -> None:
        expect_counts("ForwardForms", noises=self.noises)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {"forward": Forward()}

    @property
    def title(self) -> str:
        return "forward forms"

    def bound(self, state: PreactivationState, k: int, chosen: Tensor | None) -> Interval:
        return forms_of(state, self.noises).bounds(state, k)


def Forward(noises: int = 512) -> Refine:  # noqa: N802  (it stands for an object)
    """Forward forms on the neurons that interval propagation leaves unstable."""
    return Refine(IBP(), ForwardForms(noises))


@final
@dataclass(frozen=True)
class Quick(AbstractPreactivation):
    """Interval propagation, and forward forms where the planner expects that they save more than they cost.

    Along a skeleton, intervals are those of kept neurons and the input: what all stages in between do is known exactly.
    What they leave unstable is for a more expensive rule.
    """

    forms: ForwardForms = field(default_factory=lambda: ForwardForms(256))
    of_products: ForwardForms = field(default_factory=lambda: ForwardForms(4096))

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {}

    @property
    def title(self) -> str:
        return "IBP"

    def bound(self, state: PreactivationState, k: int, chosen: Tensor | None) -> Interval:
        return IBP().bound(state, k, chosen)

    def stage(self, state: PreactivationState, k: int) -> Interval:
        bounds = state.along_skeleton(k) or IBP().bound(state, k, None)
        if state.everywhere or state.intervals_suffice(k) or not self._carries(state, k, bounds):
            return bounds
        return state.arithmetic.intersect(bounds, self._forms(state).bound(state, k, None))

    def _forms(self, state: PreactivationState) -> ForwardForms:
        return self.of_products if state.network.has_products else self.forms

    def _carries(self, state: PreactivationState, k: int, bounds: Interval) -> bool:
        """Whether forms are carried to stage k; with products, once they are, they are carried on."""
        network, noises, later = state.network, self._forms(state).noises, 0
        if network.has_products:
            if state.keeps(_key(noises)):
                return True
            ahead = (s for s in network.stages[k:-1] if not (s.linear or s.activation.piecewise_linear))
            later = sum(prod(s.shape) for s in ahead)
        elif not state.planner.carries_forms(network, k, network.sizes[k], noises):
            return False  # not even if all neurons are unstable
        unstable = int(state.unstable(k, bounds).flatten(1).sum(1).amax())
        some = min(noises, (unstable + later) // _SOME) if network.has_products else noises
        return state.planner.carries_forms(network, k, unstable + later, some)

    def open(self, state: PreactivationState, k: int, bounds: Interval) -> Tensor:
        """In networks with products whose forms are carried, only neurons of which nothing is known.

        There are so many others that forms of them all are not pulled back in the time that carrying takes.
        """
        unstable = super().open(state, k, bounds)
        if not state.network.has_products or not state.keeps(_key(self._forms(state).noises)):
            return unstable
        return unstable & bounds.magnitude.isinf()


def forms_of(state: PreactivationState, noises: int) -> ForwardPass:
    """The forms of a state's stages, which it keeps."""
    return state.kept(_key(noises), lambda: ForwardPass.of(state, noises))


def _key(noises: int) -> Hashable:
    return ("forward forms", noises)


@final
@dataclass
class ForwardPass:
    """The forms of the stages of a network; they grow from the input to the output, and old ones are dropped.

    symbols: None if no forms fit in memory.  last: for each node, the last stage that reads it.  The state owns this
    object, which does not refer to the state.
    """

    symbols: Symbols | None
    last: Mapping[int, int]
    _found: dict[int, Interval] = field(default_factory=dict)
    _post: dict[int, AffineForms] = field(default_factory=dict)
    _pre: dict[int, AffineForms] = field(default_factory=dict)

    @classmethod
    def of(cls, state: PreactivationState, noises: int) -> ForwardPass:
        network = state.network
        symbols = None
        if not state.everywhere:
            symbols = Symbols.fitting(state.region, state.arithmetic, noises, max(network.sizes), ROOM)
        last = {e.source: k for k, stage in enumerate(network.stages, 1) for e in stage.edges}
        return cls(symbols, last)

    def bounds(self, state: PreactivationState, k: int) -> Interval:
        """Bounds of z_k; infinite where nothing is stated.  All earlier stages are bounded in the state."""
        if self.symbols is None:
            shape = (state.region.batch, *state.stage(k).shape)
            end = torch.full(shape, torch.inf, dtype=state.network.dtype, device=state.network.device)
            return Interval.unchecked(-end, end)
        for j in range(len(self._found) + 1, k + 1):
            try:
                self._append(state, self.symbols, j)
            except BaseException:  # an interruption, or the end of the time: what is half done is of no use
                self.symbols = None
                raise
        return self._found[k]

    def _append(self, state: PreactivationState, symbols: Symbols, k: int) -> None:
        """Find the forms of z_k, after those of the node before it."""
        self._activate(state, symbols, k - 1)
        stage = state.stage(k)
        bias = stage.bias(state.arithmetic)
        if bias is None:
            bias = state.arithmetic.exact(state.region.x.new_zeros(stage.shape))
        self._pre[k] = symbols.image([(e.operator, self._post[e.source]) for e in stage.edges], bias)
        self._found[k] = symbols.bounds(self._pre[k])
        for node in [n for n in self._post if self.last.get(n, 0) <= k]:
            del self._post[node]

    def _activate(self, state: PreactivationState, symbols: Symbols, k: int) -> None:
        """Find the forms of h_k and, with those of the second factor of a product, the ones of the first."""
        if k == 0:
            self._post[k] = symbols.start()
            return
        for node in state.completed_by(k):
            self._post[node] = self._activated(state, symbols, node)

    def _activated(self, state: PreactivationState, symbols: Symbols, k: int) -> AffineForms:
        """The forms of h_k, from those of z_k and all that is known of its range."""
        form, stage, found = self._pre.pop(k), state.stage(k), self._found[k]
        if stage.linear:
            return symbols.named(form, _LEAST * found.width, symbols.spent_on(form, found.width, 0))
        z, arithmetic = state.pre(k), state.arithmetic
        activation = state.activation(k)
        choices = [activation.lines(z, arithmetic), activation.parallel_lines(z, arithmetic)]
        values = state.part(k)
        form = symbols.between(form, band(z, choices, arithmetic), values)
        ahead = sum(not state.stage(j).linear for j in range(k, state.network.depth))
        share = -(-(symbols.limit - symbols.noises) // ahead)
        least = values.width * torch.finfo(state.network.dtype).eps ** 0.5
        return symbols.named(form, least, symbols.spent_on(form, values.width, share))
