"""Methods that work node by node as long as there is time, and by interval products from there on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import inf
from typing import final

import torch

from recurjac.arithmetic import Interval
from recurjac.deadline import Deadline, check_seconds, shorter, until
from recurjac.errors import OutOfTime
from recurjac.jacobian.base import AbstractJacobianMethod, AbstractNodewise, AbstractPrepared
from recurjac.jacobian.fast_lip import FastLip
from recurjac.jacobian.gradients import Gradients
from recurjac.jacobian.recursion import Chords
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import AbstractSeeds, Units

_LATER = 0.6
"""The share of the time for all nodes; the rest is for the last step, to the inputs."""
_LOT = 64
"""The number of inputs whose derivatives are bounded together in the last step."""


@final
@dataclass(frozen=True)
class InTime(AbstractJacobianMethod):
    """`method`, from the outputs to the inputs, as long as there is time; interval products at the nodes that are left.

    Interval products are taken at every node, so that the result is never looser than that of Fast-Lip.
    seconds: for large networks, whose operations take so long that the clock is looked at before each; small ones are
    bounded without a limit.
    Source: docs/mathematics.md, §5.1, §5.3.
    """

    method: AbstractNodewise = field(default_factory=Chords)
    seconds: float = inf

    def __post_init__(self) -> None:
        check_seconds("InTime", self.seconds)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {}

    @property
    def title(self) -> str:
        return f"{self.method.title}, in time"

    def within(self, seconds: float) -> InTime:
        return replace(self, seconds=shorter(self.seconds, seconds))

    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        chain = gradients.chain
        deadline = chain.planner.watched(chain, Deadline.after(self.seconds))
        part = deadline if deadline.end == inf else deadline.part(_LATER)
        known = self._view(gradients, part)
        for node in range(known.chain.end - 1, 0, -1):
            quick = FastLip().node(known, node)
            if quick is not None:
                known.learn(node, quick)
            if not part.over:
                with suppress(OutOfTime), until(part):
                    self._learn(known, node)
        return _Descended(known, self.method, deadline)

    def _view(self, gradients: Gradients, deadline: Deadline) -> Gradients:
        """The view of the method, or another one if that takes too long."""
        with suppress(OutOfTime), until(deadline):
            return self.method.view(gradients)
        return gradients.own()

    def _learn(self, known: Gradients, node: int) -> None:
        bounds = self.method.node(known, node)
        if bounds is not None:
            known.learn(node, bounds)


@final
@dataclass(frozen=True)
class _Descended(AbstractPrepared):
    """Known gradients at every node; the last step is by interval products, and by the method if there is time."""

    known: Gradients
    method: AbstractNodewise
    deadline: Deadline

    @property
    def chain(self) -> ChainRule:
        return self.known.chain

    def push(self, tangents: AbstractSeeds) -> Interval:
        quick = self._whole(FastLip().pushed(self.known, tangents))
        if self.deadline.end == inf:
            return self._with(quick, tangents)
        part = self.deadline.part(_LATER)  # other tangents may follow
        if not isinstance(tangents, Units):
            with suppress(OutOfTime), until(part):
                return self._with(quick, tangents)
            return quick
        lots: list[Interval] = []
        with suppress(OutOfTime), until(part):
            for lot in tangents.parts(_LOT):
                begin = len(lots) * _LOT
                lots.append(self._with(quick[:, :, begin : begin + lot.count], lot))
        lots.append(quick[:, :, len(lots) * _LOT :])
        return Interval.unchecked(torch.cat([i.lower for i in lots], 2), torch.cat([i.upper for i in lots], 2))

    def _with(self, quick: Interval, tangents: AbstractSeeds) -> Interval:
        return self.chain.arithmetic.intersect(quick, self._whole(self.method.pushed(self.known, tangents)))


@final
@dataclass(frozen=True)
class While(AbstractPrepared):
    """One chain rule prepared by a quick method, and by others whose bounds are added as long as there is time."""

    quick: AbstractPrepared
    others: tuple[AbstractPrepared, ...]
    whole: ChainRule
    deadline: Deadline

    @property
    def chain(self) -> ChainRule:
        return self.whole

    def push(self, tangents: AbstractSeeds) -> Interval:
        found = self.quick.push(tangents)
        for other in self.others:
            with suppress(OutOfTime), until(self.deadline):
                found = self.chain.arithmetic.intersect(found, other.push(tangents))
        return found
