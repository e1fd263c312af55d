"""Reading what `--input` names: samples in arrays, tables and images, or the boxes of a VNN-LIB file.

Numbers that float64 does not hold are never replaced in silence: `Points.moved` says how far a sample may have moved,
and the ends of `Boxes` are rounded outwards.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation
from math import inf, isfinite, nextafter
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from recurjac.errors import InvalidRegion, InvalidRequest, MissingDependency, RecurJacError, UnreadableFile
from recurjac.region import Box

__all__ = ["Boxes", "Inputs", "Points", "read_inputs"]

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp")
_MAGIC = {".npy": b"\x93NUMPY", ".npz": b"PK"}
_EXACT = Context(traps=[InvalidOperation])
_DEPTH = 64
"""How deep the parentheses of a VNN-LIB file may nest; a box needs 5."""
_IGNORED = ("set-logic", "set-info", "set-option", "check-sat", "get-model", "exit")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_SPECIAL = re.compile(r"[+-]?(?:nan|inf(?:inity)?)", re.IGNORECASE)
_TOKEN = re.compile(r'\s+|;[^\n]*|([()]|"[^"]*"|\|[^|]*\||[^\s();"|]+)')
_VARIABLE = re.compile(r"[XY]_(?:0|[1-9][0-9]{0,8})")

_Expression: TypeAlias = str | list[Any]
"""An atom, or a list of expressions."""


@final
@dataclass(frozen=True)
class Points:
    """Samples: the file's number at each place is within `moved` of `values`, and is `values` where `moved` is 0.

    values, moved: (samples, *input), float64 on the CPU, at least two dimensions, at least one number; NaN and infinity
    are kept for the region to refuse.  names: of the input's features, where a table has them.
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


@final
@dataclass(frozen=True)
class Boxes:
    """Boxes that contain the file's, each end moved outwards to the nearest float64; an end not given is infinite.

    lower, upper: (boxes, features), float64 on the CPU.  Raises InvalidRegion unless lower <= upper everywhere.
    """

    lower: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        if self.lower.dim() != 2:
            raise InvalidRegion(f"ends of shape {tuple(self.lower.shape)} are no list of boxes (boxes, features)")
        self._box()

    def _box(self) -> Box:
        return Box(self.lower, self.upper)

    @property
    def values(self) -> Tensor:
        """A point of each box, the middle where that is finite: (boxes, features)."""
        return self._box().bind(tuple(self.lower.shape[1:]), self.lower.dtype, self.lower.device).x


Inputs: TypeAlias = Points | Boxes
"""What `--input` names; `values` has the samples or the boxes in its leading dimension."""


