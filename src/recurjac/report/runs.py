"""Reading the files that commands write with `--json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recurjac.errors import UnreadableFile
from recurjac.loading.decimals import read_text, short
from recurjac.report.commands import COMMANDS, Command, Row
from recurjac.report.markup import Markup, folded
from recurjac.report.meaning import meaning
from recurjac.report.section import Rounding, Section, notes
from recurjac.report.tables import Table, facts

_REMEDY = "give a file that a command wrote with --json"


def read_run(path: Path) -> Section:
    """The section of a JSON file.  Raises UnreadableFile for a file that no command wrote."""
    run = _checked(path, read_json(path))
    command, rows = COMMANDS[run["command"]], run["results"]
    table = _table(path, command, rows)
    rounding = _rounding(path, rows) if command.bounds else None
    texts = [r["note"] for r in rows if isinstance(r.get("note"), str) and r["note"]]
    shown = [table.markup(), notes(texts), *_figures(path, command, rows), folded("Settings", _settings(run))]
    seconds = f"{sum(float(r['seconds']) for r in rows):.2f}" if command.bounds else ""
    return Section(
        title=f"{command.title}{_norms(rows)}", source=str(path),
        network=run["model"].get("path") or ("bundled digits" if run["command"] == "demo" else ""),
        digest=run["model"].get("sha256") or "", version=run["recurjac"], when="", seconds=seconds, rounding=rounding,
        parts=tuple(shown),
    )  # fmt: skip


def read_json(path: Path) -> Any:
    """The content of a JSON file.  Raises UnreadableFile for other files."""
    try:
        return json.loads(read_text(path), parse_constant=_refuse)
    except ValueError as error:
        raise UnreadableFile(f"{path} is not a JSON file: {str(error).rstrip('.')}; {_REMEDY}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not valid JSON")


def _checked(path: Path, run: Any) -> dict[str, Any]:
    """`run` as a report in the JSON format of the command line."""
    parts = {"recurjac": str, "command": str, "model": dict, "settings": dict, "results": list}
    if not isinstance(run, dict):
        raise UnreadableFile(f"{path} is not a result of recurjac: it is not a JSON object; {_REMEDY}")
    for key, kind in parts.items():
        if not isinstance(run.get(key), kind):
            raise UnreadableFile(f"{path} is not a result of recurjac: it has no {key!r}; {_REMEDY}")
    if run["command"] not in COMMANDS:
        raise UnreadableFile(
            f"{path} is from the command {short(run['command'])!r}, which has no report; {_REMEDY}, "
            f"one of {', '.join(COMMANDS)}"
        )
    for key in ("path", "sha256"):
        if not isinstance(run["model"].get(key), str | None):
            raise UnreadableFile(f"{path} is not a result of recurjac: the model's {key!r} is not a string; {_REMEDY}")
    for i, row in enumerate(run["results"]):
        if not isinstance(row, dict):
            raise UnreadableFile(f"{path} is not a result of recurjac: result {i} is not a JSON object; {_REMEDY}")
    return run


def _table(path: Path, command: Command, rows: Sequence[Row]) -> Table:
    """The table of all rows; keys that no row has, and a method that the caption names, get no column."""
    caption = command.title + _method(rows)
    lines = [_line(path, i, command, row) for i, row in enumerate(rows)]
    kept = [
        i
        for i, column in enumerate(command.columns)
        if not rows or (any(line[i] for line in lines) and not (column.key == "method" and _method(rows)))
    ]
    titles, numeric = [c.title for c in command.columns], [c.numeric for c in command.columns]
    return Table(
        caption, tuple(titles[i] for i in kept), tuple(numeric[i] for i in kept),
        tuple(tuple(line[i] for i in kept) for line in lines),
    )  # fmt: skip


def _line(path: Path, i: int, command: Command, row: Row) -> tuple[str, ...]:
    shown = []
    for column in command.columns:
        if column.key not in row:
            raise UnreadableFile(f"{path} is not a result of recurjac: result {i} has no {column.key!r}; {_REMEDY}")
        try:
            shown.append(column.cell(row[column.key]))
        except ValueError as error:
            raise UnreadableFile(f"{path}: {column.key!r} of result {i} {error}; {_REMEDY}") from error
    return tuple(shown)


def _figures(path: Path, command: Command, rows: Sequence[Row]) -> list[Markup]:
    try:
        return [f for f in command.figures(rows) if f is not None] if rows and command.figures else []
    except ValueError as error:
        raise UnreadableFile(f"{path}: {error}; {_REMEDY}") from error


def _rounding(path: Path, rows: Sequence[Row]) -> Rounding:
    for i, row in enumerate(rows):
        if not isinstance(row.get("rigorous"), bool) or not isinstance(row.get("reason", ""), str):
            raise UnreadableFile(f"{path}: result {i} does not say whether rounding is covered; {_REMEDY}")
    if not rows:
        return Rounding(None)
    reasons = sorted({r["reason"] for r in rows if not r["rigorous"] and r.get("reason")})
    return Rounding(all(r["rigorous"] for r in rows), tuple(reasons), meaning(rows))


def _norms(rows: Sequence[Row]) -> str:
    """The norms of the rows, if all rows have the same."""
    of = [{str(r[key]) for r in rows if key in r} for key in ("norm", "output_norm")]
    named = ["l" + next(iter(s)).replace("inf", "∞").removesuffix(".0") for s in of if len(s) == 1]
    return f", {' → '.join(named)}" if named else ""


def _method(rows: Sequence[Row]) -> str:
    methods = {str(r["method"]) for r in rows if r.get("method")}
    return f" by {next(iter(methods))}" if len(methods) == 1 else ""


def _settings(run: Mapping[str, Any]) -> Markup:
    given = [(key, _words(value)) for key, value in run["settings"].items() if value is not None]
    return facts([("command", run["command"]), *given])


def _words(value: Any) -> str:
    """A setting as it is typed on the command line."""
    if isinstance(value, list):
        return " ".join(_words(v) for v in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """All entries of a JSON value, under dotted names."""
    if isinstance(value, dict) and value:
        return [pair for k, v in value.items() for pair in flat(v, f"{name}.{k}" if name else str(k))]
    if isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        return [pair for i, v in enumerate(value) for pair in flat(v, f"{name}.{i}")]
    return [(name, _words(value) if value not in ({}, [], None) else "–")]
