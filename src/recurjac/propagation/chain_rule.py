"""The chain rule without its network: operators between nodes and an interval of slopes for each neuron."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic, Ball, Interval, Sizes
from recurjac.network import Edge, Network
from recurjac.operators import AbstractOperator
from recurjac.operators.part import part
from recurjac.propagation.forms import AbstractSeeds, DenseForms, Units
from recurjac.propagation.planning import AbstractPlanner


@final
@dataclass(frozen=True)
class Place:
    """Where the neurons of a node are in another chain rule: the node there, and their flat positions (None: all)."""

    node: int
    index: Tensor | None


@final
@dataclass(frozen=True)
class ChainRule:
    """J = Σ over paths of (A_K,· Σ_· … Σ_· A_·,0), where Σ_i is any diagonal matrix with entries in `slopes[i]`.

    Tangents start at node 0 and meet the covectors at node K.  These two nodes have no slopes (None); the same holds
    for any node whose slopes are all 1.  `edges[k]` are the operators into node k.  `covectors`
    (batch or 1, K, *output) select rows of J; None means the basis.  Slopes have shape (batch, *node).
    skeleton: the chain rule of the same J restricted to its unstable neurons, if it was already computed
    (`skeleton_pushed.py`).
    places: where the nodes are in the chain rule from which this one was derived; None if it was not derived.
    """

    shapes: tuple[Shape, ...]
    edges: tuple[tuple[Edge, ...], ...]
    slopes: tuple[Interval | None, ...]
    covectors: Tensor | None
    batch: int
    dtype: torch.dtype
    device: torch.device
    arithmetic: AbstractArithmetic
    planner: AbstractPlanner
    skeleton: ChainRule | None = None
    places: tuple[Place, ...] | None = None

    @property
    def end(self) -> int:
        """The number K of the last node."""
        return len(self.shapes) - 1

    @property
    def depth(self) -> int:
        """The same, as `Network.depth`."""
        return self.end

    @property
    def rows(self) -> int:
        """The number of covectors."""
        return prod(self.shapes[-1]) if self.covectors is None else int(self.covectors.shape[1])

    @property
    def cost(self) -> int:
        """About the multiply-adds to bound the gradient of one row if every slope is unknown, as `Network.cost`."""
        work = sum(e.operator.multiply_adds() for into in self.edges for e in into)
        return work * sum(prod(shape) for shape in self.shapes[1:-1])

    def unstable(self, node: int) -> Tensor | None:
        """True where the slope is not known exactly, (batch, *node); None if all slopes are known exactly."""
        slopes = self.slopes[node]
        if slopes is None:
            return None
        mask = ~slopes.is_point
        return mask if bool(mask.any()) else None

    def basis(self, node: int) -> Units:
        """All unit tangents of a node."""
        return Units.all(self.shapes[node], self.dtype, self.device)

    def successors(self, node: int) -> list[Edge]:
        """The edges out of `node`; the `source` of each is its target node."""
        return [Edge(k, e.operator) for k in range(node + 1, self.end + 1) for e in self.edges[k] if e.source == node]

    def gradient_rows(self, operator: AbstractOperator) -> Ball:
        """Aᵀ applied to each covector, where A is an operator into the last node: (batch or 1, K, *source)."""
        back = operator.transpose()
        if self.covectors is None:
            index = torch.arange(prod(self.shapes[-1]), device=self.device)
            return back.columns(index.unsqueeze(0), self.dtype, self.arithmetic)
        return back.push(self.arithmetic.exact(self.covectors))

    def covector_seeds(self) -> AbstractSeeds:
        """The covectors as tangents of the reversed chain rule."""
        if self.covectors is None:
            return self.basis(self.end)
        return DenseForms(self.covectors.unsqueeze(1), self.arithmetic)

    def reversed(self, tangents: Tensor | None = None) -> ChainRule:
        """The chain rule of Jᵀ; its covectors are `tangents` (batch or 1, R, *input), by default the basis."""
        k = self.end
        edges: list[list[Edge]] = [[] for _ in self.shapes]
        for target, into in enumerate(self.edges):
            for e in into:
                edges[k - e.source].append(Edge(k - target, e.operator.transpose()))
        return replace(
            self,
            shapes=self.shapes[::-1],
            edges=tuple(tuple(e) for e in edges),
            slopes=self.slopes[::-1],
            covectors=tangents,
            skeleton=None if self.skeleton is None else self.skeleton.reversed(tangents),
            places=None if self.places is None else tuple(Place(k - p.node, p.index) for p in self.places[::-1]),
        )

    def without_dead(self) -> ChainRule:
        """The chain rule of the same J without the neurons of slope 0, where leaving them out saves work."""
        live = [self._live(k) for k in range(len(self.shapes))]
        if all(index is None for index in live):
            return self
        edges = [
            tuple(
                Edge(e.source, operator)
                for e in into
                if (operator := part(e.operator, live[k], live[e.source])) is not None
            )
            for k, into in enumerate(self.edges)
        ]  # fmt: skip
        shapes = [s if index is None else (len(index),) for s, index in zip(self.shapes, live, strict=True)]
        slopes = [s if s is None or i is None else s.map(partial(taken, index=i))
                  for s, i in zip(self.slopes, live, strict=True)]  # fmt: skip
        places = tuple(Place(k, index) for k, index in enumerate(live))
        return replace(self, shapes=tuple(shapes), edges=tuple(edges), slopes=tuple(slopes), places=places)

    def with_settled_slopes(self) -> ChainRule:
        """The chain rule of the same J, where the slope is 0 of neurons that no tangent of node 0 reaches.

        All their paths from node 0 meet a slope of 0 or a coefficient of 0, so that any slope of theirs gives the same
        J.  Bounds of the gradient at neurons of slope 0 are then those for this choice.
        """
        reached, slopes = [torch.ones(1, *self.shapes[0], dtype=self.dtype, device=self.device)], list(self.slopes)
        for node in range(1, self.end):
            met, here = self._met(node, reached), slopes[node]
            if here is not None:
                here = Interval.unchecked(torch.where(met, here.lower, 0.0), torch.where(met, here.upper, 0.0))
                slopes[node], met = here, (here.lower != 0) | (here.upper != 0)
            reached.append(met.to(self.dtype))
        return replace(self, slopes=tuple(slopes))

    def _met(self, node: int, reached: Sequence[Tensor]) -> Tensor:
        """Where some coefficient of an operator into a node meets an entry that is not 0: (batch or 1, *node)."""
        met = torch.zeros(1, *self.shapes[node], dtype=torch.bool, device=self.device)
        for e in self.edges[node]:
            sizes = Sizes.of(reached[e.source], len(self.shapes[e.source]))
            met = met | (e.operator.transpose().absorb(sizes).numbers > 0)
        return met

    def _live(self, node: int) -> Tensor | None:
        """The neurons of a node whose slope may be nonzero; None if leaving out the others saves no work."""
        slopes = self.slopes[node]
        around = (*self.edges[node], *self.successors(node))
        if slopes is None or any(e.operator.local for e in around):
            return None
        return self.planner.live(((slopes.lower != 0) | (slopes.upper != 0)).flatten(1).any(0))

    def sample(self, i: int) -> ChainRule:
        """The chain rule of one sample."""
        if self.batch == 1:
            return self
        slopes = tuple(None if s is None else s.map(lambda t: t[i : i + 1]) for s in self.slopes)
        covectors = self.covectors
        if covectors is not None and len(covectors) > 1:
            covectors = covectors[i : i + 1]
        return replace(self, slopes=slopes, covectors=covectors, batch=1, skeleton=None)

    def starting_at(self, node: int) -> ChainRule:
        """The chain rule of the derivative with respect to the output of `node`; earlier nodes are dropped."""
        edges = tuple(
            tuple(Edge(e.source - node, e.operator) for e in into if e.source >= node) for into in self.edges[node:]
        )
        slopes = (None, *self.slopes[node + 1 :])
        return replace(
            self, shapes=self.shapes[node:], edges=((), *edges[1:]), slopes=slopes, skeleton=None, places=None
        )


def taken(tensor: Tensor, index: Tensor) -> Tensor:
    """The entries of (batch, *node) at the flat positions `index`: (batch, entries)."""
    return tensor.reshape(len(tensor), prod(tensor.shape[1:])).index_select(1, index)


def chain_rule(
    network: Network,
    slopes: Sequence[Interval | None],
    batch: int,
    arithmetic: AbstractArithmetic,
    planner: AbstractPlanner,
) -> ChainRule:
    """The chain rule of a network; `slopes[k]` belongs to node k, and is None for the input, output, linear stages."""
    return ChainRule(
        (network.input_shape, *(s.shape for s in network.stages)),
        ((), *(s.edges for s in network.stages)),
        tuple(slopes),
        None,
        batch,
        network.dtype,
        network.device,
        arithmetic,
        planner,
    )
