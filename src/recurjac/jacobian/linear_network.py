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
    Place,
    PushedSizes,
    is_plain,
    through,
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

    centres: of h of each node, as stored.  sizes: Σ weights |pushed| at h of each node, (2, *node), upper bounds.
    rests: what is known of h only by its size, (2, *node).
    """

    known: PreactivationState
    state: PreactivationState
    unstable: Sequence[int]
    linear: _Linear
    centre: Tensor
    radius: Tensor
    deadline: Deadline
    centres: dict[int, Tensor] = field(default_factory=dict)
    sizes: dict[int, Tensor] = field(default_factory=dict)
    rests: dict[int, Tensor] = field(default_factory=dict)
    sums: PushedSizes = field(init=False)

    def __post_init__(self) -> None:
        self.sums = PushedSizes(self.linear, self.state.arithmetic, self.centre)

    @property
    def arithmetic(self) -> AbstractArithmetic:
        return self.state.arithmetic

    def run(self) -> Lengths | None:
        """The ranges and lengths; None if a range is not finite."""
        self._begin()
        network, pre = self.linear.network, dict[int, tuple[Tensor, Tensor, Tensor]]()
        for k in range(1, network.depth + 1):
            pre[k] = self._arrived(k)
            if not self._bound(k, *pre[k]):
                return None
            if k < network.depth:
                for node in self.state.completed_by(k):
                    self._pass(node, *pre.pop(node))
        _, size, rest = pre[network.depth]
        rows = (self.sums.plus(size[1], rest[1]) / self.sums.scale).flatten()
        return Lengths(tuple(self.state.pre(k) for k in range(1, network.depth + 1)), rows)

    def _begin(self) -> None:
        x = self.centre
        self.centres[0], self.rests[0] = x[0], x.new_zeros(2, *x.shape[1:])
        self.sizes[0] = self.sums.begin(self.radius[0])

    def _arrived(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """The centre of z_k (*stage), and the sums of sizes of what was pushed there and the rest, (2, *stage)."""
        stage, arithmetic = self.state.stage(k), self.arithmetic
        centre, size, rest = stage.bias(arithmetic), None, self.centre.new_zeros(2, *stage.shape)
        for e in stage.edges:
            image = e.operator.push(arithmetic.exact(self.centres[e.source]))
            centre = image if centre is None else centre + image
            moved, left = through(e.operator, self.sizes[e.source], self.rests[e.source], arithmetic)
            size = arithmetic.exact(moved) if size is None else size + arithmetic.exact(moved)
            rest = self.sums.plus(rest, left)
        if centre is None or size is None:
            centre = arithmetic.exact(self.centre.new_zeros(stage.shape)) if centre is None else centre
            return centre.mid, rest, self.sums.with_error(rest, centre.rad)
        if size.rad is not None:
            rest = self.sums.plus(rest, size.rad.expand_as(rest))
        return centre.mid, self.sums.summed((k, 0), stage.shape), self.sums.with_error(rest, centre.rad)

    def _bound(self, k: int, centre: Tensor, size: Tensor, rest: Tensor) -> bool:
        """Bound z_k by its form and by what is known; returns whether this is finite, with weights that are small."""
        half, arithmetic = self.sums.plus(size[0], rest[0]) / self.sums.scale, self.arithmetic
        ends = [(arithmetic.exact(c) + arithmetic.exact(half)).upper() for c in (-centre, centre)]
        found = arithmetic.enclose(-ends[0].unsqueeze(0), ends[1].unsqueeze(0))
        if k <= self.known.bounded:
            found = arithmetic.intersect(found, self.known.pre(k).map(torch.Tensor.detach))
        self.state.append(found, None)
        return bool(self.state.pre(k).magnitude.isfinite().all()) and self.sums.small

    def _pass(self, node: int, centre: Tensor, size: Tensor, rest: Tensor) -> None:
        """What goes on from a node whose stage is complete: its centre, and its noises, as far as there is time."""
        slope = self.linear.slopes[node - 1]
        if slope is None:
            self.centres[node], self.sizes[node], self.rests[node] = centre, size, rest
            return
        self.centres[node], noise = self._noise(node, slope, centre, size, rest)
        gone = self.arithmetic.exact(slope.abs()) * self.arithmetic.exact(size)
        error = torch.zeros_like(noise) if gone.rad is None else gone.rad.expand_as(noise)
        pushed = self.sums.push_noises(node, noise, size, self.deadline.part(self._share(node)))
        self.sizes[node] = self.sums.plus(gone.upper(), pushed)
        self.rests[node] = self.sums.plus(torch.where(pushed > 0, 0.0, noise), error)

    def _noise(self, node: int, slope: Tensor, centre: Tensor, size: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """The centre of h (*stage), and the sizes of its noise, of values and of tangents: (2, *stage)."""
        arithmetic, exact, z = self.arithmetic, self.arithmetic.exact, self.state.pre(node)
        activation, slopes = self.state.activation(node), self.state.slopes(node)
        choices = [activation.lines(z, arithmetic), activation.parallel_lines(z, arithmetic)]
        middle, half = arithmetic.midrad(gap_beside(slope.unsqueeze(0), z, choices, arithmetic))
        after = exact(slope) * exact(centre) + exact(middle[0])
        noise = self.sums.with_error(self.sums.times(slope.abs(), rest), after.rad)
        value = self.sums.with_error(noise, half[0])[0]
        off = torch.maximum(
            (exact(slopes.upper[0]) - exact(slope)).upper(), (exact(slope) - exact(slopes.lower[0])).upper()
        ).clamp(min=0)
        tangent = self.sums.plus(noise[1], self.sums.times(off, self.sums.plus(size[1], rest[1])))
        return after.mid, torch.stack([value, tangent])

    def _share(self, node: int) -> float:
        """The share of the time that is left for the noises of a node: by their number, and what is behind them."""
        network = self.linear.network
        work = [w + 8 * prod(s.shape) for w, s in zip(network.work, network.stages, strict=True)]
        costs = [sum(work[k:]) * self.unstable[k - 1] for k in range(node, network.depth)]
        return costs[0] / max(1, sum(costs))
