"""The exact judge of a network at a point: values, Jacobian and Hessians in Arb's balls, with as many digits as needed.

It reads the stages and the stored numbers of a network, and shares no arithmetic with the library.  A sum or product of
numbers that fits into the digits is exact, so that networks of piecewise linear activations have rational truths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

from flint import arb, arb_mat, ctx

from recurjac.network import Network, Stage
from tests.truth.elementary import Branches, UnclearError, branches, derivatives
from tests.truth.operators import applied, numbers, rows_of

DIGITS = (200, 600, 2500, 12000)
"""The binary digits that are tried, one after the other."""


@contextmanager
def digits(count: int) -> Iterator[None]:
    """Arb's numbers have so many binary digits inside."""
    before, ctx.prec = ctx.prec, count
    try:
        yield
    finally:
        ctx.prec = before


@dataclass(frozen=True)
class Jet:
    """The values of every stage before its activation, and the derivatives of the last one.

    columns: for each output its value, first derivatives, and second derivatives (i, j) for i <= j, in this order.
    kinked: whether some neuron is exactly at a kink, and moves.
    """

    before: list[list[Any]]
    columns: list[list[Any]]
    inputs: int
    kinked: bool

    @property
    def values(self) -> list[Any]:
        return [row[0] for row in self.columns]

    @property
    def jacobian(self) -> list[list[Any]]:
        return [row[1 : 1 + self.inputs] for row in self.columns]

    def hessian(self, output: int) -> list[list[Any]]:
        n = self.inputs
        found = [[arb(0)] * n for _ in range(n)]
        for (i, j), v in zip(_pairs(n), self.columns[output][1 + n :], strict=True):
            found[i][j] = found[j][i] = v
        return found


def _pairs(n: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(n) for j in range(i, n)]


@dataclass(frozen=True)
class Judge:
    """What is true of one network; jets are kept."""

    network: Network
    _known: dict[tuple[Any, ...], Jet | Exception] = field(default_factory=dict, repr=False)
    _functions: dict[tuple[int, int, int], Branches] = field(default_factory=dict, repr=False)

    def jet(self, x: Sequence[float], order: int, count: int) -> Jet:
        """The jet at a point, of order 0, 1 or 2, with so many digits.

        Beside a kink, where the point is on it, derivatives are the limits from one direction, the same for all kinks:
        an element of Clarke's Jacobian.
        Raises UnclearError if more digits are needed, UndefinedError at poles, and OutOfScopeError.
        """
        key = (tuple(x), order, count)
        if key not in self._known:
            try:
                with digits(count):
                    self._known[key] = self._computed(x, order)
            except Exception as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, Exception):
            raise found
        return found

    def _computed(self, x: Sequence[float], order: int) -> Jet:
        n = len(x)
        width = 1 + n * (order > 0) + len(_pairs(n)) * (order > 1)
        start = [[arb(v), *[arb(int(i == j)) for j in range(n)] * (order > 0)] for i, v in enumerate(x)]
        nodes = [arb_mat([row + [arb(0)] * (width - len(row)) for row in start])]
        before: list[Any] = []
        met: list[int] = []
        for k, stage in enumerate(self.network.stages):
            before.append(_affine(stage, nodes, width))
            nodes.append(self._after(k, before, order, n, met))
        return Jet([[z[i, 0] for i in range(z.nrows())] for z in before], rows_of(nodes[-1]), n, bool(met))

    def _after(self, k: int, before: list[Any], order: int, n: int, met: list[int]) -> Any:
        """The output of stage k; the numbers of stages with a neuron at a kink are added to `met`."""
        stage, z = self.network.stages[k], before[-1]
        if stage.linear:
            return z
        if stage.factor is not None:
            if stage.factor.first:
                return arb_mat(z.nrows(), z.ncols())
            pairs = zip(rows_of(z), rows_of(before[-2]), strict=True)
            return arb_mat([_product(u, v, order, n) for u, v in pairs])
        return arb_mat([self._activated(k, i, row, order, n, met) for i, row in enumerate(rows_of(z))])

    def _activated(self, k: int, i: int, row: list[Any], order: int, n: int, met: list[int]) -> list[Any]:
        stage = self.network.stages[k]
        which = i if any(hasattr(v, "shape") for v in vars(stage.activation).values()) else 0
        key = (k, which, ctx.prec)
        if key not in self._functions:
            self._functions[key] = branches(stage.activation, self.network.dtype, which, stage.shape)

        def side() -> int:
            if any(not d.is_zero() for d in row[1 : 1 + n]):
                met.append(k)
            return _side(row[1 : 1 + n])

        function = self._functions[key].at(row[0], side)
        d = derivatives(function, row[0], order)
        return [d[0], *(_chained(d, row, n) if order else ())]


def _chained(d: list[Any], row: list[Any], n: int) -> list[Any]:
    first = row[1 : 1 + n]
    found = [d[1] * a for a in first]
    if len(d) > 2:
        found += [d[2] * first[i] * first[j] + d[1] * s for (i, j), s in zip(_pairs(n), row[1 + n :], strict=True)]
    return found


def _product(u: list[Any], v: list[Any], order: int, n: int) -> list[Any]:
    a, b = u[1 : 1 + n], v[1 : 1 + n]
    found = [u[0] * v[0], *(u[0] * q + v[0] * p for p, q in zip(a, b, strict=True))]
    if order > 1:
        rest = zip(_pairs(n), u[1 + n :], v[1 + n :], strict=True)
        found += [u[0] * t + v[0] * s + a[i] * b[j] + a[j] * b[i] for (i, j), s, t in rest]
    return found


def _side(first: list[Any]) -> int:
    """Whether a number that is at a kink rises or falls along one direction, the same for all; any if it does not."""
    along = arb(0)
    for i, d in enumerate(first):
        along += d * (7919 + 104729 * (i + 1) ** 3)
    if along > 0 or along.is_zero():
        return 1
    if along < 0:
        return -1
    raise UnclearError


def _affine(stage: Stage, nodes: list[Any], width: int) -> Any:
    total = arb_mat(prod(stage.shape), width)
    for edge in stage.edges:
        total += applied(edge.operator, nodes[edge.source])
    for constant in stage.constants:
        column = [[v, *[arb(0)] * (width - 1)] for v in numbers(constant.tensor)]
        total += applied(constant.operator, arb_mat(column))
    return total
