"""Good multipliers of a P-chain along layers, from the dual of the search for them.  No proof depends on it.

The dual puts vectors in place of numbers: inputs v with Σ ‖v_i / radius_i‖² <= 1 or each ‖v_i‖ <= radius_i, and for
each neuron of unknown slope a deviation f_j with ‖f_j‖ <= ‖z_j‖.  It makes the rows Y large.  With b_j the derivative
by f_j, the best f_j is ‖z_j‖ b_j / ‖b_j‖, and its multiplier is ‖b_j‖ / ‖z_j‖.  Steps go forward with the last
directions of b, and back for the next (docs/mathematics.md, §5.10).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Fast
from recurjac.deadline import Deadline
from recurjac.quadratic.layers import Layer, Layers
from recurjac.quadratic.multipliers import positive
from recurjac.quadratic.windows import Windows

_COLUMNS = 12
"""The size of the vectors, at least; larger ones gain nothing that was measured."""
_FLOOR = 1e-4
"""The least size of z, relative to the layer's, by which anything is divided."""
_DONE = 1e-5
"""The search ends when a step gains less than this share."""

Weigh = Callable[[Tensor, Tensor], Tensor]
"""New weights p of the rows, (K,), from the last ones and from G_kk, in units in which Σ p_k G_kk = 1.

The multipliers are then those for Σ p_k G_kk.
"""


@final
@dataclass(frozen=True)
class Found:
    """i for each neuron, (g, u) for each layer, and the shares of the inputs, (inputs,)."""

    inverses: tuple[Tensor, ...]
    shares: Tensor


@final
@dataclass(frozen=True)
class _Passed:
    """What a layer's neurons receive, (g, u, k), and what the layer gives, (k, size)."""

    received: Tensor
    given: Tensor


def dual_multipliers(
    layers: Layers, radius: Tensor, euclidean: bool, weigh: Weigh | None, steps: int, deadline: Deadline
) -> Found | None:
    """Multipliers for the largest eigenvalue of G, or for rows weighted by `weigh`; None without a single step."""
    rows, g = layers.rows.mid, torch.Generator().manual_seed(0)
    count, k = len(rows), _COLUMNS + (0 if weigh is None else len(rows))
    units = [torch.randn(*c.windows.bent.shape[:2], k, generator=g).to(rows) for c in layers.layers]
    v = _inside(torch.randn(k, layers.inputs, generator=g).to(rows), radius, euclidean)
    weights, before, found = torch.full_like(rows[:, 0], 1 / count), 0.0, None
    for _ in range(steps):
        if deadline.over:
            break
        passed = _forward(layers, v, units)
        ends = passed[-1].given if passed else v
        back, value = _ends(ends @ rows.mT, weights, weigh)
        if not bool(value.isfinite()):
            break
        adjoint, inverses = _backward(layers, back @ rows, passed, units)
        if float(value) > 0:  # else the first directions point the wrong way
            size = torch.linalg.vector_norm(adjoint, dim=0) * radius
            unit = value.square() if weigh is None else value
            found = Found(tuple(i / unit for i in inverses), size / size.sum())
            if weigh is not None:
                weights = weigh(weights, _seen(ends @ rows.mT, weights, value))
        v = _inside(adjoint, radius, euclidean)
        if abs(float(value) - before) < _DONE * before:
            break
        before = max(float(value), 0.0)
    return found


def _inside(v: Tensor, radius: Tensor, euclidean: bool) -> Tensor:
    """The best input for a derivative v (k, inputs)."""
    if euclidean:
        scaled = v * radius
        return radius * scaled / positive(torch.linalg.vector_norm(scaled))
    return radius * v / positive(torch.linalg.vector_norm(v, dim=0))


