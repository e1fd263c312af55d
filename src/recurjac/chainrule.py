"""The chain rule without its network: operators between nodes and an interval of slopes at each neuron."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic, Interval, Value
from recurjac.network import Edge, Network
from recurjac.operators import AbstractOperator
from recurjac.seeds import AbstractSeeds, Forms, Units


@final
@dataclass(frozen=True)
class ChainRule:
    """J = Σ over paths of (A_K,· Σ_· … Σ_· A_·,0), Σ_i any diagonal matrix with entries in `slopes[i]`.

    Node 0 is where tangents enter, node K where covectors meet them; both have no slopes (None), as has any node whose
    slopes are all 1.  `edges[k]` are the operators into node k.  `covectors` (batch or 1, K, *output) selects rows of
    J; None stands for the basis.  Slopes are (batch, *node).  skeleton: the chain rule of the same J between its
    unstable neurons alone, where that is at hand (`skeleton.py`).
    """

    shapes: tuple[Shape, ...]
    edges: tuple[tuple[Edge, ...], ...]
    slopes: tuple[Interval | None, ...]
    covectors: Tensor | None
    batch: int
    dtype: torch.dtype
    device: torch.device
    arithmetic: AbstractArithmetic
    skeleton: ChainRule | None = None

    @property
    def end(self) -> int:
        """The number K of the last node."""
        return len(self.shapes) - 1

    @property
    def rows(self) -> int:
        """The number of covectors."""
        return prod(self.shapes[-1]) if self.covectors is None else int(self.covectors.shape[1])

    def unstable(self, node: int) -> Tensor | None:
        """True where the slope is not known exactly, (batch, *node); None if that is nowhere."""
        slopes = self.slopes[node]
        if slopes is None:
            return None
        mask = ~slopes.is_point
        return mask if bool(mask.any()) else None

    def basis(self, node: int) -> Units:
        """All unit tangents of a node."""
        return Units.all(self.shapes[node], self.dtype, self.device)

    def successors(self, node: int) -> list[Edge]:
        """The edges out of `node`, each with its target in place of its source."""
        return [Edge(k, e.operator) for k in range(node + 1, self.end + 1) for e in self.edges[k] if e.source == node]

    def gradient_rows(self, operator: AbstractOperator) -> Value:
        """Aᵀ applied to each covector, A an operator into the last node: (batch or 1, K, *source)."""
        back = operator.transpose()
        if self.covectors is None:
            index = torch.arange(prod(self.shapes[-1]), device=self.device)
            return back.columns(index.unsqueeze(0), self.dtype, self.arithmetic)
        return back.push(self.arithmetic.exact(self.covectors))

    def covector_seeds(self) -> AbstractSeeds:
        """The covectors as tangents of the reversed chain."""
        if self.covectors is None:
            return self.basis(self.end)
        return Forms(self.covectors.unsqueeze(1), self.arithmetic)

    def reversed(self, tangents: Tensor | None = None) -> ChainRule:
        """The chain rule of Jᵀ, whose covectors are these tangents (batch or 1, R, *input), by default the basis."""
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
        )

    def starting_at(self, node: int) -> ChainRule:
        """The chain rule of the derivative with respect to the output of `node`: what lies before it is dropped."""
        edges = tuple(
            tuple(Edge(e.source - node, e.operator) for e in into if e.source >= node) for into in self.edges[node:]
        )
        slopes = (None, *self.slopes[node + 1 :])
        return replace(self, shapes=self.shapes[node:], edges=((), *edges[1:]), slopes=slopes, skeleton=None)


def chain_rule(
    network: Network, slopes: Sequence[Interval | None], batch: int, arithmetic: AbstractArithmetic
) -> ChainRule:
    """The chain rule of a network whose node k has `slopes[k]`: None for the input, the output and linear stages."""
    return ChainRule(
        (network.input_shape, *(s.shape for s in network.stages)),
        ((), *(s.edges for s in network.stages)),
        tuple(slopes),
        None,
        batch,
        network.dtype,
        network.device,
        arithmetic,
    )
