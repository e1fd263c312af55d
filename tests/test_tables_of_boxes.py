"""Boxes from tables with named columns, and what the page of an audit says of regions and refuting points."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fractions import Fraction
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recurjac as rj
from recurjac.cli import main
from recurjac.errors import InvalidRegion, UnreadableFile
from recurjac.loading.inputs import read_box
from recurjac.report.numbers import show_lower, show_upper
from tests.helpers import refused
from tests.onnx_models import DOUBLE, node, onnx
from tests.onnx_models import model as onnx_model

HEADER = "age,income,height\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network of |age| + 2 income, and a box, in the working directory."""
    monkeypatch.chdir(tmp_path)
    first = np.array([[1.0, 0, 0], [-1.0, 0, 0], [0, 1.0, 0]])
    np.savez("net.npz", W0=first, b0=np.array([0.0, 0, 9]), W1=np.array([[1.0, 1, 2]]), activation="relu")
    Path("box.csv").write_text(f"{HEADER}-1,-2,0\n3,2,5\n")
    return tmp_path


def asked(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    try:
        code = main([*map(str, args)])
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    return code, *capsys.readouterr()


def features(capsys: pytest.CaptureFixture[str], *args: object) -> list[dict[str, Any]]:
    code, out, err = asked(capsys, "monotone", "net.npz", *args, "--method", "one-pass", "--json", "-", "--quiet")
    assert (code, err) == (0, "")
    (row,) = json.loads(out)["results"]
    assert isinstance(row["features"], list)
    return row["features"]


def test_ends_are_rounded_outwards(tmp_path: Path) -> None:
    path = tmp_path / "box.csv"
    path.write_text("0.1,1e-400,0.5\n0.3,0.7,0.5\n")
    found = read_box(str(path))
    assert found.names is None
    for lower, upper, (low, high) in zip(
        found.lower[0].tolist(), found.upper[0].tolist(), (("0.1", "0.3"), ("1e-400", "0.7"), ("0.5", "0.5")),
        strict=True,
    ):  # fmt: skip
        assert Fraction(lower) <= Fraction(low)
        assert Fraction(upper) >= Fraction(high)
        assert upper - lower <= float(Fraction(high) - Fraction(low)) + 1e-15
    assert [float(end[0, 2]) for end in (found.lower, found.upper)] == [0.5, 0.5]


def test_other_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "box.csv"
    for text in ("1,2\n", "1,2\n3,4\n5,6\n", f"{HEADER}1,2,3\n"):
        path.write_text(text)
        refused(lambda: read_box(str(path)), UnreadableFile, ["box.csv", "two"])
    path.write_text("1,2\n3,1\n")
    refused(lambda: read_box(str(path)), InvalidRegion, [])
    refused(lambda: read_box("other.csv"), UnreadableFile, ["other.csv"])
    np.save(tmp_path / "box.npy", np.zeros((2, 2)))
    refused(lambda: read_box(str(tmp_path / "box.npy")), rj.InvalidRequest, [".csv"])


@pytest.mark.usefixtures("folder")
def test_a_box_names_the_features(capsys: pytest.CaptureFixture[str]) -> None:
    found = features(capsys, "--box", "box.csv")
    assert [(f["feature"], f["trend"], f["least"], f["most"]) for f in found] == [
        ("age", "violated", -1, 3), ("income", "increasing", -2, 2), ("height", "constant", 0, 5),
    ]  # fmt: skip


@pytest.mark.usefixtures("folder")
def test_features_are_fixed_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    for fix in ("age=2", "0=2"):
        found = features(capsys, "--box", "box.csv", "--fix", fix)
        assert [f["feature"] for f in found] == ["income", "height"]
    Path("x.csv").write_text(f"{HEADER}2,1,1\n")
    found = features(capsys, "--input", "x.csv", "--radius", 5, "--fix", "income=1", "height=0")
    assert [(f["feature"], f["least"], f["most"]) for f in found] == [("age", -3, 7)]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--box", "box.csv", "--fix", "agee=1"), ("agee", "age, income, height")),
        (("--box", "box.csv", "--fix", "age=1", "0=2"), ("fixed twice",)),
        (("--box", "box.csv", "--fix", "age=old"), ("age=old", "age=40")),
        (("--box", "box.csv", "--fix", "=4"), ("=4",)),
        (("--box", "box.csv", "--radius", 1), ("--radius", "box.csv contains the whole box")),
        (("--box", "box.csv", "--input", "x.csv"), ("not allowed with",)),
        ((), ("--input --box is required",)),
    ],
    ids=str,
)
def test_requests_that_are_wrong(
    capsys: pytest.CaptureFixture[str], args: tuple[object, ...], words: tuple[str, ...]
) -> None:
    code, out, err = asked(capsys, "monotone", "net.npz", *args)
    assert (code, out) == (2, "")
    assert not [w for w in words if w not in err]


