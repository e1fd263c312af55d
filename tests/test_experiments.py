"""The engine of experiments: what is killed goes on where it was, and no run mixes with another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from math import inf
from pathlib import Path

import pytest

from recurjac.errors import InvalidRequest, UnsoundBounds
from recurjac.experiments.execution import Plan, run
from recurjac.sweeps.store import JsonLines
from recurjac.sweeps.work import Done
from tests.tiny_experiment import Roots

ROOT = Path(__file__).parent.parent
OUTPUTS = ("roots.csv", "roots.md")


def nothing(more: int) -> None:
    """Hear of no progress."""


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def begun(folder: Path, jobs: int, lines: int) -> subprocess.Popen[bytes]:
    """A process that runs `Roots(12)` in `folder`, once it has done `lines` tasks."""
    command = [sys.executable, "-m", "tests.tiny_experiment", str(folder), "12", str(jobs), "0.3"]
    source = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    env = {**os.environ, "PYTHONPATH": source}
    process = subprocess.Popen(command, cwd=ROOT, env=env)  # noqa: S603  # (our own command)
    rows, until = folder / "rows.jsonl", time.monotonic() + 600
    while not rows.exists() or rows.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, "it ended too soon"
        assert time.monotonic() < until, "it does nothing"
        time.sleep(0.02)
    return process


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    rows = run(Roots(12), Plan(folder), nothing)
    assert [r["number"] for r in rows] == [i for i in range(12) for _ in range(3)]
    return folder


slow = pytest.mark.slow  # every process imports torch anew


@pytest.mark.parametrize(
    ("how", "jobs"),
    [
        pytest.param(signal.SIGKILL, 2, id="kill-2"),
        pytest.param(signal.SIGKILL, 1, id="kill-1", marks=slow),
        pytest.param(signal.SIGINT, 2, id="interrupt-2", marks=slow),
        pytest.param(signal.SIGINT, 1, id="interrupt-1", marks=slow),
    ],
)
def test_a_run_that_is_ended_goes_on_where_it_was(tmp_path: Path, whole: Path, how: signal.Signals, jobs: int) -> None:
    process = begun(tmp_path, jobs, 3)
    process.send_signal(how)
    assert process.wait(30) != 0
    kept = (tmp_path / "rows.jsonl").read_bytes()
    assert 3 <= kept.count(b"\n") < 12
    assert not (tmp_path / "roots.csv").exists()
    steps: list[int] = []
    run(Roots(12), Plan(tmp_path), steps.append)
    assert steps == [kept.count(b"\n"), *[1] * (12 - kept.count(b"\n"))]
    assert (tmp_path / "rows.jsonl").read_bytes().startswith(kept)
    assert outputs(tmp_path) == outputs(whole)


def test_results_do_not_depend_on_the_number_of_processes(tmp_path: Path, whole: Path) -> None:
    run(Roots(12, pause=0.02), Plan(tmp_path, jobs=2), nothing)
    assert outputs(tmp_path) == outputs(whole)
    times = (tmp_path / "times.csv").read_text().splitlines()
    assert times[0] == "task,seconds"
    assert [line.split(",")[0] for line in times[1:]] == [f"number {i}" for i in range(12)]


def test_numbers_are_read_back_to_the_last_bit(whole: Path) -> None:
    lines = (whole / "roots.csv").read_text().splitlines()
    assert lines[0] == "number,root,above,remark"
    assert lines[4] == f"1,{1.0!r},True,"
    assert lines[8] == f'2,{-(2**0.1)!r},False,"a, b"'
    assert lines[9] == "2,inf,True,"


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_torn_last_line_is_dropped(tmp_path: Path, whole: Path, cut: int) -> None:
    run(Roots(12), Plan(tmp_path), nothing)
    rows = tmp_path / "rows.jsonl"
    lines = rows.read_bytes().splitlines(keepends=True)
    rows.write_bytes(b"".join(lines[:7]) + lines[7][:cut])
    steps: list[int] = []
    run(Roots(12), Plan(tmp_path), steps.append)
    assert steps == [7, 1, 1, 1, 1, 1]
    assert len(list(JsonLines(tmp_path).finished())) == 12
    assert outputs(tmp_path) == outputs(whole)


def test_a_line_that_is_no_result_is_refused(tmp_path: Path) -> None:
    run(Roots(3), Plan(tmp_path), nothing)
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(rows.read_bytes().replace(b'"rows"', b'"raws"', 1))
    with pytest.raises(InvalidRequest, match=r"line 1 of .*rows\.jsonl is not a finished task; give --fresh"):
        run(Roots(3), Plan(tmp_path), nothing)


def test_other_settings_are_refused_before_anything_is_lost(tmp_path: Path) -> None:
    run(Roots(3), Plan(tmp_path), nothing)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InvalidRequest, match=r"settings\.power 0\.1, but now it is 0\.2; .*--fresh .*--out"):
        run(Roots(3, power=0.2), Plan(tmp_path), nothing)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    steps: list[int] = []
    run(Roots(3, power=0.2), Plan(tmp_path, fresh=True), steps.append)
    assert steps == [0, 1, 1, 1]
    assert outputs(tmp_path)["roots.csv"] != before["roots.csv"]


def test_other_versions_are_other_settings(tmp_path: Path) -> None:
    run(Roots(2), Plan(tmp_path), nothing)
    manifest = tmp_path / "manifest.json"
    found = json.loads(manifest.read_text())
    assert set(found["versions"]) == {"recurjac", "torch", "numpy", "python"}
    found["versions"]["torch"] = "0.1"
    manifest.write_text(json.dumps(found))
    with pytest.raises(InvalidRequest, match=r'versions\.torch "0\.1"'):
        run(Roots(2), Plan(tmp_path), nothing)
    manifest.unlink()
    with pytest.raises(InvalidRequest, match=r"without a readable manifest\.json; .*--fresh"):
        run(Roots(2), Plan(tmp_path), nothing)


def test_results_that_are_no_more_leave_no_files_behind(tmp_path: Path) -> None:
    run(Roots(2), Plan(tmp_path), nothing)
    with pytest.raises(UnsoundBounds):
        run(Roots(2, bad=0), Plan(tmp_path, fresh=True), nothing)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "manifest.json"}


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=slow)])
def test_an_unsound_bound_stops_the_run_and_is_not_kept(tmp_path: Path, jobs: int) -> None:
    with pytest.raises(UnsoundBounds, match="number 4 is within its own radius"):
        run(Roots(12, bad=4, pause=0.01), Plan(tmp_path, jobs), nothing)
    kept = [json.loads(line)["task"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert "number 4" not in kept
    assert "number 0" in kept
    assert not (tmp_path / "roots.csv").exists()


def test_nan_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(UnsoundBounds, match="NaN"):
        run(Roots(3, bad=1, failure="nan"), Plan(tmp_path), nothing)
    assert (tmp_path / "rows.jsonl").read_bytes().count(b"\n") == 1


@slow
def test_a_process_that_is_killed_is_named(tmp_path: Path) -> None:
    with pytest.raises(ChildProcessError, match="the process of the task number 3 ended with code 9"):
        run(Roots(6, bad=3, failure="killed"), Plan(tmp_path, jobs=2), nothing)


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with JsonLines(tmp_path).alone(), pytest.raises(InvalidRequest, match="another run is writing"):
        run(Roots(2), Plan(tmp_path), nothing)
    assert run(Roots(2), Plan(tmp_path), nothing)


def test_the_store_keeps_infinities(tmp_path: Path) -> None:
    store = JsonLines(tmp_path)
    store.resume({}, fresh=False)
    row = {"a": inf, "b": -inf, "c": 0.1, "d": None, "e": "inf or so", "f": 3}
    store.append("one", Done([row], 0.5))
    assert store.resume({}, fresh=False) == {"one": Done([row], 0.5)}
