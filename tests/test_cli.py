"""The command line: it reports what the library finds, to the last digit, and puts each thing where it belongs."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recurjac as rj
from recurjac.cli import bounds, main, named, output
from recurjac.jacobian import AbstractJacobianMethod
from recurjac.norms import AbstractNormMethod, as_norm_method
from recurjac.preactivation import AbstractPreactivation

TOP = ["recurjac", "command", "model", "settings", "results"]
LIPSCHITZ = ["index", "radius", "norm", "output_norm", "class", "method", "upper", "lower", "seconds"]
JACOBIAN_METHODS: dict[str, AbstractJacobianMethod] = {
    "fastlip": rj.FastLip(), "recurjac": rj.RecurJac(), "recurjac-f0": rj.Reversed(rj.RecurJac()),
    "recurjac-f1": rj.ReversedAfterFirst(rj.RecurJac()), "chords": rj.Chords(), "clamped": rj.QuadraticClamped(),
    "xlinear": rj.XLinear(), "centred": rj.Centred(), "tangents": rj.ForwardTangents(),
    "gradient-forms": rj.GradientForms(),
}  # fmt: skip
NORM_METHODS: dict[str, AbstractNormMethod] = {
    "product": rj.ProductOfNorms(), "quadratic": rj.QuadraticNorm(), "coupled": rj.CoupledNorm(),
    "corners": rj.CornerNorm(), "linear-network": rj.LinearNetworkNorm(), "split": rj.SplitNorm(),
    "turned": rj.TurnedNorm(),
    "one-pass": rj.TightestNorm(rj.JacobianNorm(), rj.ProductOfNorms()),
}  # fmt: skip
RULES: dict[str, AbstractPreactivation] = {
    "ibp": rj.IBP(), "fastlin": rj.FastLin(), "crown": rj.Crown(), "secants": rj.Secants(), "dual": rj.Dual(),
    "auto": rj.AutoRanges(), "forward": rj.Forward(), "half-spaces": rj.HalfSpaces(),
}  # fmt: skip
FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
"""
BOX = """(declare-const X_0 Real) (declare-const X_1 Real) (declare-const X_2 Real) (declare-const X_3 Real)
(assert (and (>= X_0 0.25) (<= X_0 0.5) (>= X_1 0) (<= X_1 0.125) (>= X_2 -1) (<= X_2 1) (>= X_3 0.5) (<= X_3 0.5)))
"""

Run = Callable[..., tuple[int, str, str]]


