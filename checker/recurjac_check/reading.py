"""Strict reading of certificates: every number is a hexadecimal string, and anything unexpected is an error."""

import json
import re
from itertools import pairwise
from typing import Any

from flint import arb

from recurjac_check.errors import Invalid, Unreadable

LARGEST_FILE = 1 << 28
_HEX = re.compile(r"-?0x[01](\.[0-9a-f]{1,13})?p[+-]?[0-9]{1,4}")
_INFINITE = {"inf": arb.pos_inf(), "-inf": arb.neg_inf()}


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without duplicate keys."""
    result = dict(pairs)
    if len(result) < len(pairs):
        raise Invalid("an object has the same key twice")
    return result


def _refused(text: str) -> Any:
    raise Invalid(f"{text[:30]} is not a number of a certificate, which are hexadecimal strings")


def parse(data: bytes) -> Any:
    """The JSON value in `data`. Raises Invalid."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_pairs, parse_constant=_refused, parse_float=_refused)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"not a JSON file: {str(error)[:100]}") from None


def file_bytes(path: str) -> bytes:
    """The content of a file. Raises Unreadable."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        raise Unreadable(f"{path}: {error}") from None
    if len(data) > LARGEST_FILE:
        raise Unreadable(f"{path} has more than {LARGEST_FILE} bytes")
    return data


def record(value: Any, where: str, keys: str) -> dict[str, Any]:
    """`value`, if it is an object with exactly these keys."""
    if not isinstance(value, dict) or set(value) != set(keys.split()):
        raise Invalid(f"{where} is not an object with the keys {keys}")
    return value


def array(value: Any, where: str, length: int | None = None) -> list[Any]:
    """`value`, if it is a list (of this length)."""
    if not isinstance(value, list) or (length is not None and len(value) != length):
        raise Invalid(f"{where} is not a list" + ("" if length is None else f" of {length} entries"))
    return value


def index(value: Any, where: str, count: int) -> int:
    """`value`, if it is an integer in [0, count)."""
    if type(value) is not int or not 0 <= value < count:
        raise Invalid(f"{where} is not an index below {count}")
    return value


def number(value: Any, where: str, infinite: bool = False) -> arb:
    """The number that a string stands for, exactly."""
    if infinite and isinstance(value, str) and value in _INFINITE:
        return _INFINITE[value]
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise Invalid(f"{where} is not a hexadecimal number: {repr(value)[:30]}")
    try:
        return arb(float.fromhex(value))
    except OverflowError:
        raise Invalid(f"{where} is too large: {value}") from None


def numbers(value: Any, where: str, length: int, infinite: bool = False) -> list[arb]:
    """The numbers of a list of this length."""
    return [number(v, where, infinite) for v in array(value, where, length)]


def optional(value: Any, where: str, length: int) -> list[arb] | None:
    """The numbers of a list of this length, or None."""
    return None if value is None else numbers(value, where, length)


def text(value: Any, where: str, choices: str) -> str:
    """`value`, if it is one of the choices."""
    if not isinstance(value, str) or value not in choices.split():
        raise Invalid(f"{where} is not one of: {choices}")
    return value


Row = tuple[tuple[int, arb], ...]
"""A linear function of the outputs: indices that rise, and coefficients."""


def row(value: Any, where: str, outputs: int) -> Row:
    """A row of a certificate."""
    pairs = [array(pair, where, 2) for pair in array(value, where)]
    result = tuple((index(i, where, outputs), number(c, where)) for i, c in pairs)
    if any(a >= b for (a, _), (b, _) in pairwise(result)):
        raise Invalid(f"the indices of {where} do not rise")
    return result


def row_key(value: Row) -> str:
    """A text that is the same for equal rows only."""
    return " ".join(f"{i}:{float(c.mid()).hex()}" for i, c in value)
