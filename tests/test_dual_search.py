"""The search for multipliers of the quadratic dual: its steps, its units of work, and what it may not depend on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from math import inf

import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac.machine import on_threads, one_thread
from recurjac.preactivation import DualRanges, Refine, dual
from recurjac.preactivation.dual import _Tried
from recurjac.quadratic import SIDES, Plain, Point, Rows, Scale, Settings, searched
from recurjac.quadratic.dual_search import _Run
from tests.marks import every_seed


def plain(g: torch.Generator, inputs: int, neurons: int, copies: int = 1) -> Plain:
    """A random system with the sectors of slopes 0 to 1 and with y >= 0, w >= 0 as products."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    one, zero = torch.ones(neurons).double(), torch.zeros(neurons).double()
    sector, line = torch.stack([zero, one, -one, zero, zero, zero]), torch.stack([zero, zero, zero, zero, one, zero])
    own = torch.stack([sector, line], 1)
    terms = own
    if copies == 2:
        terms = torch.cat([own.repeat(2, 1, 1), torch.zeros(4, 2, neurons).double()])
    return Plain(
        draw(copies, 3, inputs), draw(neurons, 3), draw(neurons, neurons).tril(-1) / 4, terms, (False,) * copies
    )


@every_seed
@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("barrier", [0.0, 0.01])
def test_the_scale_is_the_best_one(seed: int, copies: int, barrier: float) -> None:
    """It gives what the scaled multipliers give, and no other scale gives less."""
    g = torch.Generator().manual_seed(seed)
    system, count = plain(g, 4, 5, copies), 6
    rows = Rows(
        torch.randn(count, copies, 3, generator=g).double(), torch.randn(count, copies, 5, generator=g).double()
    )
    weights = torch.rand(count, copies, 4, generator=g).double() + 3
    multipliers = torch.rand(count, 2, 5, generator=g).double() * 0.1
    found, scale = system.scaled(rows, weights, multipliers, torch.full((count,), barrier).double())
    assert bool(found.concave.any())
    size = weights[0].numel() + rows.units[0].numel()

    def at(times: Tensor) -> tuple[Tensor, Tensor]:
        one = system.maximum(rows, weights * times[:, None, None], multipliers * times[:, None, None])
        return one.value, torch.where(one.concave, one.value - barrier * size * times.log(), inf)

    same, best = at(scale)
    mine = found.concave
    assert torch.allclose(found.value[mine], same[mine], rtol=1e-9)
    exact = system.maximum(rows, weights * scale[:, None, None], multipliers * scale[:, None, None])
    for a, b in ((found.v, exact.v), (found.w, exact.w), (found.y, exact.y)):
        assert torch.allclose(a[mine], b[mine], rtol=1e-7, atol=1e-9)
    inside = mine & (scale > 0.1) & (scale < 10)
    assert bool(inside.any())
    for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0):
        assert bool((at(scale * factor)[1] >= best - 1e-9)[inside].all())


def test_a_row_without_coefficients_has_a_finite_scale() -> None:
    system = plain(torch.Generator().manual_seed(0), 4, 5)
    rows = Rows(torch.zeros(1, 1, 3).double(), torch.zeros(1, 1, 5).double())
    weights, multipliers = torch.ones(1, 1, 4).double() * 3, torch.ones(1, 2, 5).double() * 0.01
    found, scale = system.scaled(rows, weights, multipliers, torch.zeros(1).double())
    assert bool(scale.isfinite().all())
    assert bool(found.v.isfinite().all())


def network(seed: int, activation: str = "relu") -> rj.Network:
    g = torch.Generator().manual_seed(seed)
    sizes = (6, 20, 20, 3)
    layers = [
        (torch.randn(n, m, generator=g).double() / m**0.5, torch.randn(n, generator=g).double() / 4)
        for m, n in pairwise(sizes)
    ]
    return rj.load(layers, activation=activation)


def _on_two_threads(work: Callable[[object], object], items: Sequence[object]) -> list[object]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        return on_threads(work, items)
    finally:
        torch.set_num_threads(before)