def read_inputs(spec: str) -> Inputs:
    """The inputs in the file `spec`: `Boxes` for .vnnlib, else `Points`.

    spec: .npy; .npz or `file.npz:key`; .csv, one sample a row, with or without a line of names; a .png, .jpg or .bmp
    image, (1, 1 or 3, H, W) in [0, 1]; .vnnlib.  A vector is one sample; integers are not rescaled.
    Raises UnreadableFile if the file is missing, damaged or holds no numbers, InvalidRequest for another type of file
    or an array that is not there or not named, MissingDependency if an image is given and Pillow is not installed.
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
        return _read_vnnlib(path)
    raise InvalidRequest(
        f"{path}: inputs of type {suffix or '(none)'} are not read; "
        f"give a .npy, .npz, .csv, .vnnlib or image file ({', '.join(_IMAGES)})"
    )


def _locate(spec: str) -> tuple[Path, str | None]:
    """The file that `spec` names, which exists, and the key of the array in it."""
    named = re.fullmatch(r"(.*?\.npz):(.*)", spec, re.IGNORECASE | re.DOTALL)
    path, key = (Path(spec), None) if named is None or _is_file(Path(spec)) else (Path(named[1]), named[2])
    if not _is_file(path):
        raise UnreadableFile(f"there is no file {path}; check the path given as input")
    return path, key


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for the system, a folder that may not be entered
        return False


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"


# Arrays


def _array(path: Path, key: str | None) -> Any:
    """The array in a .npy file, or the one named `key` in a .npz file; pickles are refused unread."""
    begins = _MAGIC[path.suffix.lower()]
    try:
        with path.open("rb") as file:
            head = file.read(len(begins))
            if head != begins:
                what = f"does not begin as a {path.suffix} file does (a pickle is never loaded)" if head else "is empty"
                raise UnreadableFile(f"{path} {what}; save the numbers with numpy")
            file.seek(0)
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            with loaded:
                return loaded[_choose(path, key, list(loaded.files))]
    except RecurJacError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def _choose(path: Path, key: str | None, keys: list[str]) -> str:
    some = ", ".join(keys[:6]) + (", …" if len(keys) > 6 else "")
    if not keys:
        raise UnreadableFile(f"{path} holds no array; save one with numpy.savez")
    if key is None and len(keys) > 1:
        raise InvalidRequest(f"{path} holds {len(keys)} arrays ({some}); name one, as in {path}:{keys[0]}")
    if key is not None and key not in keys:
        raise InvalidRequest(f"{path} holds no array {_short(key)!r}; it holds {some}")
    return keys[0] if key is None else key


def _unreadable(path: Path, error: Exception) -> UnreadableFile:
    reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    if "allow_pickle" in reason:
        reason = "it holds Python objects, which are never loaded"
    return UnreadableFile(f"{path} is not a readable {path.suffix} file: {reason}; save the numbers again")


def _points(path: Path, array: Any) -> Points:
    """The samples in `array`, which must convert to float64 exactly."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        kind = f"numbers of type {array.dtype}" if isinstance(array, np.ndarray) else "bytes that are no array"
        raise UnreadableFile(f"{path} holds {kind}; save real numbers, as float64 or integers")
    if array.size == 0:
        raise UnreadableFile(
            f"{path} holds an array of shape {array.shape}, without a number; give at least one sample"
        )
    with np.errstate(over="ignore"):
        wide = np.ascontiguousarray(array, dtype=np.float64)
    if not _same(array, wide.reshape(array.shape)):
        raise UnreadableFile(f"{path} holds {array.dtype} numbers that float64 does not; save float64 numbers")
    values = torch.from_numpy(wide.reshape(1, -1) if array.ndim < 2 else wide)
    return Points(values, torch.zeros_like(values))


def _same(array: np.ndarray[Any, Any], wide: np.ndarray[Any, Any]) -> bool:
    """Whether `wide` (float64) holds the numbers of `array`."""
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
        raise UnreadableFile(f"{path} holds no sample; give one a row, numbers between commas")
    width = len(rows[0][1]) if names is None else len(names)
    for line, cells in rows:
        if len(cells) != width:
            first = "the header" if names is not None else f"row {rows[0][0]}"
            raise UnreadableFile(f"{path}: row {line} has {len(cells)} cells, {first} has {width}; make them agree")
    read = [[_cell(path, line, i, cell) for i, cell in enumerate(cells)] for line, cells in rows]
    both = torch.tensor(read, dtype=torch.float64)
    return Points(both[..., 0].contiguous(), both[..., 1].contiguous(), names)


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The rows that are not blank, each with the number of the line that it ends in."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        cells = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise UnreadableFile(f"{path} is not a readable .csv file: row {reader.line_num}: {error}") from error
    return [(line, row) for line, row in cells if row not in ([], [""])]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UnreadableFile(f"{path} is not a readable text file in UTF-8: {error}") from error


def _is_number(cell: str) -> bool:
    return _DECIMAL.fullmatch(cell) is not None or _SPECIAL.fullmatch(cell) is not None