pytestmark = pytest.mark.usefixtures("files")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current directory, with a network of 4 inputs and 3 outputs, 3 samples and a box; searches are short."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    g = np.random.default_rng(0)
    weights: dict[str, Any] = {f"W{i}": g.normal(size=size) for i, size in enumerate([(16, 4), (16, 16), (3, 16)])}
    np.savez("net.npz", **weights, b0=g.normal(size=16), activation="relu")
    np.save("x.npy", g.random((3, 4)))
    Path("box.vnnlib").write_text(BOX)
    Path("recurjac_test_factory.py").write_text(FACTORY)
    monkeypatch.setattr("recurjac.cli.bounds.lipschitz", quick)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command: its exit code and what it wrote to stdout and stderr."""

    def once(*args: object) -> tuple[int, str, str]:
        try:
            code = main([str(a) for a in args])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return code, *capsys.readouterr()

    return once


@pytest.fixture
def results(run: Run) -> Callable[..., list[dict[str, Any]]]:
    """Run a command on net.npz and x.npy; its results, read from JSON on stdout, where nothing else is."""

    def once(command: str, *args: object) -> list[dict[str, Any]]:
        given = [*args] if "--input" in args else ["--input", "x.npy", *args]
        if command == "lipschitz" and "--method" not in args:
            given += ["--method", "one-pass"]
        code, out, err = run(command, "net.npz", *given, "--json", "-", "--quiet")
        assert (code, err) == (0, "")
        found = json.loads(out)["results"]
        assert isinstance(found, list)
        return found

    return once


Results = Callable[..., list[dict[str, Any]]]


def quick(*args: Any, **how: Any) -> rj.Lipschitz:
    """`lipschitz` without a search for the lower bound."""
    return rj.lipschitz(*args, **{**how, "search": rj.Search(work=0)})


def samples() -> Any:
    return torch.from_numpy(np.load("x.npy"))


def upper(region: Any, network: rj.Network | None = None, **how: Any) -> list[float]:
    """What the library finds."""
    found = quick(rj.load("net.npz") if network is None else network, region, **how)
    return [float(v) for v in found.upper.detach()]


# lipschitz


def test_the_report_has_the_keys_of_the_contract(run: Run) -> None:
    common = ("--method", "one-pass", "--json", "report.json")
    code, out, err = run("lipschitz", "net.npz", "--input", "x.npy", "--radius", "0.1", "inf", *common)
    found = json.loads(Path("report.json").read_text())
    assert list(found) == TOP
    assert (found["recurjac"], found["command"]) == (rj.__version__, "lipschitz")
    assert found["model"] == {"path": "net.npz", "sha256": hashlib.sha256(Path("net.npz").read_bytes()).hexdigest()}
    assert found["settings"]["radius"] == [0.1, "inf"]
    assert not {"run", "json", "quiet"} & set(found["settings"])
    assert [(r["index"], r["radius"]) for r in found["results"]] == [(i, r) for r in (0.1, "inf") for i in range(3)]
    for row in found["results"]:
        assert list(row)[: len(LIPSCHITZ)] == LIPSCHITZ
        assert (row["norm"], row["output_norm"], row["class"]) == ("inf", "inf", None)
        assert 0 < row["lower"] <= row["upper"]
        assert row["seconds"] > 0
    assert [r["upper"] for r in found["results"][:3]] == upper(rj.LpBall(samples(), 0.1))
    assert [r["upper"] for r in found["results"][3:]] == upper(rj.LpBall(samples(), inf))
    rows = [line.split() for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert [row[:3] for row in rows] == [[str(r["index"]), str(r["radius"]), "all"] for r in found["results"]]
    for row, r in zip(rows, found["results"], strict=True):
        assert r["lower"] * (1 - 1e-5) <= float(row[3]) <= r["lower"]
        assert r["upper"] <= float(row[4]) <= r["upper"] * (1 + 1e-5)
    assert "Chords ∩ RecurJac-B" in out.splitlines()[0]
    assert (code, "covered" in out) == (0, False)
    assert [w for w in ("rounding is covered", "unbounded") if w in err] == ["rounding is covered", "unbounded"]


@pytest.mark.parametrize("p", ["1", "2", "inf"])
@pytest.mark.parametrize("q", ["1", "2", "inf"])
def test_norms(results: Results, p: str, q: str) -> None:
    found = results("lipschitz", "--radius", 0.2, "--norm", p, "--output-norm", q, "--index", 1)
    by_ball = {r: upper(rj.LpBall(samples()[1:2], 0.2, r), p=float(p), q=float(q)) for r in (1, 2, inf)}
    assert len({v for (v,) in by_ball.values()}) >= 2
    assert [r["upper"] for r in found] == by_ball[float(p)]
    assert [r["norm"] for r in found] == [p if p == "inf" else float(p)]
    assert [r["output_norm"] for r in found] == [q if q == "inf" else float(q)]


def test_classes_and_margins(results: Results) -> None:
    network, region = rj.load("net.npz"), rj.LpBall(samples()[:1], 0.2)
    of_each = [upper(region, network.output(k))[0] for k in range(3)]
    common = ("--radius", 0.2, "--index", 0)
    each = results("lipschitz", *common, "--class", "each")
    assert [(r["class"], r["upper"]) for r in each] == list(enumerate(of_each))
    assert [(r["class"], r["upper"]) for r in results("lipschitz", *common, "--class", 2)] == [(2, of_each[2])]
    margin = results("lipschitz", *common, "--margin", 2, 0)
    assert [(r["class"], r["upper"]) for r in margin] == [("2-0", upper(region, network.margin(2, 0))[0])]


def test_the_region_is_the_one_asked_for(results: Results) -> None:
    x = samples()
    chosen = results("lipschitz", "--radius", 0.1, "--index", 2, 0)
    assert [r["index"] for r in chosen] == [2, 0]
    assert [r["upper"] for r in chosen] == upper(rj.LpBall(x[[2, 0]], 0.1))
    clipped = results("lipschitz", "--radius", 0.5, "--clip", 0, 1)
    assert [r["upper"] for r in clipped] == upper(rj.LpBall(x, 0.5, clip=(0, 1)))
    assert [r["upper"] for r in clipped] != upper(rj.LpBall(x, 0.5))
    divided = results("lipschitz", "--radius", 0.1, "--divide", 8)
    assert [r["upper"] for r in divided] == upper(rj.LpBall(x / 8, 0.1))
    np.savetxt("x.csv", x.numpy(), delimiter=",", fmt="%.17g")
    assert [r["upper"] for r in results("lipschitz", "--input", "x.csv", "--radius", 0.1)] == upper(rj.LpBall(x, 0.1))
    np.savez("both.npz", a=x.numpy()[:1], b=x.numpy().reshape(3, 2, 2))
    shaped = results("lipschitz", "--input", "both.npz:b", "--radius", 0.1)
    assert [r["upper"] for r in shaped] == upper(rj.LpBall(x, 0.1))


def test_relations_in_a_box_are_told(run: Run) -> None:
    Path("related.vnnlib").write_text(BOX + "(assert (<= X_0 X_1))")
    said = run("lipschitz", "net.npz", "--input", "related.vnnlib", "--method", "chords")[2]
    assert "(<= X_0 X_1) relates several inputs and is left out" in " ".join(said.split())


def test_a_vnnlib_box_needs_no_radius(results: Results, run: Run) -> None:
    (row,) = results("lipschitz", "--input", "box.vnnlib")
    box = rj.Box([0.25, 0.0, -1.0, 0.5], [0.5, 0.125, 1.0, 0.5])
    assert (row["radius"], row["index"], [row["upper"]]) == (None, 0, upper(box))
    assert " box " in run("lipschitz", "net.npz", "--input", "box.vnnlib", "--method", "chords")[1]


def test_every_name_means_its_object(results: Results) -> None:
    assert dict(named.rules()) == RULES
    one_pass = rj.WithTangents(rj.Cut(rj.ClosedForms(rj.Intersection(rj.Chords(), rj.RecurJac()))))
    assert dict(named.jacobian_methods()) == {**JACOBIAN_METHODS, "one-pass": one_pass, "auto": rj.AutoEntries()}
    assert set(named.norm_methods()) == {*JACOBIAN_METHODS, *NORM_METHODS, "auto", "branched", "exact"}
    one = samples()[1:2]
    region = rj.LpBall(one, 0.07)
    for name, method in (JACOBIAN_METHODS | NORM_METHODS).items():
        p, q = next(pair for pair in product((inf, 2, 1), repeat=2) if as_norm_method(method).supports(*pair))
        norms = ("--norm", p, "--output-norm", q)
        found = results("lipschitz", "--index", 1, "--radius", 0.07, *norms, "--method", name)
        assert [r["upper"] for r in found] == upper(rj.LpBall(one, 0.07, p), method=method, p=p, q=q)
        assert {r["method"] for r in found} == {method.title}
    by_rule = {name: upper(region, pre=rule) for name, rule in RULES.items()}
    assert by_rule["ibp"] != by_rule["fastlin"] != by_rule["crown"]
    for name, uppers in by_rule.items():
        found = results("lipschitz", "--index", 1, "--radius", 0.07, "--pre", name)
        assert [r["upper"] for r in found] == uppers
    fast = results("lipschitz", "--radius", 0.07, "--arithmetic", "fast")
    assert {(r["rigorous"], r["reason"]) for r in fast} == {(False, "Fast arithmetic was asked for")}


def test_float32(results: Results) -> None:
    with np.load("net.npz") as stored:
        np.savez("net.npz", **{k: v if v.dtype.kind == "U" else v.astype(np.float32) for k, v in stored.items()})
    found = results("lipschitz", "--radius", 0.1, "--dtype", "float32")
    assert [r["upper"] for r in found] == upper(rj.LpBall(samples(), 0.1), rj.load("net.npz", dtype=torch.float32))


TOGETHER = 16
"""So many samples of a small network are bounded in one call."""


def test_samples_of_large_networks_are_bounded_one_by_one() -> None:
    """So that several processes share them evenly, and little is lost when one is killed."""
    small, large = (rj.load([(torch.zeros(n, n), None)] * 3, activation="relu") for n in (8, 700))
    assert [bounds.together(net, False) for net in (small, large)] == [TOGETHER, 1]
    assert bounds.together(small, True) == 1


def test_many_samples_are_all_reported(results: Results) -> None:
    x = np.random.default_rng(1).random((TOGETHER + 3, 4))
    np.save("x.npy", x)
    found = results("lipschitz", "--radius", 0.1, 0.2, "--method", "fastlip")
    assert [r["index"] for r in found] == [*range(len(x))] * 2
    assert [r["upper"] for r in found[len(x) :]] == pytest.approx(upper(rj.LpBall(x, 0.2), method=rj.FastLip()))


def test_an_interrupted_run_reports_what_is_done(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def second_is_interrupted(*args: Any, **settings: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return quick(*args, **settings)

    monkeypatch.setattr("recurjac.cli.bounds.lipschitz", second_is_interrupted)
    common = ("--method", "one-pass", "--json", "r.json")
    code, out, err = run("lipschitz", "net.npz", "--input", "x.npy", "--radius", 0.1, 0.2, 0.3, *common)
    assert code == 1
    assert "interrupted; the 3 finished results are reported" in err
    found = json.loads(Path("r.json").read_text())["results"]
    assert [(r["index"], r["radius"]) for r in found] == [(0, 0.3), (1, 0.3), (2, 0.3)]  # the largest ball is the first
    assert len([line for line in out.splitlines() if line.strip()[:1].isdigit()]) == 3


# jacobian


def test_progress_without_a_terminal_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock stands at 0, then at 0, 29, 31 and 90 seconds after a step."""
    clock = iter([0.0, 0.0, 29.0, 31.0, 90.0])
    with monkeypatch.context() as patch:
        patch.setattr("recurjac.cli.output.time.monotonic", lambda: next(clock))
        with output.progress(False, "images", 4) as bar:
            for _ in range(4):
                bar()
    assert capsys.readouterr().err == "images: 3 of 4 after 31 s\nimages: 4 of 4 after 90 s\n"
    with output.progress(True, "images", 1) as step:
        step()
    assert capsys.readouterr().err == ""


