"""Bounds of the Jacobian that are linear in x, for smooth activations (docs/mathematics.md, §5.8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import ceil, prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.errors import expect_counts
from recurjac.jacobian.base import AbstractJacobianMethod, AbstractPrepared
from recurjac.jacobian.gradients import Gradients
from recurjac.jacobian.recursion import Chords
from recurjac.jacobian.x_linear_search import Relaxed, searched
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import AbstractSeeds, DenseForms, Units
from recurjac.propagation.joint import Joint
from recurjac.propagation.neuron_subset import NeuronSubset

_PLANES = ((0.5, 0.5), (0.0, 1.0))
"""Shares of the lower and of the upper planes: the even one, and δ y = d y + (δ - d) y with L <= y <= U."""


@final
@dataclass(frozen=True)
class XLinear(AbstractJacobianMethod):
    """Slopes between lines in z, and products with gradients between planes, so that bounds are linear in x.

    Chords takes slopes as independent of x, and of each other.  Here, what depends on x is kept to first order, so that
    at a small radius the slack is of second order.  Every bound is intersected with that of `Chords` node by node.
    steps: of a search (Adam's method) for the planes and lines of each bound, if not 0.  For one output, entries of the
    Jacobian are searched only where their sign is open without it.
    For a part of a chain rule, whose pre-activations are not known, and over the whole space, it is `Chords`.
    Source: docs/mathematics.md, §5.8; compare Shi et al., NeurIPS 2022, arXiv:2210.07394.
    """

    steps: int = 0

    def __post_init__(self) -> None:
        expect_counts("XLinear", steps=self.steps)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {"xlinear": cls()}

    @property
    def title(self) -> str:
        return f"x-linear, {self.steps} steps" if self.steps else "x-linear"

    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        if gradients.problem is None or gradients.given is not None or gradients.state.everywhere:
            return Chords().prepare(gradients)
        known = gradients.own()
        prepared = _XLinear(known, Relaxed.of(known, self.steps > 0), self.steps)
        for node in range(known.chain.end - 1, 0, -1):
            bounds = Chords().node(known, node)
            if bounds is not None:
                known.learn(node, bounds)
                known.learn(node, prepared.node(node))
        return prepared


@final
@dataclass(frozen=True)
class _XLinear(AbstractPrepared):
    """Known gradients of a whole network, and its lines."""

    known: Gradients
    relaxed: Relaxed
    steps: int

    @property
    def chain(self) -> ChainRule:
        return self.known.chain

    def push(self, tangents: AbstractSeeds) -> Interval:
        intersect = self.chain.arithmetic.intersect
        plain = self._whole(Chords().pushed(self.known, tangents))
        if not (self.steps and self.chain.rows == 1 and isinstance(tangents, Units)):
            return intersect(plain, self._bounds(0, tangents, self.steps))
        found = intersect(plain, self._bounds(0, tangents, 0))
        index = ((found.lower < 0) & (found.upper > 0))[:, 0].any(0).nonzero().flatten()
        if not len(index):
            return found
        part = Units(tangents.index[:, index], tangents.shape, tangents.dtype)
        open_ = intersect(found[:, :, index], self._bounds(0, part, self.steps))
        low, high = (
            end.index_copy(2, index, new) for end, new in ((found.lower, open_.lower), (found.upper, open_.upper))
        )
        return Interval.unchecked(low, high)

    def node(self, node: int) -> Interval:
        """Bounds of g_h at the neurons of a node whose slopes are not known exactly, infinite elsewhere."""
        chain = self.chain
        subset = NeuronSubset.of(chain.unstable(node), (chain.batch, *chain.shapes[node]), chain.device)
        found = self._bounds(node, subset.units(chain.dtype), self.steps)
        low, high = subset.scatter(found.lower, -torch.inf), subset.scatter(found.upper, torch.inf)
        return Interval.unchecked(low, high)

    def _bounds(self, start: int, seeds: AbstractSeeds, steps: int) -> Interval:
        """Bounds of forms at a node, (B, K, R), in parts that fit the memory."""
        chain = self.chain
        form = chain.batch * chain.rows * max(map(prod, chain.shapes[1:])) * torch.finfo(chain.dtype).bits // 8
        copies = 60 * len(chain.shapes) if steps else 12
        size = chain.planner.together(form, copies, chain.arithmetic.memory_on(chain.device), chain.device)
        lots = max(1, ceil(seeds.count / size))
        joints = [self.relaxed.with_shares(start, low, high) for low, high in _PLANES]
        parts = [self._part(start, part, joints, steps) for part in seeds.parts(ceil(seeds.count / lots))]
        return Interval.unchecked(*(torch.cat(e, 2) for e in zip(*((p.lower, p.upper) for p in parts), strict=True)))

    def _part(self, start: int, seeds: AbstractSeeds, joints: Sequence[Joint], steps: int) -> Interval:
        """With one output, every form has a search of its own; otherwise every output has one."""
        apart = steps > 0 and self.chain.rows == 1
        if apart:
            seeds = DenseForms(seeds.tensor().transpose(1, 2), self.chain.arithmetic)
        upper, lower = (self._upper(start, seeds, negative, joints, steps) for negative in (False, True))
        bounds = self.chain.arithmetic.enclose(-lower, upper)
        return self._whole(bounds.map(lambda t: t.transpose(1, 2)) if apart else bounds)

    def _upper(self, start: int, seeds: AbstractSeeds, negative: bool, joints: Sequence[Joint], steps: int) -> Tensor:
        """Upper bounds of forms or of their negations: the least of those of several relaxed networks."""
        if steps:
            joints = [*joints, self.relaxed.chosen(start, searched(self.relaxed, start, seeds, negative, steps))]
        found = [torch.where(t.isnan(), torch.inf, t) for t in (j.upper(start, seeds, negative) for j in joints)]
        return reduce(torch.minimum, found)
