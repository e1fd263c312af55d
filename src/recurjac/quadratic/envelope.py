"""A search for multipliers that all rows share: its derivatives cost vectors only, whatever the size of the matrices.

For a row c after node k, with c̃ = c diag(m) and the joint matrix M (`system.py`),

    c̃ M c̃ᵀ + c̃ M_{:U} (T - M_UU)⁻¹ M_{U:} c̃ᵀ  =  max over s of  g M gᵀ - Σ t s²,   g = c̃ + s on U,

and g M gᵀ is the form of the row g A at the earlier nodes.  By the envelope theorem, s may be held fixed in the
derivative, and so may the eigenvector in λ = u Q uᵀ.  No proof depends on the result (docs/mathematics.md, §5.6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Ball, Fast, largest_eigenpair
from recurjac.deadline import NEVER, Deadline
from recurjac.network import Edge
from recurjac.quadratic.multipliers import Multipliers, least_of
from recurjac.quadratic.system import Node, System, absorbed, joined, reach

_ROWS = 128
"""The number of rows that the search looks at; if there are more, they are evenly spaced ones."""
_LANCZOS = 48
"""Steps for the largest eigenvalue."""
_SAFE = 1e-3
"""The relative error that is expected of it."""
_RATE = 0.3
"""The first step of Adam's method, which may be long because the first multipliers are balanced."""
_PATH = 6.0
"""About the sum of all steps; a longer search takes shorter ones."""
_EVEN = 0.3
"""The share of the mean that the size of every neuron has in addition."""
_LEAST = 1e-30
"""In place of 0 in logarithms and quotients."""


def spread_evenly(system: System, radius: Tensor, euclidean: bool) -> Multipliers:
    """First multipliers with e_j near √Q_jj / √(c_j r_j), where c is the row along the middle of all slopes.

    Each t_j has a cost in (c Q)_j² / t_j, and one in c_j² r_j² t_j.
    """
    plain, begin = replace(system, arithmetic=Fast()), Multipliers.first(system, radius, euclidean)
    forms, shapes = plain.middle_forms(), dict(begin.shapes)

    def shaped(k, q):  # type: ignore[no-untyped-def]  # (annotated functions made here would never be freed in tests)
        node = plain.nodes[k - 1]
        if k in forms:
            size = forms[k][:, node.unstable].abs() * node.half[node.unstable]
            share = (size / size.mean(1, keepdim=True).clamp(min=_LEAST)).mean(0)
            wide = q.diagonal()
            wide = wide / wide.mean().clamp(min=_LEAST)
            found = (wide.clamp(min=_LEAST).sqrt() / (share + _EVEN).sqrt()).log()
            shapes[k] = torch.where(found.isfinite(), found, 0.0)
        return replace(begin, shapes=shapes).choose(k, q)

    reach(plain, begin.start(radius), shaped)
    return replace(begin, shapes=shapes)


def optimised_rows(
    system: System, begin: Multipliers, radius: Tensor, steps: int, deadline: Deadline = NEVER
) -> Multipliers:
    """Multipliers with a small sum of log c G cᵀ over some of the rows, from `begin`; searched in single precision."""
    single = _single(system)
    to = partial(torch.Tensor.to, dtype=torch.float32)
    rate = min(_RATE, _PATH / max(steps, 1))
    found = least_of(partial(_value, single, to(radius)), begin.map(to), steps, deadline, rate)
    return found.map(partial(torch.Tensor.to, dtype=radius.dtype))


def _single(system: System) -> System:
    """The system in plain single precision, with some of its rows."""
    to, exact = partial(torch.Tensor.to, dtype=torch.float32), Fast().exact
    nodes = tuple(
        replace(
            node,
            edges=tuple(Edge(e.source, e.operator.to(torch.float32, node.middle.device)) for e in node.edges),
            middle=to(node.middle),
            half=to(node.half),
        )
        for node in system.nodes
    )
    count = len(next(iter(system.rows.values())).mid)
    some = torch.linspace(0, count - 1, min(count, _ROWS)).round().long()
    rows = {i: exact(to(r.mid[some.to(r.mid.device)])) for i, r in system.rows.items()}
    return System(system.inputs, nodes, rows, Fast())


@final
@dataclass(frozen=True)
class _Passed:
    """A node in the forward pass: M of what is kept and of y, where each part lies, and a factor of T - M_UU.

    vector: the unit eigenvector of diag(e)^-½ M_UU diag(e)^-½ with the largest eigenvalue.
    """

    matrix: Tensor
    places: Mapping[int, slice]
    factor: Tensor
    vector: Tensor


