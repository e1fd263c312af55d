"""Which signs the entries of images can have, from the signs of coefficients and of what they multiply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval, MoveTensor
from recurjac.operators.base import AbstractLeaf, AbstractOperator
from recurjac.operators.compose import Compose
from recurjac.operators.dense import Dense
from recurjac.operators.interval_matrix import IntervalMatrix


@final
@dataclass(frozen=True)
class Possible:
    """Where numbers may be > 0, and where they may be < 0: boolean tensors of one shape; a number may be 0 anywhere."""

    positive: Tensor
    negative: Tensor

    @classmethod
    def of(cls, interval: Interval) -> Possible:
        """The signs of numbers in an interval."""
        return cls(interval.upper > 0, interval.lower < 0)

    def __or__(self, other: Possible) -> Possible:
        """The signs of sums."""
        return Possible(self.positive | other.positive, self.negative | other.negative)

    def __and__(self, other: Possible) -> Possible:
        """The signs of products."""
        return Possible(
            (self.positive & other.positive) | (self.negative & other.negative),
            (self.positive & other.negative) | (self.negative & other.positive),
        )

    def map(self, move: MoveTensor) -> Possible:
        """The same after `move` (a reshape, a permutation, an index) of both."""
        return Possible(move(self.positive), move(self.negative))

    def interval(self, like: Tensor) -> Interval:
        """All numbers with these signs: ends are 0 or infinite, in the dtype of `like`."""
        zero = like.new_zeros(())
        return Interval.unchecked(
            torch.where(self.negative, -torch.inf, zero), torch.where(self.positive, torch.inf, zero)
        )


def possible_image(operator: AbstractOperator, signs: Possible) -> Possible:
    """The possible signs of A v for every v (..., *in) with `signs`; of a composition, operator by operator.

    An entry of A v is positive only if some term is: a positive coefficient times a positive number, or a negative one
    times a negative one.  Terms are counted, with coefficients -1, 0 and 1 in float64, where sums of so few whole
    numbers are exact; so nothing is rounded and nothing underflows.  Source: docs/mathematics.md, §7.4.
    """
    if isinstance(operator, Compose):
        return possible_image(operator.outer, possible_image(operator.inner, signs))
    if isinstance(operator, IntervalMatrix):
        return _of_matrix(operator, signs)
    leaf = operator.signs() if isinstance(operator, AbstractLeaf) else None
    if leaf is None:
        every = torch.ones(operator.out_shape, dtype=torch.bool, device=signs.positive.device)
        lead = signs.positive.shape[: signs.positive.dim() - len(operator.in_shape)]
        return Possible(every.expand(*lead, *every.shape), every.expand(*lead, *every.shape))
    counted = leaf.to(torch.float64, signs.positive.device)
    positive, negative = signs.positive.double(), signs.negative.double()
    each, excess = counted.absolute().apply(positive + negative), counted.apply(positive - negative)
    return Possible(each + excess > 1, each - excess > 1)  # twice the counts of the terms with each sign


def _of_matrix(operator: IntervalMatrix, signs: Possible) -> Possible:
    """The same for a matrix that is known up to rounding."""
    upper, lower = operator.matrix.upper().detach() > 0, operator.matrix.lower().detach() < 0
    plus, minus = (Dense(t.double(), operator.inputs, operator.outputs) for t in (upper, lower))
    positive, negative = signs.positive.double(), signs.negative.double()
    return Possible(
        plus.apply(positive) + minus.apply(negative) > 0.5, plus.apply(negative) + minus.apply(positive) > 0.5
    )
