"""Cells of networks of two-piece activations: half-spaces, a point inside of each cell, or a proof that it is empty."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac.activations.two_piece import AbstractTwoPiece
from recurjac.arithmetic import Ball, concatenate
from recurjac.network import Network
from recurjac.preactivation import PreactivationState

_WIDE = 1e3
"""The half-width of the box in which points of an unbounded region are sought."""
_STEPS = 40
"""The largest number of steps of the interior-point method."""
_CLOSE = 1e-13
"""The gap of the linear program at which the method stops."""
_SMALL = 1e-9
"""The share of the largest multiplier below which a multiplier counts as 0."""
_SHARES = (1e-4, 1e-6, 1e-8)
"""The same where multipliers must cancel exactly; all are tried."""


def two_piece(network: Network) -> bool:
    """Whether all activations of the network have two pieces that meet at 0."""
    return all(s.linear or isinstance(s.activation, AbstractTwoPiece) for s in network.stages)


@final
@dataclass(frozen=True)
class HalfSpaceSystem:
    """matrix · x + offset >= 0, (B, m, n) and (B, m), for inputs x of the region; rows of 0 = 0 where none is known.

    They are the constraints (`Problem.constrained`) of neurons whose z is affine in x, as all earlier slopes are known.
    places: the neurons of the rows, stage by stage.
    """

    state: PreactivationState
    matrix: Ball
    offset: Ball
    places: tuple[Place, ...]

    @classmethod
    def of(cls, state: PreactivationState) -> HalfSpaceSystem:
        """The constraints that a state knows to be affine.  The network's activations must have two pieces."""
        network, arithmetic = state.network, state.arithmetic
        n = prod(network.input_shape)
        basis = torch.eye(n + 1, n, dtype=network.dtype, device=network.device)
        nodes: list[Ball | None] = [arithmetic.exact(basis.reshape(1, 1, n + 1, *network.input_shape))]
        known = torch.ones(state.region.batch, dtype=torch.bool, device=network.device)
        rows, places = [], []
        for k in range(1, max(state.known) + 1):
            z = _affine(state, nodes, k)
            if z is None:
                raise ValueError("a stage reads no earlier stage")
            if k in state.known:
                places.append(Place.of(state, k, known))
                rows.append(places[-1].rows(z, state))
            nodes.append(_after(state, z, k))
            if not state.stage(k).linear:
                known = known & state.slopes(k).is_point.flatten(1).all(1)
        whole = concatenate(rows, 1)
        return cls(state, whole.map(lambda t: t[..., :n]), whole.map(lambda t: t[..., n]), tuple(places))

    def solved(self, index: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """For each sample a point, how deep inside the half-spaces it lies, and multipliers, all in plain floats.

        The point, (B, n), has the largest least distance, (B,), to the half-spaces' boundaries within the region's box.
        If the distance is negative, the sum of the rows times the multipliers, (B, m), is negative in the box.
        index: the samples to look at; None for all.
        """
        centre, half = _box(self.state)
        matrix, offset = self.matrix.mid.double(), self.offset.mid.double()
        if index is not None:
            centre, half, matrix, offset = centre[index], half[index], matrix[index], offset[index]
        offset = offset + (matrix * centre.unsqueeze(1)).sum(2)
        matrix = matrix * half.unsqueeze(1)
        point, depth, multipliers = _deepest(matrix, offset)
        return centre + half * point, depth, multipliers

    def empty(self, multipliers: Tensor) -> Tensor:
        """Where multipliers (B, m) prove that no input of the region satisfies all half-spaces: (B,).

        Σ λ (matrix · x + offset), λ >= 0, is not negative where all half-spaces meet.  If its maximum over the region
        is negative, they do not meet.  Source: docs/mathematics.md, §6.9.
        """
        state, arithmetic = self.state, self.state.arithmetic
        weights = multipliers.clamp(min=0)
        most = weights.amax(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        weights = (torch.where(weights > _SMALL * most, weights, 0.0) / most).to(self.matrix.mid.dtype)
        if not arithmetic.rigorous or weights.shape[1] == 0:
            return torch.zeros(len(weights), dtype=torch.bool, device=weights.device)
        if bool(state.region.unbounded.all()):
            return self._empty_everywhere(weights)
        exact = arithmetic.exact(weights.unsqueeze(1))
        form = self.matrix.map(lambda t: t.transpose(1, 2).unsqueeze(1)).dot(exact)
        shift = self.offset.map(lambda t: t[:, None, None]).dot(exact)
        shaped = form.map(lambda t: t.reshape(len(weights), 1, 1, *state.network.input_shape).clone())
        return (state.region.support_function_(shaped, arithmetic) + shift).upper()[:, 0, 0] < 0

    def _empty_everywhere(self, weights: Tensor) -> Tensor:
        """The proof over the whole space, where Σ λ matrix must be exactly 0: as forms of x, or of z of one stage."""
        found = torch.zeros(len(weights), dtype=torch.bool, device=weights.device)
        for share in _SHARES:
            large = torch.where(weights > share, weights, 0.0)
            found = found | _cancels(self.matrix, self.offset, large, self.state)
            begin = 0
            for place in self.places:
                later = None if bool(found.all()) else self._from(place.stage)
                if later is not None:
                    none = (large[:, :begin] == 0).all(1)
                    found = found | none & _cancels(*later, large[:, begin:], self.state)
                begin += len(place.index)
        return found

    def _from(self, stage: int) -> tuple[Ball, Ball] | None:
        """The rows of this and later stages as forms of this stage's z; None if they also depend on earlier stages."""
        state, arithmetic = self.state, self.state.arithmetic
        size, like = prod(state.stage(stage).shape), self.matrix.mid
        basis = torch.eye(size + 1, size, dtype=like.dtype, device=like.device)
        z: Ball | None = arithmetic.exact(basis.reshape(1, 1, size + 1, *state.stage(stage).shape))
        nodes: list[Ball | None] = [None] * stage
        rows = []
        places = {p.stage: p for p in self.places}
        for k in range(stage, max(places) + 1):
            z = z if k == stage else _affine(state, nodes, k)
            if z is None:
                return None
            rows += [places[k].rows(z, state)] if k in places else []
            nodes.append(_after(state, z, k))
        whole = concatenate(rows, 1)
        return whole.map(lambda t: t[..., :size]), whole.map(lambda t: t[..., size])


def _cancels(rows: Ball, shift: Ball, weights: Tensor, state: PreactivationState) -> Tensor:
    """Where λ >= 0 near `weights` (B, m) exists with Σ λ rows = 0 and Σ λ shift < 0, for rows (B, m, c): (B,)."""
    counts = (weights > 0).sum(1)
    found = torch.zeros(len(weights), dtype=torch.bool, device=weights.device)
    for count in counts.unique().tolist():
        chosen = (counts == count).nonzero().flatten()
        index = weights[chosen].topk(count, dim=1).indices
        mine = rows.map(lambda t: t[chosen].gather(1, index.unsqueeze(2).expand(-1, -1, t.shape[2])))  # noqa: B023
        used = (_size(mine) > 0).any(1)
        square = used.sum(1) == count - 1
        if count < 2 or count - 1 > used.shape[1] or not bool(square.any()):
            continue
        columns = used.to(torch.int8).topk(count - 1, dim=1).indices.unsqueeze(1).expand(-1, count, -1)
        small = mine.map(lambda t: t.gather(2, columns))  # noqa: B023
        ends = shift.map(lambda t: t[chosen].gather(1, index))  # noqa: B023
        found[chosen] = square & _solves(small, ends, state)
    return found


def _solves(rows: Ball, shift: Ball, state: PreactivationState) -> Tensor:
    """Where λ >= 0 with λ_0 = 1, Σ λ rows = 0 and Σ λ shift < 0 exists, for rows (B, n + 1, n): (B,).

    With M = (rows 1 … n)ᵀ and r minus row 0, λ solves M λ = r.  For Y close to M⁻¹ with ρ = ‖I - Y M‖ < 1 in the norm
    of row sums, M is regular, and the solution is within ‖Y (M λ̃ - r)‖ / (1 - ρ) of λ̃, entry by entry.
    Source: docs/mathematics.md, §6.9.
    """
    arithmetic, n = state.arithmetic, rows.shape[2]
    first = rows.map(lambda t: t[:, 0])
    system = rows.map(lambda t: t[:, 1:].transpose(1, 2))
    inverse = arithmetic.exact(torch.linalg.inv_ex(system.mid).inverse.nan_to_num(0.0, 0.0, 0.0))
    guess = arithmetic.exact(-(inverse.mid @ first.mid.unsqueeze(2)).squeeze(2))
    residual = _times(system, guess) + first
    moved = _times(inverse, residual)
    gap = inverse.matmul(system.map(lambda t: t.transpose(1, 2)))
    gap = gap - arithmetic.exact(torch.eye(n, dtype=rows.mid.dtype, device=rows.mid.device))
    rho = arithmetic.at_least(_size(gap).sum(2).amax(1), n)
    left = arithmetic.exact(torch.ones_like(rho)) - arithmetic.exact(rho)
    room = left.lower().clamp(min=torch.finfo(rho.dtype).tiny)
    error = arithmetic.at_least(_size(moved).amax(1) / room, 1)
    least = (guess - arithmetic.exact(error.unsqueeze(1))).lower()
    others = shift.map(lambda t: t[:, 1:])
    total = _times(others.map(lambda t: t.unsqueeze(1)), guess).map(lambda t: t[:, 0]) + shift.map(lambda t: t[:, 0])
    spread = arithmetic.at_least(_size(others).sum(1) * error, n + 1)
    return (rho < 1) & (least >= 0).all(1) & ((total + arithmetic.exact(spread)).upper() < 0)


def _times(matrix: Ball, vector: Ball) -> Ball:
    """A matrix (B, m, n) times a vector (B, n): (B, m)."""
    return matrix.map(lambda t: t.unsqueeze(1)).dot(vector.map(lambda t: t.unsqueeze(1))).map(lambda t: t[:, 0])


@final
@dataclass(frozen=True)
class Place:
    """Some constrained neurons of a stage: flat positions `index`; side: 1 for z >= end, -1 for z <= end, 0: (B, m)."""

    stage: int
    index: Tensor
    side: Tensor
    end: Tensor

    @classmethod
    def of(cls, state: PreactivationState, k: int, known: Tensor) -> Place:
        """Those of stage k in the samples where all slopes of earlier stages are `known` (B,)."""
        side, end = _sides(state, k)
        side = torch.where(known.unsqueeze(1), side, 0.0)
        kept = (side != 0).any(0).nonzero().flatten()
        return cls(k, kept, side[:, kept], torch.where(side != 0, end, 0.0)[:, kept])

    def rows(self, z: Ball, state: PreactivationState) -> Ball:
        """side (z - end) at the tangents of z (B or 1, 1, T, *stage), the last of which is the constant: (B, m, T)."""
        flat = z.map(lambda t: t.flatten(3).transpose(2, 3)[:, 0].expand(len(self.side), -1, -1)[:, self.index])
        last = torch.zeros_like(flat.mid)
        last[..., -1] = self.end
        return (flat - state.arithmetic.exact(last)) * state.arithmetic.exact(self.side.unsqueeze(2))


def _size(value: Ball) -> Tensor:
    """Upper bounds of the absolute values."""
    return torch.maximum(value.upper(), -value.lower())


def _affine(state: PreactivationState, nodes: list[Ball | None], k: int) -> Ball | None:
    """z_k at the tangents of `nodes`, the last of which stands for the constant; None if a source is not known."""
    total: Ball | None = None
    for edge in state.stage(k).edges:
        source = nodes[edge.source]
        if source is None:
            return None
        term = edge.operator.push(source)
        total = term if total is None else total + term
    bias = state.stage(k).bias(state.arithmetic)
    if bias is None or total is None:
        return total
    blank = total.mid.new_zeros(total.shape[2], *[1] * len(state.stage(k).shape))
    blank[-1] = 1.0
    return total + bias.map(lambda t: t * blank)


def _after(state: PreactivationState, z: Ball, k: int) -> Ball:
    """h_k at the tangents of z_k, where its slopes are known."""
    if state.stage(k).linear:
        return z
    return z * state.arithmetic.exact(state.slopes(k).lower[:, None, None])


def _sides(state: PreactivationState, k: int) -> tuple[Tensor, Tensor]:
    """1 where z_k is constrained from below, -1 where from above only, 0 elsewhere; and the end: (B, *) flat."""
    known = state.known[k].map(lambda t: t.expand(state.region.batch, *t.shape[1:]).flatten(1))
    below, above = known.lower.isfinite(), known.upper.isfinite()
    side = torch.where(below, 1.0, torch.where(above, -1.0, 0.0)).to(known.lower.dtype)
    end = torch.where(below, known.lower, torch.where(above, known.upper, 0.0))
    return side, end


def _box(state: PreactivationState) -> tuple[Tensor, Tensor]:
    """Centre and half-widths of a box of the region, wide where that is unbounded: (B, n), float64."""
    box = state.region.box(state.arithmetic)
    x, low, high = (t.double().flatten(1) for t in (state.region.x, box.lower, box.upper))
    wide = _WIDE * x.abs().amax(1, keepdim=True).clamp(min=1)
    low, high = torch.where(low.isfinite(), low, x - wide), torch.where(high.isfinite(), high, x + wide)
    return low / 2 + high / 2, high / 2 - low / 2


def _deepest(matrix: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """max t with matrix · v + offset >= t ‖row‖, |v| <= 1: v (B, n), t (B,), and the multipliers of the rows (B, m).

    A primal-dual interior-point method (Mehrotra 1992, SIAM J. Optim. 2, 575).
    """
    batch, m, n = matrix.shape
    size = matrix.norm(dim=2)
    scale = torch.where(size > 0, 1 / size.clamp(min=1e-300), 0.0)
    matrix, offset = matrix * scale.unsqueeze(2), offset * scale
    eye, one = torch.eye(n, dtype=matrix.dtype, device=matrix.device), torch.ones_like(matrix[:, :, :1])
    blank = matrix.new_zeros(n, 1)
    faces = torch.cat([torch.cat([eye, blank], 1), torch.cat([-eye, blank], 1)]).expand(batch, -1, -1)
    cap = torch.cat([blank.mT, -torch.ones_like(blank[:1])], 1).expand(batch, 1, -1)
    g = torch.cat([torch.cat([matrix, -one * (size > 0).unsqueeze(2)], 2), faces, cap], 1)
    h = torch.cat(
        [torch.where(size > 0, offset, 1.0), matrix.new_ones(batch, 2 * n), matrix.new_full((batch, 1), 2.0)], 1
    )
    cost = matrix.new_zeros(n + 1)
    cost[-1] = -1.0
    y = matrix.new_zeros(batch, n + 1)
    y[:, -1] = torch.minimum(h.amin(1), torch.zeros_like(h[:, 0])) - 1
    slack, dual = torch.einsum("bmn,bn->bm", g, y) + h, torch.ones_like(h)
    for _ in range(_STEPS):
        gap = (slack * dual).mean(1, keepdim=True)
        lost = cost - torch.einsum("bmn,bm->bn", g, dual)
        if bool((gap < _CLOSE).all() & (lost.abs() < _CLOSE).all()):
            break
        weight = dual / slack
        normal = torch.einsum("bmi,bm,bmj->bij", g, weight, g)
        factor = torch.linalg.cholesky_ex(_regular(normal)).L
        toward = _direction(g, factor, weight, lost, -slack * dual, slack)
        step = _longest(slack, toward[1]), _longest(dual, toward[2])
        after = ((slack + step[0] * toward[1]) * (dual + step[1] * toward[2])).mean(1, keepdim=True)
        aim = gap * (after / gap.clamp(min=1e-300)).clamp(0, 1) ** 3
        to_y, to_slack, to_dual = _direction(g, factor, weight, lost, aim - slack * dual - toward[1] * toward[2], slack)
        p, d = 0.99 * _longest(slack, to_slack), 0.99 * _longest(dual, to_dual)
        good = to_y.isfinite().all(1, keepdim=True) & to_dual.isfinite().all(1, keepdim=True)
        p, d = torch.where(good, p, 0.0), torch.where(good, d, 0.0)
        y = y + p * to_y.nan_to_num(0.0, 0.0, 0.0)
        slack = (slack + p * to_slack.nan_to_num(0.0, 0.0, 0.0)).clamp(min=1e-300)
        dual = (dual + d * to_dual.nan_to_num(0.0, 0.0, 0.0)).clamp(min=1e-300)
    return y[:, :n].clamp(-1, 1), y[:, n], torch.where(size > 0, dual[:, :m] * scale, 0.0)


def _regular(normal: Tensor) -> Tensor:
    """The matrix with a little more on its diagonal."""
    diagonal = normal.diagonal(dim1=1, dim2=2)
    return normal + torch.diag_embed(1e-14 * diagonal.amax(1, keepdim=True) + 1e-14 * diagonal + 1e-30)


def _direction(
    g: Tensor, factor: Tensor, weight: Tensor, lost: Tensor, wanted: Tensor, slack: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The step of Newton's method for slack · dual changing by `wanted`, and the dual's residual by `lost`."""
    right = torch.einsum("bmn,bm->bn", g, wanted / slack) - lost
    to_y = torch.cholesky_solve(right.unsqueeze(2), factor).squeeze(2)
    to_slack = torch.einsum("bmn,bn->bm", g, to_y)
    return to_y, to_slack, wanted / slack - weight * to_slack


def _longest(value: Tensor, step: Tensor) -> Tensor:
    """The longest step, at most 1, that keeps positive numbers positive: (B, 1)."""
    ratio = torch.where(step < 0, -value / step.clamp(max=-1e-300), 1.0)
    return ratio.amin(1, keepdim=True).clamp(max=1.0)
