"""Norms of matrices are bounded from above, and spectral ones closely, also with equal singular values."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flint import arb, arb_mat, ctx

from recurjac_check.claims import norm_within, reached_norm, spectral

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


@pytest.mark.parametrize("q", ["1", "2", "inf"])
@pytest.mark.parametrize("p", ["1", "2", "inf"])
@pytest.mark.parametrize("shape", [(1, 4), (3, 1), (3, 4), (4, 4)], ids=str)
def test_norms_of_all_matrices_between_two_are_bounded(shape: tuple[int, int], p: str, q: str) -> None:
    """No vector is stretched more, by matrices at corners; narrow ranges are those of which most is cancelled."""
    source = np.random.default_rng(1)
    for width in (0.0, 1e-3, 0.5, 4.0):
        middle, half = source.normal(0, 1, shape), width * source.uniform(0, 1, shape)
        low, high = ([[arb(float(v)) for v in row] for row in end] for end in (middle - half, middle + half))
        with ctx.workprec(128):
            found = float(norm_within(low, high, p, q))
        for _ in range(200):
            matrix = middle + half * source.choice([-1.0, 1.0], shape)
            # a good vector for the 2-norms, and corners
            vectors = [np.linalg.svd(matrix)[2][0], source.choice([-1.0, 1.0], shape[1]), *np.eye(shape[1])]
            for v in vectors:
                rate = np.linalg.norm(matrix @ v, float(q)) / np.linalg.norm(v, float(p))
                assert rate <= found * (1 + 1e-12)


def test_a_norm_that_is_an_irrational_number_is_not_below_it() -> None:
    """The norm of (1, 1) from 2 to any is the root of 2, also by its Gram matrix; an end of a ball decides."""
    with ctx.workprec(128):
        found = [norm_within([[arb(1), arb(1)]], [[arb(1), arb(1)]], "2", q) for q in ("1", "2", "inf")]
        leaf: Any = SimpleNamespace(reach=lambda _rows, _p: arb_mat(1, 1, [arb(2)]))
        found += [reached_norm(leaf, [((0, arb(1)),)], "2", q) for q in ("1", "2", "inf")]
    with ctx.workprec(1000):
        assert all(bound * bound >= 2 for bound in found)
