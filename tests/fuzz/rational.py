"""Jacobians of the normal form in rational arithmetic, for networks whose rounding is covered."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from recurjac.activations import AbstractActivation
from recurjac.activations.smooth import AbstractSmooth
from recurjac.network import Network, Stage
from tests.exact import pieces
from tests.helpers import Exact, exact, exact_image
from tests.powers import derivatives

_Columns = list[Exact]
"""A value and its derivatives along all inputs."""


def rational_jacobian(network: Network, x: Tensor) -> list[Exact] | None:
    """The rows of the Jacobian at one input (n,), to far more digits than a float has; None at a kink or a pole."""
    n = x.numel()
    after: list[_Columns] = [[exact(x), *(_unit(i, n) for i in range(n))]]
    before: list[_Columns] = []
    for stage in network.stages:
        before.append(_pre(stage, after, n))
        found = _post(stage, before, network.dtype)
        if found is None:
            return None
        after.append(found)
    return [list(row) for row in zip(*after[-1][1:], strict=True)]


def _unit(i: int, n: int) -> Exact:
    return [Fraction(int(i == j)) for j in range(n)]


def _pre(stage: Stage, after: Sequence[_Columns], n: int) -> _Columns:
    terms = [[exact_image(e.operator, column) for column in after[e.source]] for e in stage.edges]
    nothing = [Fraction(0)] * torch.Size(stage.shape).numel()
    terms += [[exact_image(c.operator, exact(c.tensor)), *[nothing] * n] for c in stage.constants]
    columns = zip(*terms, strict=True)
    return [[sum(entries, Fraction(0)) for entries in zip(*column, strict=True)] for column in columns]


def _post(stage: Stage, before: Sequence[_Columns], dtype: torch.dtype) -> _Columns | None:
    """The first factor of a product gives 0, and the second one the product, as both are read together."""
    z = before[-1]
    if stage.linear:
        return z
    if stage.factor is not None:
        if stage.factor.first:
            return [[Fraction(0)] * len(c) for c in z]
        v = before[-2]
        slopes = [[a * q + b * p for a, b, p, q in zip(z[0], v[0], z[i], v[i], strict=True)] for i in range(1, len(z))]
        return [[a * b for a, b in zip(z[0], v[0], strict=True)], *slopes]
    found = [_derived(stage.activation, v, i, stage, dtype) for i, v in enumerate(z[0])]
    known = [f for f in found if f is not None]
    if len(known) < len(found):
        return None
    values, steep = (list(part) for part in zip(*known, strict=True))
    return [values, *([s * d for s, d in zip(steep, column, strict=True)] for column in z[1:])]


def _derived(
    activation: AbstractActivation, v: Fraction, i: int, stage: Stage, dtype: torch.dtype
) -> tuple[Fraction, Fraction] | None:
    """σ(v) and σ'(v) of neuron i."""
    if isinstance(activation, AbstractSmooth):
        found = derivatives(activation, v)
        return None if found is None else (sum(found[0], Fraction(0)) / 2, sum(found[1], Fraction(0)) / 2)
    piece = pieces(activation, torch.zeros(stage.shape, dtype=dtype))[i]
    met = piece.met(v, v)
    return (piece.value(v), met[0]) if len(met) == 1 else None
