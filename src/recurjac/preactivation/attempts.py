"""Points that are tried in plain floating point, to see which signs of neurons cannot be proved."""

from __future__ import annotations

import torch
from torch import Tensor

from recurjac.preactivation.centred import SecantSystem
from recurjac.quadratic import System

_ATTEMPTS = 6
"""How many points are tried to disprove the sign of a neuron."""


def reached_by_steps(system: SecantSystem, chain: System) -> tuple[Tensor, Tensor]:
    """The least and the largest value of each row's z that are found in the box or ball, in plain floating point."""
    state, count = system.state, len(system.index)
    network, along = state.network.detached(), chain.middle_rows()
    lead, to = system.centre.shape[1:], system.centre.dtype
    signs = torch.cat([torch.ones(count), -torch.ones(count)]).to(along)
    rows, step = torch.arange(count, device=along.device).repeat(2), _steepest(system, torch.cat([along, -along]))
    least = torch.full((count,), torch.inf, dtype=torch.float64, device=along.device)
    most = -least
    for _ in range(_ATTEMPTS):
        points = (system.centre + step.reshape(-1, *lead).to(to)).requires_grad_()
        with torch.enable_grad():
            z = network.preactivations(points)[system.k - 1].flatten(1)[:, system.index]
            mine = (z.gather(1, rows.unsqueeze(1))[:, 0] * signs).sum()
        least, most = (
            torch.minimum(least, z.detach().double().amin(0)),
            torch.maximum(most, z.detach().double().amax(0)),
        )
        slope = torch.autograd.grad(mine, points)[0].flatten(1).double()
        step = _steepest(system, slope) if system.euclidean else step / 2 + _steepest(system, slope) / 2
    return least, most


def _steepest(system: SecantSystem, rows: Tensor) -> Tensor:
    """The point of the box or ball around 0 where each linear form is largest."""
    if not system.euclidean:
        return rows.sign() * system.radius
    size: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp(min=1e-300)
    return rows / size * system.radius
