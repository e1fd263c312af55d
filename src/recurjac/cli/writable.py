"""Whether files can be written, asked before any work."""

from __future__ import annotations

import os
from pathlib import Path

from recurjac.errors import InvalidRequest


def check_writable(option: str, name: str | None) -> None:
    """Raise InvalidRequest unless the file `name` can be written, so that no work is lost; None stands for no file."""
    if name is None:
        return
    path = Path(name)
    if not name or path.is_dir():
        raise InvalidRequest(f"{option} {name!r} is not a file name; give one")
    folder = path.parent
    if not folder.is_dir():
        raise InvalidRequest(f"{option} {name}: there is no directory {folder}; create it first")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise InvalidRequest(f"{option} {name}: it is not writable; choose another place")
