"""Decimal numbers in files: their exact values, and the nearest float64 below and above."""

from __future__ import annotations

import re
from decimal import Context, Decimal, InvalidOperation
from fractions import Fraction
from math import inf, nextafter
from pathlib import Path

from recurjac.errors import UnreadableFile

_EXACT = Context(traps=[InvalidOperation])
DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def short(text: str) -> str:
    """At most 60 characters of `text`, for a message."""
    return text if len(text) <= 60 else text[:57] + "…"


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.  Raises UnreadableFile if it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UnreadableFile(f"{path} is not a readable text file in UTF-8: {error}") from error


def decimal(where: str, text: str) -> Decimal:
    """The exact value of `text`, which matches `DECIMAL`."""
    try:
        return Decimal(text, _EXACT)
    except InvalidOperation as error:
        raise UnreadableFile(
            f"{where} holds {short(text)}, whose exponent is out of range; scale the numbers"
        ) from error


def round_down(number: Decimal | Fraction) -> float:
    """The largest float64 that is at most `number`; the comparison is exact."""
    try:
        nearest = float(number)
    except OverflowError:  # of a fraction; a decimal becomes infinite
        nearest = inf if number > 0 else -inf
    return nearest if Decimal.from_float(nearest) <= number else nextafter(nearest, -inf)


def round_up(number: Decimal | Fraction) -> float:
    """The smallest float64 that is at least `number`."""
    return -round_down(number.copy_negate() if isinstance(number, Decimal) else -number)
