"""Writing files that exist completely or not at all, and cells as JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import inf, isfinite, isnan
from pathlib import Path
from typing import Any, BinaryIO

from recurjac.errors import UnsoundBounds

_SPECIAL = {"inf": inf, "-inf": -inf}
_NAMES = {value: name for name, value in _SPECIAL.items()}


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which gets its name when everything is on the disk."""
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file atomically: it exists completely or not at all."""
    with written_atomically(path) as file:
        file.write(text.encode())


def sync_folder(folder: Path) -> None:
    """Make the names of new files in `folder` survive a loss of power, if the system supports it."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def encoded(value: Any) -> Any:
    """A cell, which may be a nested list, as JSON.  Raises UnsoundBounds for NaN, which is never a result."""
    if isinstance(value, Mapping):
        return {key: encoded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [encoded(each) for each in value]
    if isinstance(value, float) and not isfinite(value):
        if isnan(value):
            raise UnsoundBounds("a task has given NaN, which bounds nothing; please report this, with the command")
        return _NAMES[value]
    return value


def decoded(value: Any) -> Any:
    """The cell that was encoded."""
    if isinstance(value, dict):
        return {key: decoded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [decoded(each) for each in value]
    return _SPECIAL.get(value, value) if isinstance(value, str) else value
