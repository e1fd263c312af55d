"""Reading boxes of inputs from VNN-LIB files, which have assertions such as `(assert (<= X_0 0.5))`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from recurjac.errors import InvalidRegion, UnreadableFile
from recurjac.loading.decimals import DECIMAL, decimal, read_text, round_down, round_up, short
from recurjac.region import Box

_DEPTH = 64
"""The maximum nesting depth of parentheses in a VNN-LIB file; a box needs 5."""
_MOST_ENDS = 2**23
"""The maximum number of boxes times the number of inputs and of bounds that all boxes share."""
_MOST_BITS = 2**13
"""The maximum length of the numerator and the denominator of a number that is computed from those of the file."""
_IGNORED = ("set-logic", "set-info", "set-option", "check-sat", "get-model", "exit")
_TOKEN = re.compile(r'\s+|;[^\n]*|([()]|"[^"]*"|\|[^|]*\||[^\s();"|]+)')
_VARIABLE = re.compile(r"[XY]_(?:0|[1-9][0-9]{0,8})")

_Expression: TypeAlias = str | list[Any]
"""An atom, or a list of expressions."""


@final
@dataclass(frozen=True)
class Boxes:
    """Boxes that contain the boxes of the file; each end is rounded outwards to float64, and a missing end is infinite.

    lower, upper: (boxes, features), float64 on the CPU.  Raises InvalidRegion unless lower <= upper everywhere.
    dropped: relations between inputs, which the boxes leave out; such a box is too large, never too small.
    names: the names of the features, if the file has them.
    """

    lower: Tensor
    upper: Tensor
    dropped: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.lower.dim() != 2:
            raise InvalidRegion(f"ends of shape {tuple(self.lower.shape)} are not a list of boxes (boxes, features)")
        self._box()

    def _box(self) -> Box:
        return Box(self.lower, self.upper)

    @property
    def values(self) -> Tensor:
        """A point of each box, which is the midpoint where that is finite: (boxes, features)."""
        return self._box().bind(tuple(self.lower.shape[1:]), self.lower.dtype, self.lower.device).x


@final
@dataclass(frozen=True)
class _Bound:
    """X_index >= value, or X_index <= value where `upper`."""

    index: int
    upper: bool
    value: Decimal | Fraction


@final
@dataclass(frozen=True)
class _Relation:
    """A linear relation between several inputs, as the file writes it."""

    text: str


def read_vnnlib(path: Path) -> Boxes:
    """The boxes of a VNN-LIB 1.0 file: those of its only disjunction over inputs, intersected with all other bounds.

    Raises UnreadableFile if the file is damaged, or holds a formula that is not read.
    """
    declared: set[str] = set()
    common: list[_Bound | _Relation] = []
    branches: list[list[_Bound | _Relation]] | None = None
    for command in _parse(path, read_text(path)):
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
                raise _unsupported(path, command, "not a command of a VNN-LIB 1.0 box")
    features = sum(name.startswith("X") for name in declared)
    missing = [i for i in range(features) if f"X_{i}" not in declared]
    if features == 0 or missing:
        raise UnreadableFile(f"{path} does not declare the input X_{min(missing, default=0)}; number them from X_0")
    _check_count(path, 1 if branches is None else len(branches), features + len(common))
    every = [common + branch for branch in ([[]] if branches is None else branches)]
    ends = [_ends(path, [b for b in bounds if isinstance(b, _Bound)], features) for bounds in every]
    both = torch.tensor(ends, dtype=torch.float64)
    dropped = dict.fromkeys(b.text for bounds in every for b in bounds if isinstance(b, _Relation))
    return Boxes(both[:, 0].contiguous(), both[:, 1].contiguous(), tuple(dropped))


def _check_count(path: Path, boxes: int, each: int) -> None:
    if boxes * each > _MOST_ENDS:
        raise UnreadableFile(
            f"{path} has {boxes} boxes of {each} inputs and bounds; at most {_MOST_ENDS} in all are read; split it"
        )


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
                raise _at(path, text, position, "a closing parenthesis was never opened; remove it")
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
        f"{path}: {short(_show(expression))} is {problem}; linear bounds like (<= X_0 0.5), (and …) and one (or …) are "
        "read"
    )


def _show(expression: _Expression) -> str:
    return expression if isinstance(expression, str) else f"({' '.join(_show(e) for e in expression[:6])})"


def _declare(path: Path, name: str, declared: set[str]) -> None:
    if _VARIABLE.fullmatch(name) is None:
        raise UnreadableFile(f"{path} declares {short(name)}; name inputs X_0, X_1, … and outputs Y_0, Y_1, …")
    if name in declared:
        raise UnreadableFile(f"{path} declares {name} twice; remove one")
    declared.add(name)


def _inputs(path: Path, expression: _Expression, declared: set[str]) -> bool:
    """Whether `expression` contains an input.  Raises UnreadableFile if a name in it is not declared."""
    if not isinstance(expression, str):
        arguments = expression[1:] if expression and isinstance(expression[0], str) else expression
        found = [_inputs(path, e, declared) for e in arguments]  # evaluate all, so that all names are checked
        return any(found)
    if DECIMAL.fullmatch(expression) is None and expression not in declared:
        raise UnreadableFile(f"{path} uses {short(expression)} before it is declared; declare it as a Real")
    return expression.startswith("X")


def _bounds(path: Path, formula: _Expression, declared: set[str]) -> list[_Bound | _Relation]:
    """The bounds and relations of inputs whose conjunction is `formula`; none if it is about outputs only."""
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
            return [_linear_bound(path, formula, relation == "<=", left, right)]
    raise _unsupported(path, formula, "not a bound of one input by a number")


def _linear_bound(
    path: Path, formula: _Expression, below: bool, left: _Expression, right: _Expression
) -> _Bound | _Relation:
    """left <= right, or left >= right unless `below`: a bound if it is linear in one input, otherwise a relation."""
    one, other = (_linear(path, e) for e in (left, right))
    if one is None or other is None:
        raise _unsupported(path, formula, "not linear in the inputs")
    form = {name: one.get(name, Fraction(0)) - other.get(name, Fraction(0)) for name in {**one, **other}}
    constant, factors = form.pop("", Fraction(0)), {name: f for name, f in form.items() if f != 0}
    if any(name.startswith("Y") for name in factors):
        raise _unsupported(path, formula, "a relation between inputs and outputs")
    if not factors:
        raise _unsupported(path, formula, "not about an input after its terms cancel")
    if len(factors) > 1:
        return _Relation(short(_show(formula)))
    ((name, factor),) = factors.items()
    return _Bound(int(name[2:]), below == (factor > 0), -constant / factor)


def _linear(path: Path, expression: _Expression) -> dict[str, Fraction] | None:
    """The factors of the variables of an expression, and under "" its constant; None if it is not linear."""
    match expression:
        case str() if DECIMAL.fullmatch(expression):
            return {"": _fraction(path, expression)}
        case str():
            return {expression: Fraction(1)}
        case ["+" | "-" | "*" as sign, *parts] if parts:
            forms = [_linear(path, p) for p in parts]
            known = [f for f in forms if f is not None]
            if len(known) < len(forms):
                return None
            return _product(path, known) if sign == "*" else _total(known, sign == "-")
    return None


def _fraction(path: Path, text: str) -> Fraction:
    value = decimal(str(path), text)
    if len(text) > 400 or (value != 0 and abs(value.adjusted()) > 400):
        raise UnreadableFile(f"{path} holds {short(text)} in a sum or product; scale the numbers")
    return Fraction(value)


def _total(forms: list[dict[str, Fraction]], minus: bool) -> dict[str, Fraction]:
    """The sum; with `minus`, the first form less the others, or the negative of the only one."""
    signs = [-1 if minus and (i > 0 or len(forms) == 1) else 1 for i in range(len(forms))]
    names = dict.fromkeys(name for f in forms for name in f)
    return {n: sum((s * f.get(n, Fraction(0)) for s, f in zip(signs, forms, strict=True)), Fraction(0)) for n in names}


def _product(path: Path, forms: list[dict[str, Fraction]]) -> dict[str, Fraction] | None:
    """The product; None if more than one form has a variable."""
    varying = [f for f in forms if any(name and factor != 0 for name, factor in f.items())]
    if len(varying) > 1:
        return None
    scale = Fraction(1)
    for form in (f for f in forms if f not in varying):
        scale *= form.get("", Fraction(0))
        if max(scale.numerator.bit_length(), scale.denominator.bit_length()) > _MOST_BITS:
            raise UnreadableFile(f"{path} holds a product of numbers of very different sizes; scale the numbers")
    return {name: scale * factor for name, factor in (varying[0] if varying else {"": Fraction(1)}).items()}


def _constant(path: Path, expression: _Expression) -> Decimal | None:
    """The value of `expression` if it is a number such as 0.5, -0.5 or (- 0.5), otherwise None."""
    match expression:
        case str() if DECIMAL.fullmatch(expression):
            return decimal(str(path), expression)
        case ["-", str(number)] if DECIMAL.fullmatch(number):
            return decimal(str(path), number).copy_negate()
    return None


def _written(end: Decimal | Fraction) -> str:
    """An end as a message shows it; a fraction may have more digits than Python writes out."""
    if isinstance(end, Fraction) and max(end.numerator.bit_length(), end.denominator.bit_length()) > _MOST_BITS:
        return f"about {round_down(end)!r}"
    return short(str(end))


def _ends(path: Path, bounds: list[_Bound], features: int) -> tuple[list[float], list[float]]:
    """The lower and upper ends of the box in which all `bounds` hold, rounded outwards."""
    lower: list[Decimal | Fraction] = [Decimal("-inf")] * features
    upper: list[Decimal | Fraction] = [Decimal("inf")] * features
    for bound in bounds:
        if bound.upper:
            upper[bound.index] = min(upper[bound.index], bound.value)
        else:
            lower[bound.index] = max(lower[bound.index], bound.value)
    for i in range(features):
        if lower[i] > upper[i]:
            ends = f"at least {_written(lower[i])} and at most {_written(upper[i])}"
            raise UnreadableFile(f"{path}: X_{i} must be {ends}, so the box is empty; correct its bounds")
    return [round_down(c) for c in lower], [round_up(c) for c in upper]
