"""`make matrix`: the fast tests on every supported interpreter that is installed, with the oldest and newest PyTorch.

Each pair gets an environment of its own below `.matrix/`, which is kept, so that a second run starts at once.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INTERPRETERS = ("python3.11", "python3.12", "python3.13", "python3.14")


@dataclass(frozen=True)
class Pair:
    """An interpreter, and what pip is told about PyTorch."""

    interpreter: str
    torch: str

    @property
    def folder(self) -> Path:
        return ROOT / ".matrix" / f"{self.interpreter}-{self.torch.strip('=<>~') or 'newest'}"


def floor() -> str:
    """The lowest PyTorch that `pyproject.toml` allows, as a requirement."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (stated,) = [d for d in project["dependencies"] if d.startswith("torch>=")]
    return f"=={stated.removeprefix('torch>=')}.*"


def pairs(torches: Sequence[str]) -> Iterator[Pair]:
    """Every installed interpreter with every PyTorch; the missing interpreters are printed."""
    for interpreter in INTERPRETERS:
        if shutil.which(interpreter) is None:
            print(f"{interpreter}: not installed, left out")
            continue
        yield from (Pair(interpreter, torch) for torch in torches)


def tested(pair: Pair, what: Sequence[str]) -> bool:
    """Whether the tests pass there."""
    python = pair.folder / "bin" / "python"
    print(f"{pair.interpreter}, torch{pair.torch or ' (newest)'}: {pair.folder.relative_to(ROOT)}", flush=True)
    if not python.exists():
        _run([pair.interpreter, "-m", "venv", str(pair.folder)])
    installed = _run([str(python), "-m", "pip", "install", "--quiet", f"torch{pair.torch}", "--editable", ".[test]"])
    return installed and _run([str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *what])


def _run(command: Sequence[str]) -> bool:
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode == 0  # noqa: S603


def main(argv: Sequence[str] | None = None) -> int:
    """Test all pairs; 1 if one fails or none is there."""
    parser = argparse.ArgumentParser(prog="python -m scripts.matrix", description=__doc__)
    parser.add_argument("--torch", nargs="+", metavar="REQ", default=[floor(), ""],
                        help="versions of PyTorch, such as ==2.13.0; by default the floor and the newest")  # fmt: skip
    parser.add_argument(
        "tests", nargs="*", default=["-n", "2", "-m", "not slow"], help="arguments for pytest, after --"
    )
    asked = parser.parse_args(argv)
    results = {pair: tested(pair, asked.tests) for pair in pairs(asked.torch)}
    for pair, passed in results.items():
        print(f"{'passed' if passed else 'FAILED'}: {pair.interpreter}, torch{pair.torch or ' (newest)'}")
    return 0 if results and all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
