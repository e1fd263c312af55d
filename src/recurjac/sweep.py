"""The one sweep: linear forms carried from node to node, every non-linearity replaced by its lines.

CROWN pulls forms of pre-activations back to the input; RecurJac pushes tangents forward to the output.  A *route* says
which way the operators point, which lines each node has, and what a form meets on its way; the sweep is the same.
The upper bound alone is coded: the lower one is minus the upper bound of the negated forms, which join the sweep at
the first node where the two differ.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic, Interval, Value, concatenate
from recurjac.lines import Lines, substitute
from recurjac.operators import AbstractOperator
from recurjac.operators.base import one_hot
from recurjac.region import BoundRegion


class AbstractRoute(ABC):
    """A directed acyclic graph along which forms travel, node by node in the order of `nodes`."""

    @property
    @abstractmethod
    def arithmetic(self) -> AbstractArithmetic:
        """How forms are computed."""

    @abstractmethod
    def nodes(self, start: int) -> Sequence[int]:
        """The nodes that a form starting at `start` may visit, in order, `start` first."""

    @abstractmethod
    def edges(self, node: int) -> Sequence[tuple[int, AbstractOperator]]:
        """Where forms go from `node`, and the operator that takes them there."""

    @abstractmethod
    def lines(self, node: int) -> Lines | None:
        """The lines of a node that forms arrive at (not of their start); None if nothing happens there."""

    @abstractmethod
    def rows(self, node: int) -> Value | None:
        """Known numbers that a form at `node` is multiplied with and sheds, (B, K, *node); None if there are none."""

    @abstractmethod
    def region(self, node: int) -> BoundRegion | None:
        """The region over which forms that arrive at `node` are maximised; None but at the end of a pull."""

    @abstractmethod
    def floats(self) -> int:
        """An upper estimate of the numbers that one form occupies at its widest node, over all samples and outputs."""


class AbstractSeeds(ABC):
    """The forms with which a sweep starts."""

    @abstractmethod
    def push(self, operator: AbstractOperator, arithmetic: AbstractArithmetic) -> Value:
        """The operator applied to every form: (B, K, R, *out)."""

    @abstractmethod
    def dot(self, rows: Value) -> Value:
        """The forms times known numbers (B, K, *node): (B, K, R)."""

    @abstractmethod
    def parts(self, size: int) -> Iterator[AbstractSeeds]:
        """The same forms, at most `size` at a time."""

    @abstractmethod
    def tensor(self) -> Tensor:
        """The forms' coefficients, (B or 1, K or 1, R, *node)."""

    @property
    @abstractmethod
    def count(self) -> int:
        """The number R of forms for each sample and covector."""

    @property
    @abstractmethod
    def precision(self) -> torch.dtype:
        """The dtype of the forms."""


@final
@dataclass(frozen=True)
class Units(AbstractSeeds):
    """Unit forms: 1 at one entry of a node of `shape`, `index` (B or 1, R) being their flat positions."""

    index: Tensor
    shape: Shape
    dtype: torch.dtype

    @classmethod
    def all(cls, shape: Shape, dtype: torch.dtype, device: torch.device) -> Units:
        """Every unit form of the node: its basis."""
        return cls(torch.arange(prod(shape), device=device).unsqueeze(0), shape, dtype)

    def push(self, operator: AbstractOperator, arithmetic: AbstractArithmetic) -> Value:
        return operator.columns(self.index.unsqueeze(1), self.dtype, arithmetic)

    def dot(self, rows: Value) -> Value:
        def gather(t: Tensor) -> Tensor:
            flat = t.flatten(2)
            b = max(flat.shape[0], self.index.shape[0])
            index = self.index.unsqueeze(1).expand(b, flat.shape[1], -1)
            return flat.expand(b, -1, -1).gather(2, index)

        return rows.map(gather)

    def parts(self, size: int) -> Iterator[AbstractSeeds]:
        return (Units(i, self.shape, self.dtype) for i in self.index.split(size, dim=1))

    @property
    def count(self) -> int:
        return int(self.index.shape[1])

    @property
    def precision(self) -> torch.dtype:
        return self.dtype

    def tensor(self) -> Tensor:
        return one_hot(self.index.unsqueeze(1), self.shape, self.dtype)


@final
@dataclass(frozen=True)
class Forms(AbstractSeeds):
    """Forms given by their coefficients, (B or 1, K or 1, R, *node), exact as stored."""

    coefficients: Tensor
    arithmetic: AbstractArithmetic

    def push(self, operator: AbstractOperator, arithmetic: AbstractArithmetic) -> Value:
        return operator.push(arithmetic.exact(self.coefficients))

    def dot(self, rows: Value) -> Value:
        return self.arithmetic.exact(self.coefficients).dot(rows)

    def parts(self, size: int) -> Iterator[AbstractSeeds]:
        return (Forms(c, self.arithmetic) for c in self.coefficients.split(size, dim=2))

    @property
    def count(self) -> int:
        return int(self.coefficients.shape[2])

    @property
    def precision(self) -> torch.dtype:
        return self.coefficients.dtype

    def tensor(self) -> Tensor:
        return self.coefficients


def sweep(route: AbstractRoute, start: int, seeds: AbstractSeeds) -> Interval:
    """Bounds of the forms `seeds` at node `start`: (B, K, R), in parts that keep to the arithmetic's memory.

    Source: MATH §3 (pull) and §5 (push); arXiv:1811.00866, Theorem 3.2; arXiv:1810.11783, Algorithm 1.
    """
    copies = 12 if route.arithmetic.rigorous else 6
    element = torch.finfo(seeds.precision).bits // 8
    size = max(1, route.arithmetic.memory // max(1, copies * route.floats() * element))
    bounds = [_sweep(route, start, part) for part in seeds.parts(size)]
    if len(bounds) == 1:
        return bounds[0]
    lowers = torch.cat([b.lower for b in bounds], 2)
    return Interval(lowers, torch.cat([b.upper for b in bounds], 2))


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
