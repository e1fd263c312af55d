"""Balls without stationary points: certified, never beyond the truth, and close to it where it is known."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac.activations import LeakyReLU
from recurjac.cli import main
from tests.helpers import refused

PS = [1, 2, inf]
every_p = pytest.mark.parametrize("p", PS)


def t(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def square(shift: Tensor, scale: Tensor | None = None) -> rj.Network:
    """Σ scale_i (x_i - shift_i)², whose one stationary point is `shift`."""
    n = len(shift)
    weights = torch.ones(n, dtype=torch.float64) if scale is None else scale
    return rj.load([(torch.eye(n, dtype=torch.float64), -shift), (weights.unsqueeze(0), None)], activation="square")


def random_net(seed: int, sizes: tuple[int, ...], activation: str = "relu") -> rj.Network:
    g = np.random.default_rng(seed)
    layers = [(g.normal(size=(m, n)), g.normal(size=m)) for n, m in pairwise(sizes)]
    return rj.load(layers, activation=activation)


def proves(net: rj.Network, x: Tensor, found: rj.StationaryFree, clip: tuple[Any, Any] | None = None) -> bool:
    """Whether bounds made afresh at the radii say the same of the witnesses."""
    ball = rj.LpBall(x, found.radius.reshape(-1, *[1] * (x.dim() - 1)), found.p, clip)
    bounds = rj.jacobian_bounds(net.output(found.output), ball)
    at = found.witness.unsqueeze(1)
    lower, upper = (b.flatten(1).gather(1, at).squeeze(1) for b in (bounds.lower, bounds.upper))
    return bool(((lower > 0) | (upper < 0)).all())


# The truth is known


@every_p
def test_a_linear_output_has_no_stationary_point_anywhere(p: float) -> None:
    net = rj.load([(t([0.0, -2.0, 1.0], [0.0, 0.0, 0.0]), t(1.0, 2.0))], activation="relu")
    x = t([0.0, 0.0, 0.0], [5.0, -1.0, 2.0])
    found = rj.stationary_free_radius(net, x, output=0, p=p)
    assert found.radius.tolist() == [inf, inf]
    assert found.everywhere.all()
    assert found.witness.tolist() == [1, 1]
    assert [*found.lower.tolist(), *found.upper.tolist()] == pytest.approx([-2.0] * 4, rel=1e-14)
    assert (found.lower <= -2).all()
    assert (found.upper >= -2).all()
    assert found.rigorous
    none = rj.stationary_free_radius(net, x, output=1, p=p)
    assert none.radius.tolist() == [0.0, 0.0]
    assert none.witness.tolist() == [-1, -1]
    assert (none.lower.tolist(), none.upper.tolist()) == ([-inf] * 2, [inf] * 2)
    assert all("input itself" in note for note in none.notes)


@every_p
def test_a_leaky_neuron_has_no_stationary_point_anywhere(p: float) -> None:
    """Leaky slopes are in [0.3, 1]; x is at the kink."""
    net = rj.load([(t([3.0, 0.0]), None), (t([-1.0]), None)], activation=LeakyReLU(0.3))
    found = rj.stationary_free_radius(net, t([0.0, 7.0]), output=0, p=p)
    assert (found.radius.item(), found.witness.item()) == (inf, 0)
    assert found.lower.item() <= -3 < -0.9 <= found.upper.item() + 1e-12


@every_p
@pytest.mark.parametrize("far", [1e-6, 1.0, 1e6])
def test_the_distance_to_the_bottom_of_a_parabola(p: float, far: float) -> None:
    found = rj.stationary_free_radius(square(t(0.0)), t([far], [-far]), output=0, p=p)
    assert (found.radius < far).all()
    assert (found.radius >= far * (1 - 1.1e-3)).all()
    assert found.witness.tolist() == [0, 0]
    assert found.lower[0] > 0 > found.upper[1]


@pytest.mark.parametrize("tolerance", [0.5, 1e-6])
def test_the_tolerance_is_met(tolerance: float) -> None:
    found = rj.stationary_free_radius(square(t(0.0)), t([math.pi]), output=0, tolerance=tolerance)
    assert math.pi / (1 + max(tolerance, 1e-7)) <= found.radius.item() < math.pi


@every_p
def test_the_distance_to_the_top_of_a_tanh_bump(p: float) -> None:
    """tanh(x + 1) - tanh(x - 1) is stationary at 0 alone."""
    net = rj.load([(t([1.0], [1.0]), t(1.0, -1.0)), (t([1.0, -1.0]), None)], activation="tanh")
    found = rj.stationary_free_radius(net, t([0.4], [-0.05], [0.0]), output=0, p=p)
    assert (found.radius[:2] < t(0.4, 0.05)).all()
    assert (found.radius[:2] > 0.25 * t(0.4, 0.05)).all()
    assert found.radius[2] == 0
    assert found.rigorous
    assert found.reason == ""


@pytest.mark.parametrize("p", PS)
def test_never_beyond_the_distance_in_several_dimensions(p: float) -> None:
    """In the l∞ norm a box around x holds the bottom only if every coordinate does: the witness is the farthest."""
    shift, x = t(0.0, 1.0, -1.0), t([0.5, 1.1, -3.0], [0.0, 1.0, -0.75])
    found = rj.stationary_free_radius(square(shift, t(1.0, 3.0, 0.5)), x, output=0, p=p)
    distance = torch.linalg.vector_norm(x - shift, p, dim=1)
    assert (found.radius < distance).all()
    per_entry = (x - shift).abs().amax(1)
    assert (found.radius >= per_entry * (1 - 1.1e-3)).all()
    assert found.witness.tolist() == [2, 2]


@pytest.mark.parametrize(("seed", "p"), [(0, 1), (1, 2), (2, inf)])
def test_relu_networks_against_the_gradients_of_all_patterns(seed: int, p: float) -> None:
    """In a segment of one input, gradients between kinks are known; the ball must not reach one that is 0 or turns."""
    net = random_net(seed, (1, 6, 4, 1))
    x = torch.linspace(-2, 2, 5, dtype=torch.float64).unsqueeze(1)
    found = rj.stationary_free_radius(net, x, output=0, p=p, method=rj.RecurJac(), tolerance=0.05)
    grid = torch.linspace(-60, 60, 40001, dtype=torch.float64).unsqueeze(1)
    moving = grid.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(net(moving).sum(), moving)
    for i in range(len(x)):
        inside = (grid - x[i]).abs().squeeze(1) <= found.radius[i]
        if found.witness[i] >= 0 and inside.any():
            signs = slope[inside].sign().unique()
            assert len(signs) == 1
            assert signs.item() == (1 if found.lower[i] > 0 else -1)
    known = found.witness >= 0
    assert not known.any() or proves(net, x[known], _only(found, known))


def _only(found: rj.StationaryFree, mask: Tensor) -> rj.StationaryFree:
    return replace(found, radius=found.radius[mask], witness=found.witness[mask])


# Kinks, infinity, clipping


@every_p
def test_at_a_kink_all_of_the_generalised_gradient_counts(p: float) -> None:
    """relu(x) at 0 and |x| at 0: 0 is in Clarke's gradient.  relu(x) at 1 ends at its kink."""
    relu = rj.load([(t([1.0]), None), (t([1.0]), None)], activation="relu")
    found = rj.stationary_free_radius(relu, t([0.0], [1.0], [-1.0]), output=0, p=p)
    assert found.radius[0] == 0
    assert found.radius[2] == 0
    assert found.witness.tolist() == [-1, 0, -1]
    assert 1 - 1.1e-3 <= found.radius[1].item() < 1
    both = rj.load([(t([1.0], [-1.0]), None), (t([1.0, 1.0]), None)], activation="relu")
    at_kink = rj.stationary_free_radius(both, t([0.0], [2.0]), output=0, p=p)
    assert at_kink.witness.tolist() == [-1, 0]
    assert 2 * (1 - 1.1e-3) <= at_kink.radius[1].item() < 2


