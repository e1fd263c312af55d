"""An operator restricted to some entries of its input and some entries of its output."""

from __future__ import annotations

from math import prod

from torch import Tensor

from recurjac._types import Shape
from recurjac.operators.base import AbstractOperator
from recurjac.operators.compose import compose
from recurjac.operators.gather import Gather
from recurjac.operators.reindex import Identity, Reshape


def part(operator: AbstractOperator, outputs: Tensor | None, inputs: Tensor | None) -> AbstractOperator | None:
    """`operator` from the entries `inputs` of its input (the others are 0) to the entries `outputs` of its output.

    Both are flat positions in ascending order, and the result maps vectors of these entries.  None means all entries,
    which keep their shape.  The result is None if no chosen output depends on a chosen input.
    """
    if any(chosen is not None and len(chosen) == 0 for chosen in (outputs, inputs)):
        return None
    if outputs is not None:
        few, reads = operator.rows(outputs)
        if len(reads) == 0:
            return None
        operator = compose(few, _onto(reads, operator.in_shape))
    if inputs is None:
        return operator
    back, met = operator.transpose().rows(inputs)
    if len(met) == 0:
        return None
    return compose(_onto(met, operator.out_shape).transpose(), back.transpose())


def _onto(entries: Tensor, shape: Shape) -> AbstractOperator:
    """The operator from a tensor to its entries at ascending flat positions."""
    n = prod(shape)
    if len(entries) < n:
        return Gather.of(entries, shape)
    return Identity(shape) if shape == (n,) else Reshape(shape, (n,))
