"""A radius that rows have in common, and skeletons that keep one for each row: exact truth, no tolerance."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

import recurjac as rj
from recurjac.activations import LeakyReLU, ReLU
from recurjac.arithmetic import Ball, Rigorous, stacked
from recurjac.network import chain
from recurjac.operators import Compose, Dense, Scale, Standardise
from recurjac.operators.compose import columns_in_common
from tests.helpers import exact_image, misses, numbers
from tests.marks import every_kind, every_seed

RIGOROUS = Rigorous()


def rows_of(kind: str, seed: int) -> Ball:
    """Four rows (4, 3) of float32 with a radius in common."""
    mid = numbers(kind, 12, seed).reshape(4, 3)
    share = numbers("ordinary", 3, seed + 1).abs().reshape(1, 3).clamp(max=1)
    return Ball(mid, mid.abs().amax(0, keepdim=True) * 2.0**-20 * share)


def matrix(kind: str, seed: int) -> torch.Tensor:
    return numbers(kind, 6, seed + 2).reshape(2, 3)


def corners(ball: Ball) -> list[list[list[Fraction]]]:
    """Exact members of the ball: its middle and both ends."""
    assert ball.rad is not None
    mid, rad = ball.mid.double().tolist(), ball.rad.double().expand_as(ball.mid).tolist()
    pairs = [[(Fraction(m), Fraction(r)) for m, r in zip(a, b, strict=True)] for a, b in zip(mid, rad, strict=True)]
    return [[[m + sign * r for m, r in row] for row in pairs] for sign in (-1, 0, 1)]


def holds(ball: Ball, truth: list[list[Fraction]]) -> bool:
    return not any(misses(ball.lower()[i], ball.upper()[i], row) for i, row in enumerate(truth))


@every_seed
@every_kind
def test_sums_products_and_images_of_rows_with_a_radius_in_common(kind: str, seed: int) -> None:
    a, b, weight = rows_of(kind, seed), rows_of(kind, seed + 5), matrix(kind, seed)
    slope = numbers("ordinary", 3, seed + 9)
    total, scaled, image = a + b, a * RIGOROUS.exact(slope), Dense.matrix(weight).push(a)
    for found in (total, scaled, image):
        assert found.common or not bool(found.mid.isfinite().all())
    s = [Fraction(float(v)) for v in slope]
    for x, y in zip(corners(a), corners(b), strict=True):
        assert holds(total, [[p + q for p, q in zip(u, v, strict=True)] for u, v in zip(x, y, strict=True)])
        assert holds(scaled, [[p * q for p, q in zip(u, s, strict=True)] for u in x])
        assert holds(image, [exact_image(Dense.matrix(weight), u) for u in x])


def test_a_radius_in_common_is_that_of_the_worst_row() -> None:
    """With the radius of the first row alone, the second one would not hold."""
    rows = Ball(torch.tensor([[0.0], [3.0]]), torch.tensor([[0.0], [1.0]]))
    for found in (rows.in_common, stacked([rows, RIGOROUS.exact(torch.ones(1, 1))])):
        assert found.rad is not None
        assert found.rad.tolist() == [[1.0]]
    large = Dense.matrix(torch.full((1, 1), 0.1)).push(Ball(torch.tensor([[1e-9], [3.0]]), torch.zeros(1, 1)))
    alone = Dense.matrix(torch.full((1, 1), 0.1)).push(RIGOROUS.exact(torch.tensor([[3.0]])))
    assert large.rad is not None
    assert alone.rad is not None
    assert float(large.rad) >= float(alone.rad)


@every_seed
def test_columns_of_compositions_have_a_radius_in_common(seed: int) -> None:
    weight, factor = matrix("ordinary", seed), numbers("ordinary", 3, seed)
    variance = numbers("ordinary", 3, seed + 3).abs() + 0.1
    for inner in (Scale(factor), Standardise(variance, 1e-3)):
        operator = Compose(Dense.matrix(weight), inner)
        found = columns_in_common(operator, torch.arange(3), torch.float32, RIGOROUS)
        assert found.common
        if isinstance(inner, Scale):
            for i in range(3):
                truth = exact_image(operator, [Fraction(int(i == j)) for j in range(3)])
                assert holds(Ball(found.mid[i : i + 1], found.rad), [truth])


@pytest.mark.parametrize("activation", [ReLU(), LeakyReLU(0.3)], ids=["relu", "leaky"])
def test_rounding_starts_anew_in_deep_skeletons(activation: ReLU, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rigorous bounds of a deep random network are those of plain arithmetic to 1e-6; without restarts they are not."""
    g = torch.Generator().manual_seed(0)
    layers = [
        (torch.randn(40, 40, generator=g, dtype=torch.float64) * (2 / 40) ** 0.5,
         0.1 * torch.randn(40, generator=g, dtype=torch.float64))
        for _ in range(24)
    ]  # fmt: skip
    network = chain(layers, [activation] * 23).output(0)
    region = rj.LpBall(torch.randn(1, 40, generator=g, dtype=torch.float64), 1e-6)

    def upper(arithmetic: rj.Fast | rj.Rigorous) -> float:
        problem = rj.Problem(network, region, arithmetic=arithmetic, planner=rj.SkeletonOnly())
        return float(rj.lipschitz(problem, method=rj.Chords(), search=rj.Search(work=0)).upper)

    plain, proved = upper(rj.Fast()), upper(rj.Rigorous())
    assert plain * (1 - 1e-12) <= proved <= plain * (1 + 1e-6)
    monkeypatch.setattr("recurjac.propagation.skeleton_pushed._GROWN", 2**90)
    assert not upper(rj.Rigorous()) <= plain * (1 + 1e-6)
