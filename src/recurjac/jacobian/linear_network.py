"""A network as a linear one with a noise at each neuron: ranges and lengths of gradients in one pass over all noises.

With any number d for each neuron, h = d z + m + e with |e| <= r on the range of z, so that every neuron is an affine
function of the input and of the noises e of all neurons before it.  The coefficients are those of the *linear* network
with the slopes d.  They are pushed through it in lots and only the sums of their sizes are kept: neither memory nor
rounding grows with the number of noises.  The tangents of the network are those of the same linear network, where each
neuron adds (δ - d) y, so that the same pushes, with other weights, bound the lengths of all gradients.
Source: docs/mathematics.md, §5.14.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic, Fast, Interval
from recurjac.deadline import Deadline
from recurjac.jacobian.near_linear import middles_of
from recurjac.jacobian.pushed_sizes import (
    AbstractLinearNetwork,
    AbstractLinearPart,
    Arrived,
    Place,
    PushedSizes,
    is_plain,
)
from recurjac.network import Network
from recurjac.operators import AbstractOperator
from recurjac.preactivation import PreactivationState
from recurjac.preactivation.centred import centre_of
from recurjac.propagation.affine_forms import gap_beside
from recurjac.propagation.planning import PlainOnly

_SKETCHES = 128
"""How many random vectors estimate the ranges on which slopes are chosen."""
_WIDER = 1.4
"""The ranges on which slopes are chosen, as multiples of those of the linear network at the centre."""
_FIRST = 0.7
"""The share of the time for ranges, before the lengths of gradients on them."""


@final
@dataclass(frozen=True)
class Lengths:
    """What a pass found for one sample.

    ranges: of z_1, …, z_depth over the region, (1, *stage) each.  rows: upper bounds of the l1 norms of the gradients
    of all outputs, (K,).
    """

    ranges: tuple[Interval, ...]
    rows: Tensor


@torch.no_grad()
def lengths_of(known: PreactivationState, deadline: Deadline) -> Lengths | None:
    """The bounds for one sample whose inner stages are bounded in `known`; None where nothing is found.

    A first pass, with slopes of secants, finds ranges, on which a second one has slopes that suit gradients.  Noises
    are pushed until the deadline, the largest of each stage first; the others go on as intervals.
    """
    network, region = known.network.detached(), known.region
    if known.known or region.may_be_empty or region.batch > 1 or not all(map(is_plain, _operators(network))):
        return None
    centre, radius = centre_of(region)
    if not bool(radius.isfinite().all()) or network.dtype not in (torch.float32, torch.float64):
        return None

    def run(known: PreactivationState, chosen: _Chosen, share: float) -> tuple[Lengths | None, PreactivationState]:
        state = PreactivationState(network, region, known.arithmetic, PlainOnly())
        linear, limit = _Linear(network, chosen.slopes), deadline.part(share)
        return _Pass(known, state, chosen.unstable, linear, centre, radius, limit).run(), state

    found, state = run(known, _near_centre(network, centre, radius), _FIRST)
    again = None if found is None or deadline.over else run(state, _middles(state), 1.0)[0]
    if found is None or again is None:
        return found
    return Lengths(again.ranges, torch.minimum(found.rows, again.rows))


def _operators(network: Network) -> list[AbstractOperator]:
    return [e.operator for s in network.stages for e in s.edges]


@final
@dataclass(frozen=True)
class _Chosen:
    """Slopes d of the neurons of each inner stage (*stage), None if it is linear, and how many may have others."""

    slopes: Sequence[Tensor | None]
    unstable: Sequence[int]


def _near_centre(network: Network, centre: Tensor, radius: Tensor) -> _Chosen:
    """The slopes of secants near the centre, on ranges that are estimated; any choice is sound.

    The median of |A x|, for x of independent numbers from Cauchy's distribution, is near the l1 norm of each row of A.
    """
    pre, inner = network.preactivations(centre), range(1, network.depth)
    generator = torch.Generator().manual_seed(0)
    angles = torch.rand(_SKETCHES, *centre.shape[1:], generator=generator, dtype=torch.float64) - 0.5
    tangents = radius * (torch.pi * angles).tan().to(centre)
    halves = {k: torch.zeros_like(pre[k - 1]) for k in inner}
    linear = _Linear(network, [_secant(network, pre, k, halves[k]) for k in inner])
    for (k, _), pushed in linear.pushed(0, tangents):
        halves[k] = _WIDER * pushed.abs().median(0).values.unsqueeze(0)
    unstable = [_unstable(network, k, Fast().enclose(pre[k - 1] - halves[k], pre[k - 1] + halves[k])) for k in inner]
    return _Chosen([_secant(network, pre, k, halves[k]) for k in inner], unstable)


def _unstable(network: Network, k: int, z: Interval) -> int:
    """How many neurons of stage k have several slopes on z; factors of a product have others nearly always."""
    stage = network.stages[k - 1]
    if stage.linear:
        return 0
    return z.lower.numel() if stage.factor is not None else int(stage.activation.unstable(z, Fast()).sum())


def _secant(network: Network, pre: Sequence[Tensor], k: int, half: Tensor) -> Tensor | None:
    """The slopes of secants of stage k between the ends of these ranges around its pre-activations; (*stage)."""
    stage, z, fast = network.stages[k - 1], pre[k - 1], Fast()
    if stage.linear:
        return None
    if stage.factor is not None:
        return pre[k - 1 + stage.factor.other][0]
    slopes = stage.activation.slope_range(fast.enclose(z - half, z + half), fast)
    rise = stage.activation.value(z + half) - stage.activation.value(z - half)
    secant = torch.where(half > 0, rise / (2 * half), slopes.lower / 2 + slopes.upper / 2)
    found = torch.minimum(torch.maximum(secant, slopes.lower), slopes.upper)[0]
    return found.nan_to_num(0.0, 0.0, 0.0)


def _middles(state: PreactivationState) -> _Chosen:
    """The middles of the slopes on the ranges of a state."""
    inner = range(1, state.network.depth)
    slopes = [None if state.stage(k).linear else state.slopes(k) for k in inner]
    return _Chosen(
        [None if d is None else middles_of(d) for d in slopes],
        [0 if d is None else int((~d.is_point).sum()) for d in slopes],
    )


@final
@dataclass(frozen=True)
class _Linear(AbstractLinearNetwork):
    """The linear network with these slopes at its inner stages."""

    network: Network
    slopes: Sequence[Tensor | None]

    @cached_property
    def _last(self) -> Mapping[int, int]:
        return {e.source: k for k, stage in enumerate(self.network.stages, 1) for e in stage.edges}

    def shape(self, node: int) -> Shape:
        return self.network.input_shape if node == 0 else self.network.stages[node - 1].shape

    def size(self, place: Place) -> int:
        return prod(self.shape(place[0]))

    def parts(self, node: int) -> Sequence[AbstractLinearPart]:
        return ()

    def pushed(self, node: int, vectors: Tensor) -> Iterator[tuple[Place, Tensor]]:
        """What vectors (N, *node) of h of a node are at z of each later node that they reach: (N, *stage)."""
        fast, pushed = Fast(), {node: vectors}
        for k in range(node + 1, self.network.depth + 1):
            terms = [
                e.operator.push(fast.exact(pushed[e.source])).mid
                for e in self.network.stages[k - 1].edges
                if e.source in pushed
            ]
            if terms:
                total = sum(terms[1:], terms[0])
                yield (k, 0), total
                slope = self.slopes[k - 1] if k < self.network.depth else None
                pushed[k] = total if slope is None else total * slope
            for done in [n for n in pushed if self._last.get(n, 0) <= k]:
                del pushed[done]


@final
@dataclass
class _Pass:
    """The stages from the first to the last: each is bounded, then its noises are pushed to all later ones.

    nodes: what is known of h of each node.
    """

    known: PreactivationState
    state: PreactivationState
    unstable: Sequence[int]
    linear: _Linear
    centre: Tensor
    radius: Tensor
    deadline: Deadline
    nodes: dict[int, Arrived] = field(default_factory=dict)
    sums: PushedSizes = field(init=False)

    def __post_init__(self) -> None:
        self.sums = PushedSizes(self.linear, self.state.arithmetic, self.centre)

    @property
    def arithmetic(self) -> AbstractArithmetic:
        return self.state.arithmetic

    def run(self) -> Lengths | None:
        """The ranges and lengths; None if a range is not finite."""
        self.nodes[0] = self.sums.begin(self.centre[0], self.radius[0])
        network, pre = self.linear.network, dict[int, Arrived]()
        for k in range(1, network.depth + 1):
            stage = self.state.stage(k)
            terms = [(e.operator, self.nodes[e.source]) for e in stage.edges]
            pre[k] = self.sums.arrived((k, 0), stage.shape, stage.bias(self.arithmetic), terms)
            if not self._bound(k, pre[k]):
                return None
            if k < network.depth:
                for node in self.state.completed_by(k):
                    self.nodes[node] = self._past(node, pre.pop(node))
        ranges = tuple(self.state.pre(k) for k in range(1, network.depth + 1))
        return Lengths(ranges, self.sums.lengths(pre[network.depth]))

    def _bound(self, k: int, z: Arrived) -> bool:
        """Bound z_k by its form and by what is known; returns whether this is finite, with weights that are small."""
        half, arithmetic = self.sums.plus(z.size[0], z.rest[0]) / self.sums.scale, self.arithmetic
        ends = [(arithmetic.exact(c) + arithmetic.exact(half)).upper() for c in (-z.centre, z.centre)]
        found = arithmetic.enclose(-ends[0].unsqueeze(0), ends[1].unsqueeze(0))
        if k <= self.known.bounded:
            found = arithmetic.intersect(found, self.known.pre(k).map(torch.Tensor.detach))
        self.state.append(found, None)
        return bool(self.state.pre(k).magnitude.isfinite().all()) and self.sums.small

    def _past(self, node: int, z: Arrived) -> Arrived:
        """What goes on from a node whose stage is complete: its centre, and its noises, as far as there is time."""
        slope = self.linear.slopes[node - 1]
        if slope is None:
            return z
        centre, noise = self._noise(node, slope, z)
        gone = self.arithmetic.exact(slope.abs()) * self.arithmetic.exact(z.size)
        error = torch.zeros_like(noise) if gone.rad is None else gone.rad.expand_as(noise)
        pushed = self.sums.push_noises(node, noise, z.size, self.deadline.part(self._share(node)))
        size, rest = self.sums.plus(gone.upper(), pushed), torch.where(pushed > 0, 0.0, noise)
        return Arrived(centre, size, self.sums.plus(rest, error))

    def _noise(self, node: int, slope: Tensor, arrived: Arrived) -> tuple[Tensor, Tensor]:
        """The centre of h (*stage), and the sizes of its noise, of values and of tangents: (2, *stage)."""
        arithmetic, exact, z = self.arithmetic, self.arithmetic.exact, self.state.pre(node)
        activation, slopes = self.state.activation(node), self.state.slopes(node)
        choices = [activation.lines(z, arithmetic), activation.parallel_lines(z, arithmetic)]
        middle, half = arithmetic.midrad(gap_beside(slope.unsqueeze(0), z, choices, arithmetic))
        after = exact(slope) * exact(arrived.centre) + exact(middle[0])
        noise = self.sums.with_error(self.sums.times(slope.abs(), arrived.rest), after.rad)
        value = self.sums.with_error(noise, half[0])[0]
        off = torch.maximum(
            (exact(slopes.upper[0]) - exact(slope)).upper(), (exact(slope) - exact(slopes.lower[0])).upper()
        ).clamp(min=0)
        tangent = self.sums.plus(noise[1], self.sums.times(off, self.sums.plus(arrived.size[1], arrived.rest[1])))
        return after.mid, torch.stack([value, tangent])

    def _share(self, node: int) -> float:
        """The share of the time that is left for the noises of a node: by their number, and what is behind them."""
        network = self.linear.network
        work = [w + 8 * prod(s.shape) for w, s in zip(network.work, network.stages, strict=True)]
        costs = [sum(work[k:]) * self.unstable[k - 1] for k in range(node, network.depth)]
        return costs[0] / max(1, sum(costs))
