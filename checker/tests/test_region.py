"""The maximum of a linear function over a region is the one that formulas say."""

import pytest
from flint import arb

from producer import ball
from recurjac_check.region import contains, read


@pytest.mark.parametrize(("norm", "maximum"), [("inf", 0.5 * 7), ("1", 0.5 * 4), ("2", 0.5 * 5)])
def test_the_support_function_of_a_ball(norm: str, maximum: float) -> None:
    bound = read(ball([0.0, 0.0], 0.5, norm), 2).supremum({0: arb(3), 1: arb(-4)})
    assert maximum <= bound <= maximum + 1e-12


@pytest.mark.parametrize("norm", ["inf", "1", "2"])
def test_points_on_the_sphere_belong_to_the_ball(norm: str) -> None:
    where = ball([0.1, 0.0], 0.5, norm)
    assert contains(where, [arb(0.1), arb(0.5)])
    assert not contains(where, [arb(0.1), arb(0.5000000000000001)])
