"""An operator between some entries of its input and some of its output."""

from __future__ import annotations

from math import prod

from torch import Tensor

from recurjac._types import Shape
from recurjac.operators.base import AbstractOperator
from recurjac.operators.compose import compose
from recurjac.operators.gather import Gather
from recurjac.operators.reindex import Identity, Reshape


def part(operator: AbstractOperator, outputs: Tensor | None, inputs: Tensor | None) -> AbstractOperator | None:
    """`operator` on the entries `inputs` alone (the others being 0), of whose result the entries `outputs` are taken.

    Both are rising flat positions, and the operator is between vectors there; None stands for all, in their shape.
    The result is None where no chosen entry depends on another.
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
    """From a tensor to its entries at rising flat positions."""
    n = prod(shape)
    if len(entries) < n:
        return Gather.of(entries, shape)
    return Identity(shape) if shape == (n,) else Reshape(shape, (n,))
