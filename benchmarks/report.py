"""Rows, and their evaluation: tables, exponents, JSON, and comparisons with an earlier run."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import log
from pathlib import Path
from typing import final

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import recurjac as rj

ROOT = Path(__file__).resolve().parents[1]


@final
@dataclass(frozen=True)
class Row:
    """One measurement, flat.  Seconds are medians unless called best; one unit is one 800×800 float64 product.

    calls: of torch operations.  floor_seconds: `multiply_adds` at the unit's rate; over_floor: seconds divided by that.
    peak_mib, before_mib: resident memory of a separate process, its peak during the job and its value just before;
    None if this is not measured.
    """

    table: str
    variable: str
    value: float
    network: str
    outputs: int
    radius: float
    batch: int
    threads: int
    method: str
    arithmetic: str
    unstable: float
    neurons: int
    seconds: float
    best_seconds: float
    unit_seconds: float
    units: float
    best_units: float
    multiply_adds: int
    calls: int | None
    floor_seconds: float
    over_floor: float
    before_mib: float | None
    peak_mib: float | None

    @property
    def key(self) -> tuple[str | float, ...]:
        """The identity of the measurement, the same in another run."""
        return (
            self.table, self.variable, self.value, self.network, self.outputs, self.batch, self.threads, self.method,
            self.arithmetic,
        )  # fmt: skip


@final
@dataclass(frozen=True)
class Growth:
    """seconds ~ variable^exponent, by a least-squares fit of the logarithms of units, over `points` values."""

    variable: str
    method: str
    arithmetic: str
    exponent: float
    last: float
    points: int


@final
@dataclass(frozen=True)
class Report:
    """A whole run.  commit: of the working tree, with -dirty if it has changes; None if git does not report it."""

    recurjac: str
    torch: str
    numpy: str
    commit: str | None
    quick: bool
    threads: int
    unit_seconds: float
    numpy_unit_seconds: float
    growth: tuple[Growth, ...]
    rows: tuple[Row, ...]


def report(rows: Sequence[Row], quick: bool, threads: int, numpy_unit_seconds: float) -> Report:
    """The rows with their origin."""
    unit = float(np.median([r.unit_seconds for r in rows if r.threads == threads]))
    return Report(
        rj.__version__, torch.__version__, np.__version__, commit(), quick, threads, unit, numpy_unit_seconds,
        tuple(growth(rows)), tuple(rows),
    )  # fmt: skip


def commit() -> str | None:
    """The commit of the working tree, with -dirty if it has changes; None if git does not report it."""
    git = shutil.which("git")
    if git is None:
        return None
    words = [git, "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603  (our own command)
    return done.stdout.strip() if done.returncode == 0 else None


def growth(rows: Iterable[Row]) -> list[Growth]:
    """The exponent of every curve in the growth table."""
    curves: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.table == "growth":
            curves.setdefault((row.variable, row.method, row.arithmetic), []).append(row)
    return [
        Growth(*name, exponent(curve), exponent(curve[-2:]), len(curve))
        for name, curve in curves.items()
        if len(curve) > 1
    ]


def exponent(curve: Sequence[Row]) -> float:
    """The least-squares slope of log units against log value."""
    slope, _ = np.polyfit([log(r.value) for r in curve], [log(r.units) for r in curve], 1)
    return float(slope)


def write(path: Path, run: Report) -> None:
    """Write a run as JSON; folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(run), indent=1) + "\n", encoding="utf-8")


def read_rows(path: Path) -> list[Row]:
    """The rows of a run from its file; missing fields are None, unknown fields are ignored."""
    names = [f.name for f in fields(Row)]
    found = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return [Row(**{name: record.get(name) for name in names}) for record in found]


