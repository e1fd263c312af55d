"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context
from math import inf, isfinite


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, the first column to the left and all others to the right."""
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def digits(number: float | None, places: int = 4, rounding: str = ROUND_HALF_EVEN) -> str:
    """A number with so many significant digits; a dash for none."""
    if number is None:
        return "–"
    if not isfinite(number):
        return "∞" if number > 0 else "-∞"
    return f"{float(Context(prec=places, rounding=rounding).create_decimal_from_float(number)):.{places}g}"


def upper(number: float | None) -> str:
    """As `digits`, of an upper bound: rounded up."""
    return digits(number, rounding=ROUND_CEILING)


def lower(number: float | None) -> str:
    """As `digits`, of a lower bound: rounded down."""
    return digits(number, rounding=ROUND_FLOOR)


def mean(numbers: Sequence[float]) -> float | None:
    """The mean; infinite if one is, None of none."""
    if not numbers:
        return None
    return inf if inf in numbers else sum(numbers) / len(numbers)


def networks(names: Sequence[tuple[str, float, bool]]) -> str:
    """What the networks are: name, accuracy, whether the file was given."""
    return markdown(
        ("network", "test accuracy", "weights"),
        [(name, f"{100 * accuracy:.2f} %", "given" if given else "trained here") for name, accuracy, given in names],
    )