@every_p
def test_the_clip_box_counts(p: float) -> None:
    """x² is stationary at 0, outside of the box [0.2, 2]; inside of [-2, 2]."""
    x = t([1.0], [0.3])
    assert rj.stationary_free_radius(square(t(0.0)), rj.LpBall(x, 0, p, (0.2, 2)), output=0).everywhere.all()
    inside = rj.stationary_free_radius(square(t(0.0)), rj.LpBall(x, 0, p, (-2, 2)), output=0, method=rj.FastLip())
    assert (inside.radius < x.squeeze(1)).all()
    assert (inside.radius >= x.squeeze(1) * (1 - 1.1e-3)).all()
    mixed = rj.stationary_free_radius(
        square(t(0.0)), rj.LpBall(x, 0, p, (t([0.5], [-1.0]), t([2.0], [1.0]))), output=0, method=rj.FastLip()
    )
    assert mixed.everywhere.tolist() == [True, False]
    assert rj.stationary_free_radius(square(t(0.0)), rj.LpBall(t([0.0]), 0, p, (0, 0)), output=0).radius.item() == 0
    assert rj.stationary_free_radius(square(t(0.0)), rj.LpBall(t([1.0]), 0, p, (1, 1)), output=0).everywhere.all()


def test_slopes_that_only_vanish_at_infinity() -> None:
    """tanh has no stationary point; no sign is proved over the whole line, but far out it is."""
    net = rj.load([(t([1.0]), None), (t([1.0]), None)], activation="tanh")
    found = rj.stationary_free_radius(net, t([0.0]), output=0)
    assert 3 < found.radius.item() < inf


