"""Tensors while a network is read: arrays of objects, as onnx returns them, whose entries are numbers or forms.

The arrays only move entries; all arithmetic is that of balls.
"""

from collections.abc import Iterable, Sequence
from itertools import product
from math import prod
from typing import Any

import onnx
from flint import arb

from recurjac_check.errors import OutOfScope
from recurjac_check.region import ZERO

MOST = 20_000_000
"""The maximum number of coefficients that are stored."""
_FLOATS, _INTEGERS = (1, 11), (6, 7)
_ONE_ENTRY = onnx.numpy_helper.to_array(onnx.helper.make_tensor("", 7, [1], [0])).astype(object)


class Form:
    """constant + sum of coefficients times variables, each numbered by its source (upper bits) and its place there."""

    __slots__ = ("constant", "terms")

    def __init__(self, terms: dict[int, arb], constant: arb) -> None:
        self.terms, self.constant = terms, constant

    def __add__(self, other: Any) -> "Form":
        return weighted([(self, 1), (other, 1)])  # type: ignore[no-any-return]

    def __sub__(self, other: Any) -> "Form":
        return weighted([(self, 1), (other, -1)])  # type: ignore[no-any-return]

    def __rsub__(self, other: Any) -> "Form":
        return weighted([(self, -1), (other, 1)])  # type: ignore[no-any-return]

    def __mul__(self, number: Any) -> "Form":
        return weighted([(self, arb(number))])  # type: ignore[no-any-return]

    __radd__, __rmul__ = __add__, __mul__


def weighted(pairs: Iterable[tuple[Any, Any]]) -> Any:
    """The sum of entries, each times a number."""
    terms: dict[int, arb] = {}
    constant, forms = ZERO, False
    for e, w in pairs:
        if isinstance(e, Form):
            forms = True
            constant += e.constant * w
            for k, c in e.terms.items():
                terms[k] = terms[k] + c * w if k in terms else c * w
        else:
            constant += e * w
    return Form(terms, constant) if forms else constant


def fits(*counts: int, times: int = 1) -> None:
    """Raise OutOfScope where the product of counts is more than `times` the most that is stored."""
    if prod(counts) > times * MOST:
        raise OutOfScope("too many entries")


def broadcastable(a: Any, b: Any) -> None:
    """Raise OutOfScope where an operation of a and b has too many results."""
    n = max(a.ndim, b.ndim)
    fits(*(max(p, q) for p, q in zip(*((1,) * (n - t.ndim) + t.shape for t in (a, b)), strict=True)))


def coefficients(x: Any) -> int:
    """How many coefficients the entries of x have."""
    return sum(len(e.terms) if isinstance(e, Form) else 1 for e in x.flat)


def array(entries: Sequence[Any], shape: Sequence[int]) -> Any:
    """A tensor of these entries."""
    result = _ONE_ENTRY.repeat(len(entries))
    for i, e in enumerate(entries):
        result[i] = e
    return result.reshape(shape)


def is_constant(x: Any) -> bool:
    """Whether no entry depends on the input."""
    return not any(isinstance(e, Form) for e in x.flat)


def stored(proto: Any) -> Any:
    """A tensor of the file, exactly."""
    if proto.data_type not in _FLOATS + _INTEGERS or proto.data_location == 1 or prod(proto.dims) > MOST:
        raise OutOfScope(f"a tensor of type {proto.data_type}, in another file, or too large")
    values = onnx.numpy_helper.to_array(proto).astype(object)
    if proto.data_type in _INTEGERS:
        return values
    entries = [arb(v) for v in values.flat]
    if not all(e.is_finite() for e in entries):
        raise OutOfScope("a weight that is not finite")
    return array(entries, values.shape)


def windows(
    sizes: Sequence[int], kernel: Sequence[int], steps: Sequence[int], pads: Sequence[int], gaps: Sequence[int]
) -> tuple[list[int], list[list[int | None]]]:
    """How many windows there are along each axis, and the places of the entries of each; None is padding."""
    n = len(sizes)
    counts = [(sizes[i] + pads[i] + pads[n + i] - gaps[i] * (kernel[i] - 1) - 1) // steps[i] + 1 for i in range(n)]
    if min(*counts, *kernel, *gaps, *steps) < 1 or min(pads) < 0:
        raise OutOfScope("windows that do not fit")
    fits(*counts, *kernel)
    places = []
    for corner in product(*(range(c) for c in counts)):
        window: list[int | None] = []
        for offset in product(*(range(k) for k in kernel)):
            place, inside = 0, True
            for i in range(n):
                at = corner[i] * steps[i] + offset[i] * gaps[i] - pads[i]
                place, inside = place * sizes[i] + at, inside and 0 <= at < sizes[i]
            window.append(place if inside else None)
        places.append(window)
    return counts, places
