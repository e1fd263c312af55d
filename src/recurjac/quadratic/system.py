"""The P-chain: one matrix that bounds every linear form of what a network still reads.

A *system* is a chain rule of one sample: v = h_0 lies in a ball, y_k = Σ A_ki h_i, and h_k = δ_k ⊙ y_k with δ_k in
[d_k, D_k].  A matrix P of the nodes that are still read, with (c h)² <= c P cᵀ for all rows c, is carried from node to
node (docs/mathematics.md, §5.6).  With m and r the middle and the half-width of [d, D], U the neurons with r > 0,
Q = A P Aᵀ and any diagonal T = diag(t) ≻ Q_UU, the next matrix is

    P' = diag(m) (Q + Q_{:U} (T - Q_UU)⁻¹ Q_{U:}) diag(m) + diag(t r² on U).

Sources: the LipSDP family (Fazlyab et al. 2019, arXiv:1906.04893); ECLipsE (Xu and Sivaranjani, NeurIPS 2024).

Rounding: P' increases with P in the sense of definiteness.  After each step, the errors E of a symmetric matrix are
absorbed by a diagonal: E ⪯ diag(Σ_j |E_ij| s_j / s_i) for any s > 0 (Gershgorin's theorem for diag(s)⁻¹ E diag(s)).
Systems are rigorous even where the chain rule is not: its squares may underflow, which is more than a rounding error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic, Ball, Fast, Interval, concatenate, least_eigenvalue
from recurjac.arithmetic.rounding import grow, tiny_of, zero_of
from recurjac.network import Edge
from recurjac.propagation.chain_rule import ChainRule
from recurjac.quadratic.proving import proving, taken_exactly
from recurjac.tensors import without_gradients


@final
@dataclass(frozen=True)
class Node:
    """A node of a system: its edges, the middle and half-width of its slopes, (n,) in float64, and who is read later.

    unstable: the flat positions with r > 0.  kept: the earlier nodes that later ones still read, in order.
    read: whether later nodes read this one.
    """

    shape: Shape
    edges: tuple[Edge, ...]
    middle: Tensor
    half: Tensor
    unstable: Tensor
    kept: tuple[int, ...]
    read: bool


@final
@dataclass(frozen=True)
class System:
    """The nodes 1, 2, … of a chain rule of one sample, and the rows at its end, by the node that they multiply.

    inputs: the shape of node 0.  rows: (K, n_i) for node i.  All numbers are in float64.
    """

    inputs: Shape
    nodes: tuple[Node, ...]
    rows: Mapping[int, Ball]
    arithmetic: AbstractArithmetic

    def middle_rows(self) -> Tensor:
        """The rows carried back to the input with the middle of every slope, in plain floating point: (K, n_0)."""
        found = self.middle_forms()
        count = len(next(iter(self.rows.values())).mid)
        return found[0] if 0 in found else torch.zeros(count, prod(self.inputs), dtype=torch.float64)

    def middle_forms(self) -> dict[int, Tensor]:
        """The same at each node that the rows depend on, as forms of the values after its slopes: (K, n_k)."""
        pending = {i: rows.mid for i, rows in self.rows.items()}
        count, exact = len(next(iter(pending.values()))), Fast().exact
        for k in range(len(self.nodes), 0, -1):
            if k not in pending:
                continue
            node = self.nodes[k - 1]
            forms = (pending[k] * node.middle).reshape(count, *node.shape)
            for e in node.edges:
                more = e.operator.transpose().push(exact(forms)).mid.reshape(count, -1)
                pending[e.source] = more if e.source not in pending else pending[e.source] + more
        return pending


def system_of(chain: ChainRule) -> System:
    """The system of a chain rule of one sample, without the neurons of slope 0 where leaving them out saves work."""
    return whole_system_of(chain.without_dead())


def whole_system_of(chain: ChainRule) -> System:
    """The system of a chain rule of one sample, with all its neurons."""
    end, device, arithmetic = chain.end, chain.device, proving(chain.arithmetic)
    edges = [
        tuple(Edge(e.source, taken_exactly(without_gradients(e.operator.to(torch.float64, device)))) for e in into)
        for into in chain.edges
    ]
    rows: dict[int, Ball] = {}
    for e in chain.edges[end]:
        more = chain.gradient_rows(e.operator).map(lambda t: t.flatten(2)[0]).to(torch.float64, device)
        more = taken_exactly(Ball(more.mid.detach(), more.rad))
        rows[e.source] = more if e.source not in rows else rows[e.source] + more
    last = {e.source: k for k in range(1, end + 1) for e in edges[k]}  # who reads a node last
    if not rows:  # the end is constant
        rows[0] = arithmetic.exact(torch.zeros(chain.rows, prod(chain.shapes[0]), dtype=torch.float64, device=device))
        last[0] = end
    nodes = []
    for k in range(1, end):
        size, slopes = prod(chain.shapes[k]), chain.slopes[k]
        middle, half = middle_and_half(slopes.lower[0], slopes.upper[0]) if slopes is not None else _ones(size, device)
        kept = tuple(i for i in range(k) if last.get(i, -1) > k)
        nodes.append(Node(chain.shapes[k], edges[k], middle, half, half.nonzero().flatten(), kept, k in last))
    return System(chain.shapes[0], tuple(nodes), rows, arithmetic)


def _ones(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.ones(size, dtype=torch.float64, device=device), torch.zeros(size, dtype=torch.float64, device=device)


def middle_and_half(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """m and r >= max(D - m, m - d), which is 0 where d = D: both (n,), float64."""
    low, high = low.detach().double().flatten(), high.detach().double().flatten()
    middle = torch.where(low == high, low, low / 2 + high / 2)
    half = torch.maximum(high - middle, middle - low)
    return middle, torch.where(low == high, 0.0, torch.nextafter(half, torch.full_like(half, torch.inf)))


_SMALLEST = 2.0**-100
"""The least ratio of the numbers s of Gershgorin's discs; any positive ones give a proof."""

