"""Values of JSON results as table cells; each function raises ValueError for values of another kind."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, TypeAlias

from recurjac.report.numbers import exact, show, show_lower, show_upper

Cell: TypeAlias = Callable[[Any], str]
MISSING = "–"


def number(value: Any) -> float:
    """A number from a JSON result, where infinities are strings."""
    if isinstance(value, str) and value in ("inf", "-inf"):
        return inf if value == "inf" else -inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("is not a number")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError("is beyond the range of float64") from error


def upper(value: Any) -> str:
    """An upper bound, rounded up."""
    return show_upper(number(value))


def lower(value: Any) -> str:
    """A lower bound, rounded down."""
    return show_lower(number(value))


def lower_if_any(value: Any) -> str:
    return MISSING if value is None else lower(value)


def plain(value: Any) -> str:
    return MISSING if value is None else show(number(value))


def seconds(value: Any) -> str:
    return f"{number(value):.2f}"


def norm(value: Any) -> str:
    """The norm of a matrix measure."""
    found = number(value)
    return "l∞" if found == inf else f"l{found:g}"


def proved(value: Any) -> str:
    """Whether something is proved."""
    if not isinstance(value, bool):
        raise ValueError("is neither true nor false")
    return "yes" if value else "not proved"


def percent(value: Any) -> str:
    return f"{100 * number(value):.1f} %"


def radius(value: Any) -> str:
    """The requested radius with all its digits; None stands for a box."""
    return "box" if value is None else exact(number(value))


def exact_number(value: Any) -> str:
    """A number with all its digits."""
    return exact(number(value))


def count(value: Any) -> str:
    """An integer, such as the index of an input."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("is not a whole number")
    return str(value)


def count_if_any(value: Any) -> str:
    return MISSING if value is None else count(value)


def which(value: Any) -> str:
    """A class: its index, the name of a margin, or None for all outputs."""
    if value is None:
        return "all"
    return value if isinstance(value, str) else count(value)


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is not a text")
    return value
