"""`--jobs`, `--output` and `recurjac sweep`: nothing is lost, nothing is done twice."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recurjac as rj
from recurjac.cli import main
from recurjac.errors import InvalidRequest, UnreadableFile
from tests.test_time_limits import CLOCKED, Clock

COUNT = 5


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A small network and some inputs."""
    g = np.random.default_rng(0)
    np.savez(
        tmp_path / "net.npz", W0=g.normal(size=(8, 4)), b0=g.normal(size=8), W1=g.normal(size=(3, 8)), b1=np.zeros(3)
    )
    np.save(tmp_path / "x.npy", g.normal(size=(COUNT, 4)))
    return tmp_path


def _command(files: Path, name: str, *more: str) -> list[str]:
    return [name, str(files / "net.npz"), "--activation", "relu", "--input", str(files / "x.npy"), "--quiet", *more]


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def _run(*argv: str) -> int:
    return main(list(argv))


QUESTIONS: dict[str, tuple[str, ...]] = {
    "lipschitz": ("--radius", "0.1", "0.01", "--method", "chords"),
    "certify": ("--method", "chords", "--intervals", "2"),
    "landscape": ("--class", "each", "--method", "chords"),
    "monotone": ("--radius", "0.1", "--method", "chords"),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_output_has_the_rows_of_json(files: Path, name: str) -> None:
    out, report = files / "out.csv", files / "out.json"
    assert _run(*_command(files, name, *QUESTIONS[name], "--output", str(out), "--json", str(report))) == 0
    rows, results = _table(out), json.loads(report.read_text())["results"]
    key = "radius" if name != "monotone" else "class"
    assert sorted(float(r[key]) for r in rows) == sorted(float(r[key]) for r in results)
    assert {int(r["index"]) for r in rows} == set(range(COUNT))
    assert {r["weights"] for r in rows} == {r["provenance"]["weights"] for r in results}
    assert not list(files.glob("*.unfinished"))


@pytest.mark.slow
@pytest.mark.parametrize("name", QUESTIONS)
def test_rows_do_not_depend_on_the_number_of_processes(files: Path, name: str) -> None:
    for jobs in ("1", "2"):
        out = str(files / f"{jobs}.jsonl")
        assert _run(*_command(files, name, *QUESTIONS[name], "--output", out, "--jobs", jobs)) == 0
    one, two = ((files / f"{j}.jsonl").read_text().splitlines() for j in "12")
    drop = [[{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines] for lines in (one, two)]
    assert drop[0] == drop[1]


@pytest.mark.slow
@pytest.mark.parametrize(("how", "jobs"), [(signal.SIGKILL, "1"), (signal.SIGTERM, "1"), (signal.SIGKILL, "2")])
def test_a_killed_run_is_completed_by_the_same_command(files: Path, how: signal.Signals, jobs: str) -> None:
    limits = ("--time-limit", "20", "--jobs", jobs)  # some seconds for each, so that the kill meets a run
    command = _command(files, "certify", "--output", str(files / "out.csv"), *limits)
    process = subprocess.Popen([sys.executable, "-m", "recurjac", *command], stderr=subprocess.DEVNULL)  # noqa: S603
    while process.poll() is None and (not (files / "out.csv").exists() or len(_table(files / "out.csv")) < 2):
        time.sleep(0.05)
    process.send_signal(how)
    process.wait()
    before = _table(files / "out.csv")
    assert 2 <= len(before) < COUNT
    assert _run(*command) == 0
    after = _table(files / "out.csv")
    assert [r["index"] for r in after] == [str(i) for i in range(COUNT)]
    assert all(row in after for row in before)


def test_other_settings_do_not_continue(files: Path) -> None:
    out = files / "out.csv"
    command = _command(files, "lipschitz", *QUESTIONS["lipschitz"], "--output", str(out))
    (files / "out.csv.unfinished").mkdir()
    (files / "out.csv.unfinished" / "rows.jsonl").write_text("")
    (files / "out.csv.unfinished" / "manifest.json").write_text('{"settings": {"norm": 3}}')
    assert _run(*command) == 2
    assert not out.exists()


@pytest.mark.parametrize(("more", "what"), [
    (("--jobs", "0"), "at least 1 process"), (("--output", "x.xlsx"), "the suffix is not known"),
])  # fmt: skip
def test_bad_requests(files: Path, more: tuple[str, ...], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(*_command(files, "lipschitz", "--radius", "0.1", *more)) == 2
    assert what in capsys.readouterr().err


def _config(files: Path, **more: str) -> Path:
    path = files / "sweep.toml"
    questions = {"constant": 'ask = "lipschitz"\nmethod = "chords"', **more}
    text = f"""
radii = [0.1, 0.01]
out = "{files / "results"}"
[networks]
one = {{ model = "{files / "net.npz"}", activation = "relu" }}
two = {{ model = "{files / "net.npz"}", activation = "tanh" }}
[inputs]
input = "{files / "x.npy"}"
index = [0, 2]
"""
    path.write_text(text + "".join(f"[questions.{name}]\n{body}\n" for name, body in questions.items()))
    return path


def test_a_sweep_does_what_is_left(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = _config(files)
    assert _run("sweep", str(config), "--quiet") == 0
    rows = _table(files / "results" / "rows.csv")
    assert [(r["network"], r["index"], r["radius"]) for r in rows] == [
        (network, index, radius) for network in ("one", "two") for radius in ("0.1", "0.01") for index in "02"
    ]
    x = np.load(files / "x.npy")
    net = rj.load(files / "net.npz", activation="relu")
    expected = rj.lipschitz(net, rj.LpBall(x[[2]], 0.1), method=rj.Chords(), search=rj.Search(work=0))
    (found,) = (r for r in rows if (r["network"], r["index"], r["radius"]) == ("one", "2", "0.1"))
    assert float(found["upper"]) == pytest.approx(float(expected.upper[0]), rel=1e-12)
    stamps = {p: p.stat().st_mtime_ns for p in (files / "results").rglob("*.parquet")}
    _config(files, radius='ask = "certify"\nmethod = "chords"\nintervals = 4')
    assert _run("sweep", str(config), "--status") == 0
    assert "2 of 4 tasks" in capsys.readouterr().out
    assert _run("sweep", str(config), "--quiet") == 0
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert len(_table(files / "results" / "rows.csv")) == 12
    assert _run("sweep", str(config), "--export", str(files / "all.jsonl")) == 0
    assert len((files / "all.jsonl").read_text().splitlines()) == 12
    assert _run("report", str(files / "results"), "-o", str(files / "page.html"), "--quiet") == 0
    assert "constant" in (files / "page.html").read_text()


def test_bad_inputs_are_refused_before_any_work(files: Path) -> None:
    np.save(files / "x.npy", np.array([[0.0] * 4, [1.0] * 4, [np.nan] * 4]))
    with pytest.raises(rj.InvalidRegion):
        rj.Sweep.read(_config(files))[0].run(files / "results")
    assert not (files / "results" / "rows.csv").exists()


@pytest.mark.parametrize(("text", "error", "what"), [
    ("a = [", UnreadableFile, "is not a TOML file"),
    ("sorted = 1", InvalidRequest, "the key 'sorted' is not known"),
    ("radii = 1\n[networks]\na = 'b'\n[inputs]\ninput = 'x'\n[questions]\nq = 1", InvalidRequest, "not a list"),
    ("[inputs]\ninput = 'x'", InvalidRequest, r"the table \[networks\] is missing"),
])  # fmt: skip
def test_configs_that_say_nothing(tmp_path: Path, text: str, error: type[Exception], what: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(error, match=what):
        rj.Sweep.read(tmp_path / "c.toml")


def test_a_sweep_in_python(files: Path) -> None:
    networks: Any = {"net": {"model": str(files / "net.npz"), "activation": "relu"}}
    sweep = rj.Sweep(networks, {"input": str(files / "x.npy")}, {"c": {"ask": "certify", "method": "chords"}})
    rows = sweep.run(files / "kept")
    assert [r["index"] for r in rows] == list(range(COUNT))
    assert sweep.run(files / "kept") == rows
    with pytest.raises(InvalidRequest, match="needs `ask`"):
        rj.Sweep(networks, {"input": str(files / "x.npy")}, {"c": {"ask": "train"}}).run(files / "other")
    with pytest.raises(InvalidRequest, match="unrecognized arguments"):
        rj.Sweep(networks, {"input": str(files / "x.npy"), "what": 1}, {"c": {"ask": "certify"}}).run(files / "other")


FACTORY = """
import numpy as np
import torch
from torch import nn

def make():
    made = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh())
    made[0].weight.data = torch.from_numpy(np.load(r"{weights}")).float()
    return made
"""


def _with_data(files: Path, weights: Any) -> dict[str, Any]:
    """An ONNX file whose weights are in another one, which is written; the smallest are in the file itself."""
    onnx = pytest.importorskip("onnx")
    rj.save_onnx(rj.load([(weights, None), (np.eye(4), None)], activation="relu"), files / "whole.onnx")
    outside = {"save_as_external_data": True, "location": "net.data", "size_threshold": 100}
    (files / "net.data").unlink(missing_ok=True)
    onnx.save(onnx.load(files / "whole.onnx"), files / "net.onnx", **outside)
    return {"networks": {"net": str(files / "net.onnx")}}


def _with_factory(files: Path, weights: Any) -> dict[str, Any]:
    """A module that reads its weights itself."""
    np.save(files / "weights.npy", weights)
    (files / "factory_of_a_sweep.py").write_text(FACTORY.format(weights=files / "weights.npy"))
    return {"networks": {"net": {"model": "factory_of_a_sweep:make", "input_shape": [1, 4]}}}


def _with_weights(files: Path, weights: Any) -> dict[str, Any]:
    """The weights of a norm."""
    np.savez(files / "square.npz", W0=np.eye(4), W1=np.eye(4))
    np.save(files / "norm.npy", 1 + weights[0] ** 2)
    norm = {"ask": "contraction", "weights": str(files / "norm.npy")}
    networks = {"net": {"model": str(files / "square.npz"), "activation": "tanh"}}
    return {"networks": networks, "questions": {"c": norm}}


@pytest.mark.parametrize("make", [_with_data, _with_factory, _with_weights])
def test_a_sweep_repeats_what_depends_on_changed_files(make: Any, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no option names them, and in the same process."""
    monkeypatch.syspath_prepend(files)
    g = np.random.default_rng(0)
    first, other = g.normal(size=(2, 4, 4)).astype(np.float32)
    question = {"c": {"ask": "lipschitz", "method": "chords"}}
    plain = {"inputs": {"input": str(files / "x.npy")}, "radii": (0.1, 0.2), "questions": question}
    names = [set(rj.Sweep(**{**plain, **make(files, weights)}).tasks()) for weights in (first, other, first)]
    sys.modules.pop("factory_of_a_sweep", None)
    assert names[0].isdisjoint(names[1])
    assert names[0] == names[2]


def test_the_time_of_a_question_begins_with_its_first_task(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when its tasks are listed, which may be long before; without time, one pass is all that is done."""
    clock = Clock(1e-3)
    for module in CLOCKED:
        monkeypatch.setattr(f"recurjac.{module}.time", clock)
    networks: Any = {"net": {"model": str(files / "net.npz"), "activation": "relu"}}
    inputs = {"input": str(files / "x.npy"), "index": [0], "radius": [0.5]}
    sweep = rj.Sweep(networks, inputs, {"c": {"ask": "lipschitz", "time-limit": 1}})
    ((_, cell),) = sweep.tasks().items()
    clock.now += 100
    (row,) = sweep.worker()(cell)
    net, x = rj.load(files / "net.npz", activation="relu"), np.load(files / "x.npy")
    chords = rj.lipschitz(net, rj.LpBall(x[[0]], 0.5), method=rj.Chords(), search=rj.Search(work=0))
    assert float(row["upper"] or 0) <= float(chords.upper[0]) * 0.95
