"""MNIST's idx format: a magic number, the sizes, the bytes (LeCun, Cortes, Burges, yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import gzip
import zlib
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from recurjac.errors import UnreadableFile
from recurjac.loading.messages import first_line

FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
"""The file name of each array; also with `.idx3` and `.idx1`, as in some archives, and with `.gz`."""
_BYTES = 0x08
"""The idx code for unsigned bytes."""
_MOST_BYTES, _MOST_AXES = 2**30, 8
"""The most bytes that are read, and the most axes; MNIST's files have 47 MB and 3."""


def read_idx_folder(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The four arrays of MNIST's files in `folder`.  Raises UnreadableFile if one is missing or damaged."""
    return {key: read_idx(_find(folder, name)) for key, name in FILES.items()}


def _find(folder: Path, name: str) -> Path:
    names = [base + end for base in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")]
    for candidate in names:
        if (folder / candidate).is_file():
            return folder / candidate
    raise UnreadableFile(f"the folder {folder} holds no {name} or {name}.gz; it needs {', '.join(FILES.values())}")


def read_idx(path: Path) -> np.ndarray[Any, Any]:
    """The unsigned bytes in an idx file, gzipped if its name ends in .gz.

    The format is: two zero bytes, the type, the number of axes, the size of each (four bytes, big-endian), the entries.
    Raises UnreadableFile for anything else.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4)
            axes = head[3] if len(head) == 4 else 0
            sizes = file.read(4 * axes)
            if len(sizes) < 4 * axes or head[:3] != bytes((0, 0, _BYTES)) or not 0 < axes <= _MOST_AXES:
                raise UnreadableFile(f"{path} does not begin like an idx file of bytes; fetch it again")
            shape = tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, 4 * axes, 4))
            content = _first(file, min(prod(shape), _MOST_BYTES) + 1)
    except UnreadableFile:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableFile(f"{path} is not readable: {first_line(error)}; fetch it again") from error
    if len(content) != prod(shape):
        some = "more" if len(content) > prod(shape) else len(content)
        raise UnreadableFile(f"{path} has {some} bytes for the shape {shape}; fetch it again")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _first(file: IO[bytes], most: int) -> bytes:
    """At most that many bytes, read piece by piece, so that no more is allocated than there are."""
    parts, left = list[bytes](), most
    while left > 0 and (part := file.read(min(left, 2**20))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
