"""Reading arrays of .npy and .npz files, after a look at what they declare.

A header of a few bytes can declare an array of any size, and a short archive can hold a long run of zeros.  Nothing is
allocated before it is known to be in the file and to be of moderate size, and no pickle is ever loaded.
"""

from __future__ import annotations

import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, final

import numpy as np
from numpy.lib import format as npy

MOST_BYTES = 2**31
"""The maximum size of all members of an archive together, unpacked."""
_HEADERS: dict[tuple[int, int], Any] = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
"""The formats that arrays of numbers are written in, and what reads their headers."""


def read_npy(file: IO[bytes], size: int) -> np.ndarray[Any, Any]:
    """The array in a .npy file of `size` bytes, at its beginning.

    Raises ValueError if it holds Python objects, or declares more numbers than the file has bytes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the file was written by Python 2
        version = npy.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"it is in version {version[0]}.{version[1]} of NumPy's format, which numbers do not need")
        shape, _, dtype = _HEADERS[version](file)
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which are never loaded")
        declared, there = prod(shape) * dtype.itemsize, size - file.tell()
        if any(n < 0 for n in shape) or dtype.itemsize == 0 or declared > there:
            raise ValueError(f"it declares shape {str(shape)[:60]} of type {str(dtype)[:60]}, but has {there} bytes")
        file.seek(0)
        return npy.read_array(file, allow_pickle=False)


def check_sizes(archive: zipfile.ZipFile) -> None:
    """Raise ValueError if two members have the same name, or if all are too large together.

    `zipfile` reads no more of a member than the size that it declares.
    """
    twice = [name for name, n in Counter(archive.namelist()).items() if n > 1]
    if twice:
        raise ValueError(f"two members are named {twice[0][:60]!r}")
    total = sum(member.file_size for member in archive.infolist())
    if total > MOST_BYTES:
        raise ValueError(f"it has {total} bytes when unpacked; at most {MOST_BYTES} are read")


@final
@dataclass(frozen=True)
class Npz:
    """An open .npz file; members that are not arrays are left out."""

    archive: zipfile.ZipFile

    @property
    def keys(self) -> list[str]:
        return [n.removesuffix(".npy") for n in self.archive.namelist() if n.endswith(".npy")]

    def __getitem__(self, key: str) -> np.ndarray[Any, Any]:
        """The array of that key.  Raises ValueError as `read_npy` does."""
        member = self.archive.getinfo(f"{key}.npy")
        with self.archive.open(member) as file:
            return read_npy(file, member.file_size)


@contextmanager
def open_npz(path: Path) -> Iterator[Npz]:
    """The file at `path` while it is open.  Raises ValueError as `check_sizes` does, and what `zipfile` raises."""
    with zipfile.ZipFile(path) as archive:
        check_sizes(archive)
        yield Npz(archive)
