"""`recurjac contraction`: it reports the matrix measures that the library finds."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch

import recurjac as rj
from recurjac.cli import main

COMMON = ("contraction", "net.npz", "--input", "x.npy", "--radius", 0.1, "--method", "chords", "--json", "-", "--quiet")


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that contracts in part, inputs, and weights."""
    monkeypatch.chdir(tmp_path)
    g = np.random.default_rng(0)
    first = g.normal(size=(6, 2))
    np.savez("net.npz", W0=first, W1=-0.2 * first.T, activation="tanh")
    np.savez("tall.npz", W0=g.normal(size=(6, 2)), W1=g.normal(size=(3, 6)), activation="tanh")
    np.save("x.npy", g.normal(size=(2, 2)))
    np.save("d.npy", np.array([1.0, 2.5]))
    Path("P.csv").write_text("2,0.5\n0.5,1\n")


def ran(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main([str(a) for a in args])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("extra", "measures", "weights"),
    [
        ((), (2.0,), None),
        (("--measure", 1, 2, "inf"), (1.0, 2.0, inf), None),
        (("--measure", 1, "inf", "--weights", 1, 2.5), (1.0, inf), [1.0, 2.5]),
        (("--weights", "d.npy"), (2.0,), [1.0, 2.5]),
        (("--weights", "P.csv"), (2.0,), [[2.0, 0.5], [0.5, 1.0]]),
    ],
)
def test_measures_are_those_of_the_library(
    extra: tuple[object, ...], measures: tuple[float, ...], weights: object, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = ran(capsys, *COMMON, *extra)
    assert code == 0
    rows = json.loads(out)["results"]
    region = rj.LpBall(torch.from_numpy(np.load("x.npy")), 0.1)
    bounds = rj.jacobian_bounds(rj.load("net.npz"), region, method=rj.Chords())
    wanted = [rj.matrix_measure(bounds, p=p, weights=weights) for p in measures]
    assert [(r["index"], float(r["measure"])) for r in rows] == [(i, p) for i in (0, 1) for p in measures]
    found = [r["upper"] for r in rows]
    assert found == pytest.approx([float(m.upper[i]) for i in (0, 1) for m in wanted], rel=1e-12)
    assert [r["contracting"] for r in rows] == [u < 0 for u in found]
    assert any(r["contracting"] for r in rows)


def test_several_radii_are_rows_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    several = (*COMMON[:4], "--radius", 0.1, 0, 0.2, *COMMON[6:])
    rows = json.loads(ran(capsys, *several)[1])["results"]
    alone = [json.loads(ran(capsys, *COMMON[:4], "--radius", r, *COMMON[6:])[1])["results"] for r in (0.1, 0, 0.2)]
    assert [(r["radius"], r["index"]) for r in rows] == [(r, i) for r in (0.1, 0.0, 0.2) for i in (0, 1)]
    assert [r["upper"] for r in rows] == [r["upper"] for one in alone for r in one]


def test_the_table_and_a_time_limit(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ran(capsys, *COMMON[:6], "--time-limit", 0.2, "--measure", "inf")
    assert code == 0
    assert "Matrix measures" in out


def test_time_goes_to_parts(capsys: pytest.CaptureFixture[str]) -> None:
    """Beyond bounds of the whole region; both measures have a share of the time."""
    plain = (*COMMON[:4], "--radius", 2, "--measure", 2, "inf", "--json", "-", "--quiet")
    whole = json.loads(ran(capsys, *plain, "--method", "chords")[1])["results"]
    rows = json.loads(ran(capsys, *plain, "--time-limit", 4)[1])["results"]
    assert {(r["status"], r["parts"]) for r in whole} == {("one pass", 1)}
    for before, row in zip(whole, rows, strict=True):
        assert row["parts"] > 1
        assert row["status"] in ("exact", "time")
        assert row["lower"] <= row["upper"] < before["upper"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((*COMMON, "--weights", 1, "x"), "give numbers"),
        ((*COMMON, "--weights", "none.npy"), "none.npy"),
        ((*COMMON, "--weights", 1, -1), "not all positive"),
        ((*COMMON, "--weights", 1, 2, 3), "give 2 finite positive numbers"),
        ((*COMMON, "--weights", "P.csv", "--measure", 1), "for p=2 only"),
        ((COMMON[0], "tall.npz", *COMMON[2:]), "vectors of one size"),
        ((*COMMON, "--method", "x"), "is not known"),
    ],
)
def test_wrong_requests(args: tuple[object, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = ran(capsys, *args)
    assert code == 2
    assert words in " ".join(err.split())
