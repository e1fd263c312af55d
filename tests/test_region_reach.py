"""How far a box goes from its point is never rounded down."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

import recurjac as rj
from recurjac.region.box import BoundBox
from tests.helpers import exact, numbers

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("seed", range(3))
def test_the_reach_of_a_box_covers_it(seed: int, dtype: torch.dtype) -> None:
    """The clip box cuts some sides; there the distance from x to its end is rounded."""
    n = 200
    x = numbers("ordinary", n, seed, dtype).double()
    cut = numbers("ordinary", n, seed + 100, dtype).double().abs()
    ball = rj.LpBall(x, 2.0, clip=(x - 3 * cut / 7, x + cut / 7))
    bound = ball.bind((n,), dtype, CPU)
    assert isinstance(bound, BoundBox)
    reached = [exact(side.size[0]) for side in bound._reach]
    ends = zip(exact(bound.x[0]), exact(bound.low[0]), exact(bound.high[0]), exact(bound.radius[0]), strict=True)
    rounded = 0
    for i, (centre, low, high, radius) in enumerate(ends):
        for found, room in zip(reached, (high - centre, centre - low), strict=True):
            least = min(room, radius)
            assert found[i] >= least
            assert found[i] <= least * (1 + 8 * Fraction(torch.finfo(dtype).eps))
            rounded += found[i] > least
    assert rounded > n / 10
