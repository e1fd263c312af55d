"""The output of commands: tables to stdout, JSON, and progress and remarks to stderr."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from recurjac.provenance import AbstractResult, plain
from recurjac.report.meaning import meaning
from recurjac.report.numbers import show as show
from recurjac.report.numbers import show_lower as show_lower
from recurjac.report.numbers import show_upper as show_upper
from recurjac.version import __version__

T = TypeVar("T")
Row = dict[str, Any]
"""One result, with the keys of the JSON format."""


def stderr() -> Console:
    return Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout; its width is limited by the terminal, or by `_WIDE` elsewhere."""
    width = None if Console().is_terminal else _WIDE
    console = Console(highlight=False, markup=False, emoji=False, width=width)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        grid.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        grid.add_row(*row)
    console.print(title, style="italic", soft_wrap=True)  # the title of a Table is wrapped at its width
    console.print(grid)


def remarks(rows: Sequence[Row]) -> None:
    """Print what a table does not show: whether rounding is covered, and notes."""
    console = stderr()
    for reason in sorted({r["reason"] for r in rows if not r["rigorous"]}):
        console.print(f"floating-point rounding is not covered: {reason}")
    if all(r["rigorous"] for r in rows):
        console.print(f"rounding is covered: the certified numbers hold {meaning(rows)}")
    for status in sorted({r["status"] for r in rows if r.get("status", "bounded") != "bounded"}):
        console.print(f"the search ended with the status: {status}")
    notes = sorted({r["note"] for r in rows if r.get("note")})
    for note in notes[:_NOTES]:
        console.print(note)
    if len(notes) > _NOTES:
        console.print(f"and {len(notes) - _NOTES} more notes, which --json has")


_NOTES = 3
"""The number of notes that are printed."""
_WIDE = 160
"""The width of a table that is written to a file or a pipe."""


_SELDOM = 30.0
"""The least number of seconds between lines of progress in a file or a pipe."""


class AbstractBar(ABC):
    """Progress that the user sees: steps of a known number, and a remark on the present one."""

    @abstractmethod
    def __call__(self) -> None:
        """One step is done."""

    @abstractmethod
    def say(self, remark: str) -> None:
        """Show a remark, in place of the one before."""


@contextmanager
def progress(quiet: bool, what: str, total: int) -> Iterator[AbstractBar]:
    """A progress bar on stderr, or a line now and then if it is not a terminal."""
    console = stderr()
    if not quiet and not console.is_terminal:
        now = time.monotonic()
        yield _Lines(console, what, total, _Count(now, now))
        return
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[remark]}"), console=console, disable=quiet, transient=True,
    )  # fmt: skip
    with bar:
        yield _Drawn(bar, bar.add_task(what, total=total, remark=""))


@final
@dataclass(frozen=True)
class _Drawn(AbstractBar):
    bar: Progress
    task: TaskID

    def __call__(self) -> None:
        self.bar.update(self.task, advance=1, remark="")

    def say(self, remark: str) -> None:
        self.bar.update(self.task, remark=remark)


@final
@dataclass(frozen=True)
class Silent(AbstractBar):
    """Progress that nobody sees."""

    def __call__(self) -> None:
        """One step is done."""

    def say(self, remark: str) -> None:
        """Show nothing."""


@final
@dataclass
class _Count:
    """The steps done so far, and when the work and the last line began."""

    began: float
    last: float
    done: int = 0


@final
@dataclass(frozen=True)
class _Lines(AbstractBar):
    console: Console
    what: str
    total: int
    count: _Count

    def __call__(self) -> None:
        self.count.done += 1
        self._line("")

    def say(self, remark: str) -> None:
        self._line(f"; {remark}")

    def _line(self, remark: str) -> None:
        now = time.monotonic()
        if now - self.count.last >= _SELDOM:
            seconds = now - self.count.began
            self.console.print(f"{self.what}: {self.count.done} of {self.total} after {seconds:.0f} s{remark}")
            self.count.last = now


def origin(result: AbstractResult) -> Row:
    """What a row says about where its numbers come from."""
    made = result.provenance
    return {"rigorous": made.rigorous, "reason": made.reason, "provenance": plain(made)}


def write_json(args: argparse.Namespace, model: str | None, results: Sequence[Row]) -> None:
    """Write the report in the JSON format, to the file that `--json` names or to stdout."""
    if args.json is None:
        return
    path = None if model is None else Path(model)
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path is not None and path.is_file() else None
    settings = {k: v for k, v in vars(args).items() if k not in ("run", "command", "model", "json", "quiet")}
    report = {
        "recurjac": __version__,
        "command": args.command,
        "model": {"path": model, "sha256": digest},
        "settings": settings,
        "results": list(results),
    }
    text = json.dumps(plain(report), indent=2, allow_nan=False)
    if args.json == "-":
        sys.stdout.write(text + "\n")
    else:
        Path(args.json).write_text(text + "\n", encoding="utf-8")
