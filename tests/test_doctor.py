"""`recurjac doctor`, and the samples of rounding."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from recurjac.arithmetic import probes
from recurjac.arithmetic.probes import rounding_failures
from recurjac.cli import main
from recurjac.cli.doctor import EXTRAS

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def reduced() -> Iterator[None]:
    """Matrix products of reduced precision."""
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


def test_everything_is_as_assumed_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "-", "--quiet"]) == 0
    report = json.loads(capsys.readouterr().out)
    rows = {row["part"]: row for row in report["results"]}
    assert rows["PyTorch"]["found"] == torch.__version__
    assert rows["threads"]["found"] == "1"
    assert rows["rounding of float64 on cpu"]["found"] == "as assumed"
    missing = [row for row in report["results"] if row["found"] == "missing"]
    assert all("pip install" in row["remark"] for row in missing)


@pytest.mark.usefixtures("reduced")
def test_reduced_precision_ends_with_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 1
    out, err = capsys.readouterr()
    assert "set to a reduced precision" in " ".join(out.split())
    assert "rounding is not as the proofs assume" in err
    assert rounding_failures(torch.float64, CPU) == []


def test_flushed_subnormal_numbers_are_found() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        found = rounding_failures(torch.float64, CPU)
    finally:
        torch.set_flush_denormal(False)
    assert any("flushed to zero" in text for text in found)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_wrong_operations_are_found(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding towards 0, by one unit off, and products that are summed in bfloat16."""
    assert rounding_failures(dtype, CPU) == []
    down = {"sums": (lambda a, b: torch.nextafter(a + b, torch.zeros_like(a)), probes._OPERATIONS["sums"][1])}
    with monkeypatch.context() as patch:
        patch.setattr(probes, "_OPERATIONS", down)
        assert rounding_failures(dtype, CPU) == ["sums are not rounded to the nearest number"]
    narrow = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: narrow(a.bfloat16(), b.bfloat16()).to(a.dtype))
    assert [text for text in rounding_failures(dtype, CPU) if "matrix products" in text]


def test_nearest_is_decided_exactly() -> None:
    one = torch.tensor(1.0, dtype=torch.float64)
    half = Fraction(torch.finfo(torch.float64).eps) / 2
    assert probes._nearest(1 + half, Fraction(1), one)  # a tie
    assert not probes._nearest(1 + half + Fraction(1, 10**40), Fraction(1), one)


def test_every_extra_is_looked_for() -> None:
    """All extras of the package, other than those of its developers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(project["optional-dependencies"]) - {"docs", "test", "dev"}
    assert {each.extra for each in EXTRAS} == extras
    for each in EXTRAS:
        assert any(need.startswith(each.distribution) for need in project["optional-dependencies"][each.extra])