def test_jacobian_bounds_are_written(run: Run) -> None:
    np.save("x.npy", np.random.default_rng(1).random((TOGETHER + 2, 4)))
    common = ("--input", "x.npy", "--radius", 0.2, "--method", "one-pass")
    code, out, err = run("jacobian", "net.npz", *common, "--output", "b.npz", "--json", "j")
    want = rj.jacobian_bounds(rj.load("net.npz"), rj.LpBall(samples(), 0.2))
    with np.load("b.npz") as found:
        assert sorted(found.files) == ["lower", "upper", "x"]
        np.testing.assert_array_equal(found["x"], np.load("x.npy"))
        assert found["lower"].shape == (18, 3, 4)
        np.testing.assert_allclose(found["lower"], want.lower.numpy(), 1e-9)
        np.testing.assert_allclose(found["upper"], want.upper.numpy(), 1e-9)
    rows = json.loads(Path("j").read_text())["results"]
    assert [r["smallest"] for r in rows] == pytest.approx(want.lower.flatten(1).amin(1).tolist(), 1e-9)
    assert [r["largest"] for r in rows] == pytest.approx(want.upper.flatten(1).amax(1).tolist(), 1e-9)
    assert (code, "b.npz" in err, "b.npz" in out) == (0, True, False)


@pytest.mark.parametrize("arguments", [("--class", 1), ("--margin", 2, 0), ("--method", "fastlip"), ("--pre", "ibp")])
def test_jacobian_of_what_was_asked_for(run: Run, arguments: tuple[Any, ...]) -> None:
    """The name of the file is kept, though NumPy would add a suffix."""
    common = ("jacobian", "net.npz", "--input", "x.npy", "--radius", 0.2, "--output", "b", "--quiet")
    one_pass = () if "--method" in arguments else ("--method", "one-pass")
    assert run(*common, *arguments, *one_pass) == (0, "", "")
    network = rj.load("net.npz")
    network = {"--class": network.output(1), "--margin": network.margin(2, 0)}.get(arguments[0], network)
    method: AbstractJacobianMethod | None = rj.FastLip() if arguments[0] == "--method" else None
    pre = rj.IBP() if arguments[0] == "--pre" else None
    want = rj.jacobian_bounds(network, rj.LpBall(samples(), 0.2), method=method, pre=pre)
    with np.load("b") as found:
        np.testing.assert_array_equal(found["lower"], want.lower.numpy())
        np.testing.assert_array_equal(found["upper"], want.upper.numpy())


