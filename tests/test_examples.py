"""The examples run as a user runs them, and what they show is so, with a seed for which they were not tuned."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "examples" / "training"
SEED = "7"


def rows(name: str) -> list[list[str]]:
    """The words of the two rows that an example prints below its head."""
    run = [sys.executable, str(ROOT / f"{name}.py"), "--seed", SEED]
    done = subprocess.run(run, text=True, capture_output=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    found = [re.split(r" {2,}", line.strip()) for line in done.stdout.splitlines()[1:]]
    assert len(found) == 2
    return found


def test_every_example_is_run() -> None:
    assert {p.stem for p in ROOT.glob("*.py")} == {
        name.removeprefix("test_") for name in globals() if (ROOT / f"{name.removeprefix('test_')}.py").exists()
    }


@pytest.mark.slow
def test_certified_classifier() -> None:
    """Radii double, at most one percentage point of accuracy is lost, and a step costs at most five times as much."""
    (_, kept, least, cheap, _), (_, accuracy, radius, dear, covered) = rows("certified_classifier")
    assert covered == "rounding covered: True"
    assert float(radius) >= 2 * float(least)
    assert float(accuracy) >= float(kept) - 0.01
    assert float(dear) <= 5 * float(cheap)


@pytest.mark.slow
def test_monotone_regressor() -> None:
    (_, _, *before, _), (_, _, *after, covered) = rows("monotone_regressor")
    assert after == ["increasing", "decreasing"]
    assert before != after
    assert covered == "rounding covered: True"


@pytest.mark.slow
def test_contraction_policy() -> None:
    (_, cost, before, _), (_, penalised, after, covered) = rows("contraction_policy")
    assert float(after) < 1 < float(before)
    assert float(penalised) < 1.2 * float(cost)
    assert covered == "rounding covered: True"
