"""Affine functions of the input and of the outputs of stages, as sparse matrices of balls."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from flint import arb, arb_mat

from recurjac_check.region import ZERO

Entries = dict[int, arb]
_SPARSE, _DENSE, _MOVED = 0.4, 0.012, 0.4
"""Microseconds of a step of each kind; they only decide which of two ways is taken."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """A matrix by its rows."""

    rows: Sequence[Entries]
    columns: int

    @cached_property
    def _parts(self) -> dict[tuple[Sequence[int], Sequence[int]], arb_mat]:
        """The part that was asked for last."""
        return {}

    def part(self, rows: Sequence[int], columns: Sequence[int]) -> arb_mat:
        """The entries of some rows and columns, with zeros."""
        key = rows, columns
        if key not in self._parts:
            self._parts.clear()
            self._parts[key] = dense([self.rows[i] for i in rows], columns)
        return self._parts[key]

    @cached_property
    def transposed(self) -> "Matrix":
        """The transposed matrix."""
        rows: list[Entries] = [{} for _ in range(self.columns)]
        for i, row in enumerate(self.rows):
            for j, w in row.items():
                rows[j][i] = w
        return Matrix(rows, len(self.rows))

    def after(self, forms: Sequence[Entries], columns: Sequence[int] | None = None) -> list[Entries]:
        """The products of rows `forms` and this matrix, of which only some columns may be needed."""
        wanted = range(self.columns) if columns is None else columns
        used = tuple(sorted(set().union(*forms)))
        steps = sum(len(self.rows[j]) for form in forms for j in form)
        size = len(forms) * len(used) + len(used) * len(wanted) + len(forms) * len(wanted)
        if steps * _SPARSE > _DENSE * len(forms) * len(used) * len(wanted) + _MOVED * size:
            product = dense(forms, used) * self.part(used, wanted)
            return [dict(zip(wanted, row, strict=True)) for row in product.tolist()]
        return [self._after(form) for form in forms]

    def _after(self, form: Entries) -> Entries:
        total: Entries = {}
        for j, c in form.items():
            for k, w in self.rows[j].items():
                total[k] = total[k] + c * w if k in total else c * w
        return total


def dense(rows: Sequence[Entries], columns: Sequence[int]) -> arb_mat:
    """The matrix of some columns of these rows."""
    return arb_mat(len(rows), len(columns), [row.get(j, ZERO) for row in rows for j in columns])


@dataclass(frozen=True, eq=False)
class Affine:
    """constant + sum of blocks[s] times source s."""

    blocks: dict[int, Matrix]
    constant: list[arb]

    def __len__(self) -> int:
        return len(self.constant)
