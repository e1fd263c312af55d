"""Reading the input files of `--input`: samples in arrays, tables and images, or the boxes of a VNN-LIB file.

Numbers that float64 cannot represent are never replaced silently: `Points.moved` bounds the change of a sample, and
the ends of `Boxes` are rounded outwards.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, isfinite, prod
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from recurjac.errors import InvalidRegion, InvalidRequest, MissingDependency, RecurJacError, UnreadableFile
from recurjac.loading.arrays import open_npz, read_npy
from recurjac.loading.decimals import DECIMAL, decimal, read_text, round_down, round_up, short
from recurjac.loading.vnnlib import Boxes, read_vnnlib

__all__ = ["Boxes", "Inputs", "Points", "read_array", "read_box", "read_inputs"]

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp")
_MAGIC = {".npy": b"\x93NUMPY", ".npz": b"PK"}
_MOST_PIXELS = 2**24
"""The maximum number of pixels of an image, which is checked before they are unpacked."""
_SPECIAL = re.compile(r"[+-]?(?:nan|inf(?:inity)?)", re.IGNORECASE)


@final
@dataclass(frozen=True)
class Points:
    """Samples: each number in the file differs from `values` by at most `moved`, which is 0 if it is exact.

    values, moved: (samples, *input), float64 on the CPU, at least two dimensions, at least one number.  NaN and
    infinity are kept; the region refuses them.
    names: the names of the input features, if a table has them.
    Raises InvalidRegion for other shapes.
    """

    values: Tensor
    moved: Tensor
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.values.dim() < 2 or self.values.numel() == 0 or self.values.shape != self.moved.shape:
            raise InvalidRegion(
                f"samples of shape {tuple(self.values.shape)} with errors of shape {tuple(self.moved.shape)}; "
                "both must be (samples, *input)"
            )


Inputs: TypeAlias = Points | Boxes
"""The content of an input file; the leading dimension of `values` runs over the samples or the boxes."""


def read_inputs(spec: str) -> Inputs:
    """The inputs in the file `spec`: `Boxes` for .vnnlib, otherwise `Points`.

    spec: .npy; .npz or `file.npz:key`; .csv with one sample per row, with or without a line of names; a .png, .jpg or
    .bmp image, read as (1, 1 or 3, H, W) in [0, 1]; .vnnlib.  A vector is one sample.  Integers are not rescaled.
    Raises UnreadableFile if the file is missing, damaged or holds no numbers, InvalidRequest for another type of file
    or if the array is missing or not named, MissingDependency if an image is given and Pillow is not installed.
    """
    path, key = _locate(spec)
    suffix = path.suffix.lower()
    if suffix in _MAGIC:
        return _points(path, _array(path, key))
    if suffix == ".csv":
        return _read_csv(path)
    if suffix in _IMAGES:
        return _read_image(path)
    if suffix == ".vnnlib":
        return read_vnnlib(path)
    raise InvalidRequest(
        f"{path}: inputs of type {suffix or '(none)'} are not read; "
        f"give a .npy, .npz, .csv, .vnnlib or image file ({', '.join(_IMAGES)})"
    )


def read_array(spec: str) -> np.ndarray[Any, Any]:
    """The array in a .npy file, as it is.  Raises UnreadableFile if the file is missing, damaged or holds objects."""
    path, _ = _locate(spec)
    found: np.ndarray[Any, Any] = _array(path, None)
    return found


def read_box(spec: str) -> Boxes:
    """The box of a .csv file: a line of names, if there is one, then a row of lower ends and a row of upper ends.

    Ends are rounded outwards to float64.  Raises as `read_inputs` does, and UnreadableFile for another number of rows;
    InvalidRegion unless lower <= upper.
    """
    path, _ = _locate(spec)
    if path.suffix.lower() != ".csv":
        raise InvalidRequest(f"{path}: a box is a .csv file with a row of lower and a row of upper ends")
    found = _read_csv(path)
    if len(found.values) != 2:
        raise UnreadableFile(
            f"{path} has {len(found.values)} rows of numbers; a box has two, the lower and the upper ends"
        )
    outwards = torch.tensor([[-inf], [inf]], dtype=torch.float64)
    ends = found.values + torch.where(found.moved > 0, found.moved * outwards.sign(), 0.0)
    ends = torch.where(found.moved > 0, ends.nextafter(outwards.expand_as(ends)), ends)
    return Boxes(ends[:1], ends[1:], names=found.names)


def _locate(spec: str) -> tuple[Path, str | None]:
    """The file named by `spec`, and the key of the array in it.  Raises UnreadableFile if there is no such file."""
    named = re.fullmatch(r"(.*?\.npz):(.*)", spec, re.IGNORECASE | re.DOTALL)
    path, key = (Path(spec), None) if named is None or _is_file(Path(spec)) else (Path(named[1]), named[2])
    if not _is_file(path):
        raise UnreadableFile(f"there is no file {path}; check the path given as input")
    return path, key


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # the name is too long for the system, or the folder is not accessible
        return False


# Arrays


def _array(path: Path, key: str | None) -> Any:
    """The array in a .npy file, or the array `key` of a .npz file; pickles are refused without loading them."""
    begins = _MAGIC[path.suffix.lower()]
    try:
        with path.open("rb") as file:
            head = file.read(len(begins))
            if head != begins:
                what = f"does not begin as a {path.suffix} file (pickles are never loaded)" if head else "is empty"
                raise UnreadableFile(f"{path} {what}; save the numbers with numpy")
            if begins == _MAGIC[".npy"]:
                file.seek(0)
                return read_npy(file, path.stat().st_size)
        with open_npz(path) as archive:
            return archive[_choose(path, key, archive.keys)]
    except RecurJacError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def _choose(path: Path, key: str | None, keys: list[str]) -> str:
    some = ", ".join(map(short, keys[:6])) + (", …" if len(keys) > 6 else "")
    if not keys:
        raise UnreadableFile(f"{path} holds no array; save one with numpy.savez")
    if key is None and len(keys) > 1:
        raise InvalidRequest(f"{path} holds {len(keys)} arrays ({some}); name one, as in {path}:{short(keys[0])}")
    if key is not None and key not in keys:
        raise InvalidRequest(f"{path} holds no array {short(key)!r}; it holds {some}")
    return keys[0] if key is None else key


def _unreadable(path: Path, error: Exception) -> UnreadableFile:
    reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    return UnreadableFile(f"{path} is not a readable {path.suffix} file: {reason}; save the numbers again")


def _points(path: Path, array: Any) -> Points:
    """The samples in `array`, which must convert to float64 exactly."""
    if array.dtype.kind not in "biuf":
        raise UnreadableFile(f"{path} holds numbers of type {array.dtype}; save real numbers, as float64 or integers")
    if array.size == 0:
        raise UnreadableFile(
            f"{path} holds an array of shape {array.shape}, which has no numbers; give at least one sample"
        )
    with np.errstate(over="ignore"):
        wide = np.ascontiguousarray(array, dtype=np.float64)
    if not _same(array, wide.reshape(array.shape)):
        raise UnreadableFile(f"{path} holds {array.dtype} numbers that float64 cannot represent; save float64 numbers")
    values = torch.from_numpy(wide.reshape(1, -1) if array.ndim < 2 else wide)
    return Points(values, torch.zeros_like(values))


def _same(array: np.ndarray[Any, Any], wide: np.ndarray[Any, Any]) -> bool:
    """Whether the numbers of `wide` (float64) equal those of `array`."""
    if array.dtype.kind == "f":
        return bool(np.array_equal(array, wide.astype(array.dtype), equal_nan=True))
    if array.dtype.itemsize < 8:
        return True
    large = (array > 2**53) | (array < -(2**53)) if array.dtype.kind == "i" else array > 2**53
    return all(int(float(n)) == n for n in array[large].tolist())


# Tables


def _read_csv(path: Path) -> Points:
    rows = _rows(path)
    names: tuple[str, ...] | None = None
    if rows and any(rows[0][1]) and not any(_is_number(cell) for cell in rows[0][1]):
        names = tuple(rows.pop(0)[1])
    if not rows:
        raise UnreadableFile(f"{path} holds no sample; give one sample per row, as numbers separated by commas")
    width = len(rows[0][1]) if names is None else len(names)
    for line, cells in rows:
        if len(cells) != width:
            first = "the header" if names is not None else f"row {rows[0][0]}"
            raise UnreadableFile(f"{path}: row {line} has {len(cells)} cells, {first} has {width}; they must agree")
    read = [[_cell(path, line, i, cell) for i, cell in enumerate(cells)] for line, cells in rows]
    both = torch.tensor(read, dtype=torch.float64)
    return Points(both[..., 0].contiguous(), both[..., 1].contiguous(), names)


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The rows that are not blank, each with the number of its last line."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        cells = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise UnreadableFile(f"{path} is not a readable .csv file: row {reader.line_num}: {error}") from error
    return [(line, row) for line, row in cells if row not in ([], [""])]


def _is_number(cell: str) -> bool:
    return DECIMAL.fullmatch(cell) is not None or _SPECIAL.fullmatch(cell) is not None


def _cell(path: Path, line: int, column: int, cell: str) -> tuple[float, float]:
    """The float64 nearest to the number in a cell, and a bound of its error: the gap between the adjacent float64."""
    where = f"{path}: row {line}, column {column + 1}"
    if _SPECIAL.fullmatch(cell):
        return float(cell), 0.0
    if not _is_number(cell):
        raise UnreadableFile(f"{where} holds {short(cell)!r}, which is not a number; write one, like -0.5 or 1e-3")
    value, exact = float(cell), decimal(where, cell)
    if not isfinite(value):
        raise UnreadableFile(f"{where} holds {short(cell)}, beyond the range of float64; scale the numbers")
    return value, round_up(exact) - round_down(exact)


# Images


def _read_image(path: Path) -> Points:
    """The pixels as stored, divided by 255; `moved` is eps relative, and 0 where the quotient is 0 or 1.

    The relative rounding error of a quotient is at most eps/2, and hence less than eps relative to the rounded value.
    """
    pixels = _pixels(path)
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    values = torch.from_numpy(planes.astype(np.float64) / 255).contiguous().unsqueeze(0)
    inexact = (values > 0) & (values < 1)
    return Points(values, torch.where(inexact, torch.finfo(torch.float64).eps * values, 0.0))


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warnings of Pillow; what is wrong with an image is an exception, or checked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _pixels(path: Path) -> np.ndarray[Any, Any]:
    """The 8-bit pixels of an opaque image: (H, W) or (H, W, 3)."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependency(f"{path} is an image, which needs Pillow: pip install Pillow") from error
    try:
        with path.open("rb") as file:
            head = file.read(25)
        with _quiet(), Image.open(path, formats=("PNG", "JPEG", "BMP")) as opened:
            if prod(opened.size) > _MOST_PIXELS:
                raise ValueError(
                    f"it declares {opened.size[0]} x {opened.size[1]} pixels; at most {_MOST_PIXELS} are read"
                )
            image = opened.copy()
    except Exception as error:
        raise UnreadableFile(
            f"{path} is not a readable image: {error or type(error).__name__}; save it again"
        ) from error
    wide = head.startswith(b"\x89PNG") and head[24] > 8  # Pillow drops the lower byte of 16-bit colours
    if wide or image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        kind = f"{image.mode}, {head[24]} bits a channel" if wide else image.mode
        raise UnreadableFile(f"{path} is an image of mode {kind}; save it as 8-bit grey or RGB, or the numbers as .npy")
    transparent = "A" in image.getbands() or "transparency" in image.info
    if transparent and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise UnreadableFile(f"{path} is partly transparent; save it without an alpha channel")
    return np.array(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
