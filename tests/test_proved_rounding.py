"""Rounding of quotients, roots and powers is covered: bounds against rational truth, with no tolerance."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.activations import FlooredPower, Length, Power, Reciprocal, Square, SquaredReLU, slope_lines, value_lines
from recurjac.activations.smooth import AbstractSmooth
from recurjac.arithmetic import Fast, Interval, Rigorous, root_of
from recurjac.relaxations import LinearRelaxation
from tests.helpers import concrete_classes, numbers
from tests.marks import every_dtype, every_kind
from tests.powers import Ends, derivatives, root

RIGOROUS = Rigorous()
PROVED: tuple[AbstractSmooth, ...] = (
    Square(), SquaredReLU(), Reciprocal(), Length(), Power(0.5), Power(-0.5), Power(1.5), Power(-1.5), Power(-2.0),
    FlooredPower(-0.5, 0.125), FlooredPower(0.5, 0.125), FlooredPower(-1.0, 0.125), FlooredPower(-0.5, 2.0**-40),
)  # fmt: skip
every_proved = pytest.mark.parametrize("activation", PROVED, ids=repr)


def intervals(kind: str, dtype: torch.dtype, seed: int, count: int = 12) -> Interval:
    """Wide and narrow intervals, on one side of 0 or around it, and points."""
    a, b = numbers(kind, 2 * count, seed, dtype).reshape(2, count)
    b[: count // 3] = a[: count // 3] * (1 + 10 * torch.finfo(dtype).eps)
    b[count // 3] = a[count // 3]
    same = torch.arange(count) % 4 != 3
    b = torch.where(same, b.abs().copysign(a), b)
    return Interval(torch.minimum(a, b).unsqueeze(0), torch.maximum(a, b).unsqueeze(0))


def points(low: float, high: float, dtype: torch.dtype) -> list[float]:
    """The ends, their middle, and numbers near the ends, also on a logarithmic scale: numbers of the dtype."""
    share = torch.tensor([0.0, 1e-9, 0.3, 0.5, 0.999, 1.0], dtype=torch.float64)
    found = low + share * (high - low)
    if low * high > 0:
        size = torch.tensor([low, high], dtype=torch.float64).abs().log()
        found = torch.cat([found, (size[0] + share * (size[1] - size[0])).exp().copysign(found)])
    found = torch.cat([found, torch.tensor([0.0, 0.125, 2.0**-40], dtype=torch.float64)]).to(dtype)
    kept: list[float] = sorted({v for v in found.tolist() if low <= v <= high} | {low, high})
    return kept


def outside(low: float, true: Ends, high: float) -> bool:
    """Whether a number is certainly not between two numbers, which may be infinite."""
    return (low > float("-inf") and true[1] < Fraction(low)) or (high < float("inf") and true[0] > Fraction(high))


def violations(activation: AbstractSmooth, z: Interval, arithmetic: Fast | Rigorous) -> list[str]:
    """What is wrong at points of the intervals: ranges of σ, σ' and σ'', and lines of σ and σ'."""
    found, dtype = list[str](), z.lower.dtype
    ranges = [activation.value_range(z, arithmetic), activation.slope_range(z, arithmetic)]
    bends = activation.curvature_range(z, arithmetic)
    lines: dict[str, tuple[int, LinearRelaxation]] = {
        "lines": (0, activation.lines(z, arithmetic)), "parallel lines": (0, activation.parallel_lines(z, arithmetic)),
        "lines at a third": (0, value_lines(activation, z, 0.3, arithmetic)),
        "lines of slopes": (1, slope_lines(activation, z, 0.5, arithmetic)),
        "lines of slopes at a third": (1, slope_lines(activation, z, 0.3, arithmetic)),
    }  # fmt: skip
    at = torch.where(z.lower.isfinite(), z.lower, 1.0) * 0.7 + torch.where(z.upper.isfinite(), z.upper, 1.0) * 0.3
    centre = Interval.point(torch.minimum(torch.maximum(at, z.lower), z.upper))
    secants = activation.secant_range(z, centre, arithmetic)
    for i, (low, high) in enumerate(zip(z.lower[0].tolist(), z.upper[0].tolist(), strict=True)):
        start = derivatives(activation, Fraction(centre.lower[0, i].item()))
        for v in points(low, high, dtype):
            true = derivatives(activation, Fraction(v))
            if true is None:
                continue
            for name, bounds, truth in zip(("value", "slope", "curvature"), [*ranges, bends], true, strict=False):
                if bounds is not None and outside(bounds.lower[0, i].item(), truth, bounds.upper[0, i].item()):
                    found.append(f"{name} at {v!r} of [{low!r}, {high!r}]")
            for name, (order, line) in lines.items():
                below, above = (Fraction(s[0, 0, i].item()) * Fraction(v) for s in (line.lower_slope, line.upper_slope))
                gaps = (
                    (true[order][0] - below, true[order][1] - below),
                    (true[order][0] - above, true[order][1] - above),
                )
                cuts = line.lower_intercept[0, 0, i].item(), line.upper_intercept[0, 0, i].item()
                if outside(cuts[0], gaps[0], float("inf")) or outside(float("-inf"), gaps[1], cuts[1]):
                    found.append(f"{name} at {v!r} of [{low!r}, {high!r}]")
            run = Fraction(v) - Fraction(centre.lower[0, i].item())
            if start is not None and run != 0:
                steep = sorted(((true[0][0] - start[0][1]) / run, (true[0][1] - start[0][0]) / run))
                if outside(secants.lower[0, i].item(), (steep[0], steep[1]), secants.upper[0, i].item()):
                    found.append(f"secant at {v!r} of [{low!r}, {high!r}]")
    return found


@every_dtype
@every_kind
@every_proved
def test_bounds_hold_in_rational_arithmetic(activation: AbstractSmooth, kind: str, dtype: torch.dtype) -> None:
    assert activation.rigorous
    assert violations(activation, intervals(kind, dtype, 0), RIGOROUS) == []


def test_plain_arithmetic_is_not_enough() -> None:
    """The test above can fail."""
    wrong = [a for a in PROVED if violations(a, intervals("ordinary", torch.float32, 0), Fast())]
    assert len(wrong) > len(PROVED) // 2


def test_every_class_that_claims_to_be_covered_is_tested() -> None:
    tested = {type(a) for a in PROVED}
    for cls in concrete_classes(AbstractSmooth):
        if any(a.rigorous for a in cls.examples()):
            assert cls in tested


@pytest.mark.parametrize("size", [1, 3, 8, 37, 129])
@every_dtype
@every_kind
def test_the_processor_rounds_quotients_and_products_correctly(kind: str, dtype: torch.dtype, size: int) -> None:
    """Of vectors of any length, as the last entries of long ones are computed in another way."""
    a, b = drawn(kind, size, dtype, 0), drawn(kind, size, dtype, 1)
    x, y = ([Fraction(v) for v in t.tolist()] for t in (a, b))
    assert wrongly_rounded(a / b, [p / q for p, q in zip(x, y, strict=True)]) == []
    assert wrongly_rounded(a * b, [p * q for p, q in zip(x, y, strict=True)]) == []
    assert wrongly_rounded(1 / b, [1 / q for q in y]) == []
    assert wrongly_rounded(a.square(), [p * p for p in x]) == []


def drawn(kind: str, size: int, dtype: torch.dtype, seed: int) -> Tensor:
    found = numbers(kind, size, size + seed, dtype)
    plain: Tensor = torch.where(found == 0, 1.0, found).to(dtype)
    return plain


def wrongly_rounded(found: Tensor, true: list[Fraction]) -> list[float]:
    """The results that are not among the nearest numbers to the truth."""
    largest = Fraction(torch.finfo(found.dtype).max)
    beside = [torch.nextafter(found, torch.full_like(found, e)).tolist() for e in (-torch.inf, torch.inf)]
    wrong = list[float]()
    for value, low, high, exact in zip(found.tolist(), *beside, true, strict=True):
        if abs(value) == float("inf"):
            wrong += [] if abs(exact) > largest else [value]
            continue
        below = (Fraction(value) + Fraction(low)) / 2 if low > float("-inf") else -2 * largest
        above = (Fraction(value) + Fraction(high)) / 2 if high < float("inf") else 2 * largest
        wrong += [] if below <= exact <= above else [value]
    return wrong


@pytest.mark.parametrize("size", [1, 3, 8, 37, 129])
@every_dtype
@every_kind
def test_roots_have_the_error_of_two_roundings(kind: str, dtype: torch.dtype, size: int) -> None:
    """As do those of PyTorch, which are not always the nearest numbers: it matters that roots are counted twice."""
    x = drawn(kind, size, dtype, 0).abs()
    unit = Fraction(torch.finfo(dtype).eps)
    for found in (root_of(x), x.sqrt()):
        for value, square in zip(found.tolist(), x.tolist(), strict=True):
            low, high = root(Fraction(square))
            assert low * (1 - unit) <= Fraction(value) <= high * (1 + unit)


def test_a_wrong_root_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is assumed of the root that is improved."""
    exact = torch.Tensor.sqrt
    x = torch.linspace(0.1, 9, 50, dtype=torch.float64)
    true = x.sqrt()
    for error, known in ((1e-9, True), (1e-7, False)):
        monkeypatch.setattr(torch.Tensor, "sqrt", lambda t, e=error: exact(t) * (1 + e))
        found = root_of(x)
        assert bool(found.isfinite().all()) == known
        if known:
            torch.testing.assert_close(found, true, rtol=3e-16, atol=0)