def test_overflow_proves_nothing() -> None:
    net = rj.load([(t([1e100]), None), (t([1e100]), None)], activation="square")
    found = rj.stationary_free_radius(net, t([1.0], [0.0], [1e200]), output=0)
    assert found.radius[0] < 1
    assert found.radius[1:].tolist() == [0.0, 0.0]
    assert found.witness[1:].tolist() == [-1, -1]


def test_a_float32_radius_is_one_that_was_proved() -> None:
    g = torch.Generator().manual_seed(0)
    layers = [(torch.randn(8, 5, generator=g), torch.randn(8, generator=g)), (torch.randn(2, 8, generator=g), None)]
    net = rj.load(layers, activation="relu", dtype=torch.float32)
    x = torch.randn(4, 5, generator=g)
    found = rj.stationary_free_radius(net, x, output=1, p=2)
    assert found.radius.dtype == torch.float32
    known = found.witness >= 0
    assert known.any()
    assert proves(net.to(torch.float64), x[known].double(), _only(found, known))


# Batches, margins, methods


@pytest.mark.parametrize(("p", "clip"), [(1, None), (inf, None), (2, (-1, 1))])
def test_a_batch_is_its_samples(p: float, clip: tuple[float, float] | None) -> None:
    net = random_net(3, (4, 6, 5, 3))
    x = torch.rand(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    together = rj.stationary_free_radius(net, rj.LpBall(x, 0, p, clip), output=1, method=rj.RecurJac(), tolerance=0.1)
    alone = [
        rj.stationary_free_radius(net, rj.LpBall(one, 0, p, clip), output=1, method=rj.RecurJac(), tolerance=0.1)
        for one in x[:2]
    ]
    assert together.radius[:2].tolist() == pytest.approx([a.radius.item() for a in alone], rel=0.2)
    assert together.witness[:2].tolist() == [a.witness.item() for a in alone]
    assert proves(net, x, together, clip)
    assert together.rigorous


def test_margins_and_methods() -> None:
    net = random_net(4, (4, 12, 3))
    x = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    margin = rj.stationary_free_radius(net.margin(2, 0), x, output=0, p=2, method=rj.RecurJac(), tolerance=0.1)
    assert proves(net.margin(2, 0), x, margin)
    best = rj.stationary_free_radius(net, x, output=0, p=2)
    for method in (rj.FastLip(), rj.Reversed(rj.RecurJac())):
        problem = rj.Problem(net, rj.LpBall(x, 7.0, 2), pre=rj.IBP())
        found = rj.stationary_free_radius(problem, output=0, method=method, tolerance=0.05)
        assert (found.radius <= best.radius * (1 + 2e-3)).all()
        assert found.method == method.title


def test_images_keep_their_shape() -> None:
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(18, 3))
    x = torch.rand(2, 1, 5, 5, dtype=torch.float64)
    found = rj.stationary_free_radius(
        rj.load(model, x[:1].float()), rj.LpBall(x, 0, clip=(0, 1)), output=2, tolerance=0.2
    )
    assert ((found.witness >= 0) & (found.witness < 25)).all()
    assert (found.radius > 0).all()


