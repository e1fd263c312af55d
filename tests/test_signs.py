"""A sign is certain only if both ends of a derivative have it."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch

from recurjac.applications.signs import strict_signs

INTERVALS = {
    (1.0, 2.0): 1, (-2.0, -1.0): -1, (-1.0, 2.0): 0, (-2.0, 1.0): 0, (0.0, 1.0): 0, (-1.0, 0.0): 0, (0.0, 0.0): 0,
    (5e-324, 1.0): 1, (-1.0, -5e-324): -1, (inf, inf): 0, (-inf, -inf): 0, (1.0, inf): 1, (-inf, -1.0): -1,
    (nan, 1.0): 0, (-1.0, nan): 0,
}  # fmt: skip


@pytest.mark.parametrize(("ends", "sign"), INTERVALS.items(), ids=str)
def test_the_sign_of_an_interval(ends: tuple[float, float], sign: int) -> None:
    lower, upper = (torch.tensor([[end]], dtype=torch.float64) for end in ends)
    positive, negative = strict_signs(lower, upper, rigorous=True)
    assert int(positive) - int(negative) == sign
    assert not bool(positive & negative)


def test_without_covered_rounding_a_small_end_says_nothing() -> None:
    lower, upper = torch.tensor([[1e-9, 1e-3, 1.0, -1e-3]]), torch.tensor([[2.0, 2.0, 2.0, -1e-9]])
    positive, negative = strict_signs(lower.double(), upper.double(), rigorous=False)
    assert positive.tolist() == [[False, True, True, False]]
    assert negative.tolist() == [[False, False, False, False]]
