"""Gains in their best directions, and their gradients where kinks are smoothed, at many points in four passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import final

import numpy as np
import torch
from torch import Tensor

from recurjac.activations.smooth import AbstractSmooth
from recurjac.arithmetic import Fast, Interval
from recurjac.arithmetic.interval import all_finite
from recurjac.network import Network, Stage
from recurjac.search.directions import align, dual, length

_FAST = Fast()
_NEAR = 64
"""A pre-activation is at a kink if it is as near as this many roundings of the largest one of its stage."""


@final
@dataclass(frozen=True)
class Slanted:
    """At each of N points, the gain (N,) of J in a direction, and how it changes with the point, (N, *input).

    gain: less what it may lose where pre-activations are at kinks.  weights: (N, K), of the outputs, for which the
    direction was the best one; here those that are the best for the direction.
    """

    gain: Tensor
    weights: Tensor
    gradient: Tensor


def slanted(
    network: Network, x: Tensor, weights: Tensor, norms: tuple[float, float], widths: Sequence[Tensor]
) -> Slanted:
    """The gain at x (N, *input) in the direction v that is best for the sum of the outputs with `weights` u (N, K).

    widths: for each stage, the half-width t of the interval over which slopes are averaged, broadcast to (N, *stage).
    The gain is that of J itself.  Its gradient is that of u·J v, in which the derivative of each slope σ' at z is
    (σ'(z + t) - σ'(z - t)) / 2t.  Source: docs/mathematics.md, §6.5.
    """
    pre, known = _preactivations(network, x)
    slopes = _slopes(network, pre)
    highest = [None if s is None else s.upper for s in slopes]
    at_input, cotangents = _pulled(network, weights.reshape(-1, *network.output_shape), highest)
    zero = torch.zeros_like(x)
    way = align(zero.flatten(1) if at_input is None else at_input.flatten(1), norms[0])
    tangents = _pushed(network, way.reshape(x.shape), highest)
    image, doubt = tangents[-1].flatten(1), zero.flatten(1)[:, 0]
    bends: list[Tensor | None] = [None] * network.depth
    for k, (stage, slope, g) in enumerate(zip(network.stages, slopes, cotangents, strict=True)):
        if slope is not None and g is not None:
            effect = g * tangents[k]
            bends[k] = (
                effect * _bend(stage, pre[k], widths[k])
                if stage.factor is None
                else g * tangents[k + stage.factor.other]
            )
            if stage.activation.piecewise_linear:
                doubt = doubt + (effect * slope.width).abs().flatten(1).sum(1)
    gradient = _pulled(network, None, highest, bends)[0]
    gradient = zero if gradient is None else torch.where(gradient.isfinite(), gradient, 0.0)
    size = length(image, norms[1], 1)
    gain = (size - doubt).clamp(min=0)
    best = image / torch.where(size > 0, size, 1.0).unsqueeze(1) if norms[1] == 2 else dual(image, norms[1])
    known = known & gain.isfinite() & best.isfinite().all(1)
    return Slanted(torch.where(known, gain, 0.0), torch.where(known.unsqueeze(1), best, weights), gradient)


def weights_for(network: Network, x: Tensor, ways: Tensor, q: float) -> Tensor:
    """The weights (N, K) of the outputs whose sum has the gain ‖J v‖_q at x in the directions v, both (N, *input)."""
    slopes = [None if s is None else s.upper for s in _slopes(network, _preactivations(network, x)[0])]
    image = _pushed(network, ways, slopes)[-1].flatten(1)
    return dual(torch.where(image.isfinite(), image, 0.0), q)


def spreads(network: Network, points: Tensor) -> list[Tensor]:
    """How far pre-activations typically lie from those of the first of some points (B, N, *input): (B, 1, *stage)."""
    tiny = torch.finfo(points.dtype).tiny ** 0.25
    found = []
    for z in network.preactivations(points.flatten(0, 1)):
        wide = z.reshape(*points.shape[:2], *z.shape[1:])
        far = _median((wide[:, 1:] - wide[:, :1]).abs())
        found.append(torch.where(far.isfinite(), far, 1.0).clamp(min=tiny))
    return found


def _median(numbers: Tensor) -> Tensor:
    """The lower median over the second dimension, which is kept; NumPy takes a quarter of PyTorch's time."""
    middle = (numbers.shape[1] - 1) // 2
    found = np.partition(numbers.detach().cpu().numpy(), middle, axis=1)[:, middle : middle + 1]
    return torch.from_numpy(found).to(numbers)


