"""Routes from a stage back to the input, for bounds of pre-activations (docs/mathematics.md, §3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Loss
from recurjac.operators import AbstractOperator
from recurjac.preactivation.state import RelaxedNetwork
from recurjac.propagation.planning import AbstractPlanner
from recurjac.propagation.route import AbstractAbsorbingRoute
from recurjac.region import BoundRegion
from recurjac.relaxations import Absorption, LinearRelaxation


@final
@dataclass(frozen=True)
class PullRoute(AbstractAbsorbingRoute):
    """A route from a stage back to the input: operators are transposed, biases add terms, and it ends at the region.

    Neurons that are always 0 are left out along the way if that saves work.
    """

    relaxed: RelaxedNetwork
    start: int

    @property
    def arithmetic(self) -> AbstractArithmetic:
        return self.relaxed.state.arithmetic

    @property
    def planner(self) -> AbstractPlanner:
        return self.relaxed.state.planner

    def nodes(self, start: int) -> Sequence[int]:
        return range(start, -1, -1)

    def edges(self, node: int) -> Sequence[tuple[int, AbstractOperator]]:
        return self.relaxed.pulls(node, node == self.start)

    def lines(self, node: int) -> LinearRelaxation | None:
        if node == 0 or self.relaxed.state.stage(node).linear:
            return None
        return self.relaxed.live_lines(node)

    def rows(self, node: int) -> Ball | None:
        bias = None if node == 0 else self.relaxed.state.stage(node).bias(self.arithmetic)
        if bias is None:
            return None
        live = None if node == self.start else self.relaxed.live(node)
        return bias.map(lambda t: t[None, None] if live is None else t.flatten()[live][None, None])

    def region(self, node: int) -> BoundRegion | None:
        return self.relaxed.state.region if node == 0 else None

    def loss(self, node: int) -> Loss:
        return self.relaxed.loss(node, self.rows(node), node == self.start)

    def absorption(self, node: int) -> Absorption:
        known = self.relaxed.found.absorptions
        if node not in known:
            known[node] = Absorption(self.lines(node), self.loss(node))
        return known[node]

    def sizes(self, node: int) -> Tensor:
        return self.relaxed.sizes(node)

    def floats(self) -> int:
        return self.relaxed.state.region.batch * self.widest()

    def widest(self) -> int:
        network = self.relaxed.state.network
        return max(network.sizes)
