"""Planes of products: they hold, they touch, and the slopes of a witness decide them."""

import numpy as np
import pytest
from flint import arb, ctx

from recurjac_check.functions import Product


@pytest.mark.parametrize("seed", range(20))
def test_planes_of_a_product_hold_and_touch(seed: int) -> None:
    source = np.random.default_rng(seed)
    ends = np.sort(source.normal(0, 2, (2, 2)), 1)  # of u and of v
    slopes = [[arb(float(s)) for s in pair] for pair in source.normal(0, 2, (2, 2))]
    given = slopes if seed % 3 else [None, None]
    with ctx.workprec(128):
        l, u = ([arb(float(e)) for e in ends[:, side]] for side in (0, 1))
        below, above = Product().planes(l, u, *given)
        gaps = [[], []]
        for x, y in [*((p, q) for p in ends[0] for q in ends[1]), *(source.uniform(*ends.T) for _ in range(30))]:
            at = [arb(float(x)), arb(float(y))]
            for side, (terms, constant) in enumerate((below[0], above[0])):
                plane = sum((a * at[i] for i, a in terms), constant)
                gaps[side].append((plane - at[0] * at[1]) * (1 if side else -1))
    for gap in gaps:
        assert all(g > -1e-30 for g in gap)
        assert min(float(g) for g in gap) < 1e-25
    assert len(below[0][0]) == (2 if seed % 3 else 0)
