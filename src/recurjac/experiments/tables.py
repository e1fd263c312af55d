"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context
from math import inf, isfinite


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with the first column left-aligned and all others right-aligned."""
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def digits(number: float | None, places: int = 4, rounding: str = ROUND_HALF_EVEN) -> str:
    """A number with the given number of significant digits; a dash for None."""
    if number is None:
        return "–"
    if not isfinite(number):
        return "∞" if number > 0 else "-∞"
    return f"{float(Context(prec=places, rounding=rounding).create_decimal_from_float(number)):.{places}g}"


def upper(number: float | None) -> str:
    """As `digits`, for an upper bound: rounded up."""
    return digits(number, rounding=ROUND_CEILING)


def lower(number: float | None) -> str:
    """As `digits`, for a lower bound: rounded down."""
    return digits(number, rounding=ROUND_FLOOR)


def mean(numbers: Sequence[float]) -> float | None:
    """The mean; infinite if a number is, None if there are no numbers."""
    if not numbers:
        return None
    return inf if inf in numbers else sum(numbers) / len(numbers)


def networks(names: Sequence[tuple[str, float, bool]]) -> str:
    """A table of the networks: name, accuracy, whether the file was given."""
    return markdown(
        ("network", "test accuracy", "weights"),
        [(name, f"{100 * accuracy:.2f} %", "given" if given else "trained here") for name, accuracy, given in names],
    )