def _cell(path: Path, line: int, column: int, cell: str) -> tuple[float, float]:
    """The float64 nearest to the number in a cell, and at least how far that is: the gap between its neighbours."""
    where = f"{path}: row {line}, column {column + 1}"
    if _SPECIAL.fullmatch(cell):
        return float(cell), 0.0
    if not _is_number(cell):
        raise UnreadableFile(f"{where} holds {_short(cell)!r}, which is not a number; write one, like -0.5 or 1e-3")
    value, exact = float(cell), _decimal(where, cell)
    if not isfinite(value):
        raise UnreadableFile(f"{where} holds {_short(cell)}, beyond the range of float64; scale the numbers")
    return value, _up(exact) - _down(exact)


def _decimal(where: str, text: str) -> Decimal:
    """Exactly the number `text`, which matches `_DECIMAL`."""
    try:
        return Decimal(text, _EXACT)
    except InvalidOperation as error:
        raise UnreadableFile(
            f"{where} holds {_short(text)}, whose exponent is out of range; scale the numbers"
        ) from error


def _down(number: Decimal) -> float:
    """The largest float64 that is at most `number` (the comparison is exact)."""
    nearest = float(number)
    return nearest if Decimal.from_float(nearest) <= number else nextafter(nearest, -inf)


def _up(number: Decimal) -> float:
    """The smallest float64 that is at least `number`."""
    return -_down(number.copy_negate())


# Images


def _read_image(path: Path) -> Points:
    """The pixels as stored, value / 255; a quotient other than 0 and 1 is within eps/2 of itself, so within eps."""
    pixels = _pixels(path)
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    values = torch.from_numpy(planes.astype(np.float64) / 255).contiguous().unsqueeze(0)
    inexact = (values > 0) & (values < 1)
    return Points(values, torch.where(inexact, torch.finfo(torch.float64).eps * values, 0.0))


