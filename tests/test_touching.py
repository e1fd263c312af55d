"""Lines of curved activations are as low as any at the middle, where the search for their slopes could go wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from recurjac.activations import GELU
from recurjac.activations.curved import AbstractCurved, tightest_lines
from recurjac.arithmetic import Fast, Interval, Rigorous
from recurjac.relaxations import LinearRelaxation
from tests.helpers import examples

FAST, RIGOROUS = Fast(), Rigorous()
EPS = torch.finfo(torch.float64).eps
MOST_CALLS = 5000
"""Of PyTorch in the lines of one layer; with bisection inside Newton's method these were 40 000."""

ORDINARY = [(-3.0, 3.0), (-2.5, 0.1), (-0.4, 2.9), (-1.0, 1.0), (-7.0, 2.0), (1.1, 1.3), (-9.0, -1.0), (0.5, 12.0)]
TAILS = [(-300.0, 5.0), (-30.0, 40.0), (3.0, 90.0), (-60.0, -2.0), (-900.0, 900.0), (-5.0, 700.0), (-20.0, -10.0)]
AT_ZERO = [(0.0, 3.0), (-3.0, 0.0), (0.0, 1e-9), (-1e-9, 0.0), (-2.0, 2.0), (-1e-12, 1e-12), (-1e-3, 2.0)]
"""Zero is where powers have multiple roots of the slope, and some slopes jump, as an end and as the middle."""
NARROW = [(0.3, 0.3), (0.0, 0.0), (0.7, 0.7 + 1e-14), (-1.2, -1.2 + 1e-9), (2.0, 2.0 + 1e-5)]
every_curved = pytest.mark.parametrize("activation", examples(AbstractCurved))


def intervals(*ends: tuple[float, float]) -> Interval:
    low, high = torch.tensor(ends, dtype=torch.float64).T
    return Interval(low.unsqueeze(0).contiguous(), high.unsqueeze(0).contiguous())


def at_turns(activation: AbstractCurved) -> Interval:
    """Intervals that end, or have their middle, exactly where the slope turns or jumps, or a number beside that."""
    wide = torch.tensor([[-9.0], [9.0]], dtype=torch.float64)
    turns = activation.slope_turns(*wide).flatten()
    turns = torch.cat([turns[turns.abs() < 9], torch.zeros(1)]).double()
    up, down = (torch.nextafter(turns, torch.full_like(turns, e)) for e in (9.0, -9.0))
    ends = [(turns, turns + 1.5), (turns - 2.5, turns), (turns - 2, turns + 2), (up, up + 1), (down - 1, down)]
    low, high = (torch.cat(side).unsqueeze(0) for side in zip(*ends, strict=True))
    return Interval(low, high)


def grid(low: Tensor, high: Tensor) -> Tensor:
    """Points of intervals (n,), evenly spread and close to both ends: (m, n)."""
    even, close = torch.linspace(0, 1, 2001).double(), 10 ** torch.linspace(-15, -1, 400).double()
    shares = torch.cat([even, close, 1 - close]).unsqueeze(1)
    return torch.minimum(torch.maximum(low + shares * (high - low), low), high)


