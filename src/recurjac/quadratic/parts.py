"""Systems of parts of a region, in which the slopes of some unknown neurons are known (docs/mathematics.md, §6.8)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, concatenate
from recurjac.quadratic.lifted import Affine, Lifted


def reduced(lift: Lifted, other: Ball, arithmetic: AbstractArithmetic) -> tuple[Lifted, Ball]:
    """The same system with the forms of ζ that neurons and rows read in place of ζ, if these are fewer.

    other: another base (n_ζ, …) for the same system, which is changed likewise.
    """
    neurons, rows = lift.neurons.base, lift.rows.base
    count, size = len(neurons.mid), len(neurons.mid) + len(rows.mid)
    if size >= len(lift.base.mid):
        return lift, other
    forms = concatenate([neurons, rows], 0)
    base, more = (forms.matmul(b.map(lambda t: t.mT)) for b in (lift.base, other))
    eye = torch.eye(size, dtype=base.mid.dtype, device=base.mid.device)
    own = Affine(arithmetic.exact(eye[:count]), lift.neurons.units)
    ends = Affine(arithmetic.exact(eye[count:]), lift.rows.units)
    return replace(lift, base=base, neurons=own, rows=ends), more


def eliminated(lift: Lifted, slopes: Tensor, fixed: Tensor, arithmetic: AbstractArithmetic) -> tuple[Affine, Affine]:
    """The neurons (R, u, …) and the rows (R, K, …) of parts in which w_j = slopes_j y_j where `fixed`, both (R, u).

    Nothing depends on these w_j any more.
    """
    exact, (parts, count) = arithmetic.exact, slopes.shape
    n = lift.neurons.base.mid.shape[1]
    slopes = torch.where(fixed, slopes, 0.0)
    own = _padded(lift.neurons.base, count)  # (n + u, u)
    ys: list[Ball] = []
    ws: list[Ball] = []
    begin = 0
    for _, index in lift.places:
        end = begin + len(index)
        y = own.map(lambda t, at=slice(begin, end): t[:, at].expand(parts, -1, -1))
        if ws:
            before = lift.neurons.units.map(lambda t, at=slice(begin, end): t[at, : at.start])
            y = y + concatenate(ws, 2).matmul(before)
        unit = torch.zeros_like(y.mid)
        unit[:, torch.arange(n + begin, n + end), torch.arange(end - begin)] = (~fixed[:, begin:end]).to(unit)
        ys.append(y)
        ws.append(y * exact(slopes[:, None, begin:end]) + exact(unit))
        begin = end
    rows = _padded(lift.rows.base, count).map(lambda t: t.expand(parts, -1, -1))
    rows = rows + concatenate(ws, 2).matmul(lift.rows.units)
    return _split(concatenate(ys, 2), n), _split(rows, n)


def _padded(base: Ball, count: int) -> Ball:
    """Coefficients on ζ (m, n_ζ) as columns of ζ and w: (n_ζ + u, m)."""
    return base.map(lambda t: torch.cat([t.mT, t.new_zeros(count, len(t))]))


def _split(columns: Ball, n: int) -> Affine:
    return Affine(columns.map(lambda t: t[:, :n].mT), columns.map(lambda t: t[:, n:].mT))
