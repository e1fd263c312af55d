"""Numbers formatted for tables: upper bounds are rounded up, lower bounds down."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Context


def show(number: float | None) -> str:
    """A number formatted for a table, with a useful number of digits."""
    if number is None:
        return "-"
    return f"{number:.6g}"


def show_upper(number: float) -> str:
    """As `show`, for an upper bound: never less than the number."""
    return show(float(_UP.create_decimal_from_float(number)))


def show_lower(number: float) -> str:
    """As `show`, for a lower bound: never more than the number."""
    return show(float(_DOWN.create_decimal_from_float(number)))


_UP, _DOWN = Context(prec=6, rounding=ROUND_CEILING), Context(prec=6, rounding=ROUND_FLOOR)


def exact(number: float) -> str:
    """The shortest decimal that identifies this number."""
    return repr(float(number)).removesuffix(".0")
