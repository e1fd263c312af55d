"""Certified radii: never past an adversary, exact where they can be, and what is said of inputs that have none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac.activations import ReLU
from recurjac.applications.radii import Proved, RadiusBound, by_integral, by_margin, checked, proved
from recurjac.applications.radius_search import search_radii
from recurjac.applications.targets import rivals
from recurjac.network import chain
from tests.marks import in_turn, often

NORMS = (1, 2, inf)
QUIET = rj.RadiusSearch(attack=rj.Attack(rounds=0))
"""No attack, where none is looked at."""


def net(seed: int, sizes: tuple[int, ...] = (2, 6, 6, 3), activation: str = "relu") -> rj.Network:
    g = torch.Generator().manual_seed(seed)
    layers = [
        (torch.randn(n, m, generator=g, dtype=torch.float64), torch.randn(n, generator=g, dtype=torch.float64) / 2)
        for m, n in pairwise(sizes)
    ]
    return rj.load(layers, activation=activation if len(sizes) > 2 else None)


def inputs(seed: int, count: int = 4, size: int = 2) -> Tensor:
    return torch.rand(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def nearest(network: rj.Network, x: Tensor, p: float, label: int, others: list[int], clip: bool, far: float) -> float:
    """The distance of the nearest of many points, up to `far`, at which `label` does not beat all of `others`."""
    ticks = torch.linspace(-far, far, 201, dtype=torch.float64)
    points = torch.cartesian_prod(x[0] + ticks, x[1] + ticks)
    if clip:
        points = points[((points >= 0) & (points <= 1)).all(1)]
    y = network(points)
    lost = (y[:, [label]] - y[:, others]).amin(1) <= 0
    away = torch.linalg.vector_norm(points - x, p, dim=1)
    return float(away[lost].min()) if bool(lost.any()) else inf


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("seed", often(range(7), (0,)))
def test_no_adversary_of_an_exhaustive_search_is_within_the_radius(seed: int, p: float, clip: bool) -> None:
    network, x = net(seed, (2, 6, 3) if seed % 2 else (2, 6, 6, 3)), inputs(seed, 3)
    target = "all" if clip else "runner-up"
    found = rj.certified_radius(network, rj.LpBall(x, 0, p, (0, 1) if clip else None), target=target)
    assert found.rigorous
    assert bool((found.radius > 0).all())
    for i, c in enumerate(found.label.tolist()):
        others = [k for k in range(3) if k != c] if target == "all" else [int(found.target[i])]
        far = 1.2 * min(float(found.attack[i]), 3.0)
        truth = nearest(network, x[i], p, c, others, clip, far)
        assert float(found.radius[i]) < truth
        assert float(found.attack[i]) <= truth * 1.05  # the attack is about as good


@pytest.mark.parametrize("p", NORMS)
def test_the_radius_of_a_linear_network_is_its_margin_over_the_dual_norm(p: float) -> None:
    network, x = net(0, (5, 4)), inputs(0, 6, 5)
    found = rj.certified_radius(network, x, p=p)
    w = network.combine(torch.eye(4, dtype=torch.float64)).stages[0].edges[0].operator.push
    rows = torch.stack([w(rj.Fast().exact(e)).mid.flatten() for e in torch.eye(5, dtype=torch.float64)], 1)
    y = network(x)
    for i, (c, k) in enumerate(zip(found.label.tolist(), found.target.tolist(), strict=True)):
        dual = torch.linalg.vector_norm(rows[c] - rows[k], {1: inf, 2: 2, inf: 1}[p])
        exact = float((y[i, c] - y[i, k]) / dual)
        assert exact * 0.999 <= float(found.radius[i]) <= exact * (1 + 1e-12)
        assert exact * (1 - 1e-12) <= float(found.attack[i]) <= exact * 1.002
    assert bool((found.by_integral >= 0.999 * found.radius).all())


@pytest.mark.parametrize("p", NORMS)
def test_a_clip_box_can_make_the_radius_larger_or_infinite(p: float) -> None:
    network, x = net(0, (2, 2)), inputs(3, 6)
    free, cut = rj.certified_radius(network, x, p=p), rj.certified_radius(network, rj.LpBall(x, 0, p, (0, 1)))
    assert bool((cut.radius >= free.radius * 0.99).all())
    corners = network(torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 2))
    for c, r, a, why in zip(cut.label.tolist(), cut.radius, cut.attack, cut.remark, strict=True):
        safe = bool((corners[:, c] > corners[:, 1 - c]).all())
        assert (float(r) == inf, float(a) == inf, "every input" in why) == (safe,) * 3


def test_a_misclassified_input_has_radius_0() -> None:
    network, x = net(1), inputs(1)
    right = network(x).argmax(1)
    wrong = (right + 1) % 3
    found = rj.certified_radius(network, x, label=wrong)
    assert found.radius.tolist() == found.attack.tolist() == found.by_margin.tolist() == [0.0] * 4
    assert list(found.remark) == [f"misclassified as {k}" for k in right.tolist()]
    assert set(found.proof) == {"none"}
    assert "misclassified" in repr(found)
    some = torch.cat([right[:2], wrong[2:]])
    mixed = rj.certified_radius(network, x, label=some, target="all")
    assert (mixed.radius > 0).tolist() == [True, True, False, False]


def test_of_equal_outputs_the_lowest_counts() -> None:
    network = rj.load([([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], None)])
    tied = rj.certified_radius(network, [1.0, 0.0])
    assert (int(tied.label), int(tied.target), float(tied.radius)) == (0, 1, 0.0)
    assert "not proved to be positive" in tied.remark[0]
    assert rj.certified_radius(network, [1.0, 0.0], label=1).remark == ("misclassified as 0",)
    assert float(rj.certified_radius(network, [1.0, 0.0], target=2).radius) == pytest.approx(0.5)


def test_targets() -> None:
    network, x = net(2, (2, 8, 5)), inputs(2, 8)
    order = network(x).argsort(dim=1, descending=True)
    for target, place in (("runner-up", 1), ("least-likely", 4)):
        found = rj.certified_radius(network, x, target=target, search=QUIET)
        assert found.target.tolist() == order[:, place].tolist()
    everything = rj.certified_radius(network, x, target="all", search=QUIET)
    each = []
    for k in range(5):
        rows = [i for i in range(8) if int(order[i, 0]) != k]
        found = rj.certified_radius(network, x[rows], target=k, search=QUIET)
        assert found.target.tolist() == [k] * len(rows)
        each.append(dict(zip(rows, found.radius.tolist(), strict=True)))
    for i in range(8):
        least = min(r[i] for r in each if i in r)
        assert float(everything.radius[i]) == pytest.approx(least, rel=0.03)
        assert each[int(everything.target[i])][i] == pytest.approx(least, rel=0.03)


@pytest.mark.parametrize("number", [nan, inf, -inf])
@pytest.mark.parametrize("target", ["runner-up", "least-likely", "random"])
def test_no_target_is_the_label_whatever_the_outputs(target: str, number: float) -> None:
    assert rivals(target, [0, 1], torch.full((2, 2), number)) == [(1,), (0,)]


def test_outputs_that_overflow_are_not_certified_against_themselves() -> None:
    """The outputs are -1 and 0, but infinity less infinity as computed: class 0 seems to win, which is not proved."""
    weights = ([[1e30], [1e30]], [[0.0, 0.0], [1.0, -1.0]])
    first, last = (torch.tensor(w, dtype=torch.float32) for w in weights)
    network = chain([(first, None), (last, torch.tensor([-1.0, 0.0]))], [ReLU()])
    x = torch.tensor([[1e30]])
    assert bool(network(x).isnan().all())
    for target in ("runner-up", "least-likely", "all"):
        found = rj.certified_radius(network, x, target=target, proofs=(rj.MarginBound(),), search=QUIET)
        assert (int(found.label), int(found.target), float(found.radius)) == (0, 1, 0.0)


def test_random_targets_follow_the_seed() -> None:
    labels = [i % 5 for i in range(200)]
    y = torch.zeros(200, 5)
    first, again, other = (rivals("random", labels, y, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert {(c, k) for c, (k,) in zip(labels, first, strict=True)} == {
        (c, k) for c in range(5) for k in range(5) if c != k
    }


@pytest.mark.parametrize("target", ["runner-up", "all", [0, 2, 1]])
@pytest.mark.parametrize("p", often((inf, 1, 2), (inf,)))
def test_a_batch_is_its_samples(p: float, target: Any) -> None:
    network, x = net(3, (2, 7, 4)), inputs(3, 3)
    if isinstance(target, list):
        target = [(int(c) + 1 + k) % 4 for c, k in zip(network(x).argmax(1), target, strict=True)]
    whole = rj.certified_radius(network, rj.LpBall(x, 0, p, (0, 1)), target=target, search=QUIET)
    for i in range(3):
        own = target[i] if isinstance(target, list) else target
        one = rj.certified_radius(network, rj.LpBall(x[i], 0, p, (0, 1)), target=own, search=QUIET)
        assert float(one.radius) == pytest.approx(float(whole.radius[i]), rel=1e-9)
        assert int(one.target) == int(whole.target[i])
        assert float(one.margin) == pytest.approx(float(whole.margin[i]), rel=1e-9)


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))])
def test_both_proofs_together_are_no_worse_than_each(seed: int) -> None:
    found = rj.certified_radius(net(seed, (4, 12, 12, 3)), inputs(seed, 4, 4), search=QUIET)
    assert bool((found.radius >= found.by_integral).all())
    assert bool((found.radius >= found.by_margin).all())
    assert bool((found.by_integral > 0).all())
    assert any("CROWN" in m for m in found.proof)


@pytest.mark.parametrize(
    "method",
    [rj.Chords(), *(pytest.param(m, marks=pytest.mark.slow) for m in (rj.FastLip(), rj.RecurJac()))],
    ids=lambda m: m.title,
)
def test_more_intervals_are_no_worse(method: Any) -> None:
    network, x = net(4, (4, 12, 12, 3)), inputs(4, 3, 4)
    proofs = (rj.MarginBound(), rj.LipschitzIntegral(method))
    found = [
        rj.certified_radius(network, x, search=replace(QUIET, intervals=m), proofs=proofs, target="all")
        for m in (3, 6, 24)
    ]
    for coarse, fine in pairwise(found):
        assert bool((fine.radius >= coarse.radius).all())
        assert bool((fine.by_integral >= coarse.by_integral).all())
    assert bool((found[2].by_integral > found[0].by_integral).any())


def test_the_limit_is_the_largest_radius() -> None:
    network, x = net(0), inputs(0)
    free = rj.certified_radius(network, x, search=QUIET)
    limit = float(free.radius.median())
    found = rj.certified_radius(network, x, search=replace(QUIET, limit=limit))
    assert bool((found.radius <= limit).all())
    for r, whole, why in zip(found.radius.tolist(), free.radius.tolist(), found.remark, strict=True):
        assert (r == limit) == ("largest radius" in why)
        assert r >= 0.9 * min(whole, limit)


def test_radii_of_smooth_networks_cover_rounding() -> None:
    smooth = rj.certified_radius(net(0, activation="tanh"), inputs(0))
    assert smooth.rigorous
    assert smooth.reason == ""
    assert bool((smooth.radius > 0).all())
    assert "not rounding-safe" not in repr(smooth)
    big = rj.load([(torch.full((2, 2), 1e100, dtype=torch.float64), None)] * 2, activation="relu")
    lost = rj.certified_radius(big, [1e200, 1e200])
    assert (float(lost.radius), "no finite bounds" in lost.remark[0]) == (0.0, True)


def test_constant_margins_hold_everywhere() -> None:
    network = rj.load([(torch.zeros(2, 3, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64))])
    found = rj.certified_radius(network, torch.zeros(3))
    assert (float(found.radius), float(found.attack)) == (inf, inf)


def test_images_and_float32() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 3)
    )
    x = torch.rand(2, 1, 6, 6)
    wide = rj.certified_radius(rj.load(model, x[:1]), rj.LpBall(x, 0, clip=(0, 1)))
    near = x.double() * (1 - 1e-9)
    narrow = rj.certified_radius(
        rj.load(model, x[:1], dtype=torch.float32),
        rj.LpBall(near, 0, clip=(0, 1)),
        search=rj.RadiusSearch(attack=rj.Attack(2)),
    )
    assert wide.adversary.shape == x.shape
    assert wide.rigorous
    assert narrow.rigorous
    assert torch.allclose(wide.radius, narrow.radius, rtol=0.02)
    with torch.no_grad():
        y = model.double()(wide.adversary)
    for i in range(2):
        assert float(y[i, wide.label[i]] - y[i, wide.target[i]]) <= 1e-12


def test_a_crossing_is_a_bug_and_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = torch.tensor([1.0]).double(), torch.tensor([2.0]).double()
    assert checked(one, two, rj.Rigorous()).tolist() == [1.0]
    for radius in (one, two):
        with pytest.raises(rj.UnsoundBounds, match="adversary of input 0"):
            checked(radius, one, rj.Rigorous())
    with pytest.raises(rj.UnsoundBounds):
        checked(two, one, rj.Fast())
    assert checked(one * (1 + 1e-9), one, rj.Fast()).tolist() == [1.0]
    assert checked(one * inf, one * inf, rj.Rigorous()).tolist() == [inf]
    monkeypatch.setattr(rj.JacobianNorm, "rows", lambda _, known, __: torch.full((known.chain.batch, 1), 1e-3))
    with pytest.raises(rj.UnsoundBounds):
        rj.certified_radius(net(0), inputs(0))


# The arithmetic of the proof


def test_the_proof_by_hand() -> None:
    rungs = [RadiusBound(0.0, (8.0,), (1.0,)), RadiusBound(1.0, (7.0,), (4.0,)), RadiusBound(2.0, (-5.0,), (8.0,))]
    both, slopes, margins = (proved(r, 0) for r in (rungs, by_integral(rungs), by_margin(rungs)))
    assert margins == Proved(1.0, 1.0)
    assert slopes.start == 0.0
    assert slopes.radius == pytest.approx(1.5)  # 8 - 4 - 8 (t - 1) = 0
    assert both.start == 1.0
    assert both.radius == pytest.approx(1.875)  # 7 - 8 (t - 1) = 0
    assert both.radius < 1.875
    spoiled = [*rungs[:1], RadiusBound(1.0, (nan,), (nan,)), RadiusBound(2.0, (-inf,), (inf,))]
    assert proved(spoiled, 0).radius == 0.0
    for margin in (0.0, -1.0, nan, inf, -inf):
        assert proved([RadiusBound(0.0, (margin,), (1.0,)), rungs[1]], 0).radius in (0.0, 1.0)
    assert proved([RadiusBound(0.0, (1.0,), (0.0,)), RadiusBound(inf, (-inf,), (0.0,))], 0).radius == inf
    assert proved([RadiusBound(0.0, (5e-324,), (1.0,)), RadiusBound(1.0, (-1.0,), (1e300,))], 0).radius == 0.0


def climbed(
    rung: Callable[[float], RadiusBound], intervals: int, together: int
) -> tuple[list[RadiusBound], list[float]]:
    """All rungs of a search_radii, and the radii that it asked for."""
    climbing, seen = search_radii(rj.RadiusSearch(intervals), rung(0.0), inf, together), list[float]()
    asked = next(climbing)
    while True:
        seen += asked
        try:
            asked = climbing.send([rung(t) for t in asked])
        except StopIteration as finished:
            return finished.value, seen


@pytest.mark.parametrize("power", [0, 1, 5])
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_the_climb_meets_no_radius_twice_and_ends(power: int, scale: float) -> None:
    """For the margin 1 - t^(power + 1) / scale, of slope (power + 1) t^power / scale, the radius comes near 1."""

    def rung(t: float) -> RadiusBound:
        u = t / scale
        big = u > 1e40
        return RadiusBound(t, (-inf if t else 1.0,), (inf if big else (1.0 + power * u**power) / scale,))

    rungs, seen = climbed(rung, 200, 7)
    assert len(seen) == len(set(seen)) == len(rungs) - 1 < 300
    truth = {0: 1.0, 1: 3**0.5 - 1, 5: 0.793}[power]  # t + power t^(power + 1) / (power + 1) = 1
    assert truth * scale * 0.98 <= proved(rungs, 0).radius <= truth * scale * 1.001


@pytest.mark.parametrize(
    ("curve", "slope", "together"),
    in_turn([1.0, 3.0], [1.002, 1.004, 1.006, 1.008, 1.02, 2.0, 9.0, inf], [1, 4]),
)
def test_the_climb_leaves_out_no_step_that_a_proof_needs(curve: float, slope: float, together: int) -> None:
    """For the margin 1 - t^curve with constant slopes the integral alone ends at 1 / slope, the margin's bound at 1."""

    def rung(t: float) -> RadiusBound:
        return RadiusBound(t, (1 - t**curve,), (slope if t else 1.0,))

    (rungs, seen), (whole, _) = (climbed(rung, 300, n) for n in (together, 10**4))
    assert len(seen) == len(set(seen)) == len(rungs) - 1
    assert {r.radius for r in rungs} <= {r.radius for r in whole}
    for alone in (by_margin, by_integral):
        assert proved(alone(rungs), 0) == proved(alone(whole), 0)
    ends = [proved(of, 0).radius for of in (rungs, whole)]
    assert ends[1] * 0.9995 < ends[0] <= ends[1]
    steps = sum(0.25 < t < 1 for t in (r.radius for r in whole))
    if slope > 3:
        assert len(seen) <= steps / slope + 30


