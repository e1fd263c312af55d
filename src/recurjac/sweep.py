"""The one sweep: linear forms carried from node to node, every non-linearity replaced by its lines.

CROWN pulls forms of pre-activations back to the input; RecurJac pushes tangents forward to the output.  A *route* says
which way the operators point, which lines each node has, and what a form meets on its way; the sweep is the same.
The upper bound alone is coded: the lower one is minus the upper bound of the negated forms, which join the sweep at
the first node where the two differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Interval, Value, concatenate
from recurjac.lines import substitute
from recurjac.operators import AbstractOperator
from recurjac.reach import Restricted, tiles
from recurjac.route import AbstractRoute
from recurjac.seeds import AbstractSeeds, Units


def sweep(route: AbstractRoute, start: int, seeds: AbstractSeeds) -> Interval:
    """Bounds of the forms `seeds` at node `start`: (B, K, R), in parts that keep to the arithmetic's memory.

    Source: MATH §3 (pull) and §5 (push); arXiv:1811.00866, Theorem 3.2; arXiv:1810.11783, Algorithm 1.
    """
    if isinstance(seeds, Units) and (chosen := tiles(seeds)) is not None:
        parts = [_tile(route, start, seeds, tile) for tile in chosen]
        order = torch.cat(list(chosen)).argsort()
        return _joined(parts).map(lambda t: t.index_select(2, order))
    return _in_parts(route, start, seeds)


def _tile(route: AbstractRoute, start: int, seeds: Units, tile: Tensor) -> Interval:
    """The bounds of the forms number `tile`, along what they reach if that is much less than the whole route."""
    index = seeds.index[0, tile]
    near = Restricted.to_reach_of(route, start, index)
    if near is None:
        return _in_parts(route, start, Units(index.unsqueeze(0), seeds.shape, seeds.dtype))
    return _in_parts(near, start, Units.all((len(index),), seeds.dtype, index.device))


def _in_parts(route: AbstractRoute, start: int, seeds: AbstractSeeds) -> Interval:
    copies = 12 if route.arithmetic.rigorous else 6
    element = torch.finfo(seeds.precision).bits // 8
    size = max(1, route.arithmetic.memory // max(1, copies * route.floats() * element))
    return _joined([_sweep(route, start, part) for part in seeds.parts(size)])


def _joined(bounds: list[Interval]) -> Interval:
    """The bounds of several lots of forms, one after the other."""
    if len(bounds) == 1:
        return bounds[0]
    return Interval(torch.cat([b.lower for b in bounds], 2), torch.cat([b.upper for b in bounds], 2))


class _Tally:
    """The constants collected so far: one for both signs until `split`, then for the forms and their negations."""

    def __init__(self) -> None:
        self.total: Value | None = None
        self.split = False

    def add(self, term: Value | None) -> None:
        if term is not None:
            self.total = term if self.total is None else self.total + term

    def double(self) -> None:
        if self.total is not None:
            self.total = concatenate([self.total, -self.total], 2)
        self.split = True


def _sweep(route: AbstractRoute, start: int, seeds: AbstractSeeds) -> Interval:
    arithmetic, tally = route.arithmetic, _Tally()
    pending: dict[int, Value] = {}
    for node in route.nodes(start):
        forms = pending.pop(node, None)
        if node == start:
            rows = route.rows(node)
            tally.add(None if rows is None else seeds.dot(rows))
            _pass_on(route, node, pending, seeds)
            continue
        if forms is None:
            continue
        lines, region, rows = route.lines(node), route.region(node), route.rows(node)
        if not tally.split and (region is not None or (lines is not None and not lines.all_exact)):
            tally.double()
            pending = {k: concatenate([v, -v], 2) for k, v in pending.items()}
            forms = concatenate([forms, -forms], 2)
        if region is not None:
            tally.add(region.maximum(forms, arithmetic))
            continue
        if lines is not None:
            forms, constant = substitute(forms, lines, arithmetic)
            tally.add(constant)
        tally.add(None if rows is None else forms.dot(rows))
        _pass_on(route, node, pending, _Carried(forms))
    return _bounds(route, seeds, tally)


@final
@dataclass(frozen=True)
class _Carried:
    """Forms on their way, pushed through operators as seeds are."""

    value: Value

    def push(self, operator: AbstractOperator, arithmetic: AbstractArithmetic) -> Value:  # as seeds do
        return operator.push(self.value)


def _pass_on(route: AbstractRoute, node: int, pending: dict[int, Value], forms: AbstractSeeds | _Carried) -> None:
    for target, operator in route.edges(node):
        arrived = forms.push(operator, route.arithmetic)
        pending[target] = arrived if target not in pending else pending[target] + arrived


def _bounds(route: AbstractRoute, seeds: AbstractSeeds, tally: _Tally) -> Interval:
    if tally.total is None:  # no form meets anything: all are 0
        zero = torch.zeros(1, 1, seeds.count, dtype=seeds.precision)
        return Interval.point(zero)
    if not tally.split:
        return route.arithmetic.between(tally.total, tally.total)
    upper = tally.total.upper()
    return route.arithmetic.enclose(-upper[:, :, seeds.count :], upper[:, :, : seeds.count])
