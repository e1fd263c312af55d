"""How much worse a bound of a Jacobian is for the width of each input (docs/mathematics.md, §6.6)."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from recurjac.arithmetic import Fast
from recurjac.preactivation import PreactivationState

_FAST = Fast()


def input_effects(state: PreactivationState, weights: Tensor | None = None) -> Tensor:
    """For each sample and input, an estimate of what its width adds to the entries of the Jacobian: (batch, n).

    weights: of the entries, (batch, K, n); None for those of the row of each sample that seems to be the largest.
    A neuron j of unknown slope adds about (D_j - d_j) |g_j| |∂z_j/∂x_r| to entry r of the row of which g_j is the
    derivative; each input has the share of it that it has in the width of z_j.  Derivatives are those for the middles
    of all slopes.  Nothing that is proved depends on this.
    """
    network = state.network
    middles, widths = _slopes(state)
    rises = _risen(state, middles)
    rows = torch.eye(prod(network.output_shape), dtype=network.dtype, device=network.device)
    gradient = {network.depth: rows.reshape(1, -1, *network.output_shape)}
    scale = state.region.scale.flatten(1)
    total = scale.new_zeros(state.region.batch, len(rows), scale.shape[1])
    for k in range(network.depth, 0, -1):
        if k not in gradient:
            continue
        back = gradient.pop(k)
        if k < network.depth:
            total = total + _added(widths[k - 1], back, rises[k], scale, weights)
            back = back * middles[k - 1].unsqueeze(1)
        for e in network.stages[k - 1].edges:
            more = e.operator.transpose().push(_FAST.exact(back)).mid
            gradient[e.source] = gradient[e.source] + more if e.source in gradient else more
    if weights is not None:
        return total.sum(1)
    jacobian = gradient.get(0, scale.new_zeros(1, 1, *network.input_shape)).flatten(2).abs().sum(2)
    worst = (total.sum(2) + jacobian).argmax(1)
    return total[torch.arange(len(total), device=total.device), worst]


def neuron_effects(state: PreactivationState, weights: Tensor | None = None) -> list[Tensor]:
    """The same by neurons: what the width of each one's slope adds, for each inner stage, (batch, neurons)."""
    network = state.network
    middles, widths = _slopes(state)
    rises = _risen(state, middles)
    rows = torch.eye(prod(network.output_shape), dtype=network.dtype, device=network.device)
    gradient = {network.depth: rows.reshape(1, -1, *network.output_shape)}
    found = [widths[k].flatten(1) * 0 for k in range(network.depth - 1)]
    for k in range(network.depth, 0, -1):
        if k not in gradient:
            continue
        back = gradient.pop(k)
        if k < network.depth:
            size = rises[k].flatten(2).abs()
            own = size.sum(1, keepdim=True) if weights is None else torch.matmul(weights, size)
            found[k - 1] = ((back.flatten(2).abs() + _LEAST) * own).sum(1) * widths[k - 1].flatten(1)
            back = back * middles[k - 1].unsqueeze(1)
        for e in network.stages[k - 1].edges:
            more = e.operator.transpose().push(_FAST.exact(back)).mid
            gradient[e.source] = gradient[e.source] + more if e.source in gradient else more
    return [f.nan_to_num(0.0, 0.0, 0.0) for f in found]


_LEAST = 1e-12
"""The least derivative by a neuron: one that changes nothing at the middles of all slopes may do so elsewhere."""


def _slopes(state: PreactivationState) -> tuple[list[Tensor], list[Tensor]]:
    """The middles and widths of the slopes of all inner stages, (batch, *stage); 0 where they are not finite."""
    ranges = [state.slopes(k) for k in range(1, state.network.depth)]
    middles = [(s.lower / 2 + s.upper / 2).nan_to_num(0.0, 0.0, 0.0) for s in ranges]
    return middles, [s.width.nan_to_num(0.0, 0.0, 0.0) for s in ranges]


def _risen(state: PreactivationState, middles: list[Tensor]) -> list[Tensor]:
    """The derivative of every z_k by each input, (batch, n, *stage), after that of the input itself."""
    network, size = state.network, prod(state.network.input_shape)
    unit = torch.eye(size, dtype=network.dtype, device=network.device).reshape(1, size, *network.input_shape)
    after, rises = [unit], [unit]
    for k, stage in enumerate(network.stages[:-1]):
        rise = torch.zeros(1, size, *stage.shape, dtype=network.dtype, device=network.device)
        for e in stage.edges:
            rise = rise + e.operator.push(_FAST.exact(after[e.source])).mid
        rises.append(rise)
        after.append(rise * middles[k].unsqueeze(1))
    return rises


def _added(width: Tensor, back: Tensor, rise: Tensor, scale: Tensor, weights: Tensor | None) -> Tensor:
    """What the unknown slopes of a stage add, by inputs: (batch, K, n)."""
    size = rise.flatten(2).abs()
    spread = size * scale.unsqueeze(2)
    all_of_it = spread.sum(1, keepdim=True)
    share = spread / torch.where(all_of_it > 0, all_of_it, 1.0)
    own = size.sum(1, keepdim=True) if weights is None else torch.matmul(weights, size)
    gain = back.flatten(2).abs() * own * width.flatten(1).unsqueeze(1)
    return torch.matmul(gain, share.mT)
