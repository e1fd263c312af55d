"""Ranges of maxima over windows: those of the ends of the box, whatever ReLUs the maxima are rewritten to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import inf, prod

import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.jacobian import Gradients
from recurjac.network import Network
from tests.marks import every_dtype, every_seed


class Least(nn.Module):
    """Minima of what repeats and swaps entries."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, [3, 0, 1, 2, 0]].amin(2)


MAXIMA: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "disjoint": (lambda: nn.MaxPool2d(2), (1, 2, 6, 4)),
    "overlapping": (lambda: nn.MaxPool2d(3, stride=1), (1, 1, 5, 5)),
    "padded": (lambda: nn.MaxPool2d(3, stride=2, padding=1), (1, 1, 5, 5)),
    "beyond the end": (lambda: nn.MaxPool2d(2, ceil_mode=True), (1, 2, 5, 3)),
    "dilated": (lambda: nn.MaxPool1d(3, stride=1, dilation=2), (1, 2, 9)),
    "uneven": (lambda: nn.AdaptiveMaxPool1d(3), (1, 2, 7)),
    "all": (lambda: nn.AdaptiveMaxPool2d(1), (1, 2, 3, 3)),
    "least": (Least, (1, 2, 4)),
}
every_maximum = pytest.mark.parametrize("name", MAXIMA)


