"""The truth: stored networks of two-piece activations, evaluated in rational arithmetic."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recurjac.activations.two_piece import AbstractTwoPiece
from recurjac.network import Network
from recurjac.operators import AbstractOperator, Compose, Dense, Identity, Reshape, Scale

Exact = Any
"""A NumPy array of fractions."""


def rational(tensor: Tensor) -> Exact:
    """The numbers of a tensor, exactly."""
    flat = [Fraction(v) for v in tensor.detach().double().flatten().tolist()]
    out = np.empty(len(flat), dtype=object)
    out[:] = flat
    return out.reshape(tuple(tensor.shape))


def apply(operator: AbstractOperator, h: Exact) -> Exact:
    """An operator applied to (*in, ...) flattened to (n_in, columns)."""
    if isinstance(operator, Compose):
        return apply(operator.outer, apply(operator.inner, h))
    if isinstance(operator, Dense):
        return rational(operator.weight).dot(h)
    if isinstance(operator, Scale):
        return rational(operator.factor).reshape(-1, 1) * h
    assert isinstance(operator, Identity | Reshape)
    return h


def jacobian(network: Network, x: Tensor) -> Exact:
    """The Jacobian at one input, (n_out, n_in); no pre-activation may be exactly 0."""
    n = x.numel()
    value: list[Exact] = [rational(x.flatten()).reshape(-1, 1)]
    unit = np.empty((n, n), dtype=object)
    unit[:] = Fraction(0)
    for i in range(n):
        unit[i, i] = Fraction(1)
    slopes: list[Exact] = [unit]
    for stage in network.stages:
        z: Exact = sum((apply(e.operator, value[e.source]) for e in stage.edges), start=Fraction(0))
        z = z + sum((apply(c.operator, rational(c.tensor.flatten()).reshape(-1, 1)) for c in stage.constants), start=0)
        g: Exact = sum((apply(e.operator, slopes[e.source]) for e in stage.edges), start=Fraction(0))
        if not stage.linear:
            assert isinstance(stage.activation, AbstractTwoPiece)
            assert all(v != 0 for v in z.flatten())
            below = rational(stage.activation.slope_below(torch.zeros(stage.shape, dtype=network.dtype)).flatten())
            falling = below.reshape(-1, 1)
            z, g = np.where(z > 0, z, falling * z), np.where(z > 0, g, falling * g)
        value.append(z)
        slopes.append(g)
    return slopes[-1]


def at_most(left: Exact, right: Tensor) -> bool:
    """Whether left <= right entry by entry, without any tolerance."""
    infinite = (right == torch.inf).numpy()
    finite = rational(torch.where(right.isinf(), 0.0, right))
    return bool(np.all((left <= finite) | infinite))
