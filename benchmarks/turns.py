"""Speed of this checkout against another one, by turns: `python -m benchmarks.turns OTHER`.

Both do the same jobs of `benchmarks.run`, each in a process of its own, burst by burst, so that what slows down the
machine for a while slows down both.  See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.report import ROOT
from benchmarks.run import ONNX, REFERENCE
from benchmarks.tables import TABLES

_WORKER = Path(__file__).with_name("turns_worker.py")
_BURST = 0.08
"""The seconds of a burst, about."""


@final
@dataclass(frozen=True)
class Side:
    """The process of one checkout."""

    process: subprocess.Popen[str]
    jobs: int

    @classmethod
    def started(cls, checkout: Path, tables: Sequence[str]) -> Side:
        """Raises OSError if the jobs of the checkout cannot be made."""
        path = os.pathsep.join([str(checkout / "src"), str(checkout)])
        process = subprocess.Popen(  # noqa: S603  (our own file, by this Python)
            [sys.executable, str(_WORKER), str(REFERENCE), str(ONNX), *tables],
            cwd=checkout, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return cls(process, int(_line(process, checkout)))

    def ask(self, *words: object) -> str:
        if self.process.stdin is None:
            raise OSError("the process has no input")
        print(*words, file=self.process.stdin, flush=True)
        return _line(self.process, words[0])

    def seconds(self, job: int, runs: int) -> float:
        """The median of some runs of a job."""
        return float(self.ask("run", job, runs))


def _line(process: subprocess.Popen[str], what: object) -> str:
    line = "" if process.stdout is None else process.stdout.readline()
    if not line:
        raise OSError(f"the process has ended without an answer to {what}; its error is above")
    return line.strip()


@final
@dataclass(frozen=True)
class Duel:
    """The times of a job here, divided by those of the other checkout in the neighbouring burst; sorted."""

    name: str
    other: float
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, _, high = statistics.quantiles(self.ratios, n=4)
        return low, high


def duel(here: Side, other: Side, job: int, bursts: int) -> Duel:
    """Measure one job; which checkout comes first alternates.  Raises ValueError if the two jobs differ."""
    name, theirs = here.ask("name", job), other.ask("name", job)
    if name != theirs:
        raise ValueError(f"job {job} is {name!r} here and {theirs!r} there; choose tables that both have by --only")
    once = other.seconds(job, 3)
    runs = max(3, min(40, int(_BURST / once)))
    ratios, seconds = [], []
    for burst in range(bursts):
        order = (here, other) if burst % 2 else (other, here)
        found = {id(side): side.seconds(job, runs) for side in order}
        ratios.append(found[id(here)] / found[id(other)])
        seconds.append(found[id(other)])
    return Duel(name, statistics.median(seconds), tuple(sorted(ratios)))


def show(console: Console, found: Sequence[Duel]) -> None:
    """Print the ratios."""
    grid = Table(title="seconds here / there, median and quartiles", title_justify="left", box=SIMPLE_HEAD)
    for name in ("job", "there, ms", "ratio", "quartiles"):
        grid.add_column(name, justify="left" if name == "job" else "right")
    for d in found:
        low, high = d.quartiles
        grid.add_row(d.name, f"{d.other * 1e3:.2f}", f"{d.ratio:.3f}", f"{low:.3f} to {high:.3f}")
    console.print(grid)
    ratios = [d.ratio for d in found]
    console.print(
        f"{len(ratios)} jobs: {min(ratios):.3f} to {max(ratios):.3f}, geometric mean "
        f"{statistics.geometric_mean(ratios):.3f}"
    )


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.turns",
        description="Time the jobs of `benchmarks.run --quick` here against another checkout, burst by burst.",
    )
    parser.add_argument("other", type=Path, help="the other checkout, such as a git worktree of an earlier commit")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=["reference", "growth", "wide"], metavar="TABLE")
    parser.add_argument("--bursts", type=int, default=21, help="for each job and checkout (21)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    asked = options(argv)
    console = Console() if sys.stdout.isatty() else Console(width=140)
    if asked.bursts < 2:
        sys.exit(f"--bursts {asked.bursts} is too few for quartiles; give 2 or more")
    try:
        here, other = (Side.started(path.resolve(), asked.only) for path in (ROOT, asked.other))
        if here.jobs != other.jobs:
            sys.exit(f"{here.jobs} jobs here, {other.jobs} there; choose tables that are the same by --only")
        found = []
        for job in range(here.jobs):
            with console.status(f"job {job + 1} of {here.jobs}"):
                found.append(duel(here, other, job, asked.bursts))
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    show(console, found)


if __name__ == "__main__":
    main()