def show(console: Console, rows: Sequence[Row]) -> None:
    """Print one table; values that all of its rows share are in its title."""
    variable = rows[0].variable
    told = {
        "network": [r.network for r in rows],
        "outputs": [str(r.outputs) for r in rows],
        "batch": [str(r.batch) for r in rows],
        "threads": [str(r.threads) for r in rows],
        "radius": [f"{r.radius:.3g}" for r in rows],
        "unstable": [f"{r.unstable:.0f}/{r.neurons}" for r in rows],
    }
    told.pop(variable, None)
    shared = [f"{name} {values[0]}" for name, values in told.items() if len(set(values)) == 1]
    columns = {variable: [f"{r.value:g}" for r in rows]}
    columns |= {name: values for name, values in told.items() if len(set(values)) > 1}
    columns["method"] = [f"{r.method}, {r.arithmetic}" for r in rows]
    columns["ms"] = [f"{1000 * r.seconds:.2f}" for r in rows]
    columns["units"] = [f"{r.units:.3g}" for r in rows]
    columns["best"] = [f"{r.best_units:.3g}" for r in rows]
    columns["calls"] = ["" if r.calls is None else str(r.calls) for r in rows]
    columns["floor ms"] = [f"{1000 * r.floor_seconds:.2f}" for r in rows]
    columns["× floor"] = [f"{r.over_floor:.1f}" for r in rows]
    if any(r.peak_mib is not None for r in rows):
        columns["peak MiB"] = [_mib(r.peak_mib) for r in rows]
        columns["before MiB"] = [_mib(r.before_mib) for r in rows]
    _print(console, f"{rows[0].table}, against {variable}: {', '.join(shared)}", columns)


def _mib(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _print(console: Console, title: str, columns: Mapping[str, Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, collapse_padding=True)
    for name in columns:
        table.add_column(name, justify="left" if name in _WORDS else "right")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    console.print(table)


_WORDS = {"network", "method", "table", "size", "at"}
"""The columns that contain words, not numbers."""


def show_growth(console: Console, found: Sequence[Growth]) -> None:
    """Print the exponents."""
    columns = {
        "size": [g.variable for g in found],
        "method": [f"{g.method}, {g.arithmetic}" for g in found],
        "exponent": [f"{g.exponent:.2f}" for g in found],
        "of the last two": [f"{g.last:.2f}" for g in found],
        "points": [str(g.points) for g in found],
    }
    _print(console, "growth: seconds ~ size^exponent", columns)


def show_comparison(console: Console, new: Sequence[Row], old: Sequence[Row]) -> None:
    """Print new / old for each row in both runs: units, seconds, multiply-adds, calls and peak memory."""
    before = {r.key: r for r in old}
    both = [(r, before[r.key]) for r in new if r.key in before]
    columns = {
        "table": [a.table.split(",")[0] for a, _ in both],
        "outputs": [str(a.outputs) for a, _ in both],
        "method": [f"{a.method}, {a.arithmetic}" for a, _ in both],
        "at": [_at(a) for a, _ in both],
        "units": [_ratio(a.units, b.units) for a, b in both],
        "best": [_ratio(a.best_units, b.best_units) for a, b in both],
        "seconds": [_ratio(a.seconds, b.seconds) for a, b in both],
        "mult.": [_ratio(a.multiply_adds, b.multiply_adds) for a, b in both],
        "calls": [_ratio(a.calls, b.calls) for a, b in both],
        "peak": [_ratio(a.peak_mib, b.peak_mib) for a, b in both],
    }
    _print(console, "new / old", columns)
    if both:
        logs = [log(a.units / b.units) for a, b in both]
        console.print(f"Geometric mean of units, new / old: {float(np.exp(np.mean(logs))):.3f} over {len(both)} rows.")
    if len(both) < len(new):
        console.print(f"{len(new) - len(both)} of {len(new)} rows are not in the old run.")


def _at(row: Row) -> str:
    more = "" if row.variable == "radius" else f", radius {row.radius:.3g}"
    return f"{row.variable} {row.value:g}{more}"


def _ratio(new: float | None, old: float | None) -> str:
    return "" if not new or not old else f"{new / old:.2f}"
