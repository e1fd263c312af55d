"""`make tightness`: how far the default's constants are from what is attained: `python -m benchmarks.tightness`.

For each question, the upper bound after a number of seconds, the attained lower bound, and the figures that were asked
for and that others reach.  See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from math import exp, inf, isfinite, log
from pathlib import Path
from typing import final

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import recurjac as rj
from benchmarks.report import ROOT, commit
from benchmarks.tightness_cases import ASKED_AT, Question, questions

SHARED = ROOT.parent / "shared"
_QUICK = 3.0
"""The seconds for each question in a quick run."""


@final
@dataclass(frozen=True)
class Found:
    """The answer to a question after a limit in seconds: certified `upper`, attained `lower`, how it was found."""

    table: str
    network: str
    radius: float
    ball: float
    p: float
    q: float
    limit: float
    upper: float
    lower: float
    seconds: float
    status: str
    rigorous: bool
    asked: float | None
    opponent: float | None
    by: str
    note: str
    steps: str

    @property
    def key(self) -> tuple[str | float, ...]:
        """The identity of the question and the limit, the same in another run."""
        return self.table, self.network, self.radius, self.ball, self.p, self.q, self.limit

    @property
    def ratio(self) -> float:
        """The upper bound divided by what is attained."""
        return self.upper / self.lower if self.lower > 0 else inf


def answer(question: Question, limit: float) -> Found:
    """Bound one constant by the default within a limit of seconds."""
    problem = question.problem()
    ball, p, q = question.norms
    began = time.perf_counter()
    found = rj.lipschitz(problem, p=p, q=q, method=rj.Auto(limit))
    seconds = time.perf_counter() - began
    asked = dict(zip(ASKED_AT, question.asked or (), strict=False)).get(limit)
    return Found(
        question.table, question.network, question.radius, ball, p, q, limit, float(found.upper), float(found.lower),
        seconds, found.status, found.rigorous, asked, question.opponent, question.by, found.note,
        "; ".join(found.steps),
    )  # fmt: skip


def show(console: Console, rows: Sequence[Found]) -> None:
    """Print one table."""
    names = ("network", "radius", "s", "attained", "certified", "ratio", "asked", "others", "took", "how")
    grid = Table(title=rows[0].table, title_justify="left", box=SIMPLE_HEAD, padding=0, collapse_padding=True)
    for name in names:
        grid.add_column(name, justify="left" if name in ("network", "how") else "right")
    for r in rows:
        how = r.note.split(";")[0]
        others = "" if r.opponent is None else f"{r.opponent:.6g} {r.by}"
        grid.add_row(
            r.network, f"{r.radius:g}", f"{r.limit:g}", f"{r.lower:.6g}", f"{r.upper:.6g}", f"{r.ratio:.3g}",
            "" if r.asked is None else f"{r.asked:g}", others, f"{r.seconds:.1f}", f"{how}, {r.status}",
        )  # fmt: skip
    console.print(grid)


def compare(console: Console, new: Sequence[Found], old: Sequence[Found]) -> None:
    """Print new / old of the upper bounds, for each question in both runs."""
    before = {r.key: r for r in old}
    both = [(r, before[r.key]) for r in new if r.key in before]
    grid = Table(title="certified, new / old", title_justify="left", box=SIMPLE_HEAD, padding=0, collapse_padding=True)
    for name in ("network", "radius", "s", "old", "new", "new / old"):
        grid.add_column(name, justify="left" if name == "network" else "right")
    for a, b in both:
        grid.add_row(a.network, f"{a.radius:g}", f"{a.limit:g}", f"{b.upper:.6g}", f"{a.upper:.6g}",
                     f"{a.upper / b.upper:.3f}")  # fmt: skip
    console.print(grid)
    logs = [log(a.upper / b.upper) for a, b in both if isfinite(a.upper) and isfinite(b.upper)]
    if logs:
        console.print(f"Geometric mean, new / old: {exp(sum(logs) / len(logs)):.3f} over {len(logs)} questions.")
    if len(both) < len(new):
        console.print(f"{len(new) - len(both)} of {len(new)} questions are not in the old run.")


def write(path: Path, rows: Sequence[Found], limits: Sequence[float]) -> None:
    """Write a run as JSON; folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    run = {
        "recurjac": rj.__version__, "torch": torch.__version__, "commit": commit(), "seconds": list(limits),
        "threads": torch.get_num_threads(), "rows": [asdict(r) for r in rows],
    }  # fmt: skip
    path.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> list[Found]:
    """The rows of a run from its file."""
    names = [f.name for f in fields(Found)]
    return [Found(**{n: row.get(n) for n in names}) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tightness",
        description="Certified and attained Lipschitz constants by the default, on one thread, beside other figures.",
    )
    parser.add_argument("--quick", action="store_true", help=f"few questions, {_QUICK:g} s each: under two minutes")
    parser.add_argument("--seconds", type=float, nargs="+", default=None, metavar="S",
                        help="the limits for each question (10 120)")  # fmt: skip
    parser.add_argument(
        "--only", nargs="+", metavar="TEXT", help="only questions whose table or network has one of these"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the run as JSON, for comparison with another")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="print new / old for each question of a run")
    parser.add_argument("--shared", type=Path, default=SHARED, metavar="FOLDER",
                        help="where the networks and images are, by default next to the project; without them, "
                        "only random networks are measured")  # fmt: skip
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write the requested file."""
    asked = options(argv)
    console = Console() if sys.stdout.isatty() else Console(width=170)
    try:
        old = None if asked.compare is None else read(asked.compare)
    except OSError as error:
        sys.exit(str(error))
    limits = tuple(asked.seconds or ((_QUICK,) if asked.quick else ASKED_AT))
    torch.set_num_threads(1)
    chosen = [
        question
        for question in questions(asked.shared)
        if (question.quick or not asked.quick)
        and (asked.only is None or any(t in f"{question.table} {question.network}" for t in asked.only))
    ]
    rows: list[Found] = []
    for _, group in groupby(chosen, lambda question: question.table):
        found = []
        for question in group:
            for limit in limits:
                with console.status(f"{question.network}, radius {question.radius:g}, {limit:g} s"):
                    found.append(answer(question, limit))
        show(console, found)
        rows += found
    if asked.json is not None:
        write(asked.json, rows, limits)
    if old is not None:
        compare(console, rows, old)


if __name__ == "__main__":
    main()
