"""Monotonicity: what is called monotone is, violations have witnesses, and directions get the bounds of their sums."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import inf, nan, prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac import testing
from recurjac.activations import LeakyReLU
from recurjac.applications.monotonicity import nested_trends
from recurjac.applications.trends import decided, points_in
from recurjac.arithmetic import Interval
from recurjac.branching import EntrySigns
from recurjac.cli import main
from recurjac.deadline import Deadline
from recurjac.jacobian import AbstractJacobianMethod
from recurjac.search import point_jacobian
from tests.helpers import refused

METHODS: tuple[AbstractJacobianMethod, ...] = (
    rj.Chords(), rj.RecurJac(), rj.FastLip(), rj.Reversed(rj.RecurJac()), rj.ReversedAfterFirst(rj.RecurJac()),
)  # fmt: skip

WHOLE, SOME = rj.Limit(parts=1), rj.Limit(seconds=60, parts=40)


def t(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_net(seed: int, sizes: tuple[int, ...], activation: Any = "relu") -> rj.Network:
    g = np.random.default_rng(seed)
    layers = [(g.normal(size=(m, n)), g.normal(size=m)) for n, m in pairwise(sizes)]
    return rj.load(layers, activation=activation)


def hat() -> rj.Network:
    """Outputs |x_0| + 2 x_1, -x_0 and 3 relu(x_2): with x_3 nowhere."""
    first = t([1.0, 0, 0, 0], [-1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, -1.0, 0, 0], [0, 0, 1.0, 0])
    last = t([1.0, 1.0, 2.0, -2.0, 0], [-1.0, 1.0, 0, 0, 0], [0, 0, 0, 0, 3.0])
    return rj.load([(first, None), (last, None)], activation="relu")


def words(found: rj.Monotonicity, sample: int = 0) -> list[list[str]]:
    k, n = found.lower[sample].shape
    return [[found.trend(sample, i, r).value for r in range(n)] for i in range(k)]


# The truth is known


def test_every_trend_on_a_network_that_has_all() -> None:
    found = rj.monotone(hat(), rj.LpBall(t([0.0, 0.0, 0.0, 0.0]), 1.0))
    nothing = found.undecided & (found.lower > -1e-300) & (found.upper < 1e-300)  # 0 but for covered rounding
    want = [
        ["violated", "increasing", "constant", "constant"],
        ["decreasing", "constant", "constant", "constant"],
        ["constant", "constant", "increasing", "constant"],
    ]
    for k, row in enumerate(words(found)):
        assert row == [w if not (nothing[0, k, r] and w == "constant") else "undecided" for r, w in enumerate(want[k])]
    assert [row[3] for row in words(found)] == ["constant"] * 3
    assert found.rigorous
    assert torch.equal(found.constant, (found.lower == 0) & (found.upper == 0))
    assert (found.increasing >= found.constant).all()
    assert (found.decreasing >= found.constant).all()
    up, down = found.witnesses(0, 0, 0)
    assert up[0] > 0 > down[0]
    with pytest.raises(rj.InvalidRequest, match="increasing, not violated"):
        found.witnesses(0, 0, 1)
    shown = (
        r"Monotonicity\(1, 3, 4\)\(\d constant, 2 increasing, 1 decreasing, 1 violated, \d undecided; .*, rigorous\)"
    )
    assert re.fullmatch(shown, repr(found))


def test_regions_decide() -> None:
    """|x_0| rises on the right and falls on the left; at the kink alone nothing is proved, nor refuted."""
    x = t([2.0, 0, 0, 0], [-2.0, 0, 0, 0], [0.5, 0, 0, 0])
    found = rj.monotone(hat().output(0), rj.LpBall(x, 1.0))
    assert [found.trend(i, 0, 0) for i in range(3)] == [rj.Trend.INCREASING, rj.Trend.DECREASING, rj.Trend.VIOLATED]
    kink = rj.monotone(hat().output(0), rj.LpBall(t([0.0, 0, 0, 0]), 0.0))
    assert kink.trend(0, 0, 0) is rj.Trend.UNDECIDED
    clipped = rj.monotone(hat().output(0), rj.LpBall(t([0.5, 0, 0, 0]), inf, 2, clip=(0, 3)), limit=SOME)
    assert clipped.trend(0, 0, 0) is not rj.Trend.VIOLATED
    assert rj.monotone(hat(), rj.LpBall(x, inf)).trend(0, 0, 0) is rj.Trend.VIOLATED
    box = rj.monotone(hat().output(0), rj.Box(t(0.25, -1.0, 0.0, 0.0), t(9.0, 1.0, 0.0, 5.0)))
    assert box.trend(0, 0, 0) is rj.Trend.INCREASING


@pytest.mark.parametrize("activation", ["relu", "tanh", "softplus", LeakyReLU(0.3)], ids=str)
@pytest.mark.parametrize("radius", [0.0, 0.5, inf])
def test_weights_that_are_not_negative_give_a_monotone_network(activation: Any, radius: float) -> None:
    g = np.random.default_rng(5)
    layers = [(g.random((m, n)), g.normal(size=m)) for n, m in pairwise((3, 6, 5, 2))]
    x = t([0.1, -0.2, 0.3], [1.0, 1.0, -2.0])
    found = rj.monotone(rj.load(layers, activation=activation), rj.LpBall(x, radius))
    assert found.increasing.all()
    assert not found.violated.any()
    falling = rj.load([*layers[:-1], (-layers[-1][0], layers[-1][1])], activation=activation)
    assert rj.monotone(falling, rj.LpBall(x, radius)).decreasing.all()


@pytest.mark.parametrize(("seed", "p"), [(0, 1), (1, 2), (2, inf), (3, inf)])
def test_no_sample_contradicts_a_trend_and_witnesses_are_what_they_say(seed: int, p: float) -> None:
    net = random_net(seed, (3, 7, 5, 2))
    x = torch.rand(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    region = rj.LpBall(x, 0.4, p, clip=(0, 1))
    found = rj.monotone(net, region, limit=SOME)
    points = region.bind((3,), torch.float64, torch.device("cpu")).sample(200, torch.Generator().manual_seed(9))
    for i in range(3):
        slopes = jacobians(net, points[i])
        assert not (found.increasing[i] & (slopes < 0).any(0)).any()
        assert not (found.decreasing[i] & (slopes > 0).any(0)).any()
    total = found.increasing.int() + found.decreasing.int() - found.constant.int() + found.violated.int()
    assert torch.equal(total + found.undecided.int(), torch.ones_like(total))
    assert found.violated.any()
    for entry in found.violated.nonzero().tolist():
        sample, output, feature = entry
        up, down = found.witnesses(*entry)
        assert jacobians(net, up.unsqueeze(0))[0, output, feature] > 0
        assert jacobians(net, down.unsqueeze(0))[0, output, feature] < 0
        for point in (up, down):
            assert torch.linalg.vector_norm(point - x[sample], p) <= 0.4 * (1 + 1e-12)
            assert ((point >= 0) & (point <= 1)).all()


def jacobians(net: rj.Network, points: Tensor) -> Tensor:
    """By automatic differentiation, (points, outputs, inputs)."""
    moving = points.clone().requires_grad_(True)
    rows = [torch.autograd.grad(o, moving, retain_graph=True)[0] for o in net(moving).sum(0)]
    return torch.stack(rows, 1)


def test_a_batch_is_its_samples() -> None:
    net = random_net(3, (4, 8, 3))
    x = torch.rand(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    together = rj.monotone(net, rj.LpBall(x, 0.3), limit=SOME)
    for i, one in enumerate(x):
        alone = rj.monotone(net, rj.LpBall(one, 0.3), limit=SOME)
        assert torch.equal(alone.increasing[0], together.increasing[i])
        assert torch.equal(alone.decreasing[0], together.decreasing[i])
        torch.testing.assert_close(alone.lower[0], together.lower[i])


def test_the_probe_decides_how_far_one_looks() -> None:
    net = random_net(0, (3, 7, 5, 2))
    region = rj.LpBall(t([0.3, 0.2, 0.1]), 0.5)
    assert not rj.monotone(net, region, probe=rj.Probe(count=0), limit=WHOLE).violated.any()
    assert not rj.monotone(net, region, probe=rj.Probe(proofs=0), limit=WHOLE).violated.any()
    found = rj.monotone(net, region, probe=rj.Probe(count=64, proofs=3), limit=WHOLE)
    assert found.violated.any()
    assert len(found.points[0]) <= 3
    again = rj.monotone(net, region, probe=rj.Probe(count=64, proofs=3), limit=WHOLE)
    assert torch.equal(found.points[0], again.points[0])


def test_float32_and_images() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8, 3))
    x = torch.rand(2, 1, 4, 4)
    net = rj.load(model, x[:1], dtype=torch.float32)
    found = rj.monotone(net, rj.LpBall(x, 0.3, clip=(0, 1)), limit=WHOLE)
    assert found.lower.shape == found.trends.shape == (2, 3, 1, 4, 4)
    assert found.violated.any()
    entry = tuple(found.violated.nonzero()[0].tolist())
    up, _ = found.witnesses(*entry)
    assert (up.shape, up.dtype) == ((1, 4, 4), torch.float32)
    assert ((up.double() - x[entry[0]].double()).abs() <= 0.3).all()


# Directions


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.title)
def test_directions_hold_and_are_exact_at_a_point(method: AbstractJacobianMethod) -> None:
    net = random_net(1, (4, 8, 6, 3))
    g = torch.Generator().manual_seed(2)
    x = torch.rand(3, 4, dtype=torch.float64, generator=g)
    v = torch.randn(3, 4, dtype=torch.float64, generator=g)
    region = rj.LpBall(x, 0.1, 2)
    found = rj.directional_bounds(net, region, direction=v, method=method)
    assert found.lower.shape == (3, 3)
    assert found.rigorous
    points = region.bind((4,), torch.float64, torch.device("cpu")).sample(100, g)
    for i in range(3):
        images = jacobians(net, points[i]) @ v[i]
        assert (images >= found.lower[i] - 1e-12).all()
        assert (images <= found.upper[i] + 1e-12).all()
    at = rj.directional_bounds(net, rj.LpBall(x, 0.0), direction=v, method=method)
    torch.testing.assert_close(at.lower, at.upper)
    torch.testing.assert_close(at.lower, (jacobians(net, x) @ v.unsqueeze(2)).squeeze(2))


def test_one_direction_for_all_samples_and_unit_directions_are_entries() -> None:
    net = random_net(1, (4, 8, 6, 3))
    x = torch.rand(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    region = rj.LpBall(x, 0.2)
    bounds = rj.jacobian_bounds(net, region)
    for r, unit in enumerate(torch.eye(4, dtype=torch.float64)):
        found = rj.directional_bounds(net, region, direction=unit)
        torch.testing.assert_close(found.lower, bounds.lower[:, :, r])
        torch.testing.assert_close(found.upper, bounds.upper[:, :, r])
    shown = repr(rj.directional_bounds(net, region, direction=[1.0, 0.0, 0.0, 0.0]))
    assert shown.startswith("DirectionalBounds(2, 3)(")
    assert shown.endswith("Chords ∩ RecurJac-B, rigorous)")


def test_a_direction_can_be_certain_where_its_entries_are_not() -> None:
    """|x + y| is constant along (1, -1), and rises and falls along both axes."""
    net = rj.load([(t([1.0, 1.0], [-1.0, -1.0]), None), (t([1.0, 1.0]), None)], activation="relu")
    region = rj.LpBall(t([0.0, 0.0]), 1.0)
    found = rj.directional_bounds(net, region, direction=[1.0, -1.0])
    assert abs(found.lower.item()) < 1e-12
    assert abs(found.upper.item()) < 1e-12
    assert rj.monotone(net, region).violated.all()


def test_bounds_of_directions_are_differentiable() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    net = rj.load(model, torch.zeros(1, 3), dtype=torch.float32)
    rj.directional_bounds(net, rj.LpBall(torch.zeros(1, 3), 0.5), direction=torch.ones(3)).upper.sum().backward()
    (slope,) = [p.grad for name, p in model.named_parameters() if name == "2.weight"]
    assert slope is not None
    assert slope.abs().sum() > 0


# Wrong requests

BALL = rj.LpBall(t([0.0, 0.0, 0.0, 0.0]), 1.0)
WRONG: dict[str, tuple[Callable[[], object], type[Exception], tuple[str, ...]]] = {
    "NaN": (
        lambda: rj.directional_bounds(hat(), BALL, direction=[nan, 0, 0, 0]),
        rj.InvalidRequest,
        ("direction", "NaN"),
    ),
    "infinite": (
        lambda: rj.directional_bounds(hat(), BALL, direction=[inf, 0, 0, 0]),
        rj.InvalidRequest,
        ("infinite",),
    ),
    "length": (lambda: rj.directional_bounds(hat(), BALL, direction=[1.0, 0.0]), rj.InvalidRequest, ("(2,)", "(4,)")),
    "batch": (
        lambda: rj.directional_bounds(hat(), BALL, direction=np.ones((3, 4))),
        rj.InvalidRequest,
        ("(3, 4)", "1 samples"),
    ),
    "text": (
        lambda: rj.directional_bounds(hat(), BALL, direction="north"),
        rj.InvalidRequest,
        ("direction", "numbers"),
    ),
    "dtype": (
        lambda: rj.directional_bounds(hat().to(torch.float32), BALL, direction=[0.1, 0, 0, 0]),
        rj.InvalidRequest,
        ("float32",),
    ),
    "region": (lambda: rj.monotone(hat(), rj.LpBall(t([0.0]), 1.0)), rj.InvalidRegion, ("(1, 1)", "(4,)")),
    "probe": (lambda: rj.Probe(count=-1), rj.InvalidRequest, ("-1", "negative")),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_requests_are_refused(case: str) -> None:
    refused(*WRONG[case])


# The command line


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = np.array([[1.0, 0, 0], [-1.0, 0, 0], [0, 1.0, 0]])
    np.savez("net.npz", W0=first, W1=np.array([[1.0, 1.0, 2.0], [0.5, 0.5, -1.0]]), activation="relu")
    Path("x.csv").write_text("age, income,height\n0,1,0\n3,0.25,1\n")
    np.save("x.npy", np.array([[0.0, 1.0, 0.0]]))
    Path("box.vnnlib").write_text(
        "".join(f"(declare-const X_{i} Real)\n(assert (and (>= X_{i} 1) (<= X_{i} 2)))\n" for i in range(3))
    )


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    try:
        code = main([str(a) for a in args])
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    return code, *capsys.readouterr()


@pytest.mark.usefixtures("files")
def test_the_command_names_the_features(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(
        capsys, "monotone", "net.npz", "--input", "x.csv", "--radius", 0.5, "--json", "r.json", "--method", "one-pass"
    )
    report = json.loads(Path("r.json").read_text())
    assert (code, report["command"]) == (0, "monotone")
    rows = report["results"]
    assert [(r["index"], r["radius"], r["class"]) for r in rows] == [(i, 0.5, k) for i in range(2) for k in range(2)]
    assert [f["feature"] for f in rows[0]["features"]] == ["age", "income", "height"]
    assert [[f["trend"] for f in r["features"]] for r in rows] == [
        ["violated", "increasing", "constant"], ["violated", "decreasing", "constant"],
        ["increasing", "increasing", "constant"], ["increasing", "decreasing", "constant"],
    ]  # fmt: skip
    age = rows[0]["features"][0]
    up, down = (rows[0]["points"][age[end]] for end in ("rising", "falling"))
    assert up[0] > 0 > down[0]
    assert (rows[0]["features"][1]["rising"], rows[0]["features"][1]["falling"]) == (None, None)
    assert (age["lower"], age["upper"]) == pytest.approx((-1, 1))
    table = [line.split() for line in out.splitlines()]
    assert ["age", "violated", "violated"] in table
    assert ["income", "increasing", "decreasing"] in table
    assert ["0", "0.5", "0", "1", "1", "0", "1", "0"] in [line[:-1] for line in table]
    assert "rounding is covered" in err


@pytest.mark.usefixtures("files")
def test_other_requests(capsys: pytest.CaptureFixture[str]) -> None:
    def results(*args: object) -> list[dict[str, Any]]:
        code, out, err = run(capsys, "monotone", "net.npz", *args, "--json", "-", "--quiet", "--method", "one-pass")
        assert (code, err) == (0, "")
        found = json.loads(out)["results"]
        assert isinstance(found, list)
        return found

    plain = results("--input", "x.npy", "--radius", 0.1, 2, "--class", 0)
    assert [[f["feature"] for f in r["features"]] for r in plain] == [["0", "1", "2"]] * 2
    assert [[f["trend"] for f in r["features"]][1] for r in plain] == ["increasing", "increasing"]
    assert {r["class"] for r in results("--input", "x.npy", "--radius", 0.1, "--margin", 1, 0)} == {"1-0"}
    (box,) = results("--input", "box.vnnlib", "--class", 0)
    assert (box["radius"], [f["trend"] for f in box["features"]]) == (None, ["increasing", "increasing", "constant"])
    code, out, _ = run(capsys, "monotone", "net.npz", "--input", "box.vnnlib")
    assert (code, "input 0, radius box" in out) == (0, True)


@pytest.mark.usefixtures("files")
def test_a_run_that_is_interrupted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def second_is_interrupted(*args: Any, **settings: Any) -> rj.Monotonicity:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rj.monotone(*args, **settings)

    monkeypatch.setattr("recurjac.cli.monotone.monotone", second_is_interrupted)
    code, _, err = run(
        capsys,
        "monotone",
        "net.npz",
        "--input",
        "x.csv",
        "--radius",
        0.1,
        0.2,
        "--class",
        0,
        "--json",
        "r.json",
        "--method",
        "one-pass",
    )
    assert (code, "interrupted; the 2 finished results are reported" in err) == (1, True)
    assert [r["radius"] for r in json.loads(Path("r.json").read_text())["results"]] == [
        0.2,
        0.2,
    ]  # the largest is first


REFUSED = {
    "no radius": ("--input x.csv", ("--radius is missing",)),
    "negative": ("--input x.csv --radius -1", ("radius", "-1")),
    "class": ("--input x.csv --radius 1 --class 2", ("class 2", "0 to 1")),
    "box": ("--input box.vnnlib --radius 1", ("--radius", ".vnnlib")),
    "method": ("--input x.csv --radius 1 --method product", ("--method", "'product'")),
}


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("case", REFUSED)
def test_the_command_refuses(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, parts = REFUSED[case]
    code, out, err = run(capsys, "monotone", "net.npz", *arguments.split())
    assert (code, out, "Traceback" in err) == (2, "", False)
    assert not [w for w in parts if w not in err.splitlines()[-1]]


@pytest.mark.parametrize("bias", [0.0, 30.0])
def test_derivatives_that_vanish_by_underflow_are_not_called_constant(bias: float) -> None:
    """tanh is strictly increasing; where its slope underflows, computed bounds are both 0 (a bug)."""
    layers = [(torch.tensor([[10.0]]), torch.tensor([bias])), (torch.ones(1, 1), torch.zeros(1))]
    found = rj.monotone(rj.load(layers, activation="tanh"), rj.LpBall(torch.tensor([[255.0]]), 1.0))
    assert found.rigorous
    assert found.trend(0, 0, 0) is not rj.Trend.CONSTANT
    assert not bool(found.decreasing[0, 0, 0])


def test_what_does_not_read_an_input_is_constant() -> None:
    net = rj.load([(torch.tensor([[1.0, 0.0]]), torch.zeros(1)), (torch.ones(1, 1), torch.zeros(1))], activation="relu")
    found = rj.monotone(net, rj.LpBall(torch.tensor([[1.0, 0.0]]), 0.5))
    assert [found.trend(0, 0, i) for i in range(2)] == [rj.Trend.INCREASING, rj.Trend.CONSTANT]


def test_results_on_nested_regions_share_what_they_prove() -> None:
    """A loose result on a small ball takes the bounds of a larger one, which takes its points."""
    network = testing.random_network("relu", 1, False)
    x = torch.full((2, *network.input_shape), 0.4)
    once, points = rj.Limit(parts=1), rj.Probe(256, 32)
    regions = [rj.LpBall(x, radius) for radius in (1.0, 0.4, 0.1)]
    methods = (rj.Chords(), rj.FastLip(), rj.FastLip())
    probes = (rj.Probe(64, 2), points, points)
    found = [
        rj.monotone(network, region, method=method, limit=once, probe=probe)
        for region, method, probe in zip(regions, methods, probes, strict=True)
    ]
    both = nested_trends(found)
    for i, result in enumerate(both):
        assert torch.equal(result.lower, torch.stack([f.lower for f in found[: i + 1]]).amax(0))
        assert torch.equal(result.upper, torch.stack([f.upper for f in found[: i + 1]]).amin(0))
    assert min(len(x) for x in found[0].points) > 0
    assert bool((both[0].violated & ~found[0].violated).any())
    assert torch.equal(both[0].violated, torch.stack([f.violated for f in found]).any(0) & (found[0].lower < 0))
    for entry in both[0].violated.nonzero().tolist():
        at = torch.stack(both[0].witnesses(*entry))
        up, down = point_jacobian(network, at).reshape(2, *found[0].lower.shape[1:])[:, *entry[1:]]
        assert up > 0 > down
    fast = [replace(found[0], provenance=replace(found[0].provenance, rigorous=False)), found[1]]
    assert nested_trends(fast)[1] is found[1]


def test_points_are_proved_in_lots_until_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    network = testing.random_network("relu", 1, False)
    problem = rj.Problem(network, rj.LpBall(torch.full((2, *network.input_shape), 0.4), 1.0))
    bounds = rj.jacobian_bounds(problem)
    entries = Interval(*(t.reshape(2, prod(network.output_shape), -1) for t in (bounds.lower, bounds.upper)))
    points, splits = points_in(problem, 64, 0), EntrySigns(rj.Limit(parts=1))
    whole = decided(problem, entries, points, 4, splits)
    assert any(bool(r.both.any()) for r in whole.refuted)
    monkeypatch.setattr("recurjac.applications.trends._WORK", 1)
    single = decided(problem, entries, points, 4, splits)
    for one, other in zip(whole.refuted, single.refuted, strict=True):
        assert torch.equal(one.both, other.both)
        assert torch.equal(one.points, other.points)
    late = decided(problem, entries, points, 4, EntrySigns(rj.Limit(parts=10)), Deadline(0.0, 0.0))
    assert late.parts == 0
    assert not any(bool(r.both.any()) for r in late.refuted)
    assert torch.equal(late.lower, entries.lower)
    assert torch.equal(late.upper, entries.upper)


@pytest.mark.parametrize("seed", range(4))
def test_points_refute_before_the_time_goes_to_bounds(seed: int) -> None:
    """A limit finds every violation that the default finds at points; where all are refuted, nothing is divided."""
    g, sizes = torch.Generator().manual_seed(seed), (6, 16, 16, 1)
    layers = [(torch.randn(b, a, generator=g).double() / a**0.5, None) for a, b in pairwise(sizes)]
    net = rj.load(layers, activation="tanh" if seed % 2 else "relu")
    x = torch.zeros(1, 6, dtype=torch.float64)
    plain = rj.monotone(net, x, radius=1.0, limit=rj.Limit(parts=1))
    found = rj.monotone(net, x, radius=1.0, time_limit=3)
    assert int(plain.violated.sum()) > 0
    assert bool((found.violated | ~plain.violated).all())
    for entry in found.violated.nonzero().tolist():
        for point, sign in zip(found.witnesses(*entry), (1, -1), strict=True):
            slope = torch.autograd.functional.jacobian(lambda t: net(t[None])[0], point)
            assert sign * float(slope[0, entry[-1]]) > 0
    assert not bool(plain.violated.all()) or "parts" not in found.method


def test_what_points_refute_agrees_with_bounds() -> None:
    """Entries whose sign is proved have no points of the other sign, whatever was tried first."""
    net = rj.load(
        [(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), None), (torch.tensor([[1.0, -2.0]]), None)], activation="tanh"
    )
    found = rj.monotone(net, torch.zeros(1, 2), radius=1.0, time_limit=3)
    assert [found.trend(0, 0, i) for i in (0, 1)] == [rj.Trend.INCREASING, rj.Trend.DECREASING]
    assert found.rising.tolist() == found.falling.tolist() == [[[-1, -1]]]
