"""Numbers as tables show them: upper bounds are rounded up, lower bounds down."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Context


def show(number: float | None) -> str:
    """A number for a table, with as many digits as are of use."""
    if number is None:
        return "-"
    return f"{number:.6g}"


def show_upper(number: float) -> str:
    """As `show`, of an upper bound: never less than it."""
    return show(float(_UP.create_decimal_from_float(number)))


def show_lower(number: float) -> str:
    """As `show`, of a lower bound: never more than it."""
    return show(float(_DOWN.create_decimal_from_float(number)))


_UP, _DOWN = Context(prec=6, rounding=ROUND_CEILING), Context(prec=6, rounding=ROUND_FLOOR)


def exact(number: float) -> str:
    """The shortest digits that are this number and no other."""
    return repr(float(number)).removesuffix(".0")
