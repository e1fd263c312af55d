"""Sums that are known to be positive, such as sums of squares or of exponentials plus a positive constant."""

from __future__ import annotations

import torch
from torch import Tensor

from recurjac.activations import Abs, Exp, FlooredPower, Length, Power, Reciprocal, ReLU, Sigmoid, Softplus, Square
from recurjac.activations import Identity as NoActivation
from recurjac.loading.expression import Builder, Expression
from recurjac.loading.rewrites.masks import value_of
from recurjac.operators import AbstractOperator, Compose, Dense, Divide, Gather, Identity, Reshape, Scale

_SURE = 1 - 2.0**-20
"""A sum is taken to be at least this much of the constant in it, which covers roundings of the constant.

It also covers that the number is then rounded to float32."""
_POSITIVE = (Abs, Exp, FlooredPower, Length, ReLU, Sigmoid, Softplus, Square)
"""Activations that are never negative."""


def floored(x: Expression, exponent: float) -> FlooredPower | None:
    """The activation x^exponent of a sum that is at least a positive number; None if it is not known to be one."""
    least = at_least(x)
    if least is None or not (least * _SURE >= 2e-30 and -4 <= exponent < 1 and exponent != 0):
        return None
    return FlooredPower(exponent, _narrow(least * _SURE))


def _narrow(number: float) -> float:
    """A number that is the same in float32."""
    return float(torch.tensor(number, dtype=torch.float64).clamp(max=1e30).float())


def power_of_positive(x: Expression, exponent: float) -> Expression:
    """x^exponent, finite everywhere if x is known to be positive."""
    return x.activate(floored(x, exponent) or Power(exponent))


def inverse(x: Expression) -> Expression:
    """1 / x."""
    return x.activate(floored(x, -1.0) or Reciprocal())


def at_least(x: Expression) -> float | None:
    """The least constant in a sum whose other terms are not negative; None if one may be negative."""
    if not x.edges or not all(_not_negative(x.builder, e.source, e.operator) for e in x.edges):
        return None
    total: Tensor = torch.zeros(x.shape, dtype=torch.float64)
    for constant in x.constants:
        numbers = constant.tensor
        if numbers.requires_grad or bool((numbers < 0).any()) or not _keeps_signs(x.builder, constant.operator):
            return None
        x.builder.taken.append(numbers)
        total = total + value_of(constant).double().cpu()
    return float(total.min())


def _not_negative(builder: Builder, source: int, operator: AbstractOperator) -> bool:
    """Whether a term is a sum, with coefficients that are not negative, of numbers that are not."""
    if source == 0 or not _keeps_signs(builder, operator):
        return False
    stage = builder.stages[source - 1]
    if not isinstance(stage.activation, NoActivation):
        return isinstance(stage.activation, _POSITIVE)
    least = at_least(Expression(builder, stage.edges, stage.constants, stage.shape))
    return least is not None and least >= 0


def _keeps_signs(builder: Builder, operator: AbstractOperator) -> bool:
    """Whether no coefficient is negative, now and as long as the network may be used."""
    if isinstance(operator, Compose):
        return _keeps_signs(builder, operator.outer) and _keeps_signs(builder, operator.inner)
    if isinstance(operator, Gather | Identity | Reshape):
        return True
    if not isinstance(operator, Scale | Divide | Dense):
        return False
    numbers = operator.weight if isinstance(operator, Dense) else operator.diagonal
    if numbers.requires_grad or bool((numbers < 0).any()):
        return False
    builder.taken.append(numbers)
    return True
