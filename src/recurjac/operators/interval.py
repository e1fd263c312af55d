"""The image of an interval under an operator, entry by entry."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Interval
from recurjac.operators.base import AbstractLeaf, AbstractOperator
from recurjac.operators.compose import Compose
from recurjac.operators.gather import Gather
from recurjac.operators.interval_matrix import IntervalMatrix
from recurjac.operators.reindex import Reshape
from recurjac.operators.scale import AbstractDiagonal


def interval_image(operator: AbstractOperator, interval: Interval, arithmetic: AbstractArithmetic) -> Interval:
    """An interval that contains A h for every h in `interval` (..., *in): A m ± |A| s.

    m and s are the midpoint and the half-width.  An output that depends on an input with an infinite end is unbounded
    on both sides.  Otherwise, for a single operator in exact arithmetic, the interval is the smallest possible.
    """
    if isinstance(operator, Compose):
        interval, operator = interval_image(operator.inner, interval, arithmetic), operator.outer
        return interval_image(operator, interval, arithmetic)
    if isinstance(operator, Reshape) or (isinstance(operator, Gather) and len(operator.table) == 1):
        return interval.map(operator.apply)  # entries are moved, without arithmetic
    return affine_image([(operator, interval)], None, arithmetic)


def mixes_once(operator: AbstractOperator) -> bool:
    """Whether at most one factor of a composition does more than scale entries or rename them.

    Its interval image is then the smallest possible in exact arithmetic, as that of a single operator is.
    """
    return _mixing(operator) <= 1


def _mixing(operator: AbstractOperator) -> int:
    if isinstance(operator, Compose):
        return _mixing(operator.outer) + _mixing(operator.inner)
    return 0 if isinstance(operator, AbstractDiagonal | Reshape) else 1


def affine_image(
    terms: Sequence[tuple[AbstractOperator, Interval]], constant: Ball | None, arithmetic: AbstractArithmetic
) -> Interval:
    """Like `interval_image`, for Σ A h + b with each h in its interval; there must be at least one term."""
    spread: Ball | None = None
    met: Tensor | None = None
    for operator, interval in terms:
        leaf, near = _at_leaf(operator, interval, arithmetic)
        mid, half = arithmetic.midrad(near)
        if not isfinite(half.sum().item()):  # some end is infinite
            infinite = near.lower.isinf() | near.upper.isinf()
            near = Interval(torch.where(infinite, 0.0, near.lower), torch.where(infinite, 0.0, near.upper))
            reached = leaf.absolute().push(arithmetic.exact(infinite.to(near.lower.dtype))).mid > 0
            met = reached if met is None else met | reached
            mid, half = arithmetic.midrad(near)
        live = half.requires_grad or any(t.requires_grad for t in leaf.tensors())  # radii carry no derivatives
        if arithmetic.rigorous and not live and _known(leaf):  # a ball whose radius is a half-width: one product fewer
            image = leaf.push(arithmetic.ball(mid, half))
        else:
            image, width = leaf.push(arithmetic.exact(mid)), leaf.absolute().push(arithmetic.exact(half))
            spread = width if spread is None else spread + width
        constant = image if constant is None else constant + image
    if constant is None:
        raise ValueError("there is no term")
    ends = (constant, constant) if spread is None else (constant - spread, constant + spread)
    found = arithmetic.between(*ends)
    if met is None:
        return found
    return Interval(torch.where(met, -torch.inf, found.lower), torch.where(met, torch.inf, found.upper))


def _known(leaf: AbstractLeaf | IntervalMatrix) -> bool:
    """Whether it is one matrix.

    A product of two balls with radii adds their product divided by γ, which is as large as a half-width itself.
    """
    return isinstance(leaf, AbstractLeaf) or leaf.matrix.exact


def _at_leaf(
    operator: AbstractOperator, interval: Interval, arithmetic: AbstractArithmetic
) -> tuple[AbstractLeaf | IntervalMatrix, Interval]:
    """The last operator of a composition, and an interval around the image of `interval` under the others."""
    if isinstance(operator, Compose):
        return _at_leaf(operator.outer, interval_image(operator.inner, interval, arithmetic), arithmetic)
    assert isinstance(operator, AbstractLeaf | IntervalMatrix)  # noqa: S101  # (the others are compositions)
    return operator, interval