def _preactivations(network: Network, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """Those at points (N, *input), 0 where they are infinity less infinity, and at which points all are known: (N,)."""
    found = network.preactivations(x)
    if all_finite(found):
        return found, x.new_ones(len(x), dtype=torch.bool)
    known = torch.stack([~z.flatten(1).isnan().any(1) for z in found]).all(0)
    return [z.nan_to_num(0.0, torch.inf, -torch.inf) for z in found], known


def _slopes(network: Network, pre: Sequence[Tensor]) -> list[Interval | None]:
    """The slopes of each stage at its pre-activations; None for stages without an activation.

    Those of piecewise linear activations are intervals near kinks, as pre-activations are rounded.
    """
    return [None if s.linear else _slope(network, pre, k) for k, s in enumerate(network.stages)]


def _slope(network: Network, pre: Sequence[Tensor], k: int) -> Interval:
    stage, z = network.stages[k], pre[k]
    if stage.factor is not None:
        return Interval.unchecked(other := pre[k + stage.factor.other], other)
    if isinstance(stage.activation, AbstractSmooth):
        return Interval.unchecked(slope := stage.activation.slope(z), slope)
    near = _NEAR * torch.finfo(z.dtype).eps * z.abs().flatten(1).amax(1).reshape(-1, *[1] * (z.dim() - 1))
    low, high = (z - near).nan_to_num(-torch.inf, torch.inf, -torch.inf), (z + near).nan_to_num(torch.inf)
    return stage.activation.slope_range(Interval.unchecked(low, high), _FAST)


def _bend(stage: Stage, z: Tensor, width: Tensor) -> Tensor:
    """The derivative of the mean slope between z - width and z + width."""
    return (_slope_beside(stage, z + width) - _slope_beside(stage, z - width)) / (2 * width)


def _slope_beside(stage: Stage, z: Tensor) -> Tensor:
    """σ'(z), or at a kink one of the slopes there."""
    if isinstance(stage.activation, AbstractSmooth):
        return stage.activation.slope(z)
    return stage.activation.slope_range(Interval.unchecked(z, z), _FAST).upper


def _pushed(network: Network, way: Tensor, slopes: Sequence[Tensor | None]) -> list[Tensor]:
    """The change of each stage's pre-activations in the direction `way` (N, *input)."""
    nodes, found = [way], []
    for stage, slope in zip(network.stages, slopes, strict=True):
        terms = [e.operator.push(_FAST.exact(nodes[e.source])).mid for e in stage.edges]
        z = reduce(torch.add, terms) if terms else way.new_zeros(len(way), *stage.shape)
        found.append(z)
        nodes.append(z if slope is None else z * slope)
    return found


def _pulled(
    network: Network, rows: Tensor | None, slopes: Sequence[Tensor | None], more: Sequence[Tensor | None] | None = None
) -> tuple[Tensor | None, list[Tensor | None]]:
    """The gradient by the input, and by the output of each stage, of rows · outputs + Σ more · pre-activations.

    None stands for 0.
    """
    known = {} if rows is None else {network.depth: rows}
    found: list[Tensor | None] = [None] * network.depth
    for k in range(network.depth, 0, -1):
        here, slope, extra = known.pop(k, None), slopes[k - 1], None if more is None else more[k - 1]
        found[k - 1] = here
        if here is not None and slope is not None:
            here = here * slope
        if extra is not None:
            here = extra if here is None else here + extra
        if here is None:
            continue
        for e in network.stages[k - 1].edges:
            part = e.operator.transpose().push(_FAST.exact(here)).mid
            known[e.source] = known[e.source] + part if e.source in known else part
    return known.get(0), found