Choose = Callable[[int, Tensor], Tensor]
"""Multipliers t > 0 for the unstable neurons of a node, given its number and Q_UU."""


def reach(system: System, start: Tensor, choose: Choose) -> Ball | None:
    """G with (c J v)² <= c G cᵀ for each row c and each v for which the sum of v_i² / start_i is at most 1.

    start: the diagonal of P at the input, (n_0,).
    Unless the arithmetic is `Fast`, the result is symmetric and bounds the exact G in the sense of definiteness.
    It is None if a number is not finite, or some T - Q_UU is not (proved to be) positive definite.  Without radii, it
    is differentiable.
    """
    matrix, done = system.arithmetic.exact(torch.diag(start)), 0
    places: Mapping[int, slice] = {0: slice(0, len(start))}
    for node in carried(system, start, choose):
        matrix, places, done = node.matrix, node.places, done + 1
    if done < len(system.nodes):
        return None
    found = absorbed(_congruence(matrix, places, system.rows))
    return found if bool(found.mid.isfinite().all()) else None


@final
@dataclass(frozen=True)
class Carried:
    """What is known at a node: `before`, with (c y)² <= c before cᵀ for the inputs y of its slopes, and then `matrix`.

    matrix: of the nodes that are still read, which lie in it at `places`.
    """

    before: Ball
    matrix: Ball
    places: Mapping[int, slice]


def carried(system: System, start: Tensor, choose: Choose) -> Iterator[Carried]:
    """The matrices at the nodes 1, 2, …, until one cannot be proved; the arguments are those of `reach`."""
    matrix, places = system.arithmetic.exact(torch.diag(start)), {0: slice(0, len(start))}
    for k, node in enumerate(system.nodes, 1):
        joint, places = joined(matrix, places, k, node)
        joint, at = absorbed(joint), places[k]
        found = _through(joint, at, k, node, choose, system.arithmetic)
        if found is None:
            return
        matrix = found
        if not node.read:
            matrix, places = _without(matrix, places, k)
        yield Carried(joint.map(lambda t, at=at: t[at, at]), matrix, places)


def joined(matrix: Ball, places: Mapping[int, slice], k: int, node: Node) -> tuple[Ball, dict[int, slice]]:
    """The joint matrix of the nodes that are kept and of y_k, and where each lies in it."""
    exact_columns = [
        e.operator.push(matrix.map(lambda t, e=e: t[:, places[e.source]].reshape(-1, *e.operator.in_shape)))
        for e in node.edges
    ]
    n = prod(node.shape)
    if not exact_columns:
        zero = torch.zeros(len(matrix.mid), n, dtype=matrix.mid.dtype, device=matrix.mid.device)
        across = Ball(zero, matrix.rad if matrix.rad is None else torch.zeros_like(zero))
        within = Ball(zero.new_zeros(n, n), None if matrix.rad is None else zero.new_zeros(n, n))
    else:
        across = reduce(Ball.__add__, (c.map(lambda t: t.reshape(len(t), n)) for c in exact_columns))
        within = reduce(
            Ball.__add__,
            (
                e.operator.push(across.map(lambda t, e=e: t[places[e.source]].mT.reshape(n, *e.operator.in_shape))).map(
                    lambda t: t.reshape(n, n)
                )
                for e in node.edges
            ),
        )
    if not node.kept:
        return within, {k: slice(0, n)}
    index = torch.cat([torch.arange(places[i].start, places[i].stop) for i in node.kept]).to(matrix.mid.device)
    side = across.map(lambda t: t[index])
    top = concatenate([matrix.map(lambda t: t[index][:, index]), side], 1)
    bottom = concatenate([side.map(lambda t: t.mT), within], 1)
    return concatenate([top, bottom], 0), _placed([*((i, places[i]) for i in node.kept), (k, slice(0, n))])


def _placed(parts: Sequence[tuple[int, slice]]) -> dict[int, slice]:
    """The nodes one after the other, each as long as before."""
    found, begin = {}, 0
    for i, place in parts:
        found[i] = slice(begin, begin + place.stop - place.start)
        begin = found[i].stop
    return found


