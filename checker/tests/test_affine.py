"""Products of matrices are the same whichever way they are computed, for some rows and columns too."""

import numpy as np
import pytest
from flint import arb

from recurjac_check import system
from recurjac_check.affine import Affine, Matrix


def entries(rows: int, columns: int, share: float, seed: int) -> list[dict[int, arb]]:
    """Rows of whole numbers, of which a share of the columns has some."""
    source = np.random.default_rng(seed)
    kept = [j for j in range(columns) if source.random() < share]
    return [{j: arb(int(source.integers(-9, 10))) for j in kept} for _ in range(rows)]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("some", [True, False])
def test_a_product_has_the_columns_that_are_needed(share: float, some: bool) -> None:
    matrix = Matrix(entries(40, 30, 1.0, 1), 30)
    wanted = tuple(range(0, 30, 3)) if some else None
    for seed in (2, 3):  # another part of the matrix
        forms = entries(50, 40, share, seed)
        product = matrix.after(forms, wanted)
        for form, row in zip(forms, product, strict=True):
            for j in wanted or range(30):
                exact = sum((c * matrix.rows[i][j] for i, c in form.items()), arb(0))
                assert row.get(j, arb(0)) == exact


def test_forms_are_bounded_in_lots_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row of seven, in three lots, has the bound that it has alone."""
    forms = Affine({0: Matrix(entries(7, 5, 1.0, 4), 5)}, [arb(i) for i in range(7)])
    values = system.System(system.point_supremum([arb(i) / 4 for i in range(5)]))
    alone = [values.above(forms, [i], -1)[0] for i in range(7)]
    monkeypatch.setattr(system, "_LOT", 3)
    assert [float(v) for v in values.above(forms, range(7), -1)] == [float(v) for v in alone]