# demo, inspect


def test_demo(run: Run) -> None:
    image = pytest.importorskip("PIL.Image")
    code, out, err = run("demo", "--radius", 0.01, 0.2, "--plot", "demo.png", "--json", "d.json", "--digit", 7)
    assert code == 0
    with image.open("demo.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) > 400
    found = json.loads(Path("d.json").read_text())
    assert list(found) == TOP
    assert found["model"] == {"path": None, "sha256": None}
    by = {(r["radius"], r["method"]): r for r in found["results"]}
    assert len(by) == len(found["results"]) == 12
    for radius in (0.01, 0.2):
        rows = [r for (at, _), r in by.items() if at == radius]
        assert all(0 < r["lower"] <= r["upper"] and r["rigorous"] and r["index"] == 7 for r in rows)
        assert max(rows, key=lambda r: r["upper"])["method"] == "product of norms"
        assert by[radius, "Chords"]["upper"] <= by[radius, "RecurJac-B"]["upper"] * (1 + 1e-12)
        assert by[radius, "RecurJac-B"]["upper"] <= by[radius, "Fast-Lip"]["upper"] * (1 + 1e-12)
    assert "demo.png" in err
    assert "handwritten 7" in out
    assert [line.split()[0] for line in out.splitlines() if line.strip()[:1].isdigit()] == ["0.01", "0.2"]
    assert "demo.png" not in out


def test_demo_without_a_plot(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recurjac.cli.demo.lipschitz", quick)
    code, out, err = run("demo", "--radius", "0", "--plot", "demo.png")
    assert (code, "no plot: no point is positive" in err, "handwritten" in out) == (0, True, True)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = run("demo", "--radius", "0", "--plot", "demo.png")
    assert (code, "pip install matplotlib" in err, "handwritten" in out) == (0, True, True)
    assert not Path("demo.png").exists()


def test_inspect(run: Run) -> None:
    code, out, err = run("inspect", "net.npz", "--json", "r.json")
    assert code == 0
    assert out.splitlines()[0] == "net.npz: input 4, output 3"
    assert "384 parameters, 32 neurons" in err
    assert "bounds cover rounding" in err
    found = json.loads(Path("r.json").read_text())
    assert [r["reads"] for r in found["results"]] == ["input", "1", "2"]
    assert [(r["activation"], r["shape"]) for r in found["results"]] == [("relu", "16"), ("relu", "16"), ("-", "3")]
    assert found["command"] == "inspect"


def test_modules_by_name(run: Run) -> None:
    name = "recurjac_test_factory:make"
    code, out, err = run("inspect", name, "--input-shape", 2, 2)
    assert code == 0
    assert out.splitlines()[0] == f"{name}: input 2 x 2, output 3"
    assert "no rounding error" not in err
    common = ("--radius", 0.1, "--method", "one-pass", "--quiet")
    code, out, _ = run("lipschitz", name, "--input", "x.npy", *common, "--json", "-")
    report_ = json.loads(out)
    assert report_["model"] == {"path": name, "sha256": None}
    network = rj.load(name, torch.zeros(1, 4))
    assert [r["upper"] for r in report_["results"]] == upper(rj.LpBall(samples(), 0.1), network)
    assert all(r["rigorous"] for r in report_["results"])
    assert run("lipschitz", name, "--input", "x.npy", *common, "--input-shape", 2, 2) == (0, "", "")


# What is written


def test_numbers_for_tables_are_rounded_outwards() -> None:
    draw = random.Random(0)  # noqa: S311
    numbers = [draw.uniform(-1, 1) * 10.0 ** draw.randint(-300, 300) for _ in range(500)]
    for number in [*numbers, 0.1, 1.0, -2.5, 100.0, 123456.0, 1e22, 5e-324, sys.float_info.max, 0.0, inf, -inf]:
        low, high = float(output.show_lower(number)), float(output.show_upper(number))
        assert low <= number <= high
        assert len(output.show_upper(number)) <= 13
        assert math.isinf(high) or high - low <= 1.1e-5 * abs(number) + 5e-324
    assert [output.show_upper(v) for v in (100.0, 0.5, 2.0000001, -2.0000001)] == ["100", "0.5", "2.00001", "-2"]
    assert output.show(None) == "-"


def test_names_are_not_taken_for_markup(run: Run) -> None:
    Path("[red]a[").mkdir()
    Path("net.npz").rename("[red]a[/x]:key:.npz")
    code, out, _ = run("inspect", "[red]a[/x]:key:.npz", "--json", "-")
    assert code == 0
    assert out.startswith("[red]a[/x]:key:.npz: input 4")
    assert '"path": "[red]a[/x]:key:.npz"' in out
    assert "m.npz:key: there is no" in run("inspect", "m.npz:key")[2]


def test_non_finite_numbers_are_strings(capsys: pytest.CaptureFixture[str]) -> None:
    args = argparse.Namespace(json="-", command="c", quiet=True, radius=[inf, 1.0], clip=(-inf, 2))
    output.write_json(args, None, [{"upper": inf, "lower": -inf, "other": math.nan, "deep": {"a": [inf]}}])
    found = json.loads(capsys.readouterr().out)
    assert found["settings"] == {"radius": ["inf", 1.0], "clip": ["-inf", 2]}
    assert found["results"] == [{"upper": "inf", "lower": "-inf", "other": None, "deep": {"a": ["inf"]}}]


def test_help_is_there(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for command in ("demo", "inspect", "lipschitz", "jacobian"):
        assert command in out
        code, of_command, _ = run(command, "--help")
        assert (code, "--json" in of_command) == (0, True)
    assert run("--version")[:2] == (0, f"recurjac {rj.__version__}\n")


# Real processes


def process(*args: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    here = {**os.environ, "PYTHONPATH": str(Path(rj.__file__).parents[1]), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "recurjac", *map(str, args)]
    return subprocess.run(command, capture_output=True, env=here, check=False)  # noqa: S603


def test_a_process_writes_json_alone() -> None:
    common = ("--input", "x.npy", "--radius", 0.1, "--method", "chords", "--quiet", "--json", "-")
    done = process("lipschitz", "recurjac_test_factory:make", *common)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(json.loads(done.stdout)["results"]) == 3


def test_a_process_survives_a_terminal_without_greek() -> None:
    common = ("--input", "x.npy", "--radius", 0.1, "--method", "one-pass")
    done = process("lipschitz", "net.npz", *common, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert b"Chords ? RecurJac-B" in done.stdout
    assert done.stderr.startswith(b"rounding is covered")
