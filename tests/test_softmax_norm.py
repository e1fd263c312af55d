"""Bounds of the spectral norm of a softmax's Jacobian over boxes, against eigenvalues at corners and sampled points."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac.activations import SoftmaxRows
from recurjac.activations.softmax_norm import _bottom, _halved, _monotone, _root, _top
from recurjac.arithmetic import Interval
from tests.marks import DTYPES, in_turn

RIGOROUS = rj.Rigorous()
SIZES, RADII, SCALES = (1, 2, 3, 4, 7, 16, 40), (0.0, 1e-3, 0.03, 0.1, 0.5, 3.0), (0.0, 0.1, 1.0, 5.0, 40.0)


def eigenvalue(p: Tensor) -> Tensor:
    values: Tensor = torch.linalg.eigvalsh(torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2))
    return values[..., -1]


def attained(low: Tensor, high: Tensor, g: torch.Generator) -> float:
    """The largest eigenvalue at sampled points, and at corners that no change of one number makes larger."""
    share = torch.rand(500, len(low), generator=g, dtype=torch.float64)
    best = float(eigenvalue((low + share * (high - low)).softmax(-1)).max())
    for _ in range(4):
        up = torch.rand(len(low), generator=g) < 0.3
        found = -1.0
        while True:
            flipped = up ^ torch.eye(len(low), dtype=torch.bool)
            values = eigenvalue(torch.where(flipped, high, low).softmax(-1))
            if float(values.max()) <= found:
                break
            found, up = float(values.max()), flipped[int(values.argmax())]
        best = max(best, found)
    return best


@pytest.mark.parametrize(("size", "radius", "scale"), in_turn(SIZES, RADII, SCALES))
def test_eigenvalues_are_below_and_near(size: int, radius: float, scale: float) -> None:
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        z = scale * torch.randn(size, generator=g, dtype=torch.float64)
        z[: seed * (size > 2)] = z[-1]  # equal numbers
        half = radius * (torch.rand(size, generator=g, dtype=torch.float64) if seed else torch.ones(size))
        for dtype, arithmetic in ((torch.float64, rj.Fast()), (torch.float64, RIGOROUS), (torch.float32, RIGOROUS)):
            low, high = (z - half).to(dtype), (z + half).to(dtype)
            true = attained(low.double(), high.double(), g)
            found = float(SoftmaxRows().norm(Interval(low[None, None], high[None, None]), 2, arithmetic))
            assert true <= found + 1e-15  # the error of `eigvalsh`
            if radius <= 0.03 and size > 3:
                assert found <= 1.03 * true + 1e3 * torch.finfo(dtype).eps


@pytest.mark.parametrize("seed", range(4))
def test_a_softmax_alone_is_within_five_percent(seed: int) -> None:
    """Of 4 to 64 numbers of size 1, in boxes of radius 0.1."""
    for size in (4, 8, 16, 64):
        g = torch.Generator().manual_seed(seed)
        z = torch.randn(size, generator=g, dtype=torch.float64)
        box = Interval(z[None, None] - 0.1, z[None, None] + 0.1)
        assert float(SoftmaxRows().norm(box, 2, RIGOROUS)) <= 1.05 * attained(z - 0.1, z + 0.1, g)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_many_rows_and_hidden_numbers_at_once(dtype: torch.dtype) -> None:
    """Rows are bounded each for itself, and what is hidden has no share."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(2, 3, 6, generator=g, dtype=torch.float64).to(dtype)
    box, hidden = Interval(z - 0.05, z + 0.05), torch.zeros(3, 6, dtype=torch.bool)
    hidden[1, 2:], hidden[2, 1:] = True, True
    found = SoftmaxRows(hidden).norm(box, 2, RIGOROUS)
    assert found.dtype == dtype
    for i in range(2):
        for j in range(3):
            low, high = (t[i, j][~hidden[j]].double() for t in (box.lower, box.upper))
            true = attained(low, high, g)
            assert true <= float(found[i, j]) <= 1.05 * true + 1e-5
            alone = SoftmaxRows().norm(Interval(low[None, None], high[None, None]), 2, RIGOROUS)
            assert float(found[i, j]) == pytest.approx(float(alone), rel=1e-3, abs=1e-5)


def test_rows_without_end_have_at_most_a_half() -> None:
    inf = torch.inf
    low = torch.tensor([[[-inf, 0.0, 1.0], [-inf, -inf, -inf], [0.0, 0.0, 0.0]]], dtype=torch.float64)
    high = torch.tensor([[[inf, 0.0, 1.0], [inf, inf, inf], [0.0, 0.0, inf]]], dtype=torch.float64)
    found = SoftmaxRows().norm(Interval.unchecked(low, high), 2, RIGOROUS)
    assert bool((found >= 0.4).all() & (found <= 0.5 + 1e-12).all())


def test_halves_cover_their_boxes() -> None:
    g = torch.Generator().manual_seed(0)
    low = torch.randn(2, 3, 5, generator=g, dtype=torch.float64)
    low[0, 0, 0], high = -torch.inf, low + torch.rand(2, 3, 5, generator=g, dtype=torch.float64)
    high[0, 0, 0], high[1, 1, 1] = 0.3, torch.inf
    parts = _halved(Interval(low, high), torch.rand(2, 3, 5, generator=g))
    assert len(parts.lower) == 16
    for _ in range(300):
        share = torch.rand(2, 3, 5, generator=g, dtype=torch.float64)
        start, end = low.clamp(min=-1e3), high.clamp(max=1e3)
        inside = parts.reshape(8, 2, 3, 5).contains(start + share * (end - start))
        assert bool(inside.all(-1).any(0).all())


