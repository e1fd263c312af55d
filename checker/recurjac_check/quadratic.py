"""Quadratic bounds: one matrix that bounds all linear functions of what a system has computed so far.

A chain has sources v_0, v_1, ...: v_0 lies in an ellipsoid, and entry e of v_{k+1} is a slope in [d, D] times an
entry y_j of a linear function y of earlier sources.  P is a matrix with (c v)² <= c P cᵀ for all rows c.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flint import arb, arb_mat

from recurjac_check import reading
from recurjac_check.affine import Affine, Entries, dense
from recurjac_check.errors import Invalid
from recurjac_check.functions import ONE, Numbers
from recurjac_check.region import ZERO, larger

_MOST = 2048
"""The largest number of rows of a matrix."""
Slope = tuple[int, arb, arb]
"""A pre-activation, d and D."""


def exact(matrix: arb_mat) -> arb_mat:
    """An exact symmetric matrix that is not below any symmetric one of the balls: a dominant diagonal is added."""
    even = (matrix + matrix.transpose()) / 2
    n = even.nrows()
    return even.mid() + diagonal([sum((w.rad() for w in row), ZERO).upper() for row in even.tolist()] if n else [])


def diagonal(entries: Sequence[arb]) -> arb_mat:
    """A diagonal matrix."""
    n = len(entries)
    return arb_mat(n, n, [entries[i] if i == j else ZERO for i in range(n) for j in range(n)])


def part(rows: Sequence[Sequence[arb]], some: Sequence[int], columns: Sequence[int]) -> arb_mat:
    """Some entries of a matrix."""
    return arb_mat(len(some), len(columns), [rows[i][j] for i in some for j in columns])


def definite(matrix: arb_mat) -> bool:
    """Whether all symmetric matrices of the balls are proved to be positive definite: a block and its complement."""
    n = matrix.nrows()
    if n == 1:
        return bool(matrix[0, 0] > 0)
    rows, first, last = matrix.tolist(), range(n // 2), range(n // 2, n)
    block, across = part(rows, first, first), part(rows, first, last)
    if not definite(block):
        return False
    try:
        return definite(part(rows, last, last) - across.transpose() * block.solve(across))
    except ZeroDivisionError:
        return False


@dataclass(frozen=True, eq=False)
class Multipliers:
    """Numbers of a witness: w of the inputs, or None for the 2-norm, and t of each node's pre-activations, or None."""

    weights: Numbers | None
    nodes: list[Numbers | None]

    @classmethod
    def read(cls, value: Any, where: str, inputs: int, sizes: Sequence[int]) -> "Multipliers":
        """Those of a witness. Raises Invalid."""
        reading.record(value, where, "weights multipliers")
        weights = reading.optional(value["weights"], f"{where}.weights", inputs)
        if weights is not None and not all(w > 0 for w in weights):
            raise Invalid(f"{where}.weights are not positive")
        nodes = reading.array(value["multipliers"], f"{where}.multipliers", len(sizes))
        own = [reading.optional(t, f"{where}.multipliers[{k}]", sizes[k]) for k, t in enumerate(nodes)]
        return cls(weights, own)

    def start(self, halves: Numbers) -> Numbers:
        """The diagonal of P where |v_i| <= halves_i; without weights, where the 2-norm of v / halves is at most 1."""
        if self.weights is None:
            return [r * r for r in halves]
        total = sum(self.weights, ZERO)
        return [r * r * total / w for r, w in zip(halves, self.weights, strict=True)]


@dataclass(frozen=True, eq=False)
class Chain:
    """The nodes of a chain: the linear functions y (constants do not matter), and the slopes of its entries."""

    nodes: list[tuple[Affine, list[Slope]]]

    def reach(self, rows: Affine, start: Numbers, given: Multipliers, where: str) -> arb_mat:
        """G with (c r)² <= c G cᵀ for all c, where r are these rows of the sources. Raises Invalid."""
        last = {s: k for k, (y, _) in enumerate([*self.nodes, (rows, [])]) for s in y.blocks}
        matrix, places = diagonal(start), {0: range(len(start))}
        for k, ((y, slopes), t) in enumerate(zip(self.nodes, given.nodes, strict=True)):
            kept = [s for s in places if last.get(s, -1) > k]
            taken: list[Entries] = [{j: ONE} for s in kept for j in places[s]]
            first, width = len(taken), matrix.nrows()
            if first + len(slopes) > _MOST:
                raise Invalid(f"{where}: the matrix at stage {k} has more than {_MOST} rows")
            taken += _rows(y, places, [j for j, _, _ in slopes])
            places = _placed([*(len(places[s]) for s in kept), len(slopes)], [*kept, k + 1])
            matrix = exact(_product(dense(taken, range(width)), matrix, start if k == 0 else None))
            if k + 1 in last:
                matrix = exact(_through(matrix, slopes, first, t, f"{where}.multipliers[{k}]"))
            else:
                places = {s: places[s] for s in kept}
                matrix = part(matrix.tolist(), range(first), range(first))
        wide = dense(_rows(rows, places, range(len(rows))), range(matrix.nrows()))
        return _product(wide, matrix, None if self.nodes else start)


def _placed(sizes: Sequence[int], sources: Sequence[int]) -> dict[int, range]:
    """Where each source lies."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return {s: range(end - n, end) for s, n, end in zip(sources, sizes, ends, strict=True)}


def _rows(y: Affine, places: dict[int, range], some: Sequence[int]) -> list[Entries]:
    """Some rows of linear functions of sources, by the places of these."""
    return [{places[s][j]: w for s, m in y.blocks.items() for j, w in m.rows[i].items()} for i in some]


def _product(rows: arb_mat, matrix: arb_mat, start: Numbers | None) -> arb_mat:
    """rows P rowsᵀ; `start` is the diagonal of P, if it has no other entries."""
    if start is None:
        return rows * matrix * rows.transpose()
    scaled = [w * p for row in rows.tolist() for w, p in zip(row, start, strict=True)]
    return arb_mat(rows.nrows(), rows.ncols(), scaled) * rows.transpose()


def _through(z: arb_mat, slopes: list[Slope], first: int, t: Numbers | None, where: str) -> arb_mat:
    """P after the slopes of the entries from `first` on, of those that P = Z bounds before."""
    n, known = z.nrows(), [d == most for _, d, most in slopes]
    unknown = [e for e, same in enumerate(known) if not same]
    middles = [d if same else ((d + most) / 2).mid() for same, (_, d, most) in zip(known, slopes, strict=True)]
    scale = [ONE] * first + middles
    added = [ZERO] * n
    if unknown:
        chosen = [t[slopes[e][0]] for e in unknown] if t is not None else [ZERO] * len(unknown)
        rows, at = z.tolist(), [first + e for e in unknown]
        across, gap = part(rows, at, range(n)), diagonal(chosen) - part(rows, at, at)
        if not definite(gap):
            raise Invalid(f"{where}: T - Z is not proved to be positive definite")
        z = z + across.transpose() * gap.solve(across)
        for e, i, own in zip(unknown, at, chosen, strict=True):
            _, d, most = slopes[e]
            added[i] = own * larger((most - scale[i]).upper(), (scale[i] - d).upper()) ** 2
    return arb_mat(n, n, [w * a * b for row, a in zip(z.tolist(), scale, strict=True)
                          for w, b in zip(row, scale, strict=True)]) + diagonal(added)  # fmt: skip


def lengths(gram: arb_mat) -> Numbers:
    """What the absolute values of the rows do not exceed whose G this is."""
    return [larger(gram[i, i].upper(), ZERO).sqrt().upper() for i in range(gram.nrows())]