def _pixels(path: Path) -> np.ndarray[Any, Any]:
    """The 8-bit pixels of an opaque image: (H, W) or (H, W, 3)."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependency(f"{path} is an image, which needs Pillow: pip install recurjac[plot]") from error
    try:
        with path.open("rb") as file:
            head = file.read(25)
        with Image.open(path, formats=("PNG", "JPEG", "BMP")) as opened:
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


# VNN-LIB


@final
@dataclass(frozen=True)
class _Bound:
    """X_index >= value, or X_index <= value where `upper`."""

    index: int
    upper: bool
    value: Decimal


def _read_vnnlib(path: Path) -> Boxes:
    """The input boxes: those of the one disjunction over inputs, each cut with all other bounds."""
    declared: set[str] = set()
    common: list[_Bound] = []
    branches: list[list[_Bound]] | None = None
    for command in _parse(path, _text(path)):
        match command:
            case ["declare-const", str(name), "Real"] | ["declare-fun", str(name), [], "Real"]:
                _declare(path, name, declared)
            case ["assert", ["or", *options] as formula] if _inputs(path, formula, declared):
                if branches is not None:
                    raise _unsupported(path, formula, "a second disjunction over inputs; join it with the first")
                branches = [_bounds(path, option, declared) for option in options]
            case ["assert", formula]:
                common += _bounds(path, formula, declared)
            case [str(head), *_] if head in _IGNORED:
                pass
            case _:
                raise _unsupported(path, command, "no command of a VNN-LIB 1.0 box")
    features = sum(name.startswith("X") for name in declared)
    missing = [i for i in range(features) if f"X_{i}" not in declared]
    if features == 0 or missing:
        raise UnreadableFile(f"{path} does not declare the input X_{min(missing, default=0)}; number them from X_0")
    ends = [_ends(path, common + branch, features) for branch in ([[]] if branches is None else branches)]
    both = torch.tensor(ends, dtype=torch.float64)
    return Boxes(both[:, 0].contiguous(), both[:, 1].contiguous())


def _parse(path: Path, text: str) -> list[_Expression]:
    """The s-expressions in `text`, nested at most `_DEPTH` deep."""
    open_lists: list[list[_Expression]] = [[]]
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _at(path, text, position, "a quote is never closed; close it")
        if match[1] == "(":
            if len(open_lists) > _DEPTH:
                raise _at(path, text, position, f"parentheses nest deeper than {_DEPTH}; a box needs no such formula")
            open_lists.append([])
        elif match[1] == ")":
            if len(open_lists) == 1:
                raise _at(path, text, position, "a parenthesis closes that was never opened; remove it")
            closed = open_lists.pop()
            open_lists[-1].append(closed)
        elif match[1] is not None:
            open_lists[-1].append(match[1])
        position = match.end()
    if len(open_lists) > 1:
        raise _at(
            path, text, position, f"{len(open_lists) - 1} parentheses are never closed; the file may be truncated"
        )
    return open_lists[0]


def _at(path: Path, text: str, position: int, problem: str) -> UnreadableFile:
    line = text.count("\n", 0, position) + 1
    return UnreadableFile(f"{path}: line {line}: {problem}")


def _unsupported(path: Path, expression: _Expression, problem: str) -> UnreadableFile:
    return UnreadableFile(
        f"{path}: {_short(_show(expression))} is {problem}; bounds like (<= X_0 0.5), (and …) and one (or …) are read"
    )


def _show(expression: _Expression) -> str:
    return expression if isinstance(expression, str) else f"({' '.join(_show(e) for e in expression[:6])})"


def _declare(path: Path, name: str, declared: set[str]) -> None:
    if _VARIABLE.fullmatch(name) is None:
        raise UnreadableFile(f"{path} declares {_short(name)}; name inputs X_0, X_1, … and outputs Y_0, Y_1, …")
    if name in declared:
        raise UnreadableFile(f"{path} declares {name} twice; remove one")
    declared.add(name)


def _inputs(path: Path, expression: _Expression, declared: set[str]) -> bool:
    """Whether an input occurs in `expression`; raises UnreadableFile if a name in it is not declared."""
    if not isinstance(expression, str):
        arguments = expression[1:] if expression and isinstance(expression[0], str) else expression
        found = [_inputs(path, e, declared) for e in arguments]  # all of them, so that all names are checked
        return any(found)
    if _DECIMAL.fullmatch(expression) is None and expression not in declared:
        raise UnreadableFile(
            f"{path} uses {_short(expression)}, which it does not declare before; declare it as a Real"
        )
    return expression.startswith("X")


def _bounds(path: Path, formula: _Expression, declared: set[str]) -> list[_Bound]:
    """The bounds on inputs whose conjunction `formula` implies; none if it is about outputs only."""
    if not _inputs(path, formula, declared):
        return []
    match formula:
        case ["and", *parts]:
            return [bound for part in parts for bound in _bounds(path, part, declared)]
        case ["<=" | ">=" as relation, left, right]:
            for name, other, upper in ((left, right, relation == "<="), (right, left, relation == ">=")):
                value = _constant(path, other)
                if isinstance(name, str) and name.startswith("X") and value is not None:
                    return [_Bound(int(name[2:]), upper, value)]
    raise _unsupported(path, formula, "not a bound of one input by a number")


def _constant(path: Path, expression: _Expression) -> Decimal | None:
    """The number that `expression` is, if it is one: 0.5, -0.5 or (- 0.5)."""
    match expression:
        case str() if _DECIMAL.fullmatch(expression):
            return _decimal(str(path), expression)
        case ["-", str(number)] if _DECIMAL.fullmatch(number):
            return _decimal(str(path), number).copy_negate()
    return None


def _ends(path: Path, bounds: list[_Bound], features: int) -> tuple[list[float], list[float]]:
    """The lower and upper ends of the box in which all `bounds` hold, rounded outwards."""
    lower, upper = [Decimal("-inf")] * features, [Decimal("inf")] * features
    for bound in bounds:
        if bound.upper:
            upper[bound.index] = min(upper[bound.index], bound.value)
        else:
            lower[bound.index] = max(lower[bound.index], bound.value)
    for i in range(features):
        if lower[i] > upper[i]:
            ends = f"at least {_short(str(lower[i]))} and at most {_short(str(upper[i]))}"
            raise UnreadableFile(f"{path}: X_{i} must be {ends}, so the box is empty; correct its bounds")
    return [_down(c) for c in lower], [_up(c) for c in upper]
