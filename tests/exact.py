"""The truth: stored networks of piecewise linear activations, evaluated in rational arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recurjac.activations import AbstractActivation
from recurjac.activations.clamp import AbstractClamp
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


@dataclass(frozen=True)
class Pieces:
    """The piecewise linear function that is `start` at its first kink; one more slope than kinks."""

    kinks: tuple[Fraction, ...]
    slopes: tuple[Fraction, ...]
    start: Fraction

    def value(self, v: Fraction) -> Fraction:
        first = self.kinks[0]
        if v < first:
            return self.start + self.slopes[0] * (v - first)
        ends = [*(min(k, v) for k in self.kinks), v]
        return self.start + sum(s * (b - a) for s, (a, b) in zip(self.slopes[1:], pairwise(ends), strict=True))

    def met(self, low: Fraction | float, high: Fraction | float) -> list[Fraction]:
        """The slopes of the pieces that [low, high] meets, also in one point."""
        ends: list[Fraction | float] = [-float("inf"), *self.kinks, float("inf")]
        return [s for s, (a, b) in zip(self.slopes, pairwise(ends), strict=True) if low <= b and a <= high]


def pieces(activation: AbstractActivation, like: Tensor) -> list[Pieces]:
    """The function of each neuron of `like`, in its dtype."""
    if isinstance(activation, AbstractTwoPiece):
        below = rational(activation.slope_below(like).flatten())
        return [Pieces((Fraction(0),), (s, Fraction(1)), Fraction(0)) for s in below]
    assert isinstance(activation, AbstractClamp)
    a, b = (Fraction(v) for v in torch.tensor(activation.kinks, dtype=like.dtype).tolist())
    return [Pieces((a, b), (Fraction(0), Fraction(1), Fraction(0)), a)] * like.numel()


def activate(activation: AbstractActivation, z: Exact, like: Tensor) -> Exact:
    """σ of the column z, neuron by neuron."""
    values = [p.value(v) for p, v in zip(pieces(activation, like), z[:, 0], strict=True)]
    return np.array(values, dtype=object).reshape(-1, 1)


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
    """The Jacobian at one input, (n_out, n_in); no pre-activation may be exactly at a kink."""
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
            like = torch.zeros(stage.shape, dtype=network.dtype)
            steep = [p.met(v, v) for p, v in zip(pieces(stage.activation, like), z[:, 0], strict=True)]
            assert all(len(met) == 1 for met in steep)
            z, g = activate(stage.activation, z, like), np.array(steep, dtype=object) * g
        value.append(z)
        slopes.append(g)
    return slopes[-1]


def at_most(left: Exact, right: Tensor) -> bool:
    """Whether left <= right entry by entry, without any tolerance."""
    infinite = (right == torch.inf).numpy()
    finite = rational(torch.where(right.isinf(), 0.0, right))
    return bool(np.all((left <= finite) | infinite))
