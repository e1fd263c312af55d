"""Upper bounds of linear functions of a lifted system by Lagrangian duality with quadratic constraints.

A dual has one or two copies of the variables of a `Lifted` system: v and w for points, and perhaps a second v and w for
tangents at these points.  For any multipliers (>= 0, or free where a product is 0),

    F = rows · (ζ, w) + Σ_i λ_i (1 - v_i²) + Σ_j Σ_k μ_kj product_kj(y_j, w_j)

is at least the rows at every point of the region, so that sup F bounds them (docs/mathematics.md, §3.6 and §6.7).  F is
bounded if it is concave.  Here multipliers are evaluated in plain floating point; `dual_proof` proves what they give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic.rounding import gamma_of

_JITTER = 1e-6
"""What is added in float32 to the diagonal of B Λ⁻¹ Bᵀ, relative to its mean, so that it has a Cholesky factor."""
_FLOOR = 1e-250
_SCALES = (0.1, 10.0)
"""The least and the largest factor that is looked for at once."""
_GROUPS, _GROUP = 6, 32
"""The number of groups of neurons at most, and how many neurons one has at least."""
OWN = 6
"""The number of coefficients of a product in one copy: of y², y w, w², y, w and 1."""
CROSS = 4
"""The number of coefficients between two copies: of y y', y w', w y' and w w'."""


@final
@dataclass(frozen=True)
class Rows:
    """What is bounded: coefficients on ζ (R, copies, n_ζ) and on w (R, copies, u)."""

    base: Tensor
    units: Tensor

    def to(self, dtype: torch.dtype) -> Rows:
        return Rows(self.base.to(dtype), self.units.to(dtype))

    def at(self, index: Tensor) -> Rows:
        return Rows(self.base[index], self.units[index])


@final
@dataclass(frozen=True)
class Totals:
    """The sum of all products as one quadratic function for each neuron.

    own: coefficients of y², y w, w², y, w and 1, (6, R, copies, u).  cross: of y y', y w', w y' and w w', (4, R, u), if
    there are two copies.
    """

    own: Tensor
    cross: Tensor | None

    def abs(self) -> Totals:
        return Totals(self.own.abs(), None if self.cross is None else self.cross.abs())

    def value(self, y: Tensor, w: Tensor) -> Tensor:
        """Summed over the neurons, for y and w (…, copies, u): (R,)."""
        yy, yw, ww, by, bw, one = self.own
        found: Tensor = (yy * y.square() + yw * y * w + ww * w.square() + by * y + bw * w + one).sum((-1, -2))
        if self.cross is None:
            return found
        (y1, y2), (w1, w2) = y.unbind(-2), w.unbind(-2)
        yy, yw, wy, ww = self.cross
        found += (yy * y1 * y2 + yw * y1 * w2 + wy * w1 * y2 + ww * w1 * w2).sum(-1)
        return found

    def slopes(self, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """The derivatives by y and by w, (R, copies, u) each."""
        yy, yw, ww, by, bw, _ = self.own
        to_y, to_w = 2 * yy * y + yw * w + by, yw * y + 2 * ww * w + bw
        if self.cross is None:
            return to_y, to_w
        (y1, y2), (w1, w2) = y.unbind(-2), w.unbind(-2)
        yy, yw, wy, ww = self.cross
        more_y = torch.stack([yy * y2 + yw * w2, yy * y1 + wy * w1], -2)
        more_w = torch.stack([wy * y2 + ww * w2, yw * y1 + ww * w1], -2)
        return to_y + more_y, to_w + more_w

    def quadratic(self) -> Totals:
        """Without linear and constant terms."""
        keep = torch.tensor([1, 1, 1, 0, 0, 0], dtype=self.own.dtype, device=self.own.device)
        return Totals(self.own * keep.reshape(-1, 1, 1, 1), self.cross)


@final
@dataclass(frozen=True)
class Form:
    """F as constant + slope·ξ - ξ hessian ξᵀ for ξ = (ω, w) of each copy, where ζ = R ω and R Rᵀ is nearly B Λ⁻¹ Bᵀ.

    factor: R, (rows, copies, n_ζ, n_ζ).  valid: whether it exists.  map_y: y in terms of (ω, w), for each copy:
    (rows, copies, u, n_ζ + u).
    """

    factor: Tensor
    valid: Tensor
    hessian: Tensor
    slope: Tensor
    constant: Tensor
    map_y: Tensor


@final
@dataclass(frozen=True)
class Maximum:
    """For rows: sup F, whether F is concave, and v (R, copies, n_0), w and y (R, copies, u) where it is attained.

    form, lower: F, and the Cholesky factor of its matrix (the identity where F is not concave).
    """

    value: Tensor
    concave: Tensor
    v: Tensor
    w: Tensor
    y: Tensor
    form: Form
    lower: Tensor


@final
@dataclass(frozen=True)
class Plain:
    """A lifted system and the coefficients of its products in one floating-point type.

    base: (copies, n_ζ, n_0).  own: (u, n_ζ), or (R, u, n_ζ) if each row has a system of its own.  units: (u, u), or
    (R, u, u) likewise.  terms: (6 copies, C, u), or (16, C, u) for two copies.
    euclidean: for each copy, whether v lies in the unit ball, and not only in the unit box; then Σ λ_i v_i² <= max λ_i.
    """

    base: Tensor
    own: Tensor
    units: Tensor
    terms: Tensor
    euclidean: tuple[bool, ...]

    @property
    def copies(self) -> int:
        return len(self.base)

    def to(self, dtype: torch.dtype) -> Plain:
        base, own, units, terms = (t.to(dtype) for t in (self.base, self.own, self.units, self.terms))
        return Plain(base, own, units, terms, self.euclidean)

    def at(self, index: Tensor) -> Plain:
        """That of some rows."""
        if self.own.dim() == 2:
            return self
        return replace(self, own=self.own[index], units=self.units[index])

    @cached_property
    def groups(self) -> tuple[tuple[slice, slice], ...]:
        """Groups of neurons, and for each the first variables (ω, w): their y do not depend on any other.

        A neuron depends on earlier ones only, so that the matrix of F costs much less if it is summed by groups.
        """
        n, used = self.own.shape[-1], (self.units != 0).reshape(-1, *self.units.shape[-2:]).any(0)
        found = []
        for part in torch.arange(len(used), device=used.device).split(max(_GROUP, -(-len(used) // _GROUPS))):
            begin, end = int(part[0]), int(part[-1]) + 1
            reads = used[begin:end].any(0).nonzero()
            found.append((slice(begin, end), slice(n + int(reads[-1]) + 1 if len(reads) else n)))
        return tuple(found)

    def totals(self, multipliers: Tensor) -> Totals:
        """Summed over the products; multipliers (R, C, u)."""
        return totals_of(multipliers, self.terms, self.copies)

    def values(self, found: Maximum, barrier: Tensor | None) -> Tensor:
        """The products where sup F is attained: (R, C, u); their mean for a normal law with that spread as barrier."""
        y, w = found.y, found.w
        powers = [y * y, y * w, w * w, y, w, torch.ones_like(y)]
        cross = []
        if self.copies == 2:
            (y1, y2), (w1, w2) = y.unbind(1), w.unbind(1)
            cross = [y1 * y2, y1 * w2, w1 * y2, w1 * w2]
        if barrier is not None:
            own, across = self._spread(found)
            powers = [p + barrier[:, None, None] * s for p, s in zip(powers, own, strict=True)]
            cross = [p + barrier[:, None] * s for p, s in zip(cross, across, strict=True)]
        stacked = torch.stack(powers).permute(2, 0, 1, 3).flatten(0, 1)
        return torch.einsum("tru,tcu->rcu", torch.cat([stacked, torch.stack(cross)]) if cross else stacked, self.terms)

    def _spread(self, found: Maximum) -> tuple[list[Tensor], list[Tensor]]:
        """Entries of the inverse Hessian that belong to y², y w, w² of each copy, and to the products across copies."""
        n, (map_y, inverse) = self.own.shape[-1], (found.form.map_y, torch.cholesky_inverse(found.lower))
        size = map_y.shape[-1]
        blocks = [inverse[:, i * size : (i + 1) * size] for i in range(self.copies)]
        own, zero = [], torch.zeros_like(found.y)
        for i, block in enumerate(blocks):
            mine = block[..., i * size : (i + 1) * size]
            spread = map_y[:, i] @ mine
            own.append(
                (
                    (spread * map_y[:, i]).sum(-1),
                    torch.diagonal(spread[..., n:], dim1=-2, dim2=-1),
                    torch.diagonal(mine, dim1=-2, dim2=-1)[..., n:],
                )
            )
        powers = [torch.stack(parts, 1) for parts in zip(*own, strict=True)]
        if self.copies == 1:
            return [*powers, zero, zero, zero], []
        across = blocks[0][..., size:]
        spread = map_y[:, 0] @ across
        cross = [(spread * map_y[:, 1]).sum(-1), torch.diagonal(spread[..., n:], dim1=-2, dim2=-1)]
        cross.append((across[:, n:] * map_y[:, 1]).sum(-1))
        cross.append(torch.diagonal(across[:, n:, n:], dim1=-2, dim2=-1))
        return [*powers, zero, zero, zero], cross

    def inputs_spread(self, found: Maximum, weights: Tensor) -> Tensor:
        """The entries of the inverse Hessian that belong to v_i²: (R, copies, n_0)."""
        n, size = self.own.shape[-1], found.form.map_y.shape[-1]
        inverse = torch.cholesky_inverse(found.lower)
        mine = torch.stack(
            [inverse[:, i * size : i * size + n, i * size : i * size + n] for i in range(self.copies)], 1
        )
        part = torch.linalg.solve_triangular(found.form.factor, (self.base / weights.unsqueeze(2)), upper=False)
        spread: Tensor = 1 / weights - part.square().sum(-2) + (part * (mine @ part)).sum(-2)
        return spread

    def maximum(self, rows: Rows, weights: Tensor, multipliers: Tensor) -> Maximum:
        """sup F.  weights: λ, (R, copies, n_0).  multipliers: (R, C, u)."""
        form, lower, concave = self.factored(rows, weights, multipliers)
        best = torch.cholesky_solve(form.slope.unsqueeze(-1), lower)[..., 0] / 2
        value = form.constant + (form.slope * best).sum(-1) / 2
        return self._attained(form, lower, concave, best, value, weights)

    def scaled(self, rows: Rows, weights: Tensor, multipliers: Tensor, barrier: Tensor) -> tuple[Maximum, Tensor]:
        """sup F for s times all multipliers with the best s > 0, (R,), which is given too.

        With K, b and c the Hessian, the slope and the constant without the rows r, F = s (c + b·ξ - ξ K ξᵀ) + r·ξ and
        sup F = s (c + b K⁻¹ bᵀ / 4) + b K⁻¹ rᵀ / 2 + r K⁻¹ rᵀ / (4 s).  Less `barrier` (R,) times log s for each
        variable, it is least at a root of a quadratic polynomial.  form, lower: for s = 1.
        """
        form, lower, concave = self.factored(rows, weights, multipliers)
        own = torch.cat([(rows.base.unsqueeze(-2) @ form.factor)[..., 0, :], rows.units], -1).flatten(1)
        rest = form.slope - own
        from_rest, from_own = torch.cholesky_solve(torch.stack([rest, own], -1), lower).unbind(-1)
        grows = form.constant + (rest * from_rest).sum(-1) / 4
        falls = (own * from_own).sum(-1) / 4
        half = barrier * (weights[0].numel() + rows.units[0].numel()) / 2
        scale = (half + (half.square() + (grows * falls).clamp(min=0)).sqrt()) / grows.clamp(
            min=torch.finfo(grows.dtype).tiny
        )
        scale = scale.nan_to_num(1.0, 1.0, 1.0).clamp(*_SCALES)
        value = scale * grows + (own * from_rest).sum(-1) / 2 + falls / scale
        best = (from_rest + from_own / scale.unsqueeze(-1)) / 2
        return self._attained(form, lower, concave, best, value, weights), scale

    def factored(self, rows: Rows, weights: Tensor, multipliers: Tensor) -> tuple[Form, Tensor, Tensor]:
        """F, the Cholesky factor of its matrix, and whether that exists; the identity where it does not."""
        form = self.assembled(rows, weights, multipliers)
        lower, info = torch.linalg.cholesky_ex(form.hessian)
        concave = form.valid & (info == 0)
        lower[~concave] = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
        return form, lower, concave

    def _attained(
        self, form: Form, lower: Tensor, concave: Tensor, best: Tensor, value: Tensor, weights: Tensor
    ) -> Maximum:
        """The maximum at ξ = `best`."""
        n = self.own.shape[-1]
        parts = best.reshape(len(best), self.copies, -1)
        along, w = parts[..., :n, None], parts[..., n:]
        zeta = torch.linalg.solve_triangular(form.factor.mT, along, upper=True)[..., 0]  # (R Rᵀ)⁻¹ ζ
        y = (form.factor @ along)[..., 0] @ self.own.mT + w @ self.units.mT
        v = torch.einsum("rcz,czi->rci", zeta, self.base) / weights
        return Maximum(value, concave & value.isfinite(), v, w, y, form, lower)

    def assembled(self, rows: Rows, weights: Tensor, multipliers: Tensor) -> Form:
        """F with v eliminated."""
        n, count = self.own.shape[-1], len(weights)
        factor, info = torch.linalg.cholesky_ex(self._gram(weights))
        totals = self.totals(multipliers)
        _, _, _, by, bw, one = totals.own
        own, units = (t if t.dim() == 2 else t.unsqueeze(1) for t in (self.own, self.units))
        map_y = torch.cat([own @ factor, units.expand(count, self.copies, -1, -1)], -1)
        slope = (by.unsqueeze(-2) @ map_y)[..., 0, :]
        slope[..., :n] += (rows.base.unsqueeze(-2) @ factor)[..., 0, :]
        slope[..., n:] += rows.units + bw
        constant = self.allowance(weights) + one.sum((-1, -2))
        hessian = _hessian(totals, map_y, n, self.groups)
        return Form(factor, (info == 0).all(-1), hessian, slope.flatten(1), constant, map_y)

    def allowance(self, weights: Tensor) -> Tensor:
        """An upper bound of Σ λ_i v_i² over the unit boxes and balls: (R,)."""
        most = [w.amax(-1) if ball else w.sum(-1) for w, ball in zip(weights.unbind(1), self.euclidean, strict=True)]
        return torch.stack(most).sum(0)

    def _gram(self, weights: Tensor) -> Tensor:
        """B Λ⁻¹ Bᵀ and something on its diagonal: (R, copies, n_ζ, n_ζ).

        In float64, R Rᵀ ⪰ B Λ⁻¹ Bᵀ for its computed Cholesky factor R.  With g the diagonal, the product has errors of
        at most γ_{n+2} √(g_i g_j), the factorisation of γ_{n_ζ+1} √(g_i g_j) / (1 - γ), so that together they are at
        most n_ζ (γ_{n+2} + 2 γ_{n_ζ+1}) diag(g); underflow is below the absolute number that is added.
        """
        gram = (self.base / weights.unsqueeze(2)) @ self.base.mT
        diagonal = torch.diagonal(gram, dim1=-2, dim2=-1)
        if gram.dtype == torch.float64:
            n_zeta, n = self.base.shape[1:]
            share = 2 * n_zeta * (gamma_of(n + 2, gram.dtype) + 2 * gamma_of(n_zeta + 2, gram.dtype))
            diagonal += share * diagonal + _FLOOR
        else:
            diagonal += _JITTER * diagonal.mean(-1, keepdim=True)
        return gram


def totals_of(multipliers: Tensor, terms: Tensor, copies: int) -> Totals:
    """Σ_k multipliers (R, C, u) times the terms of products (6 copies, or 16, C, u)."""
    found = torch.einsum("rcu,tcu->tru", multipliers, terms)
    own = found[: OWN * copies].reshape(copies, OWN, *found.shape[1:]).permute(1, 2, 0, 3)
    return Totals(own, found[OWN * copies :] if copies == 2 else None)


def _hessian(totals: Totals, map_y: Tensor, n: int, groups: Sequence[tuple[slice, slice]]) -> Tensor:
    """The matrix of -F's quadratic part in (ω, w) of all copies: (R, copies N, copies N).

    groups: neurons, and the only variables of which their y depend.
    """
    yy, yw, ww, *_ = totals.own
    blocks = map_y.new_zeros(*map_y.shape[:2], map_y.shape[-1], map_y.shape[-1])
    for neurons, reads in groups:
        part = map_y[..., neurons, reads]
        blocks[..., reads, reads] += part.mT @ (-yy[..., neurons].unsqueeze(-1) * part)
    half = -yw.unsqueeze(-1) / 2 * map_y
    blocks[..., n:, :] += half
    blocks[..., :, n:] += half.mT
    entries = torch.diagonal(blocks, dim1=-2, dim2=-1)
    entries[..., :n] += 1
    entries[..., n:] -= ww
    first_block: Tensor = blocks[:, 0]
    if totals.cross is None:
        return first_block
    yy, yw, wy, ww = (-t.unsqueeze(-1) / 2 for t in totals.cross)
    first, second = map_y.unbind(1)
    across = first.mT @ (yy * second)
    across[..., :, n:] += (yw * first).mT
    across[..., n:, :] += wy * second
    torch.diagonal(across, dim1=-2, dim2=-1)[..., n:] += ww[..., 0]
    top = torch.cat([first_block, across], 2)
    return torch.cat([top, torch.cat([across.mT, blocks[:, 1]], 2)], 1)


@final
@dataclass(frozen=True)
class Point:
    """Multipliers of some rows: log λ (R, copies, n_0), and those of the products, (R, C, u), in given units.

    For a ball all λ_i of a copy are the same.
    """

    logs: Tensor
    numbers: Tensor

    def at(self, index: Tensor) -> Point:
        return Point(self.logs[index], self.numbers[index])

    def to(self, dtype: torch.dtype) -> Point:
        return Point(self.logs.to(dtype), self.numbers.to(dtype))

    @classmethod
    def joined(cls, points: Sequence[Point]) -> Point:
        """The rows of all points, one after the other."""
        return cls(torch.cat([p.logs for p in points]), torch.cat([p.numbers for p in points]))

    def replaced(self, mask: Tensor, other: Point) -> Point:
        """The rows of `other` in place of those of a mask."""
        logs, numbers = self.logs.clone(), self.numbers.clone()
        logs[mask], numbers[mask] = other.logs, other.numbers
        return Point(logs, numbers)

    def packed(self) -> Tensor:
        """All numbers of each row, (R, n): a copy."""
        return torch.cat([self.logs.flatten(1), self.numbers.flatten(1)], 1)

    def unpacked(self, packed: Tensor) -> Point:
        """The point with these numbers, in the shape of this one."""
        n = self.logs[0].numel() if len(self.logs) else self.logs.shape[1] * self.logs.shape[2]
        logs = packed[:, :n].reshape(len(packed), *self.logs.shape[1:])
        return Point(logs, packed[:, n:].reshape(len(packed), *self.numbers.shape[1:]))
