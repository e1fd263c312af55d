"""Multipliers of a P-chain along layers, improved by Adam's method in single precision.  No proof depends on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, inf, pi
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import largest_eigenpair
from recurjac.deadline import NEVER, Deadline
from recurjac.quadratic.bends import demand
from recurjac.quadratic.layered import reach_layers
from recurjac.quadratic.layers import Layers
from recurjac.quadratic.multipliers import LN2, Loss, first_weights, start_of
from recurjac.quadratic.windows import Windows

_MARGIN = 1e-4
"""The factor of a layer is above the least one that is feasible by at least this share of it."""
_RATE = 0.15
"""The first step of Adam's method; it falls to nothing along half a cosine."""
_PACE = 4.0
"""How much faster the gaps move than the other numbers: there is one for a whole layer."""
_LEAST_SHARE = 0.03
"""The least first share of the diagonal that is not taken by later neurons of a group."""
_STEPS = 40
"""The number of steps to find the largest eigenvalue of a matrix."""
_DENSE = 128
"""Up to this size, all eigenvalues are computed."""


@final
@dataclass(frozen=True)
class LayerMultipliers:
    """Free numbers of any sign, from which multipliers are made.

    weights: log w for each input; None for a Euclidean ball.  shapes: for each layer, the logarithm of the share of the
    diagonal of each neuron, (g, u).  gaps: a number for each layer, with which its factor grows.
    """

    weights: Tensor | None
    shapes: tuple[Tensor, ...]
    gaps: tuple[Tensor, ...]

    @classmethod
    def first(cls, layers: Layers, radius: Tensor, euclidean: bool) -> LayerMultipliers:
        """Multipliers that are nearly the same for all neurons of a layer, and twice as large as they must be."""
        device = layers.rows.mid.device
        zero = torch.zeros((), dtype=torch.float64, device=device)
        weights = None if euclidean else first_weights(layers.middle_rows(), radius)
        return cls(weights, tuple(_even(c.windows) for c in layers.layers), tuple(zero for _ in layers.layers))

    def start(self, radius: Tensor) -> Tensor:
        """The diagonal of P at the input, for |v_i| <= radius_i, or ‖v / radius‖₂ <= 1 without weights."""
        return start_of(self.weights, radius)

    def inverse(self, k: int, windows: Windows) -> Tensor:
        return demand(windows, self.shapes[k].exp())

    def factor(self, k: int, cost: Tensor) -> Tensor:
        least = _largest(cost).clamp(min=torch.finfo(cost.dtype).tiny)
        return least * (1 + _MARGIN + torch.nn.functional.softplus(_PACE * self.gaps[k]) / LN2)

    def map(self, change: Callable[[Tensor], Tensor]) -> LayerMultipliers:
        """The same with `change` applied to all numbers."""
        weights = None if self.weights is None else change(self.weights)
        return LayerMultipliers(weights, tuple(map(change, self.shapes)), tuple(map(change, self.gaps)))

    @property
    def leaves(self) -> list[Tensor]:
        return [*([] if self.weights is None else [self.weights]), *self.shapes, *self.gaps]


def _even(windows: Windows) -> Tensor:
    """The logarithms of the shares with which all multipliers of a group are about 1."""
    beta = windows.bent.mid[..., windows.entries.shape[1] :].abs()
    taken = (beta * beta.sum(-1, keepdim=True)).sum(1)
    return (1 - taken).clamp(min=_LEAST_SHARE).log()


def _largest(cost: Tensor) -> Tensor:
    """About the largest eigenvalue, with its derivative."""
    symmetric = cost / 2 + cost.mT / 2
    if len(cost) <= _DENSE:
        found: Tensor = torch.linalg.eigvalsh(symmetric)[-1]
        return found
    with torch.no_grad():
        v = largest_eigenpair(symmetric.__matmul__, len(cost), _STEPS, symmetric).vector
    return v @ (symmetric @ v) / (v @ v)


def improved(
    layers: Layers, begin: LayerMultipliers, radius: Tensor, loss: Loss, steps: int, deadline: Deadline = NEVER
) -> LayerMultipliers:
    """The best multipliers that Adam's method finds from `begin` in a number of steps, or until the deadline."""
    dtype = torch.float32 if layers.widest > _DENSE else torch.float64
    plain, radius = layers.plain(dtype), radius.to(dtype)
    now = begin.map(lambda t: t.detach().to(dtype).requires_grad_())
    if not any(len(t.shape) and t.numel() for t in now.leaves) or steps == 0:
        return begin
    best, least = begin, inf
    adam = torch.optim.Adam(now.leaves, lr=_RATE, betas=(0.9, 0.99))
    for step in range(steps):
        share = max(step / steps, deadline.share)
        if share >= 1:
            break
        with torch.enable_grad():
            found = reach_layers(plain, now.start(radius), now)
            value = None if found is None else loss(found.gram.mid)
            if value is None or not value.requires_grad or not bool(value.isfinite()):
                break
            if value.item() < least:
                best, least = now.map(lambda t: t.detach().double()), value.item()
            adam.param_groups[0]["lr"] = _RATE * (1 + cos(pi * share)) / 2
            adam.zero_grad()
            torch.autograd.backward(value)
            adam.step()
    return best
