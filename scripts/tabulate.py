"""Write the constants of `recurjac.arithmetic.elementary`, rounded to the nearest numbers.

`python -m scripts.tabulate` (or `make tables`; it needs python-flint) writes `tables.py` there from balls of Arb.  A
test checks that the file is what this writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import floor
from pathlib import Path

from flint import arb, arb_series, ctx

TABLES = Path(__file__).resolve().parents[1] / "src" / "recurjac" / "arithmetic" / "elementary" / "tables.py"
HEAD = '''"""Constants, rounded to the nearest numbers; written by `python -m scripts.tabulate`."""

from __future__ import annotations


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float.fromhex(word) for word in text.split())


'''
PIECES = 8
"""Pieces of equal length in each of the intervals [2^e, 2^(e + 1)], for -1 <= e <= 4."""
TERMS = 16
_BITS = 600


def exactly(ball: arb) -> Fraction:
    """The midpoint of a ball."""
    mantissa, exponent = ball.mid().man_exp()
    return Fraction(int(mantissa)) * Fraction(2) ** int(exponent)


def number(ball: arb) -> float:
    """The floating-point number nearest to all numbers in the ball.  Raises ValueError if there is none."""
    middle, radius = exactly(ball), exactly(ball.rad())
    ends = {float(middle - radius), float(middle + radius)}
    if len(ends) > 1:
        raise ValueError(f"{ball} is not known to enough digits")
    return ends.pop()


def in_parts(ball: arb, *bits: int) -> list[float]:
    """A number as a sum of multiples of 2^-bits, rounded down, and a last number, which is the nearest to the rest."""
    found = []
    for places in bits:
        first = floor(exactly(ball) * 2**places) / 2**places
        found.append(first)
        ball = ball - arb(first)
    return [*found, number(ball)]


def nearest_in_parts(ball: arb) -> tuple[float, float]:
    """The nearest number, and the number nearest to the rest."""
    return number(ball), number(ball - arb(number(ball)))


def centres() -> list[float]:
    """The centres of the pieces, in their order."""
    return [2.0**e * (1 + (2 * j + 1) / (2 * PIECES)) for e in range(-1, 5) for j in range(PIECES)]


def scaled_complement(centre: float) -> list[float]:
    """The Taylor coefficients of exp(x²) erfc(x) at the centre."""
    x = arb_series([arb(centre), arb(1)], TERMS)
    series = (x * x).exp() * x.erfc()
    return [number(series[n]) for n in range(TERMS)]


def angles() -> list[arb]:
    """atan(j / 8) for j = 0, …, 8, and then π/2 less these."""
    first = [(arb(j) / 8).atan() for j in range(9)]
    return first + [arb.pi() / 2 - angle for angle in first]


def single(name: str, number_: float, note: str) -> str:
    """The definition of a number, in hexadecimal."""
    return f'{name} = float.fromhex("{number_.hex()}")\n"""{note}"""\n'


def written(name: str, numbers: Sequence[float], note: str) -> str:
    """The definition of a tuple of numbers, in hexadecimal."""
    words = [x.hex() for x in numbers]
    lines = [" ".join(words[i : i + 4]) for i in range(0, len(words), 4)]
    body = "\n".join(lines) if len(lines) == 1 else "\n".join(["", *lines, ""])
    return f'{name} = _numbers("""{body}""")\n"""{note}"""\n'


def tables_text() -> str:
    """The text of the module."""
    ctx.prec, ctx.cap = _BITS, TERMS
    rows, pairs = [scaled_complement(c) for c in centres()], [nearest_in_parts(a) for a in angles()]
    root_pi = arb.pi().sqrt()
    found = [
        written("LN2", in_parts(arb(2).log(), 42), "ln 2, of which the first part is a multiple of 2⁻⁴²."),
        written("HALF_PI", in_parts(arb.pi() / 2, 26, 53), "π/2; the first two parts are multiples of 2⁻²⁶ and 2⁻⁵³."),
        single("PER_LN2", number(1 / arb(2).log()), "1 / ln 2."),
        single("PER_HALF_PI", number(2 / arb.pi()), "2/π."),
        single("TWO_PER_ROOT_PI", number(2 / root_pi), "2/√π."),
        single("DENSITY", number(1 / (root_pi * arb(2).sqrt())), "1/√(2π)."),
        single("ROOT_HALF", number(arb(2).sqrt() / 2), "√½."),
        written("ANGLES", [high for high, _ in pairs], "atan(j / 8) for j = 0, …, 8, and then π/2 less these."),
        written("ANGLES_REST", [low for _, low in pairs], "What `ANGLES` lack."),
        written(
            "COMPLEMENT",
            [row[n] for n in range(TERMS) for row in rows],
            "Taylor coefficients of exp(x²) erfc(x) by order, at the centres of eighths of [2^e, 2^(e + 1)], e >= -1.",
        ),
    ]
    return HEAD + "\n".join(found)


if __name__ == "__main__":
    TABLES.write_text(tables_text(), encoding="utf-8")
