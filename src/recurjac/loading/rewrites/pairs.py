"""The maximum and the minimum of the same two tensors: one comparison, and side by side the sort of their pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from recurjac.activations import ReLU
from recurjac.loading.expression import Comparison, Expression
from recurjac.network import Constant, Edge
from recurjac.operators import AbstractOperator, Compose, Gather, Identity
from recurjac.operators.scale import scaled


def compared(a: Expression, b: Expression) -> Comparison:
    """relu(b - a), or the same of b and a if they were compared before."""
    known = a.builder.comparisons
    for c in known:
        if (c.first is a and c.second is b) or (c.first is b and c.second is a):
            return c
    rise = b.plus(scaled(a, -1.0)).activate(ReLU())
    known.append(Comparison(a, b, rise, a.plus(rise), b.plus(scaled(rise, -1.0))))
    return known[-1]


@final
@dataclass(frozen=True)
class Joined:
    """Expressions that are to stand side by side; source: a node of which they are then the sorted pairs, if known."""

    parts: tuple[Any, ...]
    source: Expression | None

    def selected(self, whole: Expression) -> Expression:
        """The parts side by side, as what they are."""
        return whole if self.source is None else whole.selected_from(self.source, 1)


def paired(parts: Sequence[Any]) -> Joined:
    """The parts; if they are maxima and minima of the same pairs of one node's entries, those computed from that node.

    Recognised by identity: the same two tensors were given to `maximum` and `minimum`.
    """
    plain = Joined(tuple(parts), None)
    found = [_comparison(p) for p in parts]
    chosen = [c for c in found if c is not None]
    if any(c.first.shape != c.second.shape for c in chosen):
        return plain
    if len(chosen) < len(parts) or any(sum(c is d for d in chosen) != 2 for c in chosen):
        return plain
    if any(p is q for i, p in enumerate(parts) for q in parts[:i]):
        return plain
    halves = [_taken(e) for c in chosen for e in (c.first, c.second)]
    taken = [h for h in halves if h is not None]
    if len(taken) < len(halves) or any(not _same(h.whole, taken[0].whole) for h in taken):
        return plain
    at = torch.cat([h.index for h in taken])
    if 2 * len(at.unique()) != len(at):  # every comparison stands there twice, once for each of its parts
        return plain
    source = taken[0].whole.settled()
    again = {id(c): _again(c, source, taken[2 * i], taken[2 * i + 1]) for i, c in enumerate(chosen)}
    made = [again[id(c)] for c in chosen]
    return Joined(
        tuple(m.most if p is c.most else m.least for p, c, m in zip(parts, chosen, made, strict=True)), source
    )


def _comparison(part: Any) -> Comparison | None:
    if not isinstance(part, Expression):
        return None
    return next((c for c in part.builder.comparisons if part is c.most or part is c.least), None)


@final
@dataclass(frozen=True)
class _Taken:
    """The entries `index` of an expression, each taken once, in another shape."""

    whole: Expression
    index: Tensor


def _taken(part: Expression) -> _Taken | None:
    """The part as entries of what it was taken from; None if it does not only take entries of one term."""
    operators = [*(e.operator for e in part.edges), *(c.operator for c in part.constants)]
    split = [_split(o) for o in operators]
    moves = [s[0] for s in split if s is not None]
    if len(part.edges) != 1 or len(moves) < len(split):
        return None
    first = moves[0]
    if any(not torch.equal(m.table, first.table) or m.inputs != first.inputs for m in moves):
        return None
    if len(first.table) != 1 or bool((first.table < 0).any()):
        return None
    inner = [Identity(first.inputs) if s is None or s[1] is None else s[1] for s in split]
    edges = (Edge(part.edges[0].source, inner[0]),)
    constants = tuple(Constant(o, c.tensor) for o, c in zip(inner[1:], part.constants, strict=True))
    return _Taken(Expression(part.builder, edges, constants, first.inputs), first.table[0])


def _split(operator: AbstractOperator) -> tuple[Gather, AbstractOperator | None] | None:
    """The outermost operator, if it moves entries, and what is inside it."""
    if isinstance(operator, Gather):
        return operator, None
    if isinstance(operator, Compose) and isinstance(operator.outer, Gather):
        return operator.outer, operator.inner
    return None


def _same(a: Expression, b: Expression) -> bool:
    """Whether two expressions are the same terms of the same objects."""
    if a.shape != b.shape or len(a.constants) != len(b.constants):
        return False
    pairs = [
        (a.edges[0].operator, b.edges[0].operator),
        *((c.operator, d.operator) for c, d in zip(a.constants, b.constants, strict=True)),
    ]
    tensors = all(c.tensor is d.tensor for c, d in zip(a.constants, b.constants, strict=True))
    equal = all(x is y or (isinstance(x, Identity) and isinstance(y, Identity)) for x, y in pairs)
    return a.edges[0].source == b.edges[0].source and tensors and equal


def _again(c: Comparison, source: Expression, first: _Taken, second: _Taken) -> Comparison:
    """The same comparison of entries of `source`."""
    shape = source.shape
    a = source.apply(Gather(first.index.unsqueeze(0), shape, c.first.shape))
    b = source.apply(Gather(second.index.unsqueeze(0), shape, c.second.shape))
    rise = b.plus(scaled(a, -1.0)).activate(ReLU())
    return Comparison(a, b, rise, a.plus(rise), b.plus(scaled(rise, -1.0)))
