"""Malformed and hostile ONNX files: one clear line, within seconds and a gigabyte, from a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")

import recurjac as rj
from tests import onnx_hostile, onnx_hostile_sizes
from tests.onnx_hostile import Hostile
from tests.onnx_models import model, node

FILES: dict[str, Hostile] = {**onnx_hostile.FILES, **onnx_hostile_sizes.FILES}
SECONDS, MEGABYTES = 30, 1024
TOP = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What loading and inspecting each file comes to, by its name: all of them in one process without pytest."""
    paths = {}
    for k, (name, file) in enumerate(FILES.items()):
        folder = tmp_path_factory.mktemp(f"file{k}") / "inner"
        folder.mkdir()
        paths[name] = folder / "model.onnx"
        file.write(paths[name])
    source = str(Path(rj.__file__).parents[1])
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([source, str(TOP)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.onnx_hostile", *map(str, paths.values())]
    done = subprocess.run(command, capture_output=True, env=here, cwd=TOP, check=False, text=True)  # noqa: S603
    assert (done.returncode, done.stderr) == (0, "")
    return dict(zip(paths, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_refused_in_one_line(name: str, reports: dict[str, dict[str, Any]]) -> None:
    file, found = FILES[name], reports[name]
    message = found["message"]
    assert found["error"] == file.error, message
    assert not [word for word in file.words if word not in message], message
    assert "\n" not in message
    assert not message.endswith((".", ":", " "))
    assert found["printed"] == ""
    assert (found["code"], found["stdout"]) == (2, "")
    assert found["stderr"].count("\n") == 1
    assert found["stderr"].startswith("recurjac inspect: ")


def test_no_file_takes_long_or_much_memory(reports: dict[str, dict[str, Any]]) -> None:
    """Memory is that of the whole process at its largest, PyTorch and all files before included."""
    assert not {name: r["seconds"] for name, r in reports.items() if r["seconds"] > SECONDS}
    assert max(r["megabytes"] for r in reports.values()) < MEGABYTES


def test_a_file_that_disagrees_with_its_normal_form_has_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from recurjac.cli import main
    from recurjac.registry import onnx_ops

    path = tmp_path / "model.onnx"
    path.write_bytes(model([node("Neg", "x")], ["batch", 4]).SerializeToString())
    monkeypatch.setitem(onnx_ops.readers, "Neg", lambda x: x)
    with pytest.raises(rj.ConversionError, match="differ by 2 relative"):
        rj.load(path)
    assert main(["inspect", str(path)]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
