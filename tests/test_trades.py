"""The scripts in examples/ do what they say, run as a user runs them, from a fresh seed."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.slow


def output(name: str, *, seed: int | None = None) -> list[str]:
    """The lines that an example prints; the seed, a new one by default, is part of a failure's command."""
    drawn = random.SystemRandom().randrange(10**6) if seed is None else seed
    command = [sys.executable, str(HERE / name), "--seed", str(drawn)]
    done = subprocess.run(command, text=True, capture_output=True, check=True, timeout=600)  # noqa: S603
    return done.stdout.splitlines()


def numbers(line: str) -> list[float]:
    return [float(word) for word in line.split() if word.replace(".", "").replace("-", "").isdigit()]


def test_robustness() -> None:
    pytest.importorskip("sklearn")
    lines = output("robustness.py")
    radii = [numbers(line)[2:] for line in lines[1:21]]
    assert all(certified <= attacked for certified, attacked in (r for r in radii if len(r) == 2))
    assert sum(r[0] > 0.02 for r in radii) >= 8
    assert lines[-1] == "rounding covered: True"


def test_control() -> None:
    lines = output("control.py")
    for line in lines[2:4]:
        _, attained, certified, loop_attained, loop_certified = numbers(line)
        assert attained <= certified <= 1.1 * attained
        assert loop_attained <= loop_certified <= 2 * loop_attained
    assert lines[-1] == "rounding covered: True"


def test_audit() -> None:
    lines = output("audit.py")
    second = next(k for k, line in enumerate(lines) if line.startswith("with weights"))
    assert any("violated" in line for line in lines[:second])
    assert lines[second + 1 :] == [
        "  the score is increasing in income; wanted: increasing",
        "  the score is decreasing in debt; wanted: decreasing",
    ]
    assert all("covered: True" in line for line in lines if "covered" in line)


def test_pinn() -> None:
    lines = output("pinn.py")
    (sampled_least, sampled_most), (least, most) = (numbers(line)[-2:] for line in lines[1:3])
    assert least <= sampled_least <= sampled_most <= most
    assert most - least <= 3 * (sampled_most - sampled_least)