class _Rational(nn.Module):
    """A quotient, a root mean square and a length, of a ReLU layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(3, 4), nn.Linear(3, 4), nn.RMSNorm(4, eps=1e-2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x)) / (1 + self.b(x).square())
        y: Tensor = self.norm(h) * torch.sqrt(2 + torch.relu(self.b(x)))
        return y


def test_networks_of_quotients_and_norms_are_covered() -> None:
    torch.manual_seed(0)
    module = _Rational().double().requires_grad_(False)
    x = torch.randn(2, 3, dtype=torch.float64)
    network = rj.load(module, x[:1])
    for radius in (0.0, 0.01, 0.3):
        found = rj.jacobian_bounds(network, rj.LpBall(x, radius))
        assert found.rigorous
        at = x + radius * (2 * torch.rand(20, 1, 3, dtype=torch.float64) - 1)
        true = torch.func.vmap(torch.func.jacrev(module))(at.reshape(-1, 3)).reshape(20, 2, 4, 3)
        slack = 1e-12 * (1 + true.abs())
        assert bool(((true >= found.lower - slack) & (true <= found.upper + slack)).all())
        if radius == 0:
            assert float((found.upper - found.lower).max()) < 1e-10
    softmax = rj.load(nn.Softmax(-1), x[:1])
    assert rj.jacobian_bounds(softmax, rj.LpBall(x, 0.1)).rigorous
