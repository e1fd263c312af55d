"""Multipliers of a P-chain along layers: even ones, and good ones from `layer_vectors`.  No proof depends on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import largest_eigenpair
from recurjac.deadline import NEVER, Deadline
from recurjac.quadratic.bends import demand
from recurjac.quadratic.layer_vectors import Weigh, dual_multipliers
from recurjac.quadratic.layered import reach_layers
from recurjac.quadratic.layers import Layers
from recurjac.quadratic.multipliers import Loss, first_weights, positive, start_of
from recurjac.quadratic.windows import Windows

_LEAST_SHARE = 0.03
"""The least share of the diagonal that is not taken by later neurons of a group."""
_MARGIN = 1e-4
"""What the first multipliers have above twice the least ones, as those of a P-chain over whole nodes."""
_SPARES = (0.003, 0.01, 0.03, 0.1, 0.3)
"""How far the factor of a layer may be above the least one that is feasible, as shares of it."""
_DEFINITE = 1e-3
"""The least eigenvalue of K, scaled, with which multipliers stay as they are found."""
_SHARES = (0.3, 0.1, 0.03, 0.01, 0.0)
"""The shares of larger multipliers that are tried where K is nearly singular or worse."""
_RANGE = 1e4
"""Multipliers of a layer are at most this factor from their median."""
_STEPS = 40
"""The number of steps to find the largest eigenvalue of a matrix."""
_DENSE = 128
"""Up to this size, all eigenvalues are computed."""


@final
@dataclass(frozen=True)
class LayerMultipliers:
    """i for each neuron of each layer, (g, u), and the factors of layers.

    weights: log w for each input; None for a Euclidean ball.
    floor, spare: a layer's factor is at least `floor`, and above the least one that is feasible by the share `spare`.
    """

    weights: Tensor | None
    inverses: tuple[Tensor, ...]
    floor: float
    spare: float

    @classmethod
    def first(cls, layers: Layers, radius: Tensor, euclidean: bool) -> LayerMultipliers:
        """Multipliers that are nearly the same for all neurons of a layer, and twice as large as they must be."""
        weights = None if euclidean else first_weights(layers.middle_rows(), radius)
        return cls(weights, tuple(demand(c.windows, _even(c.windows)) for c in layers.layers), 0.0, 1.0 + _MARGIN)

    def start(self, radius: Tensor) -> Tensor:
        """The diagonal of P at the input, for |v_i| <= radius_i, or ‖v / radius‖₂ <= 1 without weights."""
        return start_of(None if self.weights is None else self.weights.to(radius.dtype), radius)

    def inverse(self, k: int, windows: Windows) -> Tensor:
        return self.inverses[k].to(windows.bent.mid.dtype)

    def factor(self, k: int, cost: Tensor) -> Tensor:
        least = _largest(cost).clamp(min=torch.finfo(cost.dtype).tiny)
        return (least * (1 + self.spare)).clamp(min=self.floor)


def _even(windows: Windows) -> Tensor:
    """The shares with which all multipliers of a group are about 1."""
    beta = windows.bent.mid[..., windows.entries.shape[1] :].abs()
    taken = (beta * beta.sum(-1, keepdim=True)).sum(1)
    return (1 - taken).clamp(min=_LEAST_SHARE)


def _largest(cost: Tensor) -> Tensor:
    """About the largest eigenvalue."""
    symmetric = cost / 2 + cost.mT / 2
    if len(cost) <= _DENSE:
        found: Tensor = torch.linalg.eigvalsh(symmetric)[-1]
        return found
    return largest_eigenpair(symmetric.__matmul__, len(cost), _STEPS, symmetric).value


def improved(
    layers: Layers,
    begin: LayerMultipliers,
    radius: Tensor,
    loss: Loss,
    weigh: Weigh | None,
    steps: int,
    deadline: Deadline = NEVER,
) -> LayerMultipliers:
    """The best multipliers found in a number of steps or until the deadline, never worse than `begin`.

    weigh: the weights of the rows with which a sum is like the loss; None if the loss is the largest eigenvalue.
    """
    dtype = torch.float32 if layers.widest > _DENSE else torch.float64
    plain, radius = layers.plain(dtype), radius.to(dtype)
    with torch.no_grad():
        found = dual_multipliers(plain, radius, begin.weights is None, weigh, steps, deadline)
        if found is None:
            return begin
        weights = None if begin.weights is None else positive(found.shares).log()
        inverses = tuple(map(_definite, (c.windows for c in plain.layers), found.inverses))
        best, least, last = begin, _value(plain, begin, radius, loss), inf
        for spare in _SPARES:
            if deadline.over:
                break
            more = replace(begin, weights=weights, inverses=inverses, floor=1.0, spare=spare)
            value = _value(plain, more, radius, loss)
            if value < least:
                best, least = more, value
            if value > last:
                break
            last = value
    return best


def _value(plain: Layers, multipliers: LayerMultipliers, radius: Tensor, loss: Loss) -> float:
    """The loss; infinite if nothing is reached."""
    reached = reach_layers(plain, multipliers.start(radius), multipliers)
    value = inf if reached is None else float(loss(reached.gram.mid.double()))
    return value if value == value else inf


def _definite(windows: Windows, inverse: Tensor) -> Tensor:
    """The multipliers where K is far from singular with them; elsewhere with a share of larger ones, in float64."""
    if inverse.numel() == 0:
        return inverse.double()
    inverse, some = inverse.double(), inverse[inverse > 0]
    middle = some.median().item() if some.numel() else 1.0
    inverse = inverse.clamp(min=middle / _RANGE, max=middle * _RANGE)
    beta = windows.bent.mid[..., windows.entries.shape[1] :].double()
    taken = ((inverse * beta.abs().sum(-1)).unsqueeze(1) @ beta.abs()).squeeze(1)
    larger = demand(windows, torch.maximum(inverse - taken, _LEAST_SHARE * inverse))
    found = larger
    for share in _SHARES:  # K is linear in the multipliers
        mixed = inverse + share * (larger - inverse)
        found = torch.where((_least(beta, mixed) > _DEFINITE).unsqueeze(-1), mixed, found)
    return found


def _least(beta: Tensor, inverse: Tensor) -> Tensor:
    """About the least eigenvalue of K, scaled to a unit diagonal without β: (g,)."""
    units = inverse.rsqrt()
    k = torch.diag_embed(inverse) - beta.mT @ (inverse.unsqueeze(-1) * beta)
    found: Tensor = torch.linalg.eigvalsh(k * units.unsqueeze(-1) * units.unsqueeze(-2))[:, 0]
    return found
