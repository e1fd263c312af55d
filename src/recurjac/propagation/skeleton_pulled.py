"""The skeleton of the chain rule of one sample, computed by pulling rows back (docs/mathematics.md, §5.5).

Between neurons of unknown slope, the chain rule is linear.  The rows of its matrices, one for each unstable neuron and
each output, are pulled back through the linear part.  This is cheap with convolutions, for which one column per input
would be expensive.  `skeleton_pushed` builds the same matrices from columns, together with the pre-activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import prod

import torch
from torch import Tensor

from recurjac.arithmetic import Ball, stacked
from recurjac.network import Edge
from recurjac.operators.compose import columns_in_common
from recurjac.operators.interval_matrix import IntervalMatrix
from recurjac.propagation.chain_rule import ChainRule, Place, taken


def between_unstable(chain: ChainRule) -> ChainRule | None:
    """The chain rule of the same J restricted to its unstable neurons; None if that is not cheaper.

    It is the skeleton that was built with the pre-activations of the network, if there is one; otherwise it is pulled.
    """
    if chain.skeleton is not None or chain.batch > 1:
        return chain.skeleton
    kept = {k: mask.flatten().nonzero().flatten() for k in range(chain.end) if (mask := chain.unstable(k)) is not None}
    return between(chain, kept) if chain.planner.pulls_skeleton(chain, kept) else None


def between(whole: ChainRule, kept: Mapping[int, Tensor]) -> ChainRule:
    """The chain rule of the same J, for one sample, restricted to the neurons `kept`.

    kept: flat positions of neurons at some nodes, in the order of the nodes.  All neurons whose slope is not known must
    be among them.
    """
    every = torch.arange(prod(whole.shapes[0]), device=whole.device)
    sources = {0: every, **kept}
    outputs = torch.arange(prod(whole.shapes[-1]), device=whole.device)
    shapes = [whole.shapes[0], *((len(index),) for index in kept.values()), whole.shapes[-1]]
    edges: list[tuple[Edge, ...]] = [()]
    for target, (node, entries) in enumerate([*kept.items(), (whole.end, outputs)], 1):
        rows = _pulled(whole, node, entries, sources)
        edges.append(tuple(Edge(s, IntervalMatrix(r, shapes[s], shapes[target])) for s, r in enumerate(rows)))
    slopes = [s.map(partial(taken, index=i)) for k, i in kept.items() if (s := whole.slopes[k]) is not None]
    places = (Place(0, None), *(Place(k, index) for k, index in kept.items()), Place(whole.end, None))
    return replace(
        whole, shapes=tuple(shapes), edges=tuple(edges), slopes=(None, *slopes, None), skeleton=None, places=places
    )


def _pulled(whole: ChainRule, start: int, entries: Tensor, sources: Mapping[int, Tensor]) -> list[Ball]:
    """For each node of `sources` before `start`: the derivatives of z_start at `entries` by its entries, (R, n).

    The map between them is linear: the slope of a neuron is the lower end of its interval, and 0 at `sources`.
    The rows have one radius in common, so that rounding costs products with one vector.
    """
    widest = max(prod(s) for s in whole.shapes)
    bits = torch.finfo(whole.dtype).bits
    lot = max(1, 8 * whole.arithmetic.memory_on(whole.device) // (12 * widest * bits))
    parts = [_pull(whole, start, some, sources) for some in entries.split(lot)]
    return [stacked(p) for p in zip(*parts, strict=True)]


def _pull(whole: ChainRule, start: int, entries: Tensor, sources: Mapping[int, Tensor]) -> list[Ball]:
    arithmetic, pending, found = whole.arithmetic, dict[int, Ball](), dict[int, Ball]()
    for node in range(start, -1, -1):
        forms = pending.pop(node, None)
        if node != start:
            if forms is None:
                continue
            if node in sources:
                found[node] = forms.map_rows(partial(taken, index=sources[node]))
            forms = _through(whole, node, forms, sources)
        for e in whole.edges[node]:
            back = e.operator.transpose()
            if forms is None:
                more = columns_in_common(back, entries, whole.dtype, arithmetic)
            else:
                more = back.push(forms.in_common)
            pending[e.source] = more if e.source not in pending else pending[e.source].in_common + more.in_common
    nothing = torch.zeros(len(entries), 1, dtype=whole.dtype, device=whole.device)
    return [
        found[k] if k in found else arithmetic.exact(nothing.expand(-1, len(index)))
        for k, index in sources.items() if k < start
    ]  # fmt: skip


def _through(whole: ChainRule, node: int, forms: Ball, sources: Mapping[int, Tensor]) -> Ball:
    """Forms (R, *node) times the slopes of the neurons, which are taken as 0 at `sources`."""
    slopes = whole.slopes[node]
    if slopes is None:
        return forms
    slope = slopes.lower[0]
    if node in sources:
        slope = slope.flatten().index_fill(0, sources[node], 0.0).reshape(slope.shape)
    return whole.arithmetic.scaled(forms.in_common, slope)
