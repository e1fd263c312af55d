"""`recurjac certify`: it reports what the library finds, and refuses what makes no sense before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recurjac as rj
from recurjac.cli import certify, main

KEYS = ["index", "label", "target", "radius", "method", "seconds"]
QUICK = rj.RadiusSearch(attack=rj.Attack(steps=4, starts=2, rounds=3))

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current directory, with a network of 4 inputs and 3 outputs, 3 samples and labels; attacks are short."""
    monkeypatch.chdir(tmp_path)
    g = np.random.default_rng(0)
    weights: dict[str, Any] = {f"W{i}": g.normal(size=size) for i, size in enumerate([(6, 4), (3, 6)])}
    np.savez("net.npz", **weights, activation="relu")
    np.savez("one.npz", W0=g.normal(size=(6, 4)), W1=g.normal(size=(1, 6)), activation="relu")
    np.save("x.npy", g.random((3, 4)))
    np.save("y.npy", right())
    np.save("y2.npy", right()[:2])
    np.save("bad.npy", np.array([0, 1, 3]))
    Path("y.csv").write_text("\n".join(str(k) for k in right()))
    Path("box.vnnlib").write_text("\n".join(f"(declare-const X_{i} Real)\n(assert (<= X_{i} 0.5))" for i in range(4)))
    monkeypatch.setattr("recurjac.cli.certify.Attack", lambda seed: rj.Attack(4, 2, 3, seed))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `recurjac certify net.npz …`: its exit code and what it wrote to stdout and stderr."""

    def once(*args: object, net: str = "net.npz") -> tuple[int, str, str]:
        given = list(args) if "--input" in args else ["--input", "x.npy", *args]
        try:
            code = main(["certify", net, *map(str, given)])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return code, *capsys.readouterr()

    return once


def x() -> Any:
    return torch.from_numpy(np.load("x.npy"))


def right() -> Any:
    return rj.load("net.npz")(x()).argmax(1).numpy()


def results(run: Run, *args: object) -> list[dict[str, Any]]:
    code, out, err = run(*args, "--json", "-", "--quiet")
    assert (code, err) == (0, "")
    found = json.loads(out)["results"]
    assert isinstance(found, list)
    return found


def test_the_report_is_what_the_library_finds(run: Run) -> None:
    code, out, err = run("--clip", 0, 1, "--method", "chords", "--json", "r.json")
    report = json.loads(Path("r.json").read_text())
    want = rj.certified_radius(rj.load("net.npz"), rj.LpBall(x(), 0, clip=(0, 1)), search=QUICK)
    assert (code, report["command"], report["settings"]["target"]) == (0, "certify", "runner-up")
    assert "radius" not in report["settings"]
    rows = report["results"]
    assert all(list(r)[: len(KEYS)] == KEYS for r in rows)
    finite = [str(v) if v == float("inf") else v for v in want.radius.tolist()]
    assert [r["radius"] for r in rows] == finite
    assert [(r["index"], r["label"], r["target"]) for r in rows] == [
        (i, c, k) for i, (c, k) in enumerate(zip(want.label.tolist(), want.target.tolist(), strict=True))
    ]
    assert [r["method"] for r in rows] == list(want.proof)
    assert len([line for line in out.splitlines() if line.strip()[:1].isdigit()]) == 3
    assert "rounding is covered" in err


def test_radii_for_programs(run: Run) -> None:
    code, _, err = run("--clip", 0, 1, "--method", "chords", "--arithmetic", "deployed-float32", "--json", "r.json")
    real = rj.certified_radius(rj.load("net.npz"), rj.LpBall(x(), 0, clip=(0, 1)), search=QUICK)
    assert (code, "hold for programs in float32, in any order of summation" in err) == (0, True)
    for row, radius in zip(json.loads(Path("r.json").read_text())["results"], real.radius.tolist(), strict=True):
        assert row["provenance"]["arithmetic"] == "deployed float32"
        assert row["rounding"] > 0
        assert row["radius"] == "inf" or 0.95 * radius < row["radius"] < radius


def test_by_default_all_proofs_are_tried_in_time(run: Run) -> None:
    once = rj.certified_radius(rj.load("net.npz"), x(), search=QUICK)
    rows = results(run, "--time-limit", 30)
    assert all(float(r["radius"]) >= (1 - 1e-12) * float(known) for r, known in zip(rows, once.radius, strict=True))
    assert all(r["provenance"]["method"].endswith("branched margin") for r in rows)
    brief = results(run, "--time-limit", 1e-3)
    assert all(0 <= float(r["radius"]) <= float(r["attack"]) for r in brief)


def test_labels_from_numbers_and_files(run: Run) -> None:
    labels = right().tolist()
    own = [(r["label"], r["radius"]) for r in results(run)]
    for given in (labels, ["y.npy"], ["y.csv"]):
        assert [(r["label"], r["radius"]) for r in results(run, "--labels", *given)] == own
    some = results(run, "--index", 2, 0, "--labels", "y.npy")
    assert [(r["index"], r["label"]) for r in some] == [(2, labels[2]), (0, labels[0])]
    assert [r["label"] for r in results(run, "--index", 0, 1, "--labels", "y2.npy")] == labels[:2]
    wrong = (labels[0] + 1) % 3
    (row,) = results(run, "--index", 0, "--labels", wrong)
    assert (row["radius"], row["attack"], row["remark"]) == (0.0, 0.0, f"misclassified as {labels[0]}")


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
@pytest.mark.parametrize("target", ["random", "least-likely", "all"])
def test_targets_and_norms(run: Run, target: str, norm: str) -> None:
    rows = results(run, "--target", target, "--norm", norm, "--intervals", 5, "--method", "fastlip", "--index", 1)
    proofs, search = (rj.MarginBound(), rj.LipschitzIntegral(rj.FastLip())), replace(QUICK, intervals=5)
    want = rj.certified_radius(rj.load("net.npz"), x()[1], p=float(norm), target=target, proofs=proofs, search=search)
    if target != "random":
        assert [(r["radius"], r["target"]) for r in rows] == [(float(want.radius), int(want.target))]
    assert all(r["label"] != r["target"] for r in rows)


def test_parts_of_the_work_change_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = results(run, "--target", "random")
    monkeypatch.setattr(certify, "_TOGETHER", 1)
    apart = results(run, "--target", "random")
    assert [r["target"] for r in whole] == [r["target"] for r in apart]
    assert [r["radius"] for r in whole] == pytest.approx([r["radius"] for r in apart], rel=1e-9)


def test_an_interrupted_run_reports_what_is_done(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certify, "_TOGETHER", 1)
    calls: list[int] = []

    def third_is_interrupted(*args: Any, **how: Any) -> rj.CertifiedRadius:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return rj.certified_radius(*args, **how)

    monkeypatch.setattr("recurjac.cli.certify.certified_radius", third_is_interrupted)
    code, _, err = run("--json", "r.json")
    assert code == 1
    assert "interrupted; the 2 finished results are reported" in err
    assert [r["index"] for r in json.loads(Path("r.json").read_text())["results"]] == [0, 1]


def test_a_crossing_has_code_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rj.JacobianNorm, "rows", lambda _, known, __: torch.full((known.chain.batch, 1), 1e-3).double())
    code, out, err = run()
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "please report" in err


WRONG: dict[str, tuple[str, tuple[str, ...]]] = {
    "label": ("--labels 0 1 3", ("label 3", "0 to 2")),
    "labels of a file": ("--labels bad.npy", ("label 3", "0 to 2")),
    "too few labels": ("--labels 0 1", ("2 labels for 3 inputs",)),
    "too few in a file": ("--labels y2.npy", ("2 labels for 3 inputs",)),
    "label text": ("--labels 0 cat 1", ("--labels 0 cat 1", "one file")),
    "no label file": ("--labels none.npy", ("none.npy", "no file")),
    "label boxes": ("--labels box.vnnlib", ("box.vnnlib", "box")),
    "target": ("--target 3", ("target 3", "0 to 2")),
    "target text": ("--target nearest", ("--target", "'nearest'", "runner-up")),
    "own target": ("--labels 0 --target 0", ("target 0", "label of every input")),
    "limit": ("--limit 0", ("largest radius", "0.0")),
    "limit NaN": ("--limit nan", ("--limit", "nan")),
    "intervals": ("--intervals 0", ("intervals", "0")),
    "clip": ("--clip 5 6", ("outside the clip box",)),
    "boxes": ("--input box.vnnlib", ("box.vnnlib", "no centre")),
    "index": ("--index 3", ("--index 3", "0 to 2")),
    "norm": ("--norm 3", ("--norm", "'3'")),
    "method": ("--method best", ("--method", "'best'")),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_request_that_makes_no_sense(case: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_work(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr("recurjac.cli.certify.certified_radius", no_work)
    arguments, words = WRONG[case]
    code, out, err = run(*arguments.split())
    last = err.splitlines()[-1]
    assert (code, out) == (2, "")
    assert last.startswith("recurjac certify: ")
    assert not [w for w in words if w not in last]


def test_a_network_of_one_output(run: Run) -> None:
    code, out, err = run(net="one.npz")
    assert (code, out) == (2, "")
    assert "one output" in err


def test_help(run: Run) -> None:
    code, out, _ = run("--help")
    assert (code, "--labels" in out, "--json" in out) == (0, True, True)


def test_the_table_names_the_proof_and_the_remark(run: Run) -> None:
    """Also where the radius is as large as looked for; of a misclassified input there is no proof."""
    _, out, _ = run("--limit", 1e-6, "--index", 0)
    assert "integral of Chords: the largest radius that was tried" in out
    _, out, _ = run("--labels", (right()[0] + 1) % 3, "--index", 0)
    assert f"misclassified as {right()[0]}" in out
    assert "Chords" not in out
    assert "Crown" not in out


def test_proofs_have_names(run: Run) -> None:
    rows = results(run, "--proofs", "margin", "integral", "secants", "--clip", 0, 1)
    proofs = (rj.MarginBound(), rj.LipschitzIntegral(), rj.SecantMargin())
    want = rj.certified_radius(rj.load("net.npz"), rj.LpBall(x(), 0, clip=(0, 1)), proofs=proofs, search=QUICK)
    assert [row["radius"] for row in rows] == pytest.approx(want.radius.tolist(), rel=1e-2)  # other balls, in time
    assert run("--proofs", "margin", "--method", "chords")[0] == 2
    assert run("--proofs", "none")[0] == 2


def test_inputs_that_were_not_attacked_are_told_from_those_without_adversaries(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {row["attack_status"] for row in results(run, "--clip", 0, 1)} <= {"found", "none found"}
    monkeypatch.setattr("recurjac.cli.certify.Attack", lambda seed: rj.Attack(rounds=0, seed=seed))
    code, out, _ = run("--index", 0, "--proofs", "margin", "--json", "r.json")
    (row,) = json.loads(Path("r.json").read_text())["results"]
    assert (code, row["attack"], row["attack_status"], "not attacked" in out) == (0, "inf", "not attacked", True)
