"""Rows as files: CSV, JSON lines and Parquet."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, final

from recurjac.errors import InvalidRequest, MissingDependency
from recurjac.sweeps.files import encoded, write_atomically, written_atomically
from recurjac.sweeps.work import Row, Scalar


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """A table with a header; numbers are read back exactly, and a cell without a value is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    write_atomically(path, text.getvalue())


def write_json_lines(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """One JSON object a line, with those of the columns that the row has; infinite numbers are "inf" and "-inf"."""
    kept = [{c: row[c] for c in columns if c in row} for row in rows]
    write_atomically(path, "".join(json.dumps(_encoded(row), allow_nan=False) + "\n" for row in kept))


def write_parquet(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """A Parquet file.  Raises MissingDependency without pyarrow (the extra `[sweep]`)."""
    _, parquet = pyarrow()
    made = parquet_table(rows, columns)
    with written_atomically(path) as file:
        parquet.write_table(made, file)


def parquet_table(rows: Sequence[Row], columns: Sequence[str] | None = None) -> Any:
    """The rows as a `pyarrow.Table`; by default with every column that a row has."""
    arrow, _ = pyarrow()
    names = columns_of(rows) if columns is None else columns
    return arrow.table({c: _column(arrow, [row.get(c) for row in rows]) for c in names})


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Every column that a row has, in order of appearance."""
    return list(dict.fromkeys(column for row in rows for column in row))


def pyarrow() -> tuple[Any, Any]:
    """`pyarrow` and `pyarrow.parquet`.  Raises MissingDependency."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependency(
            "Parquet files need pyarrow; pip install '.[sweep]' in a clone, or name a .jsonl or .csv file"
        ) from error
    return pyarrow, pyarrow.parquet


def _column(arrow: Any, cells: Sequence[Scalar]) -> Any:
    """A column; whole numbers become floating-point ones where both occur, and text where text occurs."""
    kinds = {type(c) for c in cells if c is not None}
    if str in kinds and len(kinds) > 1:
        return arrow.array([None if c is None else str(c) for c in cells])
    if kinds == {int, float}:
        return arrow.array([None if c is None else float(c) for c in cells])
    return arrow.array(list(cells))


WRITERS: Mapping[str, Callable[[Path, Sequence[str], Sequence[Row]], None]] = {
    ".csv": write_csv, ".jsonl": write_json_lines, ".parquet": write_parquet,
}  # fmt: skip
"""How a file is written, by its suffix."""


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """The rows in the format of the file's suffix, with every column that a row has, in order of appearance.

    Raises InvalidRequest for another suffix, MissingDependency for Parquet without pyarrow.
    """
    check_suffix("output", path)
    WRITERS[path.suffix.lower()](path, columns_of(rows), rows)


@final
class Growing:
    """A file that gets rows as they are found, and at the end all rows in order.

    A .csv or .jsonl file grows row by row, each on the disk once `add` returns; a .parquet file is written by `end`.
    The columns of a growing .csv file are those of its first rows.
    """

    def __init__(self, path: Path, rows: Sequence[Row]) -> None:
        """Begin with these rows, in place of an earlier file."""
        self.path = path
        self._columns = columns_of(rows)
        if rows or path.suffix.lower() != ".parquet":
            write_rows(path, rows)

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        suffix = self.path.suffix.lower()
        if not rows or suffix == ".parquet":
            return
        if suffix == ".csv" and not self._columns:
            self._columns = columns_of(rows)
            write_csv(self.path, self._columns, rows)
            return
        with self.path.open("a", encoding="utf-8", newline="") as file:
            if suffix == ".csv":
                csv.writer(file, lineterminator="\n").writerows([_cell(r.get(c)) for c in self._columns] for r in rows)
            else:
                file.writelines(json.dumps(_encoded(r), allow_nan=False) + "\n" for r in rows)
            file.flush()
            os.fsync(file.fileno())

    def end(self, rows: Sequence[Row]) -> None:
        """Write all rows, in order and with all columns."""
        write_rows(self.path, rows)


def flat(row: Mapping[str, Any]) -> Row:
    """The row with scalars only: the parts of `provenance` get columns of their own, lists become JSON."""
    cells: Row = {}
    for key, value in row.items():
        if key == "provenance":
            cells |= {k: v for k, v in value.items() if k not in row and isinstance(v, str)}
        elif value is None or isinstance(value, str | int | float):
            cells[key] = value
        else:
            cells[key] = json.dumps(encoded(value), allow_nan=False)
    return cells


def _encoded(row: Row) -> dict[str, Any]:
    return {key: encoded(value) for key, value in row.items()}


def check_suffix(option: str, path: Path) -> None:
    """Raise InvalidRequest unless rows can be written to a file of that name, MissingDependency without pyarrow."""
    if path.suffix.lower() not in WRITERS:
        raise InvalidRequest(f"{option} {path}: the suffix is not known; use {', '.join(WRITERS)}")
    if path.suffix.lower() == ".parquet":
        pyarrow()


def _cell(value: Scalar) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value) if isfinite(value) else ("inf" if value > 0 else "-inf")
    return str(value)
