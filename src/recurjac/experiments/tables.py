"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, the first column to the left and all others to the right."""
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def digits(number: float | None, places: int = 4) -> str:
    """A number with so many significant digits; a dash for none."""
    if number is None:
        return "–"
    return f"{number:.{places}g}" if isfinite(number) else ("∞" if number > 0 else "-∞")


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