def test_ranges_do_not_depend_on_work_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several lots, each with its rows, in the same order."""
    net, region = network(0), rj.LpBall(torch.full((1, 6), 0.1).double(), 0.5)
    rule, found = Refine(rj.Crown(), DualRanges(3, 3, 2)), []
    with one_thread():
        for _ in range(2):
            found.append(rj.preactivation_bounds(net, region, pre=rule))
            monkeypatch.setattr(dual, "on_threads", _on_two_threads)
    for one, other in zip(found[0].lower + found[0].upper, found[1].lower + found[1].upper, strict=True):
        assert torch.equal(one, other)


_SLOW = 10
"""The items from this one on take so long that an interruption is seen before the last one."""


def _worked(done: list[int], item: int) -> tuple[int, int, bool]:
    if item < 0:
        raise KeyboardInterrupt
    done.append(item)
    if item >= _SLOW:
        time.sleep(0.02)
    return item, torch.get_num_threads(), torch.is_grad_enabled()


@pytest.mark.parametrize("threads", [1, 2])
def test_work_on_threads(threads: int) -> None:
    """In order, on one thread of PyTorch each, without derivatives; an interruption arrives, and nothing stays set."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert on_threads(partial(_worked, []), range(7)) == [(i, 1, False) for i in range(7)]
        assert on_threads(partial(_worked, []), ()) == []
        done: list[int] = []
        with pytest.raises(KeyboardInterrupt):
            on_threads(partial(_worked, done), [0, -1, *range(1, 200)])
        assert len(done) < 150
        assert torch.get_num_threads() == threads
        assert torch.is_grad_enabled()
    finally:
        torch.set_num_threads(before)


def test_the_search_pays() -> None:
    """A few steps narrow what the P-chain proves to about two thirds, and more steps never widen it."""
    net, region = network(1), rj.LpBall(torch.full((1, 6), 0.1).double(), 0.5)
    widths = []
    for rule in (rj.Secants(30), rj.Dual(1, 1), rj.Dual(12, 12)):
        bounds = rj.preactivation_bounds(net, region, pre=rule)
        widths.append(float((bounds.upper[-1] - bounds.lower[-1]).mean()))
    assert widths[2] < 0.8 * widths[0]
    assert widths[2] < widths[1]


def test_only_signs_of_the_last_neurons_are_sought() -> None:
    """Their ranges stay as secants have them unless that decides the sign; those of other neurons do not change."""
    counts, wider, region = torch.zeros(3), 0.0, rj.LpBall(torch.full((1, 6), 0.1).double(), 0.2)
    for seed in range(3):
        net = network(seed)
        settings = DualRanges(20, 6, 3, last=0), DualRanges(20, 6, 3), DualRanges(0, 6, 3, last=0)
        rules = [Refine(rj.Crown(), s) for s in settings]
        bounds = [rj.preactivation_bounds(net, region, pre=rule) for rule in rules]
        some, every = bounds[:2]
        assert torch.equal(some.lower[0], every.lower[0])
        assert torch.equal(some.upper[0], every.upper[0])
        unstable = [(b.lower[1] < 0) & (b.upper[1] > 0) for b in bounds]
        assert bool((unstable[0] | ~unstable[1]).all())
        counts += torch.tensor([int(u.sum()) for u in unstable])
        more = (some.upper[1] - some.lower[1]) - (every.upper[1] - every.lower[1])
        wider += float(more[unstable[0]].sum())
        points = rj.Problem(net, region).bound.sample(3000, torch.Generator().manual_seed(seed))[0]
        for z, low, high in zip(net.preactivations(points), some.lower, some.upper, strict=True):
            assert bool(((z >= low) & (z <= high)).all())
    assert counts[0] < counts[2]
    assert wider > 0


@pytest.mark.parametrize("activation", ["hard_tanh", "tanh"])
def test_ranges_of_the_last_neurons_are_narrowed_where_slopes_depend_on_them(activation: str) -> None:
    net, region = network(0, activation), rj.LpBall(torch.full((1, 6), 0.1).double(), 0.5)
    one, other = (
        rj.preactivation_bounds(net, region, pre=Refine(rj.Crown(), DualRanges(3, 3, 2, inf, last)))
        for last in (0, None)
    )
    for a, b in zip(one.lower + one.upper, other.lower + other.upper, strict=True):
        assert torch.equal(a, b)


