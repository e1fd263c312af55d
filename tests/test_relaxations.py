"""The one substitution: what it makes of a form bounds the form, in exact arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import inf, nextafter

import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac.arithmetic import Ball, Fast, Interval, Rigorous, round_up_to
from recurjac.relaxations import LinearRelaxation, relax_
from tests.helpers import Exact, exact, numbers
from tests.marks import every_dtype, every_seed

FAST, RIGOROUS = Fast(), Rigorous()
N, FORMS = 9, 5

every_kind = pytest.mark.parametrize("kind", ["ordinary", "mixed", "tiny", "subnormal", "integers", "sparse"])


def total(a: Exact, b: Exact) -> Fraction:
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


CASES = ("no upper line", "any", "outward")


def problem(
    kind: str, seed: int, case: str = CASES[0], dtype: torch.dtype = torch.float32
) -> tuple[LinearRelaxation, Exact, Exact]:
    """Lines of N neurons, with v and w between them: at the lower line, at the upper one, or between.

    Every third neuron is known exactly.  Of "no upper line" the last has none, and w lies far above; of "outward" no
    upper intercept is negative and no lower one positive.
    """
    slope, other, v, low, high = numbers(kind, 5 * N, seed, dtype).reshape(5, N).unbind()
    known, outward = torch.arange(N) % 3 == 0, case == "outward"
    low, high = (-low.abs(), high.abs()) if outward else (low, high)
    slopes = [(slope, torch.where(known, 0.0, low)), (torch.where(known, slope, other), torch.where(known, 0.0, high))]

    def heights(lines: Sequence[Sequence[Tensor]]) -> list[list[Fraction]]:
        return [[a * x + b for a, x, b in zip(exact(s), exact(v), exact(t), strict=True)] for s, t in lines]

    crossed = torch.tensor([a > b for a, b in zip(*heights(slopes), strict=True)])
    down, up = ([torch.where(crossed, t, s) for s, t in zip(*ends, strict=True)] for ends in (slopes, slopes[::-1]))
    if outward:  # lines that cross keep their intercepts: those of the slopes are in order then
        down[1], up[1] = slopes[0][1], slopes[1][1]
    w = [min(p, q) + abs(p - q) * Fraction(i % 5, 4) for i, (p, q) in enumerate(zip(*heights((down, up)), strict=True))]
    if case == "no upper line":
        up[1][-1], w[-1] = inf, w[-1] + 1000
    size = round_up_to(torch.tensor([nextafter(float(abs(x)), inf) for x in w], dtype=torch.float64), dtype)
    shaped = (t.reshape(1, 1, N) for t in (*down, *up, size))
    return LinearRelaxation(*shaped), exact(v), w


def forms(kind: str, seed: int, dtype: torch.dtype = torch.float32) -> Ball:
    """Coefficients with radii; those of the neuron without an upper line are negative but in the first form."""
    mid = numbers(kind, FORMS * N, seed + 50, dtype).reshape(1, 1, FORMS, N)
    mid[..., 1:, -1] = -mid[..., 1:, -1].abs()
    share = torch.tensor([0.0, 0.25, torch.finfo(dtype).eps], dtype=dtype).repeat(N)[:N]
    return RIGOROUS.ball(mid, mid.abs() * share)


def spread(value: Ball, i: int) -> tuple[Exact, Exact]:
    assert value.rad is not None
    return exact(value.mid[0, 0, i]), exact(value.rad.expand_as(value.mid)[0, 0, i])


@every_dtype
@every_seed
@every_kind
@pytest.mark.parametrize("case", CASES)
def test_new_forms_and_constant_bound_the_old_forms(case: str, kind: str, seed: int, dtype: torch.dtype) -> None:
    (lines, v, w), old = problem(kind, seed, case, dtype), forms(kind, seed, dtype)
    assert lines.outward or case != "outward"
    new, constant = relax_(old.map(torch.clone), lines, RIGOROUS)
    assert constant is not None
    for i, most in enumerate(constant.upper().flatten().tolist()):
        (c, radius), (slopes, error) = spread(old, i), spread(new, i)
        worst = total(c, w) + total(radius, [abs(x) for x in w])
        if most < inf:
            assert worst <= total(slopes, v) + total(error, [abs(x) for x in v]) + Fraction(most)
        else:
            assert c[-1] + radius[-1] > 0


@every_kind
@every_seed
@every_dtype
@pytest.mark.parametrize("method", [rj.Chords(), rj.RecurJac()])
def test_lines_of_gradients_hold_at_all_corners(
    method: rj.Chords | rj.RecurJac, kind: str, seed: int, dtype: torch.dtype
) -> None:
    """δ y is linear in y and in δ, so that lines that hold at the ends of both hold between them."""
    count = 40
    y, slope = numbers(kind, 2 * count, seed, dtype), numbers("ordinary", 2 * count, seed + 100, dtype)
    (low, high), (least, most) = y.reshape(2, 1, 1, count).sort(0).values, slope.reshape(2, 1, 1, count).sort(0).values
    most[..., :5] = least[..., :5]
    lines = method.lines(Interval(low, high), Interval(least, most), RIGOROUS)
    sides = ((1, lines.upper_slope, lines.upper_intercept), (-1, lines.lower_slope, lines.lower_intercept))
    for sign, a, b in sides:
        for at in (low, high):
            for delta in (least, most):
                each = zip(exact(a), exact(b), exact(at), exact(delta), strict=True)
                assert all(sign * (s * v + c - d * v) >= 0 for s, c, v, d in each)
    if isinstance(method, rj.Chords):
        assert not bool(lines.upper_intercept[..., :5].any() | lines.lower_intercept[..., :5].any())


def test_intercepts_that_cancel_have_the_radius_of_their_sizes() -> None:
    """1e8 + 1 - 1e8 is 0 in float32; the upper lines are not all outward, so no sum of one sign."""
    zero = torch.zeros(1, 1, 3)
    lines = LinearRelaxation(zero, zero - 1e8, zero, torch.tensor([[[1e8, 1.0, -1e8]]]), zero + 1e8)
    assert not lines.outward
    _, constant = relax_(RIGOROUS.exact(torch.ones(1, 1, 1, 3)), lines, RIGOROUS)
    assert constant is not None
    assert constant.lower().item() <= 1 <= constant.upper().item()


def test_plain_arithmetic_is_not_enough() -> None:
    """The test above could fail: at the lines themselves plain sums fall short of the form somewhere."""
    short = 0
    for seed in range(20):
        (lines, v, w), mid = problem("ordinary", seed), -forms("ordinary", seed).mid.abs()
        touching = (torch.arange(N) % 5 == 0) | (torch.arange(N) % 3 == 0)  # w is on the lower line
        mid = torch.where(touching, mid, 0.0)
        new, constant = relax_(FAST.exact(mid), lines, FAST)
        assert constant is not None
        for old, slopes, most in zip(mid[0, 0], new.mid[0, 0], constant.mid.flatten().tolist(), strict=True):
            short += total(exact(slopes), v) + Fraction(most) < total(exact(old), w)
    assert short > 0


def test_known_neurons_pass_without_a_constant() -> None:
    slope = torch.tensor([[[0.5, 0.0, -2.0]]])
    old = RIGOROUS.exact(torch.tensor([[[[1.0, 2.0, 3.0]]]]))
    new, constant = relax_(old.map(torch.clone), LinearRelaxation.proportional(slope), RIGOROUS)
    assert constant is None
    assert new.mid.tolist() == [[[[0.5, 0.0, -6.0]]]]
    same, nothing = relax_(old, LinearRelaxation.proportional(torch.ones(1, 1, 3)), RIGOROUS)
    assert same is old
    assert nothing is None


def test_a_radius_stays_with_known_neurons_and_moves_to_the_constant_of_others() -> None:
    """The coefficients are 1 ± ¼ and 2 ± ½; w = 3 v at the first neuron and |w| <= 10 at the second."""
    lines = LinearRelaxation(
        *(torch.tensor([[row]]) for row in ([3.0, 0.5], [0.0, -1.0], [3.0, 2.0], [0.0, 1.0], [inf, 10.0]))
    )
    old = RIGOROUS.ball(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[0.25, 0.5]]]]))
    new, constant = relax_(old.map(torch.clone), lines, RIGOROUS)
    assert constant is not None
    assert new.rad is not None
    assert new.mid.flatten().tolist() == [3.0, 4.0]
    assert new.rad.flatten().tolist() == pytest.approx([0.75, 0.0], abs=1e-5)
    assert (new.upper().flatten() >= torch.tensor([3.75, 4.0])).all()
    assert constant.upper().item() == pytest.approx(2.0 + 5.0)
    assert constant.upper().item() >= 7


def choice(sign: Tensor) -> tuple[Ball, Ball | None]:
    bounds = (torch.tensor([[[a]]]) for a in (0.25, -3.0, 0.75, 5.0, 9.0))
    return relax_(FAST.exact(sign.reshape(1, 1, -1, 1)), LinearRelaxation(*bounds), FAST)


def test_the_sign_chooses_the_line() -> None:
    new, constant = choice(torch.tensor([2.0, -2.0, 0.0]))
    assert constant is not None
    assert new.mid.flatten().tolist() == [1.5, -0.5, 0.0]
    assert constant.mid.flatten().tolist() == [10.0, 6.0, 0.0]


@pytest.mark.parametrize("arithmetic", [rj.Fast(), rj.Rigorous()], ids=["fast", "rigorous"])
def test_intercepts_that_cancel_in_their_sum_still_count(arithmetic: rj.Fast | rj.Rigorous) -> None:
    """Neurons saturated at 1 and at -1 are constants whose sum is 0 (this was a bug)."""
    first, bias = torch.ones(2, 1, dtype=torch.float64), torch.tensor([5.0, -5.0], dtype=torch.float64)
    last = torch.tensor([[2.0, -3.0]], dtype=torch.float64)
    network = rj.load([(first, bias), (last, None)], activation="hard_tanh")
    region = rj.LpBall(torch.zeros(1, 1, dtype=torch.float64), 0.5)
    out = rj.preactivation_bounds(network, region, pre=rj.Alone(rj.Crown()), arithmetic=arithmetic).stages[-1]
    assert float(out.lower) <= 5 <= float(out.upper)
    assert float(out.upper - out.lower) <= 1e-12