@pytest.mark.usefixtures("folder")
def test_names_need_a_header(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("x.npy", np.zeros((1, 3)))
    for command in (("monotone", "net.npz", "--input", "x.npy", "--radius", 1), ("inspect", "net.npz")):
        code, _, err = asked(capsys, *command, "--fix", "age=1")
        assert code == 2
        assert "give the number of the feature" in err


@pytest.mark.usefixtures("folder")
def test_the_table_has_the_refuting_points_and_the_bounds_of_what_is_undecided(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, out, _ = asked(capsys, "monotone", "net.npz", "--box", "box.csv", "--method", "one-pass")
    lines = [line.split() for line in out.splitlines()]
    assert ["feature", "age", "rises", "age", "falls"] in lines
    (rises, falls) = next((float(a), float(b)) for n, a, b in (w for w in lines if len(w) == 3) if n == "age")
    assert rises > 0 > falls
    np.savez("rises.npz", W0=np.ones((2, 1)), b0=np.array([0.0, -1]), W1=np.array([[1.0, -0.5]]), activation="relu")
    np.save("x.npy", np.zeros((1, 1)))
    _, out, _ = asked(capsys, "monotone", "rises.npz", "--input", "x.npy", "--radius", "inf", "--method", "fastlip")
    assert "undecided: -0.500001 … 1.00001" in out


def page_of(capsys: pytest.CaptureFixture[str], *results: str) -> str:
    code, _, err = asked(capsys, "report", *results, "-o", "page.html", "--quiet")
    assert (code, err) == (0, "")
    return unescape(re.sub(r"\s*<[^>]*>\s*", "|", Path("page.html").read_text(encoding="utf-8")))


@pytest.mark.usefixtures("folder")
def test_the_page_has_the_region_and_the_refuting_points(capsys: pytest.CaptureFixture[str]) -> None:
    asked(capsys, "monotone", "net.npz", "--box", "box.csv", "--method", "one-pass", "--json", "r.json", "--quiet")
    text = re.sub(r"\|+", "|", page_of(capsys, "r.json"))
    assert "|age|-1|3|violated|-1.00001|1.00001|" in text
    assert "|rises with age|falls with age|" in text
    (row,) = json.loads(Path("r.json").read_text())["results"]
    up, down = (row["points"][row["features"][0][way]] for way in ("rising", "falling"))
    for i, name in enumerate(("age", "income", "height")):
        assert f"|{name}|{up[i]!r}|{down[i]!r}|".replace(".0|", "|") in text


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "change",
    [lambda r: r.update(points=[]), lambda r: r.update(points=[[1.0]] * 99), lambda r: r.pop("points"),
     lambda r: r["features"][0].update(rising=-1), lambda r: r["features"][0].update(least="low")],
    ids=["none", "short", "absent", "negative", "text"],
)  # fmt: skip
def test_damaged_points_are_refused(
    capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], object]
) -> None:
    asked(capsys, "monotone", "net.npz", "--box", "box.csv", "--method", "one-pass", "--json", "r.json", "--quiet")
    report = json.loads(Path("r.json").read_text())
    change(report["results"][0])
    Path("r.json").write_text(json.dumps(report))
    code, _, err = asked(capsys, "report", "r.json", "-o", "page.html")
    assert code != 0
    assert err.startswith("recurjac report: r.json")
    assert not Path("page.html").exists()


@pytest.mark.usefixtures("folder")
def test_second_derivatives_and_contraction_have_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    g = np.random.default_rng(0)
    np.savez("f.npz", W0=g.normal(size=(4, 2)), W1=g.normal(size=(2, 4)), activation="tanh")
    np.save("x.npy", np.zeros((2, 2)))
    common = ("f.npz", "--input", "x.npy", "--radius", 0.1, "--quiet", "--json")
    assert asked(capsys, "hessian", *common, "h.json", "--class", 1)[0] == 0
    assert asked(capsys, "hessian", *common, "c.json", "--class", 1, "--curvature")[0] == 0
    assert asked(capsys, "contraction", *common, "m.json", "--measure", 1, "inf", "--method", "one-pass")[0] == 0
    text = page_of(capsys, "h.json", "c.json", "m.json")
    for word in ("|hessian|", "|curvature|", "|l1|", "|l∞|", "|not proved|"):
        assert word in text
    (first, *_) = json.loads(Path("m.json").read_text())["results"]
    assert torch.tensor(first["upper"]).isfinite()
    smallest, largest = (float(json.loads(Path("h.json").read_text())["results"][0][end]) for end in ("lower", "upper"))
    assert f"|{show_lower(smallest)}||{show_upper(largest)}|" in text


@pytest.mark.usefixtures("folder")
def test_certificates_that_there_cannot_be_are_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def worked(*_args: object, **_options: object) -> None:
        raise AssertionError("the question is answered first")

    monkeypatch.setattr("recurjac.cli.monotone.monotone", worked)
    onnx.save(onnx_model([node("Elu", "x")], (1, 3), opset=20, kind=DOUBLE), "elu.onnx")
    asked_for = ("monotone", "elu.onnx", "--box", "box.csv", "--certificate", "c.json")
    for more, words in (((), "a node Elu, which the checker does not know"), (("--fix", "age=1"), "give a box")):
        code, out, err = asked(capsys, *asked_for, *more)
        assert (code, out) == (2, "")
        assert words in err
