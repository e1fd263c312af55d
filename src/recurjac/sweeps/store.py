"""The folder of a sweep: finished tasks in an append-only file, and a manifest of what they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from recurjac.errors import InvalidRequest
from recurjac.loading.decimals import short
from recurjac.sweeps.files import decoded, encoded, sync_folder, write_atomically, written_atomically
from recurjac.sweeps.tables import parquet_table, pyarrow
from recurjac.sweeps.work import Done
from recurjac.version import __version__

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


class AbstractStore(ABC):
    """A folder with the finished tasks of one sweep, and `manifest.json`, which says what they depend on."""

    folder: Path

    @property
    @abstractmethod
    def rows(self) -> Path:
        """The file or the folder of the finished tasks."""

    @abstractmethod
    def finished(self) -> Iterator[tuple[str, Done]]:
        """All tasks that were appended completely.  Raises InvalidRequest for content that no sweep wrote."""

    @abstractmethod
    def append(self, task: str, done: Done) -> None:
        """Add a finished task; once this returns, it survives the end of the process and a loss of power.

        Raises UnsoundBounds for NaN, which is never a result.
        """

    @abstractmethod
    def discard(self) -> None:
        """Remove all finished tasks."""

    @property
    @final
    def manifest(self) -> Path:
        return self.folder / "manifest.json"

    @final
    def resume(self, identity: Mapping[str, Any], fresh: bool) -> dict[str, Done]:
        """The finished tasks by name; none with `fresh` or in a new folder.  Writes the manifest.

        Raises InvalidRequest if the folder contains results with another identity, or lines in another format.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        now = json.loads(json.dumps({**identity, "versions": versions()}))
        if fresh:
            self.discard()
        elif self.rows.exists():
            self._check(now)
        done = dict(self.finished()) if self.rows.exists() else {}
        write_atomically(self.manifest, json.dumps(now, indent=2, allow_nan=False) + "\n")
        return done

    @final
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

    @final
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


@final
@dataclass(frozen=True)
class JsonLines(AbstractStore):
    """`folder/rows.jsonl` has one line for each finished task.

    A killed process leaves complete lines and at most one incomplete last line, which `resume` cuts off.
    """

    folder: Path

    @property
    def rows(self) -> Path:
        return self.folder / "rows.jsonl"

    def discard(self) -> None:
        self.rows.unlink(missing_ok=True)

    def append(self, task: str, done: Done) -> None:
        rows = [{key: encoded(value) for key, value in row.items()} for row in done.rows]
        line = json.dumps({"task": task, "seconds": done.seconds, "rows": rows}, allow_nan=False) + "\n"
        new = not self.rows.exists()
        with self.rows.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_folder(self.folder)

    def finished(self) -> Iterator[tuple[str, Done]]:
        content, end = self.rows.read_bytes(), 0
        for number, line in enumerate(content.splitlines(keepends=True), 1):
            try:
                read = json.loads(line)
                rows = [{key: decoded(value) for key, value in row.items()} for row in read["rows"]]
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


@final
@dataclass(frozen=True)
class ParquetParts(AbstractStore):
    """`folder/parts/` has one Parquet file for each finished task, named by a digest of the task's name.

    A killed process leaves complete files, and at most one that has not got its name, which is not read.
    Needs pyarrow (the extra `[sweep]`).
    """

    folder: Path

    @property
    def rows(self) -> Path:
        return self.folder / "parts"

    def discard(self) -> None:
        for path in self.rows.glob("*.parquet*"):
            path.unlink()

    def append(self, task: str, done: Done) -> None:
        _, parquet = pyarrow()
        for row in done.rows:
            for value in row.values():
                encoded(value)  # refuses NaN
        made = parquet_table(done.rows).replace_schema_metadata(
            {"task": task, "seconds": repr(done.seconds), "rows": str(len(done.rows))}
        )
        self.rows.mkdir(parents=True, exist_ok=True)
        with written_atomically(self.rows / f"{hashlib.sha256(task.encode()).hexdigest()[:32]}.parquet") as file:
            parquet.write_table(made, file)
        sync_folder(self.rows)

    def finished(self) -> Iterator[tuple[str, Done]]:
        _, parquet = pyarrow()
        for path in sorted(self.rows.glob("*.parquet")):
            try:
                table = parquet.read_table(path)
                said = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
                rows = table.to_pylist() if table.num_columns else [{} for _ in range(int(said["rows"]))]
                yield said["task"], Done(rows, float(said["seconds"]))
            except (OSError, ValueError, KeyError, pyarrow()[0].ArrowException) as error:
                raise InvalidRequest(
                    f"{path} is not a finished task; remove it, or give --fresh to restart or another --out"
                ) from error


def versions() -> dict[str, str]:
    """The versions of the software that results may depend on."""
    return {
        "recurjac": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _differences(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, str, str]]:
    """The places where two JSON values differ: the path and both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield name, json.dumps(before), json.dumps(now)