def highest(activation: AbstractCurved, sign: int, slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Where sign σ is highest above a line with this slope, on grids that become finer around the best point."""
    for _ in range(6):
        points = grid(low, high).sort(0).values
        best = (sign * activation.value(points) - slope * points).argmax(0, keepdim=True)
        low, high = (points.gather(0, (best + k).clamp(0, len(points) - 1))[0] for k in (-1, 1))
    return points.gather(0, best)[0]


def excesses(
    activation: AbstractCurved, z: Interval, found: LinearRelaxation, share: float = 0.5
) -> tuple[Tensor, Tensor]:
    """How much lines are too high at m, and how much σ is beyond them, in units of the last place of what meets.

    A chord of σ from one side of m to the other is at no point above any line that is above σ, and nor is σ at m.  The
    chord is taken between the points of both sides that are highest above the line.
    """
    low, high = z.lower[0], z.upper[0]
    m = (1 - share) * low + share * high
    worst = []
    for sign, line in (1, (found.upper_slope, found.upper_intercept)), (-1, (found.lower_slope, found.lower_intercept)):
        slope, intercept = (sign * t[0, 0] for t in line)
        p, q = highest(activation, sign, slope, low, m), highest(activation, sign, slope, m, high)
        f_p, f_q, f_m = (sign * activation.value(v) for v in (p, q, m))
        weight = torch.where(q > p, (m - p) / torch.where(q > p, q - p, 1.0), 0.0)
        least = torch.maximum(torch.lerp(f_p, f_q, weight), f_m)
        points = torch.cat([grid(low, high), p.unsqueeze(0), q.unsqueeze(0)])
        beyond = (sign * activation.value(points) - slope * points - intercept).amax(0)
        size = intercept.abs() + slope.abs() * torch.maximum(low.abs(), high.abs()) + f_m.abs()
        unit = EPS * torch.where(size > 0, size, 1.0)
        worst.append(((slope * m + intercept - least) / unit, beyond / unit))
    return torch.stack([w[0] for w in worst]), torch.stack([w[1] for w in worst])


@pytest.mark.parametrize("share", [0.5, 0.2])
@pytest.mark.parametrize("ends", [ORDINARY, TAILS, AT_ZERO, NARROW], ids=["ordinary", "tails", "at-zero", "narrow"])
@every_curved
def test_no_line_is_lower_at_the_middle(
    activation: AbstractCurved, ends: list[tuple[float, float]], share: float
) -> None:
    z = activation.core(intervals(*ends))
    above, beyond = excesses(activation, z, tightest_lines(activation, z, share, FAST), share)
    assert float(above.max()) < 64, above
    assert float(beyond.max()) < 16, beyond


@every_curved
def test_no_line_is_lower_at_turning_points(activation: AbstractCurved) -> None:
    z = at_turns(activation)
    above, beyond = excesses(activation, z, activation.lines(z, FAST))
    assert float(above.max()) < 64, above
    assert float(beyond.max()) < 16, beyond


def test_lines_that_are_too_high_or_too_low_are_seen() -> None:
    z = intervals((-3.0, 2.0))
    best = GELU().lines(z, FAST)
    lowered = replace(best, upper_intercept=best.upper_intercept - 1e-13)
    assert float(excesses(GELU(), z, lowered)[1].max()) > 16
    for tilt in (1e-5, -1e-5):
        slope = best.upper_slope + tilt
        points = grid(z.lower[0], z.upper[0])
        top = (GELU().value(points) - slope[0, 0] * points).amax(0)
        above, _ = excesses(GELU(), z, replace(best, upper_slope=slope, upper_intercept=top.reshape(1, 1, 1)))
        assert float(above.max()) > 64


@every_curved
def test_many_intervals_have_the_same_lines_as_few(activation: AbstractCurved) -> None:
    """When the search has ended for most of many intervals, it continues with the others only."""
    g = torch.Generator().manual_seed(0)
    low = 4 * torch.rand(1, 900, generator=g, dtype=torch.float64) - 3
    z = activation.core(Interval(low, low + 10 ** (4 * torch.rand(1, 900, generator=g, dtype=torch.float64) - 2)))
    many = tightest_lines(activation, z, 0.5, FAST)
    few = [tightest_lines(activation, z.map(lambda t, i=i: t[:, i : i + 60]), 0.5, FAST) for i in range(0, 900, 60)]
    m = (z.lower + z.upper) / 2
    for side in ("lower", "upper"):
        slope, intercept = (getattr(many, f"{side}_{part}")[:, 0] for part in ("slope", "intercept"))
        others = [torch.cat([getattr(f, f"{side}_{part}")[:, 0] for f in few], 1) for part in ("slope", "intercept")]
        size = slope.abs() * m.abs() + intercept.abs()
        assert ((slope * m + intercept - others[0] * m - others[1]).abs() <= 16 * EPS * size).all()


class _Calls(TorchDispatchMode):
    """Counts PyTorch's operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@every_curved
def test_lines_need_few_calls(activation: AbstractCurved) -> None:
    """The slope is found together with the touching points, by steps that converge faster than halvings."""
    for dtype in (torch.float64, torch.float32):
        low, high = torch.tensor([*ORDINARY, *TAILS, *AT_ZERO, *NARROW], dtype=dtype).T.contiguous()
        z = Interval(low.unsqueeze(0), high.unsqueeze(0))
        with _Calls() as calls:
            activation.lines(z, FAST)
        assert calls.count < MOST_CALLS, dtype


@pytest.mark.parametrize("arithmetic", [FAST, RIGOROUS], ids=["fast", "rigorous"])
@every_curved
def test_lines_of_huge_intervals_are_numbers(activation: AbstractCurved, arithmetic: Fast | Rigorous) -> None:
    """Some are constants there, and some are infinite, but none is NaN, and none fails where σ is finite."""
    for dtype in (torch.float64, torch.float32):
        low, high = torch.tensor([[[-1e30, -1e30, -2.0, 1e29, -1e30]], [[1e30, 2.0, 1e30, 1e30, -1e30]]], dtype=dtype)
        z = Interval(low, high)
        found = activation.lines(z, arithmetic)
        for sign, slope, intercept in (
            (1, found.upper_slope, found.upper_intercept),
            (-1, found.lower_slope, found.lower_intercept),
        ):
            assert not intercept.isnan().any()
            assert slope.isfinite().all()
            points = torch.stack([z.lower, z.lower / 2 + z.upper / 2, z.upper]).double()
            line = slope[:, 0].double() * points + intercept[:, 0].double()
            true = activation.value(points)
            assert (sign * (line - true) >= -1e-6 * (1 + true.abs())).all()