def test_the_climb_goes_on_while_one_row_is_proved_by_its_margin_and_another_by_its_integral() -> None:
    def rung(t: float) -> RadiusBound:
        return RadiusBound(t, (1 - t, -inf if t else 1.0), (9.0 if t else 1.0, 1.3 if t else 1.0))

    (rungs, _), (whole, _) = (climbed(rung, 100, n) for n in (1, 10**4))
    for row, end in enumerate((1.0, 1 / 1.3)):
        assert proved(rungs, row).radius <= proved(whole, row).radius
        assert end * 0.99 < proved(whole, row).radius < end * 1.001
    assert proved(rungs, 1) == proved(whole, 1)


# Requests


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"label": 3}, rj.InvalidRequest, "label 3 does not exist"),
        ({"label": -1}, rj.InvalidRequest, "label -1"),
        ({"label": 0.5}, rj.InvalidRequest, "label 0.5"),
        ({"label": True}, rj.InvalidRequest, "label True"),
        ({"label": "three"}, rj.InvalidRequest, "'three'"),
        ({"label": [0, 1, 2]}, rj.InvalidRequest, "3 labels for 4 inputs"),
        ({"target": "nearest"}, rj.InvalidRequest, "'nearest' is not known"),
        ({"target": 3}, rj.InvalidRequest, "target 3 does not exist"),
        ({"label": 1, "target": 1}, rj.InvalidRequest, "target 1 is the label of every input"),
        ({"target": [0, 1]}, rj.InvalidRequest, "2 targets for 4 inputs"),
        ({"p": 3}, rj.InvalidRequest, "norm 3"),
    ],
    ids=str,
)
def test_wrong_requests(how: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        rj.certified_radius(net(0), inputs(0), **how)


def test_wrong_objects() -> None:
    with pytest.raises(rj.InvalidRequest, match="one output"):
        rj.certified_radius(net(0).output(1), inputs(0))
    with pytest.raises(rj.InvalidRegion, match="shape"):
        rj.certified_radius(net(0), torch.zeros(3))
    with pytest.raises(rj.InvalidRegion, match="outside the clip box"):
        rj.certified_radius(net(0), rj.LpBall(inputs(0), 0, clip=(2, 3)))
    with pytest.raises(rj.InvalidRequest, match="own norm"):
        rj.certified_radius(net(0), rj.LpBall(inputs(0), 0), p=2)
    with pytest.raises(rj.InvalidRequest, match="number of intervals is 0"):
        rj.RadiusSearch(0)
    for limit in (0.0, -1.0, nan):
        with pytest.raises(rj.InvalidRequest, match="largest radius"):
            rj.RadiusSearch(limit=limit)
    with pytest.raises(rj.InvalidRequest, match="too few"):
        rj.Attack(steps=0)


def test_a_misclassified_input_that_beats_its_target_is_no_adversary() -> None:
    """Of classes 0.1, 0.5, 0.9 the label 1 loses to 2 and beats 0 (that the input itself refuted this was a bug)."""
    net = rj.load([(torch.eye(3), torch.zeros(3))])
    found = rj.certified_radius(net, torch.tensor([[0.1, 0.5, 0.9]]), label=1, target=0)
    assert (float(found.radius), float(found.attack)) == (0.0, inf)
    assert "misclassified as 2" in found.remark[0]
    lost = rj.certified_radius(net, torch.tensor([[0.1, 0.5, 0.9]]), label=1, target=2)
    assert (float(lost.radius), float(lost.attack)) == (0.0, 0.0)


@pytest.mark.parametrize("row", [0, 1])
def test_an_attack_descends_along_the_least_margin(row: int) -> None:
    """Of 1 - mean(x) and a margin that is far from 0; random directions of 60 inputs have a mean of about 0."""
    weights = torch.zeros(2, 60, dtype=torch.float64)
    weights[row], weights[1 - row, 0] = -1 / 60, -0.01
    margins = chain([(weights, torch.tensor([10.0, 10.0]).double().index_fill_(0, torch.tensor(row), 1.0))], [])
    around = rj.LpBall(torch.zeros(1, 60, dtype=torch.float64), 0.0)
    found = rj.Attack().nearest(margins, around, torch.ones(1, dtype=torch.float64), rj.Rigorous())
    assert 1 <= found.distance.item() < 1.001


@pytest.mark.parametrize("kind", [rj.Attack, rj.Newton, rj.Probe, rj.RadiusSearch])
def test_settings_take_whole_numbers(kind: Any) -> None:
    for name in {field.name for field in fields(kind)} - {"limit", "attack", "time_limit", "progress"}:
        with pytest.raises(rj.InvalidRequest, match=f"{name} of .* is True; give a whole number"):
            kind(**{name: True})
