"""Routes from a node forward to the last node, for bounds of Jacobians (docs/mathematics.md, §5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import final

import torch

from recurjac.arithmetic import AbstractArithmetic, Ball, concatenate
from recurjac.operators import AbstractOperator
from recurjac.operators.interval_matrix import IntervalMatrix
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.planning import AbstractPlanner
from recurjac.propagation.route import AbstractRoute
from recurjac.region import Convex, One
from recurjac.relaxations import LinearRelaxation


@dataclass(frozen=True)
class AbstractPushRoute(AbstractRoute):
    """A route from a node forward to the last node, where forms are multiplied with the covectors."""

    chain: ChainRule
    found: dict[int, LinearRelaxation | None]

    @property
    def arithmetic(self) -> AbstractArithmetic:
        return self.chain.arithmetic

    @property
    def planner(self) -> AbstractPlanner:
        return self.chain.planner

    @cached_property
    def _out(self) -> list[list[tuple[int, AbstractOperator]]]:
        out: list[list[tuple[int, AbstractOperator]]] = [[] for _ in self.chain.shapes]
        for target, into in enumerate(self.chain.edges[:-1]):
            for e in into:
                out[e.source].append((target, e.operator))
        return out

    @cached_property
    def _rows(self) -> dict[int, Ball]:
        """The covectors pulled back to each node that has an edge into the last node."""
        rows: dict[int, Ball] = {}
        for e in self.chain.edges[-1]:
            more = self.chain.gradient_rows(e.operator)
            rows[e.source] = more if e.source not in rows else rows[e.source] + more
        return rows

    def nodes(self, start: int) -> Sequence[int]:
        return range(start, self.chain.end)

    @final
    def lines(self, node: int) -> LinearRelaxation | None:
        return self.found.get(node)

    def rows(self, node: int) -> Ball | None:
        return self._rows.get(node)

    def region(self, node: int) -> Convex | None:
        return None

    @final
    def floats(self) -> int:
        return self.chain.batch * self.chain.rows * self.widest()


@final
@dataclass(frozen=True)
class PushRoute(AbstractPushRoute):
    """A push route that goes from node to node along the edges of the chain rule."""

    def edges(self, node: int) -> Sequence[tuple[int, AbstractOperator]]:
        return self._out[node]

    def widest(self) -> int:
        return max((prod(s) for s in self.chain.shapes[1:-1]), default=1)


@final
@dataclass(frozen=True)
class StackedPushRoute(AbstractPushRoute):
    """A push route for nodes that read all earlier nodes through matrices; the forms of all later nodes are joined.

    A single covector is joined with them: it makes the last node a scalar, for which a form has one coefficient.
    """

    @property
    def dense(self) -> bool:
        return True

    @cached_property
    def _single(self) -> bool:
        rows = self._rows.values()
        return self.chain.rows == 1 and len(rows) == self.chain.end and all(r.shape[0] == 1 for r in rows)

    @cached_property
    def _stacks(self) -> list[IntervalMatrix]:
        """The matrix from each node to all later nodes except the last, stacked, with a single covector below."""
        chain, stacks = self.chain, []
        for node, out in enumerate(self._out[:-1]):
            parts = [o.matrix for _, o in out if isinstance(o, IntervalMatrix)]
            if self._single:
                parts.append(self._rows[node].map(lambda t: t.reshape(1, -1)))
            if parts:
                matrix = concatenate(parts, 0)
                stacks.append(IntervalMatrix(matrix, chain.shapes[node], (matrix.shape[0],)))
        return stacks

    def nodes(self, start: int) -> Sequence[int]:
        return range(start, self.chain.end + self._single)

    def rows(self, node: int) -> Ball | None:
        return None if self._single else self._rows.get(node)

    def region(self, node: int) -> Convex | None:
        if node != self.chain.end:
            return None
        return One(torch.ones(1, 1, dtype=self.chain.dtype, device=self.chain.device))

    def edges(self, node: int) -> Sequence[tuple[int, AbstractOperator]]:
        return [(node + 1, self._stacks[node])] if node < len(self._stacks) else []

    def split_passthrough(self, node: int, forms: Ball) -> tuple[Ball, Ball | None]:
        n, rows = prod(self.chain.shapes[node]), self.rows(node)
        here = forms.map(lambda t: t[..., :n])
        if forms.shape[-1] == n:
            return here, None
        passing = forms.map(lambda t: t[..., n:])
        # differentiating by the rows keeps `here` alive; without the copy, that would keep the memory of both parts
        return here, passing.map(torch.clone) if rows is not None and rows.mid.requires_grad else passing

    def widest(self) -> int:
        return max(1, sum(prod(s) for s in self.chain.shapes[1:-1]))