def _value(system: System, radius: Tensor, now: Multipliers) -> Tensor | None:
    """The mean logarithm of the rows' forms; its derivatives are exact up to rounding."""
    start = now.start(radius)
    with torch.no_grad():
        passed = _forward(system, start, now)
    if passed is None:
        return None
    t: dict[int, Tensor] = {}
    for k, node in enumerate(system.nodes, 1):
        if k not in now.shapes:
            continue
        e = now.shapes[k].exp()
        row = start.new_zeros(1, prod(node.shape)).index_copy(
            1, node.unstable, (passed[k - 1].vector / e.sqrt()).unsqueeze(0)
        )
        most = _forms(system, passed, _sources(node, row), start, t)
        t[k] = now.scaled(k, e, most * (1 + _SAFE))
    found = _forms(system, passed, {i: r.mid for i, r in system.rows.items()}, start, t)
    return found.clamp(min=_LEAST).log().mean()


def _forward(system: System, start: Tensor, now: Multipliers) -> list[_Passed] | None:
    """The P-chain in plain floating point, without the last matrix; None if a gap is not positive definite."""
    matrix, places = torch.diag(start), {0: slice(0, len(start))}
    found = []
    for k, node in enumerate(system.nodes, 1):
        ball, places = joined(Ball(matrix, None), places, k, node)
        matrix = absorbed(ball).mid
        passed = _gap(matrix, places, k, node, now)
        if passed is None:
            return None
        found.append(passed[0])
        if k < len(system.nodes):
            matrix = _next(passed[0], passed[1], k, node)
            if not node.read:
                end = places[k].start
                matrix, places = matrix[:end, :end], {i: p for i, p in places.items() if i != k}
    return found


def _gap(
    matrix: Tensor, places: Mapping[int, slice], k: int, node: Node, now: Multipliers
) -> tuple[_Passed, Tensor] | None:
    index = node.unstable + places[k].start
    if not len(index):
        empty = matrix.new_zeros(0)
        return _Passed(matrix, places, empty.reshape(0, 0), empty), empty
    q = matrix[index][:, index]
    e = now.shapes[k].exp()
    units = e.rsqrt()
    scaled = q * units * units.unsqueeze(1)
    if not bool(scaled.isfinite().all()):
        return None
    pair = largest_eigenpair(partial(torch.mv, scaled), len(q), _LANCZOS, q)
    t = now.scaled(k, e, pair.value * (1 + _SAFE))
    factor, info = torch.linalg.cholesky_ex(torch.diag(t) - q)
    return None if int(info) else (_Passed(matrix, places, factor, pair.vector), t)


def _next(passed: _Passed, t: Tensor, k: int, node: Node) -> Tensor:
    """P' of a node."""
    matrix, place = passed.matrix, passed.places[k]
    index = node.unstable + place.start
    scale = torch.ones_like(matrix[0])
    scale[place] = node.middle
    if len(index):
        # X = (T - M_UU)⁻¹ M_{U:}, which multiplies M_{:U}
        across = torch.linalg.solve_triangular(passed.factor, matrix[index], upper=False)
        matrix = matrix + across.mT @ across
    matrix = matrix * scale * scale.unsqueeze(1)
    if len(index):
        matrix.diagonal().index_add_(0, index, t * node.half[node.unstable].square())
    return matrix


def _sources(node: Node, rows: Tensor) -> dict[int, Tensor]:
    """Rows of y as rows of the nodes that it reads."""
    found: dict[int, Tensor] = {}
    _push(node, rows, found)
    return found


def _push(node: Node, rows: Tensor, pending: dict[int, Tensor]) -> None:
    exact = Fast().exact
    for e in node.edges:
        more = e.operator.transpose().push(exact(rows.reshape(-1, *node.shape))).mid.reshape(len(rows), -1)
        pending[e.source] = more if e.source not in pending else pending[e.source] + more


def _forms(
    system: System, passed: Sequence[_Passed], rows: Mapping[int, Tensor], start: Tensor, t: Mapping[int, Tensor]
) -> Tensor:
    """c P cᵀ for rows over nodes, (K,)."""
    pending = dict(rows)
    total = start.new_zeros(len(next(iter(pending.values()))) if pending else 1)
    for k in range(max(pending, default=0), 0, -1):
        node, at = system.nodes[k - 1], passed[k - 1]
        own = pending.pop(k, None)
        if own is None and not pending:  # no path leads from the rows to this node or one before it
            break
        through = own * node.middle if own is not None else None
        if k in t:
            s = _extreme(at, k, node, pending, through)
            total = total - s.square() @ t[k]
            if own is not None:
                total = total + (own[:, node.unstable] * node.half[node.unstable]).square() @ t[k]
            wide = start.new_zeros(len(s), prod(node.shape)) if through is None else through
            through = wide.index_add(1, node.unstable, s)
        if through is not None:
            _push(node, through, pending)
    return total + pending[0].square() @ start if 0 in pending else total


def _extreme(at: _Passed, k: int, node: Node, pending: Mapping[int, Tensor], through: Tensor | None) -> Tensor:
    """The s that belongs to the rows, (K, u), without derivatives."""
    index = node.unstable + at.places[k].start
    parts = {**pending, **({} if through is None else {k: through})}
    with torch.no_grad():
        images = [c @ at.matrix[at.places[i], :][:, index] for i, c in parts.items() if i in at.places]
        return torch.cholesky_solve(reduce(torch.add, images).mT, at.factor).mT