def test_what_it_says() -> None:
    shown = repr(rj.stationary_free_radius(square(t(0.0)), rj.LpBall(t([1.0], [0.0]), 0, 2, (0, 1)), output=0))
    assert re.match(r"StationaryFree\(output 0, l2 radius 0\.99\d*, 0; Chords ∩ RecurJac-B, rigorous", shown)
    assert "no entry of the gradient has a proved sign at the input itself" in shown
    linear = rj.load([(t([1.0]), None)], activation="relu")
    assert "radius everywhere; " in repr(rj.stationary_free_radius(linear, t([1.0]), output=0))
    assert "rigorous)" in repr(rj.stationary_free_radius(linear, t([1.0]), output=0))


# Wrong requests

ONE = square(t(0.0, 0.0))
WRONG: dict[str, tuple[Callable[[], object], type[Exception], tuple[str, ...]]] = {
    "output": (
        lambda: rj.stationary_free_radius(ONE, t([0.0, 1.0]), output=1),
        rj.InvalidRequest,
        ("class 1", "0 to 0"),
    ),
    "norm": (lambda: rj.stationary_free_radius(ONE, t([0.0, 1.0]), output=0, p=3), rj.InvalidRegion, ("p=3",)),
    "NaN": (lambda: rj.stationary_free_radius(ONE, t([0.0, nan]), output=0), rj.InvalidRegion, ("nan", "[0, 1]")),
    "infinite": (lambda: rj.stationary_free_radius(ONE, t([inf, 0.0]), output=0), rj.InvalidRegion, ("inf", "[0, 0]")),
    "shape": (lambda: rj.stationary_free_radius(ONE, t([0.0] * 3), output=0), rj.InvalidRegion, ("(1, 3)", "(2,)")),
    "outside": (
        lambda: rj.stationary_free_radius(ONE, rj.LpBall(t([0.0, 2.0]), 0, clip=(0, 1)), output=0),
        rj.InvalidRegion,
        ("outside", "2.0"),
    ),
    "tolerance": (
        lambda: rj.stationary_free_radius(ONE, t([0.0, 1.0]), output=0, tolerance=nan),
        rj.InvalidRequest,
        ("nan", "0 and 1"),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_requests_are_refused(case: str) -> None:
    refused(*WRONG[case])


# The command line


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    g = np.random.default_rng(0)
    np.savez("net.npz", W0=g.normal(size=(6, 3)), W1=g.normal(size=(2, 6)), activation="leaky_relu", slope=0.3)
    np.savez("one.npz", W0=np.eye(1), W1=np.ones((1, 1)), activation="square")
    np.save("x.npy", g.normal(size=(3, 3)))
    np.save("y.npy", np.array([[1.0], [0.0], [-2.0]]))
    Path("box.vnnlib").write_text("".join(f"(declare-const X_{i} Real)\n(assert (<= X_{i} 0.5))\n" for i in range(3)))


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    try:
        code = main([str(a) for a in args])
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    return code, *capsys.readouterr()


@pytest.mark.usefixtures("files")
def test_the_command_reports_what_the_library_finds(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(
        capsys,
        "landscape",
        "net.npz",
        "--input",
        "x.npy",
        "--class",
        1,
        "--norm",
        2,
        "--method",
        "one-pass",
        "--json",
        "r.json",
    )
    report = json.loads(Path("r.json").read_text())
    want = rj.stationary_free_radius(rj.load("net.npz"), np.load("x.npy"), output=1, p=2)
    assert (code, report["command"]) == (0, "landscape")
    rows = report["results"]
    assert list(rows[0])[:5] == ["index", "class", "radius", "witness", "seconds"]
    assert [float(r["radius"]) for r in rows] == want.radius.tolist()
    assert [r["witness"] for r in rows] == want.witness.tolist()
    assert [(r["index"], r["class"], r["norm"]) for r in rows] == [(i, 1, 2.0) for i in range(3)]
    assert [(r["lower"], r["upper"]) for r in rows] == list(zip(want.lower.tolist(), want.upper.tolist(), strict=True))
    assert {r["method"] for r in rows} == {"Chords ∩ RecurJac-B"}
    assert "rounding is covered" in err
    assert len([line for line in out.splitlines() if line.strip()[:1].isdigit()]) == 3


@pytest.mark.usefixtures("files")
def test_classes_margins_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    def results(*args: object) -> list[dict[str, Any]]:
        code, out, err = run(capsys, "landscape", *args, "--json", "-", "--quiet")
        assert (code, err) == (0, "")
        found = json.loads(out)["results"]
        assert isinstance(found, list)
        return found

    each = results("net.npz", "--input", "x.npy", "--class", "each", "--index", 2, 0)
    assert [(r["index"], r["class"]) for r in each] == [(2, 0), (0, 0), (2, 1), (0, 1)]
    (margin,) = results("net.npz", "--input", "x.npy", "--margin", 0, 1, "--index", 0, "--method", "one-pass")
    want = rj.stationary_free_radius(rj.load("net.npz").margin(0, 1), np.load("x.npy")[:1], output=0)
    assert (margin["class"], float(margin["radius"])) == ("0-1", want.radius.item())
    (timed,) = results("net.npz", "--input", "x.npy", "--margin", 0, 1, "--index", 0, "--time-limit", 1)
    assert (timed["method"], timed["class"]) == ("auto", "0-1")
    one = results("one.npz", "--input", "y.npy", "--method", "fastlip")
    assert [r["class"] for r in one] == [0, 0, 0]
    assert [r["witness"] for r in one] == [0, None, 0]
    assert [(r["lower"], r["upper"], r["radius"]) for r in one][1] == ("-inf", "inf", 0.0)
    assert "input itself" in one[1]["note"]
    clipped = results("one.npz", "--input", "y.npy", "--method", "fastlip", "--index", 0, "--clip", 0.5, 2)
    assert (clipped[0]["radius"], clipped[0]["method"]) == ("inf", "Fast-Lip")


@pytest.mark.usefixtures("files")
def test_a_run_that_is_interrupted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def second_is_interrupted(*args: Any, **settings: Any) -> rj.StationaryFree:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rj.stationary_free_radius(*args, **settings)

    monkeypatch.setattr("recurjac.cli.landscape.stationary_free_radius", second_is_interrupted)
    given = ("net.npz", "--input", "x.npy", "--class", "each", "--method", "one-pass", "--json", "r.json")
    code, _, err = run(capsys, "landscape", *given)
    assert (code, "interrupted; the 3 finished results are reported" in err) == (1, True)
    assert len(json.loads(Path("r.json").read_text())["results"]) == 3


REFUSED = {
    "no class": ("net.npz --input x.npy", ("--class is missing", "2 outputs")),
    "class": ("net.npz --input x.npy --class 2", ("class 2", "0 to 1")),
    "margin": ("net.npz --input x.npy --margin 0 0", ("classes 0 and 0",)),
    "box": ("net.npz --input box.vnnlib --class 0", ("box.vnnlib", "points")),
    "shape": ("net.npz --input y.npy --class 0", ("y.npy", "(1,)", "(3,)")),
    "radius": ("net.npz --input x.npy --class 0 --radius 1", ("unrecognized", "--radius 1")),
    "norm": ("net.npz --input x.npy --class 0 --norm 3", ("--norm", "'3'")),
    "index": ("net.npz --input x.npy --class 0 --index 3", ("--index 3", "0 to 2")),
    "divide": ("net.npz --input x.npy --class 0 --divide 0", ("--divide 0.0", "positive")),
    "clip": ("net.npz --input x.npy --class 0 --clip 8 9", ("outside the clip box",)),
}


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("case", REFUSED)
def test_the_command_refuses(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, words = REFUSED[case]
    code, out, err = run(capsys, "landscape", *arguments.split())
    assert (code, out, "Traceback" in err) == (2, "", False)
    assert not [w for w in words if w not in err.splitlines()[-1]]
