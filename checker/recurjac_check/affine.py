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
    def dense(self) -> arb_mat:
        """The same with all of its zeros."""
        return dense(self.rows, self.columns)

    @cached_property
    def lengths(self) -> list[int]:
        """The number of entries of each row."""
        return [len(row) for row in self.rows]

    @cached_property
    def transposed(self) -> "Matrix":
        """The transposed matrix."""
        rows: list[Entries] = [{} for _ in range(self.columns)]
        for i, row in enumerate(self.rows):
            for j, w in row.items():
                rows[j][i] = w
        return Matrix(rows, len(self.rows))

    def after(self, forms: Sequence[Entries]) -> list[Entries]:
        """The products of rows `forms` and this matrix."""
        steps = sum(self.lengths[j] for form in forms for j in form)
        size = len(forms) * len(self.rows) + len(self.rows) * self.columns + len(forms) * self.columns
        if steps * _SPARSE > _DENSE * len(forms) * len(self.rows) * self.columns + _MOVED * size:
            product = dense(forms, len(self.rows)) * self.dense
            return [dict(enumerate(row)) for row in product.tolist()]
        return [self._after(form) for form in forms]

    def _after(self, form: Entries) -> Entries:
        total: Entries = {}
        for j, c in form.items():
            for k, w in self.rows[j].items():
                total[k] = total[k] + c * w if k in total else c * w
        return total


def dense(rows: Sequence[Entries], columns: int) -> arb_mat:
    """The matrix of these rows."""
    entries = [ZERO] * (len(rows) * columns)
    for i, row in enumerate(rows):
        for j, w in row.items():
            entries[i * columns + j] = w
    return arb_mat(len(rows), columns, entries)


@dataclass(frozen=True, eq=False)
class Affine:
    """constant + sum of blocks[s] times source s."""

    blocks: dict[int, Matrix]
    constant: list[arb]

    def __len__(self) -> int:
        return len(self.constant)