def _ends(ends: Tensor, weights: Tensor, weigh: Weigh | None) -> tuple[Tensor, Tensor]:
    """The derivative by the rows Y (k, K), and the value: ‖Y‖, or Σ √p_k Y_kk, one column for each row."""
    if weigh is None:
        return ends, torch.linalg.vector_norm(ends)
    back = torch.zeros_like(ends)
    back[: len(weights)] = torch.diag(weights.sqrt())
    return back, (back * ends).sum()


def _seen(ends: Tensor, weights: Tensor, value: Tensor) -> Tensor:
    """About G_kk, in units in which Σ p_k G_kk is 1."""
    return positive(ends.diagonal() / positive(weights.sqrt() * value))


def _forward(layers: Layers, v: Tensor, units: list[Tensor]) -> list[_Passed]:
    passed: list[_Passed] = []
    for layer, unit in zip(layers.layers, units, strict=True):
        passed.append(_through(layer, passed[-1].given if passed else v, unit))
    return passed


def _through(layer: Layer, h: Tensor, unit: Tensor) -> _Passed:
    windows, a = layer.windows, layer.windows.entries.shape[1]
    y = layer.push(Fast().exact(h)).mid[:, windows.entries].permute(1, 2, 0)  # (g, a, k)
    bent, left = windows.bent.mid, windows.left.mid
    received, deviations = [], y.new_zeros(len(y), 0, len(h))
    for j in range(bent.shape[1]):
        z = bent[:, j, None, :a] @ y + bent[:, j, None, a : a + j] @ deviations
        received.append(z)
        deviation = torch.linalg.vector_norm(z, dim=-1, keepdim=True) * unit[:, j, None]
        deviations = torch.cat([deviations, deviation], 1)
    out = left[..., :a] @ y + left[..., a:] @ deviations
    given = torch.zeros(len(h), layer.size, dtype=h.dtype, device=h.device)
    return _Passed(
        torch.cat(received, 1) if received else deviations,
        given.index_add(1, windows.outputs.flatten(), out.permute(2, 0, 1).flatten(1)),
    )


def _backward(
    layers: Layers, back: Tensor, passed: list[_Passed], units: list[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The derivative by v, and the multipliers of each layer; directions that are not 0 are renewed."""
    found = []
    for n in range(len(passed) - 1, -1, -1):
        layer, windows = layers.layers[n], layers.layers[n].windows
        inverse, entries, units[n] = _returned(windows, back, passed[n].received, units[n])
        found.append(inverse)
        blank = torch.zeros(len(back), windows.size, dtype=back.dtype, device=back.device)
        blank = blank.index_add(1, windows.entries.flatten(), entries.permute(2, 0, 1).flatten(1))
        back = layer.pull(Fast().exact(blank)).mid
    return back, tuple(found[::-1])


def _returned(windows: Windows, back: Tensor, z: Tensor, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The multipliers (g, u), the derivative by the entries (g, a, k), and the next directions (g, u, k)."""
    bent, left, a = windows.bent.mid, windows.left.mid, windows.entries.shape[1]
    out = back[:, windows.outputs].permute(1, 2, 0)
    y, f = left[..., :a].mT @ out, left[..., a:].mT @ out
    size = torch.linalg.vector_norm(z, dim=-1)
    least = positive(size.square().mean().sqrt() * _FLOOR) if size.numel() else size.sum()
    inverses, nexts = [], []
    for j in range(z.shape[1] - 1, -1, -1):
        most = torch.linalg.vector_norm(f[:, j], dim=-1)
        inverse = most / torch.maximum(size[:, j], least)
        inverses.append(inverse)
        nexts.append(torch.where((most > 0)[:, None], f[:, j] / positive(most)[:, None], unit[:, j]))
        more = (inverse[:, None] * z[:, j]).unsqueeze(1)
        y = y + bent[:, j, :a, None] * more
        f = torch.cat([f[:, :j] + bent[:, j, a : a + j, None] * more, f[:, j:]], 1)
    if not inverses:
        return size, y, unit
    return torch.stack(inverses[::-1], 1), y, torch.stack(nexts[::-1], 1)
