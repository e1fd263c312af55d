"""The sweep: linear forms are propagated from node to node, and each nonlinearity is replaced by its lines.

CROWN pulls forms of pre-activations back to the input; RecurJac pushes tangents forward to the output.  A *route*
specifies the direction of the operators, the lines of each node, and what a form meets on its way; the sweep is the
same for both.  Only the upper bound is coded.  The lower bound is minus the upper bound of the negated forms, which
are added to the sweep at the first node where the two differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import ceil
from typing import final

import numpy as np
import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Interval, concatenate, plus_and_minus_, shares_memory
from recurjac.operators import AbstractOperator
from recurjac.operators.interval_matrix import IntervalMatrix, total
from recurjac.propagation.forms import AbstractSeeds, Units
from recurjac.propagation.receptive_field import Restricted, tiles
from recurjac.propagation.route import AbstractAbsorbingRoute, AbstractRoute
from recurjac.propagation.tally import AbstractTally


def sweep(route: AbstractRoute, start: int, seeds: AbstractSeeds) -> Interval:
    """Bounds of the forms `seeds` at node `start`: (B, K, R), computed in parts that fit the arithmetic's memory.

    Source: docs/mathematics.md, §3.2 (pull) and §5 (push); arXiv:1811.00866, Theorem 3.2; arXiv:1810.11783,
    Algorithm 1.
    """
    if isinstance(seeds, Units) and isinstance(route, AbstractAbsorbingRoute):
        chosen = tiles(seeds, route.planner)
        if chosen is not None:
            parts = [_tile(route, start, seeds, tile) for tile in chosen]
            order = torch.cat(list(chosen)).argsort()
            return _joined(parts).map(lambda t: t.index_select(2, order))
    return _in_parts(route, start, seeds)


def _tile(route: AbstractAbsorbingRoute, start: int, seeds: Units, tile: Tensor) -> Interval:
    """The bounds of the forms `tile`, by a sweep along the part of the route that they reach if it is small."""
    index = seeds.index[0, tile]
    near = Restricted.to_reach_of(route, start, index)
    if near is None:
        return _in_parts(route, start, Units(index.unsqueeze(0), seeds.shape, seeds.dtype))
    return _in_parts(near, start, Units.all((len(index),), seeds.dtype, index.device))


def _in_parts(route: AbstractRoute, start: int, seeds: AbstractSeeds) -> Interval:
    form = route.floats() * torch.finfo(seeds.precision).bits // 8
    size = route.planner.together(form, route.tally().copies, route.arithmetic.memory_on(seeds.device), seeds.device)
    lots = max(1, ceil(seeds.count / size))
    if lots == 1:
        return _sweep(route, start, seeds)
    return _joined([_sweep(route, start, part) for part in seeds.parts(max(1, ceil(seeds.count / lots)))])


def _joined(bounds: list[Interval]) -> Interval:
    """The bounds of several groups of forms, concatenated.

    Forms that meet nothing are 0 in every sample and output; their bounds have one of each, and are expanded.
    """
    if len(bounds) == 1:
        return bounds[0]
    shape = np.broadcast_shapes(*(b.shape[:2] for b in bounds))
    wide = [b.map(lambda t: t.expand(*shape, -1)) for b in bounds]
    return Interval(torch.cat([b.lower for b in wide], 2), torch.cat([b.upper for b in wide], 2))


def _sweep(route: AbstractRoute, start: int, seeds: AbstractSeeds) -> Interval:
    tally, split = route.tally(), False
    pending: dict[int, list[_Sent]] = {}
    for node in route.nodes(start):
        sent = pending.pop(node, None)
        if node == start:
            rows = route.rows(node)
            tally.add(None if rows is None else seeds.dot(rows))
            _send(pending, route.edges(node), _Seeds(seeds, tally.begin(node, seeds)))
            continue
        if sent is None:
            continue
        lines, region, rows = route.lines(node), route.region(node), route.rows(node)
        if not split and (region is not None or (lines is not None and not lines.all_exact)):
            tally.double()
            split = True
            pending = {k: [s.doubled() for s in v] for k, v in pending.items()}
            sent = [s.doubled() for s in sent]
        forms, passing = route.split_passthrough(node, _arrived(sent, node, tally))
        if region is not None:
            tally.maximise_(forms, region)
            continue
        forms = tally.relax_(forms, node, lines)
        if lines is not None and lines.all_constant and passing is None:
            continue
        tally.meet(forms, rows)
        _send(pending, route.edges(node), _Forms(forms), passing)
    return _bounds(route, seeds, tally, split)


@final
@dataclass(frozen=True)
class _Forms:
    """Forms at a node, given by their coefficients."""

    value: Ball

    def doubled(self) -> _Forms:
        return _Forms(concatenate([self.value, -self.value], 2))


@final
@dataclass(frozen=True)
class _Seeds:
    """The forms at the start, not pushed yet; if `both`, they represent the forms and their negations."""

    seeds: AbstractSeeds
    arithmetic: AbstractArithmetic
    both: bool = False

    def doubled(self) -> _Seeds:
        return _Seeds(self.seeds, self.arithmetic, True)


@final
@dataclass(frozen=True)
class _Sent:
    """Forms sent along an edge, which are pushed on arrival, and forms `passing` that are added to the result."""

    operator: AbstractOperator
    forms: _Seeds | _Forms
    passing: Ball | None

    def doubled(self) -> _Sent:
        passing = None if self.passing is None else concatenate([self.passing, -self.passing], 2)
        return _Sent(self.operator, self.forms.doubled(), passing)


def _send(
    pending: dict[int, list[_Sent]],
    edges: Sequence[tuple[int, AbstractOperator]],
    forms: _Seeds | _Forms,
    passing: Ball | None = None,
) -> None:
    """Send forms along every edge; the forms `passing` go along the first edge."""
    for i, (target, operator) in enumerate(edges):
        pending.setdefault(target, []).append(_Sent(operator, forms, passing if i == 0 else None))


def _arrived(sent: Sequence[_Sent], node: int, tally: AbstractTally) -> Ball:
    """The sum of all forms that arrive at a node, in memory that nothing else uses."""
    pushed = [(s.operator, s.forms.value) for s in sent if isinstance(s.forms, _Forms)]
    passing = [s.passing for s in sent if s.passing is not None]
    new = bool(passing) or all(isinstance(o, IntervalMatrix) for o, _ in pushed)
    found = reduce(Ball.__add__, passing) if passing else None
    found = total(pushed, found) if pushed else found
    for seeds, operator in ((s.forms, s.operator) for s in sent if isinstance(s.forms, _Seeds)):
        own = tally.columns(seeds.seeds.push(operator, seeds.arithmetic), node, len(sent) - 1, seeds.both)
        if seeds.both and new and found is not None and found.shape[:2] == own.shape[:2]:
            found = plus_and_minus_(found, own)
        else:
            own = concatenate([own, -own], 2) if seeds.both else own
            found = own if found is None else found + own
    if found is None:
        raise ValueError("no forms arrive at the node")
    moved = not new and len(sent) == 1 and shares_memory(found, pushed[0][1])  # the operator returned a view
    return found.map(torch.clone) if moved else found


def _bounds(route: AbstractRoute, seeds: AbstractSeeds, tally: AbstractTally, split: bool) -> Interval:
    total = tally.total()
    if total is None:  # no form has a term: all are 0
        zero = torch.zeros(1, 1, seeds.count, dtype=seeds.precision, device=seeds.device)
        return Interval.point(zero)
    if not split:
        return route.arithmetic.between(total, total)
    upper = total.upper()
    return route.arithmetic.enclose(-upper[:, :, seeds.count :], upper[:, :, : seeds.count])