def loaded(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Network:
    return rj.load(nn.Sequential(module, nn.Flatten()), torch.randn(shape, dtype=dtype), dtype=dtype)


@cache
def of(name: str, dtype: torch.dtype = torch.float64) -> Network:
    make, shape = MAXIMA[name]
    return loaded(make(), shape, dtype)


def ranges(network: Network, low: Tensor, high: Tensor, arithmetic: AbstractArithmetic) -> list[Interval]:
    """Those of all stages but the last one, by intervals."""
    problem = rj.Problem(network, rj.Box(low, high), pre=rj.IBP(), arithmetic=arithmetic)
    state = Gradients(problem).state
    return [state.pre(k) for k in range(1, network.depth)]


@every_dtype
@every_seed
@every_maximum
def test_the_range_of_a_maximum_is_that_of_the_ends(name: str, seed: int, dtype: torch.dtype) -> None:
    """Numbers with few digits, so that differences are exact."""
    make, shape = MAXIMA[name]
    network, g = of(name, dtype), torch.Generator().manual_seed(seed)
    low = torch.randint(-64, 64, shape, generator=g) / 8
    low, high = low.to(dtype), (low + torch.randint(0, 32, shape, generator=g) / 8).to(dtype)
    (node,) = [k for k, s in enumerate(network.stages, 1) if s.selection is not None]
    found = ranges(network, low, high, rj.Rigorous())[node - 1]
    ends = make()(low).flatten(), make()(high).flatten()
    off = torch.zeros_like(ends[0])
    if name == "least":  # a stage has the maxima of the negative entries; their signs are changed with rounding
        ends, off = (-ends[1], -ends[0]), 8 * torch.finfo(dtype).eps * (1 + low.abs().amax()).expand_as(ends[0])
    assert bool((found.lower.flatten() <= ends[0]).all() and (found.lower.flatten() >= ends[0] - off).all())
    assert bool((found.upper.flatten() >= ends[1]).all() and (found.upper.flatten() <= ends[1] + off).all())


@every_dtype
@every_seed
@every_maximum
def test_all_stages_in_between_are_in_their_ranges(name: str, seed: int, dtype: torch.dtype) -> None:
    """Also the comparisons that are not needed, which are replaced by constants; exactly, at corners and inside."""
    shape, network, g = MAXIMA[name][1], of(name, dtype), torch.Generator().manual_seed(seed)
    low = torch.randint(-64, 64, shape, generator=g) / 8
    low, wide = low.to(dtype), (torch.randint(0, 32, shape, generator=g) / 8).to(dtype)
    found = ranges(network, low, low + wide, rj.Rigorous())
    share = torch.randint(0, 5, (200, *shape[1:]), generator=g) / 4
    values = network.preactivations(low + share.to(dtype) * wide)
    for z, at in zip(found, values, strict=False):
        assert bool(((at >= z.lower) & (at <= z.upper)).all())


def test_a_comparison_of_two_maxima_is_decided_by_the_ends() -> None:
    """max(x2, x3) - max(x0, x1) is in [4, 7], where the sum of its terms may be less."""
    network = loaded(nn.MaxPool1d(4), (1, 1, 4))
    low, high = torch.tensor([[[0.0, 0.0, 4.5, 5.0]]]).double(), torch.tensor([[[1.0, 0.5, 6.0, 7.0]]]).double()
    found = ranges(network, low, high, rj.Rigorous())
    for z, (least, most) in zip(found[2:], [(4.0, 7.0), (5.0, 7.0)], strict=True):
        assert least - 1e-14 <= float(z.lower) <= least
        assert most <= float(z.upper) <= most + 1e-14
    plain = replace(network, stages=tuple(replace(s, extremes=None) for s in network.stages))
    loose = ranges(plain, low, high, rj.Rigorous())
    assert float(loose[2].lower) < 4
    assert float(loose[3].upper) > 7


def test_rounding_of_a_difference_is_covered() -> None:
    """1 - 2^-60 is not a double: the range of the difference has it inside."""
    network = loaded(nn.MaxPool1d(4), (1, 1, 4))
    point = torch.tensor([[[2.0**-60, 0.0, 1.0, 0.5]]]).double()
    z = ranges(network, point, point, rj.Rigorous())[2]
    assert float(z.lower) < 1 <= float(z.upper)


@every_maximum
def test_unbounded_regions_have_no_end(name: str) -> None:
    shape, network = MAXIMA[name][1], of(name)
    region = rj.LpBall(torch.zeros(shape, dtype=torch.float64), inf)
    state = Gradients(rj.Problem(network, region, pre=rj.IBP())).state
    for k, stage in enumerate(network.stages[:-1], 1):
        where = torch.ones(stage.shape, dtype=torch.bool) if stage.extremes is None else stage.extremes.holds
        where = torch.ones(stage.shape, dtype=torch.bool) if where is None else where
        assert bool((state.pre(k).lower[0][where] == -inf).all())
        assert bool((state.pre(k).upper[0][where] == inf).all())


def test_what_is_known_follows_changes_of_the_input() -> None:
    """After a matrix before the input, maxima are of other numbers."""
    network = loaded(nn.MaxPool1d(2), (1, 2, 4))
    assert [s.extremes is None for s in network.stages] == [False, False, True]
    wide = network.precompose(3 * torch.eye(8, dtype=torch.float64))
    assert all(s.extremes is None for s in wide.stages)
    assert all(s.extremes is None for s in network.fix({0: 100.0}).stages)
    ones = torch.ones(1, 8, dtype=torch.float64)
    found = ranges(wide, ones, 2 * ones, rj.Rigorous())[1]
    assert bool((found.lower <= 3).all())
    assert bool((found.upper >= 6).all())


@every_seed
def test_bounds_of_pooled_networks_hold_and_intervals_gain(seed: int) -> None:
    """Against derivatives at random points; beside those without what is known of maxima."""
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1), nn.Conv2d(3, 4, 3),
        nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(3),
    ).double()  # fmt: skip
    x = torch.randn(1, 1, 12, 12).double()
    module(x)
    network = rj.load(module, x)
    plain = replace(network, stages=tuple(replace(s, extremes=None) for s in network.stages))
    region = rj.LpBall(x, 0.03)
    for rule in (rj.IBP(), rj.Crown()):
        new, old = (rj.jacobian_bounds(rj.Problem(n, region, pre=rule), method=rj.Chords()) for n in (network, plain))
        wide = [float((j.upper - j.lower).detach().sum()) for j in (new, old)]
        assert wide[0] < (0.8 if rule == rj.IBP() else 1 + 1e-6) * wide[1]
        points = x + 0.03 * (2 * torch.rand(50, *x.shape[1:]).double() - 1)
        for point in points:
            at = torch.func.jacrev(module)(point.unsqueeze(0)).reshape(3, prod(x.shape))
            lower, upper = (t.reshape(3, -1) for t in (new.lower, new.upper))
            assert bool(((at >= lower - 1e-12) & (at <= upper + 1e-12)).all())


def test_a_stage_is_a_maximum_of_an_earlier_one() -> None:
    network = loaded(nn.MaxPool1d(2), (1, 2, 4))
    extremes = network.stages[1].extremes
    assert extremes is not None
    for wrong in (replace(extremes, source=2), replace(extremes, source=-1)):
        stages = list(network.stages)
        stages[1] = replace(stages[1], extremes=wrong)
        with pytest.raises(rj.InvalidNetwork, match="is no maximum of entries of node"):
            replace(network, stages=tuple(stages))
