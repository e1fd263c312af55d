"""What the README shows is what one gets."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from recurjac.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBER = r"\d+\.\d+"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.default
def test_python_examples_print_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """In one namespace, as a reader would type them; below each `print` is what it prints, to the digits shown.

    Which of several methods within these digits is the least by a little, the time decides.
    """
    code = blocks("python")
    assert len(code) == 2
    exec("\n".join(code), {})  # noqa: S102  # the README's own code
    printed = capsys.readouterr().out.splitlines()
    prints = re.findall(r"^print\(.*\)\n# (.*)$", "\n".join(code), re.MULTILINE)
    assert len(prints) == len(printed) == sum(block.count("print(") for block in code) == 2
    for shown, found in zip(prints, printed, strict=True):
        assert re.sub(f"{NUMBER}|least by [^)]*", "", shown) == re.sub(f"{NUMBER}|least by [^)]*", "", found)
        numbers, truth = ([float(n) for n in re.findall(NUMBER, text)] for text in (shown, found))
        assert numbers == pytest.approx(truth, rel=1e-5)


def test_the_figure_is_small_and_its_command_writes_that_file() -> None:
    (figure,) = re.findall(r"!\[.*\]\((.*)\)", README)
    assert 0 < (ROOT / figure).stat().st_size < 100_000
    assert f"`recurjac demo --plot {figure}`" in README


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line.startswith("recurjac ")]


@pytest.mark.parametrize("command", commands(), ids=lambda c: " ".join(c.split()[:2]))
def test_commands_run(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    words = [str(tmp_path / w) if w == "bounds.npz" else w for w in shlex.split(command)[1:]]
    assert main(words) == 0


def test_the_table_is_what_the_demo_prints(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Every number of the first screen, to the digits shown."""
    (shown,) = blocks("console")
    rows = [line.split() for line in shown.splitlines() if re.match(r" +[\d.]+ +\d", line)]
    assert len(rows) == 5
    assert main(["demo", "--plot", str(tmp_path / "d.png"), "--radius", *(r[0] for r in rows)]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    for row in rows:
        match = next(p for p in printed if p and p[0] == row[0])
        assert [float(v) for v in match] == pytest.approx([float(v) for v in row], rel=1e-5)