def test_sides_go_on_with_their_own_multipliers() -> None:
    """The same side of the same row, and no other."""
    rows, signs = torch.tensor([0, 2, 0, 2]), torch.tensor([1, 1, -1, -1])
    begin = Point(torch.zeros(4, 1, 2), torch.zeros(4, 3, 5))
    other = Point(torch.tensor([1.0, 2.0]).reshape(2, 1, 1).expand(2, 1, 2), torch.ones(2, 3, 5))
    found = _Tried(rows, signs, begin).going_on(_Tried(torch.tensor([2, 1]), torch.tensor([-1, 1]), other), 3)
    assert found.point is not None
    assert found.point.logs[:, 0, 0].tolist() == [0, 0, 0, 1]
    assert found.point.numbers[:, 0, 0].tolist() == [0, 0, 0, 1]
    numbers = torch.tensor([[10.0, 11.0, 12.0], [20.0, 21.0, 22.0]])
    assert found.of(numbers).tolist() == [10, 12, 20, 22]  # above for 1, below for -1


@every_seed
@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("neurons", [1, 40, 230])
@pytest.mark.parametrize("keep", ["earlier", "all", "none", "own"])
def test_the_matrix_is_summed_by_groups_of_neurons(seed: int, copies: int, neurons: int, keep: str) -> None:
    g = torch.Generator().manual_seed(seed)
    system = plain(g, 4, neurons, copies)
    units = torch.randn(2, neurons, neurons, generator=g).double()
    units = {"earlier": units[0].tril(-1), "all": units[0], "none": 0 * units[0], "own": units.tril(-1)}[keep]
    own = system.own.expand(2, -1, -1) if keep == "own" else system.own
    system = Plain(system.base, own, units, torch.randn(system.terms.shape, generator=g).double(), system.euclidean)
    rows = Rows(torch.randn(2, copies, 3, generator=g).double(), torch.randn(2, copies, neurons, generator=g).double())
    multipliers = torch.rand(2, 2, neurons, generator=g).double()
    form = system.assembled(rows, torch.rand(2, copies, 4, generator=g).double() + 0.1, multipliers)
    at = torch.randn(2, copies, 3 + neurons, generator=g).double()
    y, w = (form.map_y @ at.unsqueeze(-1))[..., 0], at[..., 3:]
    found = (at.flatten(1) * (form.hessian @ at.flatten(1).unsqueeze(-1))[..., 0]).sum(1)
    right = at[..., :3].square().sum((1, 2)) - system.totals(multipliers).quadratic().value(y, w)
    size = system.totals(multipliers).quadratic().abs().value(form.map_y.abs().sum(-1) * at.abs().amax(), w.abs())
    assert (found - right).abs().le(1e-11 * size).all()


def test_which_rows_are_given_up() -> None:
    settings, far = Settings(hopeless=0.2), torch.tensor([0.9, 1.0, 1.1, 1.3, inf])
    stop = torch.ones(5)
    assert settings.open(far, stop, 8).tolist() == [False, False, True, True, True]
    assert settings.open(far, stop, 9).tolist() == [False, False, True, False, True]
    assert settings.open(far, stop, 27).tolist() == [False, False, False, False, True]
    assert settings.open(torch.zeros(1), -torch.ones(1), 9).tolist() == [False]
    assert Settings().open(far, stop, 1000).tolist() == [False, False, True, True, True]
    assert Settings().open(torch.zeros(1), -torch.ones(1), 9).tolist() == [True]


def _counted(taken: list[int], step: Callable[[_Run, float], None], run: _Run, rest: float) -> None:
    taken.append(len(run.now))
    step(run, rest)


def test_a_row_that_will_not_reach_what_is_asked_takes_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found of it until then is kept."""
    taken: list[int] = []
    monkeypatch.setattr(_Run, "advance", lambda run, rest, step=_Run.advance: _counted(taken, step, run, rest))
    g = torch.Generator().manual_seed(0)
    system, count = plain(g, 4, 6), 2
    rows = Rows(torch.randn(count, 1, 3, generator=g).double(), torch.randn(count, 1, 6, generator=g).double())
    logs, numbers = torch.ones(count, 1, 4).double() * 3, torch.ones(count, 2, 6).double()
    scale = Scale(torch.ones(count, 2, 6).double(), torch.zeros(2, 6).bool(), torch.zeros(2, 6).double())
    begin, asked = Point(logs, numbers), torch.tensor([-100.0, -100.0]).double()
    best = searched(system, rows, begin, scale, 40, asked, settings=SIDES)
    value = partial(system.maximum, rows)
    first, last = (value(p.logs.exp(), p.numbers).value for p in (begin, best))
    assert taken == [2] * 9
    assert (last < first).all()
