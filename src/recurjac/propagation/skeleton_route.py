"""The way of forms back along a skeleton that is pushed, through kept neurons to the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Loss
from recurjac.operators import AbstractOperator
from recurjac.propagation.forms import Units
from recurjac.propagation.planning import AbstractPlanner
from recurjac.propagation.route import AbstractAbsorbingRoute
from recurjac.propagation.skeleton_pushed import Affine, Skeleton
from recurjac.propagation.skeleton_rounding import Rounding, underflow
from recurjac.region import BesideOne, BoundRegion, Convex
from recurjac.relaxations import Absorption, LinearRelaxation


@final
@dataclass(frozen=True)
class SkeletonRoute(AbstractAbsorbingRoute):
    """A route from the entries `z` of stage `start` back to the input, through kept neurons.

    Nodes are numbered like the stages; the lines of a stage are those of its kept neurons.  The forms of all earlier
    kept neurons are joined.  Every node has an edge to the input.
    """

    skeleton: Skeleton
    start: int
    z: Affine
    found: Mapping[int, LinearRelaxation]
    absorbed: dict[int, Absorption]
    inputs: BoundRegion

    @property
    def arithmetic(self) -> AbstractArithmetic:
        return self.skeleton.arithmetic

    @property
    def planner(self) -> AbstractPlanner:
        return self.skeleton.planner

    def nodes(self, start: int) -> Sequence[int]:
        return [start, *reversed([g for g in self.skeleton.kept_rows if g < start]), 0]

    def edges(self, node: int) -> Sequence[tuple[int, AbstractOperator]]:
        if node == self.start:
            return self.skeleton.paths(self.z, self.nodes(node)[1])
        return self.skeleton.kept_paths[node]

    def split_passthrough(self, node: int, forms: Ball) -> tuple[Ball, Ball | None]:
        if node == 0:
            return forms, None
        begin = self.skeleton.post[node].begin - self.skeleton.inputs - 1
        here = forms.map(lambda t: t[..., begin:])
        return here, forms.map(lambda t: t[..., :begin]) if begin else None

    def lines(self, node: int) -> LinearRelaxation | None:
        return None if node == 0 else self.found[node]

    def rows(self, node: int) -> Ball | None:
        return None

    def seeded(self, start: int, seeds: Units) -> Tensor:
        """What the rows of the start are off by, and the terms that are added to them."""
        if self.z.rounding is None:
            raise ValueError("the rounding of the skeleton is not covered")
        return self._own(self.z.rounding)[seeds.index].unsqueeze(1)

    def _own(self, rounding: Rounding) -> Tensor:
        return rounding.lost(self.skeleton.terms, self.skeleton.known.total)

    def loss(self, node: int) -> Loss:
        """Each of the kept neurons pays for its row; |z| is at most the size of that row and its error."""
        rounding = self.skeleton.kept_rows[node].rounding
        if rounding is None:
            raise ValueError("the rounding of the skeleton is not covered")
        skeleton, lost = self.skeleton, self._own(rounding)
        return Loss(lost.reshape(1, 1, -1), underflow(skeleton.terms, lost, skeleton.known.total))

    def absorption(self, node: int) -> Absorption:
        if node not in self.absorbed:
            self.absorbed[node] = Absorption(self.lines(node), self.loss(node))
        return self.absorbed[node]

    def sizes(self, node: int) -> Tensor:
        known = self.skeleton.known.sizes
        return known.reshape(1, 1, -1)

    def region(self, node: int) -> Convex | None:
        return BesideOne(self.inputs) if node == 0 else None

    def floats(self) -> int:
        return self.widest()

    def widest(self) -> int:
        return self.skeleton.length
