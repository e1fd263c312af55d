"""The chain rule without its network: operators between nodes and an interval of slopes at each neuron."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic, Ball, Interval, concatenate
from recurjac.network import Edge, Network
from recurjac.operators import AbstractOperator
from recurjac.operators.interval_matrix import IntervalMatrix
from recurjac.operators.part import part
from recurjac.propagation.forms import AbstractSeeds, DenseForms, Units

_WORTH = 0.85
"""The share of live neurons up to which the others are left out."""
_MANY = 32
"""The number of neurons from which on that is worth it."""


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

    def gradient_rows(self, operator: AbstractOperator) -> Ball:
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
        return DenseForms(self.covectors.unsqueeze(1), self.arithmetic)

    @cached_property
    def between_unstable(self) -> ChainRule | None:
        """The chain rule of the same J between its unstable neurons alone; None where that does not pay.

        Source: docs/mathematics.md, §5.5.

        Where none came along with the network's pre-activations, which is so with convolutions, its matrices are rows
        that are pulled back from the unstable neurons and the output of one sample.
        """
        if self.skeleton is not None or self.batch > 1:
            return self.skeleton
        kept = {
            k: mask.flatten().nonzero().flatten() for k in range(self.end) if (mask := self.unstable(k)) is not None
        }
        return between(self, kept) if _pays(self, kept) else None

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

    def without_dead(self) -> ChainRule:
        """The chain rule of the same J without the neurons whose slope is 0, where these are worth leaving out."""
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
        slopes = [s if s is None or i is None else s.map(partial(_taken, index=i))
                  for s, i in zip(self.slopes, live, strict=True)]  # fmt: skip
        return replace(self, shapes=tuple(shapes), edges=tuple(edges), slopes=tuple(slopes))

    def _live(self, node: int) -> Tensor | None:
        """The neurons of a node whose slope can be other than 0; None where to leave the others out is not worth it."""
        slopes = self.slopes[node]
        around = (*self.edges[node], *self.successors(node))
        if slopes is None or any(e.operator.local for e in around):
            return None
        return worth_leaving(((slopes.lower != 0) | (slopes.upper != 0)).flatten(1).any(0))

    def starting_at(self, node: int) -> ChainRule:
        """The chain rule of the derivative with respect to the output of `node`: what lies before it is dropped."""
        edges = tuple(
            tuple(Edge(e.source - node, e.operator) for e in into if e.source >= node) for into in self.edges[node:]
        )
        slopes = (None, *self.slopes[node + 1 :])
        return replace(self, shapes=self.shapes[node:], edges=((), *edges[1:]), slopes=slopes, skeleton=None)


def between(whole: ChainRule, kept: Mapping[int, Tensor]) -> ChainRule:
    """The chain rule of the same J, of one sample, between the neurons numbered `kept` at some nodes, rising.

    All neurons whose slope is not known must be among them.
    """
    every = torch.arange(prod(whole.shapes[0]), device=whole.device)
    sources = {0: every, **kept}
    outputs = torch.arange(prod(whole.shapes[-1]), device=whole.device)
    shapes = [whole.shapes[0], *((len(index),) for index in kept.values()), whole.shapes[-1]]
    edges: list[tuple[Edge, ...]] = [()]
    for target, (node, entries) in enumerate([*kept.items(), (whole.end, outputs)], 1):
        rows = _pulled(whole, node, entries, sources)
        edges.append(tuple(Edge(s, IntervalMatrix(r, shapes[s], shapes[target])) for s, r in enumerate(rows)))
    slopes = [s.map(partial(_taken, index=i)) for k, i in kept.items() if (s := whole.slopes[k]) is not None]
    return replace(whole, shapes=tuple(shapes), edges=tuple(edges), slopes=(None, *slopes, None), skeleton=None)


def _pulled(whole: ChainRule, start: int, entries: Tensor, sources: Mapping[int, Tensor]) -> list[Ball]:
    """For every node of `sources` before `start`: the derivatives of z_start at `entries` by its entries, (R, n).

    What is between them is linear: the slope of its lower end, and 0 at `sources`.
    """
    widest = max(prod(s) for s in whole.shapes)
    bits = torch.finfo(whole.dtype).bits
    lot = max(1, 8 * whole.arithmetic.memory_on(whole.device) // (12 * widest * bits))
    parts = [_pull(whole, start, some, sources) for some in entries.split(lot)]
    return [concatenate(p, 0) for p in zip(*parts, strict=True)]


def _pull(whole: ChainRule, start: int, entries: Tensor, sources: Mapping[int, Tensor]) -> list[Ball]:
    arithmetic, pending, found = whole.arithmetic, dict[int, Ball](), dict[int, Ball]()
    for node in range(start, -1, -1):
        forms = pending.pop(node, None)
        if node != start:
            if forms is None:
                continue
            if node in sources:
                found[node] = forms.map(partial(_taken, index=sources[node]))
            forms = _through(whole, node, forms, sources)
        for e in whole.edges[node]:
            back = e.operator.transpose()
            more = back.columns(entries, whole.dtype, arithmetic) if forms is None else back.push(forms)
            pending[e.source] = more if e.source not in pending else pending[e.source] + more
    nothing = torch.zeros(len(entries), 1, dtype=whole.dtype, device=whole.device)
    return [
        found[k] if k in found else arithmetic.exact(nothing.expand(-1, len(index)))
        for k, index in sources.items() if k < start
    ]  # fmt: skip


def _through(whole: ChainRule, node: int, forms: Ball, sources: Mapping[int, Tensor]) -> Ball:
    """Forms (R, *node) times the slopes of the neurons that are not among `sources`, where these are 0."""
    slopes = whole.slopes[node]
    if slopes is None:
        return forms
    slope = slopes.lower[0]
    if node in sources:
        slope = slope.flatten().index_fill(0, sources[node], 0.0).reshape(slope.shape)
    return whole.arithmetic.scaled(forms, slope)


def _pays(whole: ChainRule, kept: Mapping[int, Tensor]) -> bool:
    """Whether pulling rows and pushing tangents between `kept` takes fewer multiply-adds than pushing all along J.

    The basis of the input needs no products to leave it, and the covectors meet the last edges once for all.  Not
    where all is dense: a network's skeleton is then pushed along with its pre-activations, if it pays at all.
    """
    if not any(e.operator.local for into in whole.edges for e in into):
        return False
    inputs, outputs, total = prod(whole.shapes[0]), prod(whole.shapes[-1]), sum(map(len, kept.values()))
    pulled, plain, reduced, later = 0, 0, total * total * inputs // 2, 0
    inner = 0
    for k in range(whole.end, 0, -1):
        here = len(kept[k]) if k in kept else 0
        plain += here * inner
        reduced += here * later * later // 2
        later += here
        work = sum(e.operator.multiply_adds() for e in whole.edges[k])
        pulled += (outputs + later) * work
        if k < whole.end:
            inner += sum(e.operator.multiply_adds() for e in whole.edges[k] if e.source > 0)
    reduced += (total + 1) * (total + inputs)
    return pulled + 2 * whole.rows * reduced <= 2 * whole.rows * (plain + inputs * inner)


def worth_leaving(live: Tensor) -> Tensor | None:
    """The flat positions where `live` (entries,), if they are few enough for a part of each matrix to be made."""
    index = live.nonzero().flatten()
    return index if 0 < len(index) <= _WORTH * len(live) and len(live) >= _MANY else None


def _taken(tensor: Tensor, index: Tensor) -> Tensor:
    """The entries of a node (..., *node) at flat positions."""
    return tensor.reshape(len(tensor), prod(tensor.shape[1:])).index_select(1, index)


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
