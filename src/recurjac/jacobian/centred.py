"""The Jacobian as its value at the centre and a deviation, which a P-chain bounds (docs/mathematics.md, §5.9).

With Δ for the difference to the centre c, σ̂ the slopes of secants of σ and σ̂' those of secants of σ', both from z_c,

    Δz_k = Σ A_ki Δh_i,   Δh_k = σ̂ Δz_k,   Δg_z,k = σ'(z_k) Δg_h,k + (g_h,k at c) σ̂' Δz_k,   Δg_h,i = Σ A_kiᵀ Δg_z,k.

This is a chain rule from x - c to the deviation of the Jacobian, whose slopes lie in intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.activations import Derivative
from recurjac.activations.smooth import AbstractSmooth
from recurjac.arithmetic import Interval, root_up, round_up_to
from recurjac.errors import expect_counts
from recurjac.jacobian.base import AbstractJacobianMethod, AbstractPrepared, descend
from recurjac.jacobian.fast_lip import FastLip, last_product
from recurjac.jacobian.gradients import Gradients
from recurjac.jacobian.recursion import Chords
from recurjac.network import Edge
from recurjac.operators import Identity
from recurjac.preactivation import IBP, PreactivationState, extend
from recurjac.preactivation.centred import centre_of
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import AbstractSeeds
from recurjac.propagation.planning import PlainOnly
from recurjac.quadratic import Multipliers, System, optimised, positive, reach, system_of
from recurjac.region import BoundBall, BoundBox

_LEAST_RATIO = 0.3
"""The least ratio of middles and half-widths of slopes that the first multipliers take into account."""


@final
@dataclass(frozen=True)
class Centred(AbstractJacobianMethod):
    """J(c) and a P-chain for J(x) - J(c), with multipliers that all tangents of a push share.

    The slack is of second order in the radius, and what is of second order is bounded for all neurons of a stage
    together, not one by one.  Nothing is assumed of the sign of gradients.
    steps: of the search for multipliers.  It needs activations whose second derivative is continuous; for other
    networks, for parts of a chain rule and over an unbounded region, it is `Chords`.  Bounds carry no gradients.
    Source: docs/mathematics.md, §5.9.
    """

    steps: int = 40

    def __post_init__(self) -> None:
        expect_counts("Centred", steps=self.steps)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {"centred": cls()}

    @property
    def title(self) -> str:
        return "centred P-chain"

    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        if gradients.problem is None or gradients.given is not None or not _is_smooth(gradients.state):
            return Chords().prepare(gradients)
        centre, radius = centre_of(gradients.state.region)
        if not bool(radius.isfinite().all()):
            return Chords().prepare(gradients)
        with torch.no_grad():
            return _Centred(gradients, *_at(gradients.state, centre), radius, self.steps)


def _is_smooth(state: PreactivationState) -> bool:
    """Whether σ'' of each activation is continuous, with known turning points."""
    for k in range(1, state.network.depth):
        activation, z = state.activation(k), state.pre(k)
        if not state.stage(k).linear and not Derivative.known_for(activation, z.lower):
            return False
    return True


def _at(state: PreactivationState, centre: Tensor) -> tuple[PreactivationState, Gradients]:
    """The pre-activations and the gradients at one point of each sample."""
    point = BoundBox(centre, torch.zeros_like(centre), centre, centre)
    values = PreactivationState(state.network, point, state.arithmetic, PlainOnly())
    extend(values, IBP(), state.network.depth - 1)
    known = Gradients(given=values.chain()).own()
    descend(known, [FastLip()])
    return values, known


@final
@dataclass(frozen=True)
class _Centred(AbstractPrepared):
    """What is known over the region and at its centre; radius: (batch, *input), of the ball or of each input."""

    gradients: Gradients
    values: PreactivationState
    known: Gradients
    radius: Tensor
    steps: int
    _chains: dict[int, ChainRule] = field(default_factory=dict)

    @property
    def chain(self) -> ChainRule:
        return self.gradients.chain

    def push(self, tangents: AbstractSeeds) -> Interval:
        chain, coefficients = self.chain, tangents.tensor()
        with torch.no_grad():
            middle = self._whole(last_product(self.known, tangents))
            half = torch.zeros_like(middle.lower)
            for k in range(chain.rows):
                own = coefficients[:, min(k, coefficients.shape[1] - 1)]
                for i in range(chain.batch):
                    half[i, k] = self._half(i, k, own[min(i, len(own) - 1)])
        exact = chain.arithmetic.exact
        return chain.arithmetic.between(exact(middle.lower) - exact(half), exact(middle.upper) + exact(half))

    def _half(self, sample: int, row: int, tangents: Tensor) -> Tensor:
        """Bounds of |(J(x) - J(c)) v| for one output and tangents v (R, *input): (R,)."""
        if row not in self._chains:
            self._chains[row] = _deviation(self.gradients.state, self.values, self.known, row)
        chain = self._chains[row].sample(sample)
        system = system_of(_with_tangents(chain, tangents))
        radius = self.radius[sample].flatten().double()
        euclidean = isinstance(self.gradients.state.region, BoundBall)
        best = _first(system, radius, euclidean)
        best = optimised(system, best, radius, _radii, self.steps)
        found = reach(system, best.start(radius), best.choose)
        if found is None:
            return torch.full((len(tangents),), inf, dtype=chain.dtype, device=chain.device)
        half = root_up(found.map(torch.diagonal).upper())
        return round_up_to(torch.where(half.isnan(), inf, half), chain.dtype)


def _first(system: System, radius: Tensor, euclidean: bool) -> Multipliers:
    """The usual first multipliers, with gaps for narrow slopes: m² q² / (t - q) + t r² is least at q (1 + m / r)."""
    begin = Multipliers.first(system, radius, euclidean)
    gaps = {}
    for k in begin.gaps:
        node = system.nodes[k - 1]
        ratio = torch.linalg.vector_norm(node.middle[node.unstable]) / torch.linalg.vector_norm(node.half)
        gaps[k] = ratio.clamp(min=_LEAST_RATIO, max=1 / _LEAST_RATIO**2)
    return replace(begin, gaps=gaps)


def _radii(reached: Tensor) -> Tensor:
    return positive(reached.diagonal()).sqrt().sum().log()


def _with_tangents(chain: ChainRule, tangents: Tensor) -> ChainRule:
    return ChainRule(
        chain.shapes, chain.edges, chain.slopes, tangents.unsqueeze(0), 1, chain.dtype, chain.device, chain.arithmetic,
        chain.planner,
    )  # fmt: skip


def _deviation(state: PreactivationState, values: PreactivationState, known: Gradients, row: int) -> ChainRule:
    """The chain rule from x - c to the deviation of one row of the Jacobian; its covectors are tangents."""
    network, build = state.network, _Builder(state)
    after = {0: 0}  # where Δh_k is
    added: dict[int, list[int]] = {}  # the parts of Δg_z,k
    for k in range(1, network.depth):
        stage, z, at = state.stage(k), state.pre(k), values.pre(k)
        here = build.add([(after[e.source], e) for e in stage.edges], None, stage.shape)
        same = Edge(0, Identity(stage.shape))
        if stage.linear or not isinstance(stage.activation, AbstractSmooth):
            after[k], added[k] = here, []
            continue
        after[k] = build.add([(here, same)], stage.activation.secant_range(z, at, state.arithmetic), stage.shape)
        bend, y = Derivative(stage.activation).secant_range(z, at, state.arithmetic), known.at(k)
        if y is None:
            added[k] = []
            continue
        y = y.map(lambda t: t.expand(state.region.batch, -1, *t.shape[2:])[:, min(row, t.shape[1] - 1)])
        added[k] = [build.add([(here, same)], state.arithmetic.product(bend, y), stage.shape)]
    for k in range(network.depth - 1, -1, -1):
        into = [
            (part, Edge(0, e.operator.transpose()))
            for later in range(k + 1, network.depth)
            for e in state.stage(later).edges
            if e.source == k
            for part in added[later]
        ]
        if k == 0 or into:
            slopes = None if k == 0 or state.stage(k).linear else state.slopes(k)
            place = build.add(into, slopes, network.shape(k))
            if k:
                added[k].append(place)
    return build.chain()


class _Builder:
    """The nodes of a chain rule, one after the other."""

    def __init__(self, state: PreactivationState) -> None:
        self.state = state
        self.shapes = [state.network.input_shape]
        self.edges: list[tuple[Edge, ...]] = [()]
        self.slopes: list[Interval | None] = [None]

    def add(self, into: list[tuple[int, Edge]], slopes: Interval | None, shape: tuple[int, ...]) -> int:
        """A node that reads earlier nodes through the operators of edges; its number."""
        self.edges.append(tuple(Edge(source, e.operator) for source, e in into))
        self.slopes.append(slopes)
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def chain(self) -> ChainRule:
        state, network = self.state, self.state.network
        return ChainRule(
            tuple(self.shapes), tuple(self.edges), tuple(self.slopes), None, state.region.batch, network.dtype,
            network.device, state.arithmetic, state.planner,
        )  # fmt: skip