def test_monotone_numbers_are_so_for_all_shares_and_eigenvalues() -> None:
    """λ m² < (p_k - λ)², or more, at all corners, where 1 / m² is the sum of (p / (p - λ))²; a box is as good as it."""
    g = torch.Generator().manual_seed(0)
    corners = torch.cartesian_prod(*[torch.tensor([0, 1])] * 4).bool()
    falling = rising = 0
    for trial in range(600):
        p = (2 * torch.randn(4, generator=g, dtype=torch.float64)).softmax(0)
        change = (0.02, 0.1, 0.3)[trial % 3] * torch.rand(2, 4, generator=g, dtype=torch.float64)
        box, exact = (
            Interval((p * (1 - change[0]))[None, None], (p * (1 + change[1]))[None, None]),
            float(eigenvalue(p)),
        )
        least, most = (torch.tensor([[exact * t]]).double() for t in (1 - float(change[0, 0]), 1 + float(change[1, 0])))
        falls, rises = (t[0, 0] for t in _monotone(box, least, most, RIGOROUS))
        shares = torch.where(corners, box.upper[0, 0], box.lower[0, 0])
        for value in (float(least), float(most)):
            mean = 1 / (shares / (shares - value)).square().sum(-1, keepdim=True)
            excess = value * mean - (shares - value).square()
            assert bool((excess[:, falls] <= 1e-15).all())
            assert bool((excess[:, rises] >= -1e-15).all())
        ends, values = torch.stack([box.lower[0, 0], box.upper[0, 0]]), torch.cat([least, most]).reshape(2, 1, 1)
        apart, parts = (ends - values).flatten(0, 1), (1 - values / ends).flatten(0, 1)
        known = apart.sign().amin(0) == apart.sign().amax(0)
        near, small = (torch.where(known, t.abs().amin(0), 0.0) for t in (apart, parts))
        means = [1 / (1 / t).square().sum() for t in (parts.abs().amax(0), small)]
        assert bool((float(most) * means[0] <= near.square() * (1 + 1e-12))[falls].all())
        assert bool((float(least) * means[1] >= apart.abs().amax(0).square() * (1 - 1e-12))[rises].all())
        falling, rising = falling + int(falls.sum()), rising + int(rises.sum())
    assert min(falling, rising) >= 100


def test_what_is_monotone_is() -> None:
    """Where λ is said to fall or to rise with a number, its differences at sampled points have that sign."""
    g = torch.Generator().manual_seed(0)
    falling = rising = 0
    for trial in range(100):
        z = torch.randn(5, generator=g, dtype=torch.float64) * 2
        half = (0.05, 0.15, 0.4, 1.0)[trial % 4] * torch.rand(5, generator=g, dtype=torch.float64)
        box = Interval((z - half)[None, None], (z + half)[None, None])
        p = SoftmaxRows().value_range(box, RIGOROUS)
        low, high = _bottom(p.lower, RIGOROUS), _top(p.upper, RIGOROUS)
        points = z - half + 2 * half * torch.rand(200, 5, generator=g, dtype=torch.float64)
        values = eigenvalue(points.softmax(-1))
        assert bool((low <= values + 1e-15).all() & (values <= high + 1e-15).all())
        falls, rises = (t[0, 0] for t in _monotone(p, low, high, RIGOROUS))
        for k in range(5):
            change = eigenvalue((points + 1e-4 * torch.eye(5, dtype=torch.float64)[k]).softmax(-1)) - values
            assert not bool(falls[k]) or bool((change <= 1e-15).all())
            assert not bool(rises[k]) or bool((change >= -1e-15).all())
        falling, rising = falling + int(falls.sum()), rising + int(rises.sum())
    assert min(falling, rising) >= 30


def test_derivatives_are_those_of_the_bound() -> None:
    """Bounds may be trained: they have the derivatives of the eigenvalue at a point of the box."""
    z = torch.tensor([[[0.3, -0.2, 1.0, 0.1]]], dtype=torch.float64)

    def bound(z: Tensor) -> Tensor:
        return SoftmaxRows().norm(Interval(z - 1e-3, z + 1e-3), 2, rj.Fast()).sum()

    x = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(bound(x), x)
    step = 1e-6 * torch.eye(4, dtype=torch.float64).reshape(4, 1, 1, 4)
    near = torch.stack([bound(z + e) - bound(z - e) for e in step]) / 2e-6
    torch.testing.assert_close(slope.flatten(), near, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("factor", [0.5, 0.99, 1.01, 1.5])
def test_a_wrong_guess_is_not_believed(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """An eigenvalue is a bound only where the two sides of its equation are compared with their rounding."""
    u = torch.rand(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = u.sum(-1)[:, None, None]
    true = torch.linalg.eigvalsh(torch.diag_embed(u) - u.unsqueeze(-1) * u.unsqueeze(-2) / total)[:, -1]

    def guessed(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first, second, guess = _root(u)
        return first, second, factor * guess

    for name in ("plain", "wrong"):
        assert bool((_bottom(u, RIGOROUS) <= true + 1e-15).all() & (true <= _top(u, RIGOROUS) + 1e-15).all()), name
        monkeypatch.setattr("recurjac.activations.softmax_norm._root", guessed)