def _without(matrix: Ball, places: Mapping[int, slice], k: int) -> tuple[Ball, dict[int, slice]]:
    end = places[k].start  # the last one
    return matrix.map(lambda t: t[:end, :end]), {i: p for i, p in places.items() if i != k}


def _through(
    matrix: Ball, place: slice, k: int, node: Node, choose: Choose, arithmetic: AbstractArithmetic
) -> Ball | None:
    """The matrix after the slopes of node k, whose y is at `place` of the joint matrix."""
    if not bool(matrix.mid.isfinite().all()):
        return None
    exact, index = arithmetic.exact, node.unstable + place.start
    scale = torch.ones(len(matrix.mid), dtype=matrix.mid.dtype, device=matrix.mid.device)
    scale = torch.cat([scale[: place.start], node.middle, scale[place.stop :]])
    added = None
    if len(index):
        t = choose(k, matrix.mid[index][:, index])
        found = _schur(matrix, index, t)
        if found is None:
            return None
        matrix, half = found, exact(node.half[node.unstable])
        added = exact(t) * half * half
    matrix = matrix * exact(scale.unsqueeze(1)) * exact(scale.unsqueeze(0))
    if added is not None:
        matrix = matrix + added.map(lambda t: torch.diag(torch.zeros_like(scale).index_add(0, index, t)))
    return absorbed(matrix)


def _schur(matrix: Ball, index: Tensor, t: Tensor) -> Ball | None:
    """Z + Z_{:U} (T - Z_UU)⁻¹ Z_{U:} for an exact symmetric Z; None unless T - Z_UU is positive definite.

    With X an approximation of (T - Z_UU)⁻¹ Z_{U:} and R = Z_{U:} - (T - Z_UU) X, the second term is
    Z_{:U} X + Xᵀ R + Rᵀ (T - Z_UU)⁻¹ R, and the last one is at most Rᵀ R / λ_min.
    """
    z = matrix.mid
    rows = z[index]
    gap = torch.diag(t) - rows[:, index]
    factor, info = torch.linalg.cholesky_ex(gap.detach())
    if int(info) != 0:
        return None
    x = torch.cholesky_solve(rows.detach(), factor)
    if matrix.rad is None:
        # as X solves a linear system, the derivative of Xᵀ (2 Z_{U:} - (T - Z_UU) X) by X is 0
        return Ball(z + x.mT @ (2 * rows - gap @ x if gap.requires_grad else rows), None)
    exact, units = _exact, 1 / t.sqrt()
    scaled = (exact(torch.diag(t)) - exact(rows[:, index])) * exact(units.unsqueeze(1)) * exact(units.unsqueeze(0))
    least = least_eigenvalue(scaled)
    if not bool(least > 0):
        return None
    rest = exact(rows) - exact(t.unsqueeze(1)) * exact(x) + exact(rows[:, index]).matmul(exact(x.mT))
    size = Interval.unchecked(rest.lower(), rest.upper()).magnitude
    small = grow(size * units.unsqueeze(1), 2)
    errors = grow(x.abs().mT @ size + (small.mT @ small) / least, 2 * len(t) + 8)
    errors = errors + grow(4 * (len(t) + 2) * tiny_of(z) * (1 + 1 / least), 8)  # what may underflow, in both products
    found = exact(z) + exact(rows.mT).matmul(exact(x.mT))
    return absorbed(found + Ball(torch.zeros_like(errors), errors))


def _exact(tensor: Tensor) -> Ball:
    return Ball(tensor, zero_of(tensor.dtype, tensor.device))


def absorbed(matrix: Ball) -> Ball:
    """An exact symmetric matrix that is not below any symmetric one in the ball; without radii, the symmetric part."""
    mid = matrix.mid / 2 + matrix.mid.mT / 2
    if matrix.rad is None:
        return Ball(mid, None)
    errors = grow((matrix.mid - mid).abs() + matrix.rad, 3)
    errors = torch.maximum(errors, errors.mT)
    diagonal = mid.diagonal()
    scale = diagonal.detach().clamp(min=0).sqrt()
    scale = (scale / scale.max().clamp(min=tiny_of(mid))).clamp(min=_SMALLEST)
    lost = 2 * (len(errors) + 2) * tiny_of(mid)  # what may underflow in these products
    sums = grow(((errors * scale).sum(1) + lost) / scale, len(errors) + 6)
    above = torch.nextafter(diagonal + sums, torch.full_like(sums, torch.inf))
    lifted = torch.where((errors > 0).any(1), above, diagonal)
    return _exact(mid.diagonal_scatter(lifted))


def _congruence(matrix: Ball, places: Mapping[int, slice], rows: Mapping[int, Ball]) -> Ball:
    """W P Wᵀ for the rows W at the end."""
    wide = concatenate([rows[i] for i in places], 1) if len(places) > 1 else rows[next(iter(places))]
    return wide.matmul(matrix).matmul(wide)
