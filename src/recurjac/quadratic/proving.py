"""Squares that underflow are covered even where rounding is not: later weights may be as large as these are small."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from recurjac.arithmetic import AbstractArithmetic, Ball, Rigorous

_T = TypeVar("_T")


def proving(arithmetic: AbstractArithmetic) -> AbstractArithmetic:
    """`arithmetic`, or a rigorous one in its place."""
    return arithmetic if arithmetic.rigorous else Rigorous(arithmetic.memory)


def taken_exactly(value: _T) -> _T:
    """The same dataclasses and tuples, where balls without radii are exact."""
    return _taken(value)  # type: ignore[no-any-return]


def _taken(part: Any) -> Any:
    if isinstance(part, Ball):
        return Rigorous().exact(part.mid) if part.rad is None else part
    if isinstance(part, tuple):
        return tuple(map(_taken, part))
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{f.name: _taken(getattr(part, f.name)) for f in fields(part) if f.init})
    return part
