"""Sweeps restricted to the part of a convolutional network that forms starting near each other reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Loss
from recurjac.operators import AbstractOperator, Gather, Identity, compose
from recurjac.propagation.forms import Units
from recurjac.propagation.planning import AbstractPlanner
from recurjac.propagation.route import AbstractAbsorbingRoute, AbstractRoute
from recurjac.region import Convex
from recurjac.relaxations import Absorption, LinearRelaxation


def tiles(seeds: Units, planner: AbstractPlanner) -> Sequence[Tensor] | None:
    """The indices of the forms, in groups that start near each other in (channels, *positions), or None.

    None if there are few forms, if the node has no spatial axes, or if the forms differ between samples.
    """
    spatial = seeds.shape[1:]
    parts = 0 if len(seeds.index) > 1 else planner.tiles(seeds.count, len(spatial))
    if parts == 0:
        return None
    coordinates = torch.unravel_index(seeds.index[0] % prod(spatial), spatial)
    tile = torch.zeros_like(seeds.index[0])
    for c, n in zip(coordinates, spatial, strict=True):
        tile = tile * parts + c * parts // n
    order = tile.argsort(stable=True)
    _, counts = tile[order].unique_consecutive(return_counts=True)
    lots: Sequence[Tensor] = order.split(counts.tolist())
    return lots


@final
@dataclass(frozen=True)
class Restricted(AbstractAbsorbingRoute):
    """Another route restricted to the entries of each node that certain forms reach; nodes become vectors."""

    whole: AbstractAbsorbingRoute
    reached: dict[int, Tensor]
    out: dict[int, list[tuple[int, AbstractOperator]]]

    @classmethod
    def to_reach_of(cls, route: AbstractAbsorbingRoute, start: int, index: Tensor) -> Restricted | None:
        """The part of `route` that unit forms at the flat positions `index` of `start` reach; None if too large."""
        reached = {start: index}
        met: dict[int, list[tuple[int, AbstractOperator, Tensor]]] = {}
        sizes: dict[int, int] = {}
        for node in route.nodes(start):
            if node not in reached or (node != start and route.region(node) is not None):
                continue
            met[node] = []
            for target, operator in route.edges(node):
                back, read = operator.transpose().rows(reached[node])
                if len(read) == 0:
                    continue
                met[node].append((target, back, read))
                sizes[target] = prod(operator.out_shape)
                if route.region(target) is not None:
                    reached[target] = torch.arange(sizes[target], device=index.device)
                else:
                    reached[target] = torch.cat([reached.get(target, read[:0]), read]).unique()
            if sizes and not route.planner.restricts(sum(len(reached[n]) for n in sizes), sum(sizes.values())):
                return None
        return cls(route, reached, {
            node: [(target, _into(back, read, reached[target], route, target)) for target, back, read in edges]
            for node, edges in met.items()
        })  # fmt: skip

    @property
    def arithmetic(self) -> AbstractArithmetic:
        return self.whole.arithmetic

    @property
    def planner(self) -> AbstractPlanner:
        return self.whole.planner

    def nodes(self, start: int) -> Sequence[int]:
        return [n for n in self.whole.nodes(start) if n in self.reached]

    def edges(self, node: int) -> Sequence[tuple[int, AbstractOperator]]:
        return self.out.get(node, [])

    def lines(self, node: int) -> LinearRelaxation | None:
        lines = self.whole.lines(node)
        return None if lines is None else lines.at(self.reached[node])

    def rows(self, node: int) -> Ball | None:
        rows = self.whole.rows(node)
        return None if rows is None else rows.map(lambda t: t.flatten(2)[:, :, self.reached[node]])

    def region(self, node: int) -> Convex | None:
        return self.whole.region(node)

    def loss(self, node: int) -> Loss:
        """That of the whole route: each entry that is computed is a sum of the same products."""
        return self.whole.loss(node).at(self.reached[node])

    def absorption(self, node: int) -> Absorption:
        loss = self.whole.absorption(node).loss  # which is kept, unlike that of the start
        return Absorption(self.lines(node), loss.at(self.reached[node]))

    def sizes(self, node: int) -> Tensor:
        sizes = self.whole.sizes(node)
        return sizes if self.region(node) is not None else sizes.flatten(2)[:, :, self.reached[node]]

    def floats(self) -> int:
        return max(1, self.whole.floats() * self.widest() // self.whole.widest())

    def widest(self) -> int:
        return max(len(r) for r in self.reached.values())


def _into(back: AbstractOperator, read: Tensor, reached: Tensor, route: AbstractRoute, target: int) -> AbstractOperator:
    """The operator from the reached entries of a node to those of `target`.

    back: the transpose of that operator, onto the entries `read` of the target.
    """
    region = route.region(target)
    onto: AbstractOperator
    if region is not None:
        onto = Gather.of(read, tuple(region.x.shape[1:]))
    elif len(read) == len(reached):
        onto = Identity((len(read),))
    else:
        onto = Gather.of(torch.searchsorted(reached, read), (len(reached),))
    return compose(back, onto).transpose()
