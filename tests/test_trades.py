"""The examples do what they say, run as a user runs them, from a fresh seed; notebooks are the scripts, executed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.notebooks import cells

HERE = Path(__file__).parents[1] / "examples"
NAMES = sorted(p.stem for p in HERE.glob("*.py"))
FIGURES = {"control", "gan", "robustness"}


def output(name: str, *, seed: int | None = None) -> list[str]:
    """The lines that an example prints; the seed is a new one by default, and part of a failure."""
    drawn = random.SystemRandom().randrange(10**6) if seed is None else seed
    command, env = [sys.executable, str(HERE / name)], os.environ | {"SEED": str(drawn), "MPLBACKEND": "Agg"}
    done = subprocess.run(command, text=True, capture_output=True, check=False, timeout=600, env=env)  # noqa: S603
    assert done.returncode == 0, (env["SEED"], done.stderr)
    return done.stdout.splitlines()


def numbers(line: str) -> list[float]:
    return [float(word) for word in line.split() if word.replace(".", "").replace("-", "").isdigit()]


@pytest.mark.slow
def test_robustness() -> None:
    pytest.importorskip("sklearn")
    lines = output("robustness.py")
    radii = [numbers(line)[2:] for line in lines[1:21]]
    assert lines[21] == "rounding covered: True"
    assert all(certified <= attacked for certified, attacked in (r for r in radii if len(r) == 2))
    assert sum(r[0] > 0.02 for r in radii) >= 8


@pytest.mark.slow
def test_control() -> None:
    lines = output("control.py")
    for line in lines[2:5]:
        _, attained, certified, loop_attained, loop_certified = numbers(line)
        assert attained <= certified <= 1.1 * attained
        assert loop_attained <= loop_certified <= 2 * loop_attained
    assert lines[-1] == "rounding covered: True"


@pytest.mark.slow
def test_audit() -> None:
    lines = output("audit.py")
    second = next(k for k, line in enumerate(lines) if line.startswith("with weights"))
    assert any("violated" in line for line in lines[:second])
    assert lines[second + 1 : second + 3] == [
        "  the score is increasing in income; wanted: increasing",
        "  the score is decreasing in debt; wanted: decreasing",
    ]
    assert all("covered: True" in line for line in lines if "covered" in line)


@pytest.mark.slow
def test_pinn() -> None:
    lines = output("pinn.py")
    (sampled_least, sampled_most), (least, most) = (numbers(line)[-2:] for line in lines[1:3])
    assert least <= sampled_least <= sampled_most <= most
    assert most - least <= 3 * (sampled_most - sampled_least)


@pytest.mark.slow
def test_gan() -> None:
    """The largest certified norm is near 1 or below, without a loss in what is generated."""
    (_, before, far), (mean, after, near) = (numbers(line) for line in output("gan.py")[1:])
    assert mean <= after <= min(1.2, 0.8 * before)
    assert near < 2 * far


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_the_scripts(name: str) -> None:
    """As `make notebooks` writes them: the cells of the script, all executed, none failed, and the figures shown."""
    notebook = json.loads((HERE / f"{name}.ipynb").read_text(encoding="utf-8"))
    source = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    assert source == [(cell.cell_type, cell.source) for cell in cells(HERE / f"{name}.py").cells]
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [out for cell in code for out in cell["outputs"]]
    assert {out["output_type"] for out in outputs} <= {"stream", "display_data", "execute_result"}
    assert not [out for out in outputs if out.get("name") == "stderr"]
    assert any("image/png" in out.get("data", {}) for out in outputs) == (name in FIGURES)
