"""Settings of methods that are no numbers of the right kind are refused when the object is made, whatever class it is.

Classes and their settings are found, not listed: a new class is tested, and so is a new setting of a class.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.settings import classes, name_of, numbers

SETTINGS = sorted(name_of(name, setting) for name, kind in classes().items() for setting, _ in numbers(kind))


@pytest.fixture(scope="module")
def faults() -> dict[str, list[str]]:
    """For each setting what is not refused in the usual way; in a process in which nothing else checks types."""
    command = [sys.executable, "-m", "tests.settings"]
    here = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=here)  # noqa: S603
    tried = (line.split(" | ") for line in done.stdout.splitlines())
    return {setting: wrong for setting, *wrong in tried}


@pytest.mark.parametrize("setting", SETTINGS)
def test_wrong_numbers_are_refused(setting: str, faults: dict[str, list[str]]) -> None:
    assert faults[setting] == []


def test_settings_of_all_kinds_of_classes_are_found() -> None:
    names = {"QuadraticNorm.steps", "XLinear.steps", "SecantRanges.steps", "PatternSum.most", "SecantMargin.steps"}
    names |= {"InputBisection.most", "Thresholds.tile", "Rigorous.memory", "BranchStep.most", "Limit.parts"}
    assert names <= set(SETTINGS)
