"""Spectral norms are bounded from above, and closely, also of matrices with equal singular values."""

import numpy as np
import pytest
from flint import arb, arb_mat, ctx

from recurjac_check.claims import spectral

SOURCE = np.random.default_rng(0)
MATRICES = {
    "wide": SOURCE.normal(0, 1, (4, 30)),
    "tall": SOURCE.normal(0, 1, (30, 4)),
    "one row": SOURCE.normal(0, 1, (1, 7)),
    "equal": np.eye(64),
    "nearly equal": np.diag([1.0, 1.0 - 1e-9, 0.5]),
    "rank one": np.outer(SOURCE.normal(0, 1, 5), SOURCE.normal(0, 1, 6)),
    "tiny": 1e-200 * SOURCE.normal(0, 1, (3, 3)),
    "huge": 1e200 * SOURCE.normal(0, 1, (3, 3)),
    "zero": np.zeros((3, 5)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_a_spectral_norm_is_bounded_closely(name: str) -> None:
    matrix = MATRICES[name]
    with ctx.workprec(128):
        found = spectral(arb_mat(*matrix.shape, [arb(float(v)) for v in matrix.flat]))
    true = float(np.linalg.norm(matrix, 2))
    assert true * (1 - 1e-13) <= float(found) <= true * (1 + 1e-11)


def test_a_spectral_norm_of_balls_holds_for_all_of_their_matrices() -> None:
    with ctx.workprec(128):
        found = spectral(arb_mat(2, 2, [arb(1, 0.25), arb(0, 0.5), arb(0, 0.5), arb(1, 0.25)]))
    signs = np.array(np.meshgrid(*[(-1, 1)] * 4)).reshape(4, -1).T
    corners = [np.eye(2) + np.reshape(s * [0.25, 0.5, 0.5, 0.25], (2, 2)) for s in signs]
    assert float(found) >= max(np.linalg.norm(m, 2) for m in corners)
