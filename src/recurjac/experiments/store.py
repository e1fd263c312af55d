"""The folder of an experiment: finished tasks in an append-only file, and a manifest of what they depend on."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from recurjac.errors import InvalidRequest, UnsoundBounds
from recurjac.experiments.study import Row, Scalar
from recurjac.loading.decimals import short
from recurjac.version import __version__

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_SPECIAL = {"inf": math.inf, "-inf": -math.inf}
_NAMES = {value: name for name, value in _SPECIAL.items()}


@final
@dataclass(frozen=True)
class Done:
    """A finished task: its rows, and the seconds that it took."""

    rows: list[Row]
    seconds: float


@final
@dataclass(frozen=True)
class Store:
    """`folder/rows.jsonl`, one line for each finished task, and `folder/manifest.json`.

    A killed process leaves complete lines and at most one incomplete last line, which `resume` drops.
    """

    folder: Path

    @property
    def rows(self) -> Path:
        return self.folder / "rows.jsonl"

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.json"

    def resume(self, identity: Mapping[str, Any], fresh: bool) -> dict[str, Done]:
        """The finished tasks by name; none with `fresh` or in a new folder.  Writes the manifest.

        Raises InvalidRequest if the folder contains results with another identity, or lines in another format.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        now = json.loads(json.dumps({**identity, "versions": versions()}))
        if fresh:
            self.rows.unlink(missing_ok=True)
        elif self.rows.exists():
            self._check(now)
        done = dict(self._lines()) if self.rows.exists() else {}
        write_atomically(self.manifest, json.dumps(now, indent=2, allow_nan=False) + "\n")
        return done

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes out of the folder in the meantime; the lock ends with the process, however that ends.

        Raises InvalidRequest if another process holds the lock.  On systems without `flock`, nothing is locked.
        """
        if fcntl is None:
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InvalidRequest(
                    f"another run is writing to {self.folder}; wait until it ends, or give another --out"
                ) from error
            yield

    def append(self, task: str, done: Done) -> None:
        """Add a finished task; once this returns, it survives the end of the process and a loss of power.

        Raises UnsoundBounds for NaN, which is never a result.
        """
        rows = [{key: _encoded(value) for key, value in row.items()} for row in done.rows]
        line = json.dumps({"task": task, "seconds": done.seconds, "rows": rows}, allow_nan=False) + "\n"
        new = not self.rows.exists()
        with self.rows.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        if new:
            _sync_folder(self.folder)

    def _check(self, now: Mapping[str, Any]) -> None:
        remedy = "continue with the same, or give --fresh to restart or another --out"
        try:
            before = json.loads(self.manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidRequest(f"{self.folder} holds results without a readable manifest.json; {remedy}") from error
        for name, was, is_ in _differences(before, now):
            what = short(" ".join(name.split()))
            raise InvalidRequest(
                f"{self.folder} holds results with {what} {short(was)}, but now it is {short(is_)}; {remedy}"
            )

    def _lines(self) -> Iterator[tuple[str, Done]]:
        """All complete lines; an incomplete last line is cut off the file."""
        content, end = self.rows.read_bytes(), 0
        for number, line in enumerate(content.splitlines(keepends=True), 1):
            try:
                read = json.loads(line)
                rows = [{key: _decoded(value) for key, value in row.items()} for row in read["rows"]]
                task, seconds = str(read["task"]), float(read["seconds"])
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
                if line.endswith(b"\n"):
                    raise InvalidRequest(
                        f"line {number} of {self.rows} is not a finished task; give --fresh to restart or another --out"
                    ) from error
                break
            if not line.endswith(b"\n"):
                break
            end += len(line)
            yield task, Done(rows, seconds)
        if end < len(content):
            os.truncate(self.rows, end)


def versions() -> dict[str, str]:
    """The versions of the software that results may depend on."""
    return {
        "recurjac": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def write_atomically(path: Path, text: str) -> None:
    """Write a file atomically: it exists completely or not at all."""
    beside = path.with_name(path.name + ".part")
    with beside.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _sync_folder(folder: Path) -> None:
    """Make the names of new files in `folder` survive a loss of power, if the system supports it."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _encoded(value: Scalar) -> Scalar:
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value):
            raise UnsoundBounds("a task has given NaN, which bounds nothing; please report this, with the command")
        return _NAMES[value]
    return value


def _decoded(value: Scalar) -> Scalar:
    return _SPECIAL.get(value, value) if isinstance(value, str) else value


def _differences(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, str, str]]:
    """The places where two JSON values differ: the path and both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield name, json.dumps(before), json.dumps(now)
