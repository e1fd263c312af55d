"""Sweeps: lost processes, stores, tables, and Ray."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from math import inf
from pathlib import Path

import pytest

from recurjac.errors import InvalidRequest, UnsoundBounds
from recurjac.sweeps.cluster import RayCluster
from recurjac.sweeps.pools import LocalProcesses
from recurjac.sweeps.store import AbstractStore, JsonLines, ParquetParts
from recurjac.sweeps.tables import write_rows
from recurjac.sweeps.work import Done, Row
from tests.tiny_experiment import Roots

ROWS: list[Row] = [
    {"name": "a, b", "value": 0.1, "count": 3, "proved": True, "gone": None},
    {"name": "c", "value": inf, "count": -(2**40), "proved": False, "more": 1e-320},
]
STORES = (JsonLines, ParquetParts)


def _store(kind: type[JsonLines] | type[ParquetParts], folder: Path) -> AbstractStore:
    if kind is ParquetParts:
        pytest.importorskip("pyarrow")
    return kind(folder)


@pytest.mark.slow
def test_a_task_whose_process_was_killed_is_done_by_another(tmp_path: Path) -> None:
    work = Roots(6, bad=2, failure=f"once {tmp_path / 'mark'}")
    done = dict(LocalProcesses(2).finished(work, work.tasks()))
    assert (tmp_path / "mark").exists()
    assert sorted(done) == sorted(work.tasks())
    assert done["number 3"].rows[0]["root"] == 3**0.1


@pytest.mark.parametrize("kind", STORES)
def test_a_store_gives_back_what_it_got(tmp_path: Path, kind: type[JsonLines] | type[ParquetParts]) -> None:
    store = _store(kind, tmp_path / "s")
    assert store.resume({"a": 1}, fresh=False) == {}
    store.append("one", Done(ROWS, 0.5))
    store.append("none", Done([], 0.25))
    found = kind(tmp_path / "s").resume({"a": 1}, fresh=False)
    kept = [{k: v for k, v in row.items() if v is not None} for row in found["one"].rows]
    assert kept == [{k: v for k, v in row.items() if v is not None} for row in ROWS]
    assert found["none"] == Done([], 0.25)
    with pytest.raises(InvalidRequest, match="a 1, but now it is 2"):
        store.resume({"a": 2}, fresh=False)
    with pytest.raises(UnsoundBounds):
        store.append("nan", Done([{"value": float("nan")}], 0.0))
    assert sorted(dict(store.finished())) == ["none", "one"]
    assert store.resume({"a": 2}, fresh=True) == {}


def test_a_part_that_was_not_finished_is_not_read(tmp_path: Path) -> None:
    store = _store(ParquetParts, tmp_path)
    store.resume({}, fresh=False)
    store.append("one", Done(ROWS, 0.5))
    (part,) = store.rows.iterdir()
    part.with_name("0" * 32 + ".parquet.part").write_bytes(part.read_bytes()[:100])
    assert list(dict(store.finished())) == ["one"]
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(InvalidRequest, match="is not a finished task"):
        dict(store.finished())


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_tables_are_read_back_exactly(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"rows{suffix}"
    write_rows(path, ROWS)
    if suffix == ".csv":
        with path.open(newline="") as file:
            read = list(csv.DictReader(file))
        assert [float(r["value"]) for r in read] == [0.1, inf]
        assert [r["more"] for r in read] == ["", "1e-320"]
    elif suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [r["value"] for r in lines] == [0.1, "inf"]
        assert lines[1]["count"] == -(2**40)
    else:
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(path).to_pylist()
        assert [r["value"] for r in rows] == [0.1, inf]
        assert [r["more"] for r in rows] == [None, 1e-320]
    with pytest.raises(InvalidRequest, match="the suffix is not known"):
        write_rows(tmp_path / "rows.xlsx", ROWS)


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_rows_although_an_actor_is_killed(tmp_path: Path) -> None:
    """In a process of its own: Ray cannot copy classes whose types are checked."""
    pytest.importorskip("ray")
    script = (
        "import sys; from pathlib import Path; from recurjac.sweeps.cluster import RayCluster\n"
        "from recurjac.sweeps.running import go_on; from recurjac.sweeps.store import JsonLines\n"
        "from tests.tiny_experiment import Roots\n"
        "work = Roots(6, bad=2, failure='once ' + sys.argv[1] + '/mark')\n"
        "go_on(work, JsonLines(Path(sys.argv[1])), RayCluster('local', workers=2), False, lambda _: None)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, cwd=Path(__file__).parents[1])  # noqa: S603
    work = Roots(6, bad=2, failure=f"once {tmp_path / 'mark'}")
    here = dict(LocalProcesses(1).finished(work, work.tasks()))
    assert {name: d.rows for name, d in JsonLines(tmp_path).finished()} == {name: d.rows for name, d in here.items()}


def test_a_cluster_that_does_not_answer_is_named() -> None:
    pytest.importorskip("ray")
    with pytest.raises(InvalidRequest, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        list(RayCluster("127.0.0.1:1").finished(Roots(2), Roots(2).tasks()))
