"""Jacobians at points, and their gains, in plain floating point."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from recurjac.arithmetic import MEMORY, Fast
from recurjac.deadline import NEVER, Deadline
from recurjac.network import Network
from recurjac.search.directions import best_direction

_LOT = 512
"""The largest number of points that are evaluated together, so that a search ends in time."""
_LOT_WORK = 10**7
"""About the number of multiply-adds of these points, but a few are always evaluated together."""
_LEAST_LOT = 16


def point_jacobian(network: Network, x: Tensor) -> Tensor:
    """J at the points x (batch, *input), inputs and outputs flattened: (batch, K, n_in), in plain floating point."""
    return outputs_and_jacobian(network, x)[1]


def outputs_and_jacobian(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs at the points x (batch, *input), (batch, *output), and J there."""
    fast = Fast()
    pre = network.preactivations(x)
    rows = torch.eye(prod(network.output_shape), dtype=x.dtype, device=x.device)
    gradient: dict[int, Tensor] = {network.depth: rows.reshape(1, -1, *network.output_shape)}
    for k in range(network.depth, 0, -1):
        stage = network.stages[k - 1]
        if k not in gradient:
            continue
        through = gradient.pop(k) * _slope(network, pre, k).unsqueeze(1)
        for e in stage.edges:
            more = e.operator.transpose().push(fast.exact(through)).mid
            gradient[e.source] = gradient[e.source] + more if e.source in gradient else more
    zero = x.new_zeros(x.shape[0], rows.shape[0], *network.input_shape)
    return pre[-1], (gradient.get(0, zero) + zero).flatten(2)


def _slope(network: Network, pre: Sequence[Tensor], k: int) -> Tensor:
    """The slopes of stage k at its pre-activations."""
    stage, fast = network.stages[k - 1], Fast()
    if stage.factor is not None:
        return pre[k - 1 + stage.factor.other]
    return stage.activation.slope_range(fast.enclose(pre[k - 1], pre[k - 1]), fast).upper


def gains_at(
    network: Network, points: Tensor, norms: tuple[float, float], deadline: Deadline = NEVER
) -> tuple[Tensor, Tensor]:
    """The best direction found at each of the points (batch, N, *input), after the gain in that direction.

    Points that are not looked at before the deadline have the gain 0; the first of each sample come first.
    """
    flat = points.transpose(0, 1).flatten(0, 1)
    width = network.sizes[-1] * max(network.sizes)
    work = prod(network.output_shape) * max(1, network.multiply_adds)
    lot = min(_LOT, max(_LEAST_LOT, _LOT_WORK // work))
    part = max(1, min(MEMORY // (8 * 4 * width), lot))
    gains, directions = flat.new_zeros(len(flat)), torch.zeros_like(flat).flatten(1)
    for begin in range(0, len(flat), part):
        if begin > 0 and deadline.over:
            break
        rows = slice(begin, begin + part)
        gains[rows], directions[rows] = best_direction(point_jacobian(network, flat[rows]), *norms)
    gains = torch.where(gains.isfinite(), gains, 0.0)  # an overflow carries no information
    back = (points.shape[1], points.shape[0])
    return gains.reshape(back).mT, directions.reshape(*back, *points.shape[2:]).transpose(0, 1)
