"""Ranges and lines of all neurons over one region, such that a small program can check them one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from recurjac.activations import AbstractActivation
from recurjac.arithmetic import AbstractArithmetic, Fast, Interval, Rigorous
from recurjac.network import Network
from recurjac.preactivation import IBP, AbstractLineRule, AbstractPreactivation, CrownLines, PreactivationState, Refine
from recurjac.preactivation.pull_route import PullRoute
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import DenseForms
from recurjac.propagation.planning import Planner
from recurjac.propagation.sweep import sweep
from recurjac.region import BoundRegion
from recurjac.relaxations import LinearRelaxation
from recurjac.witness.quadratic import Around, Proof

Known = Mapping[int, Interval]
"""For some nodes, intervals (1, *node) in which pre-activations lie at the inputs that are looked at."""
SLACK = 2.0**-36
"""By how much numbers are rounded outward, relative to the largest of their node.

It makes no bound true: a bound of a certificate is true if the checker reaches it with its own arithmetic.  The slack
is what makes the checker reach it, although both round differently; bounds become wider by this share only.
"""


def widened(bounds: Interval, slack: float = SLACK) -> Interval:
    """Bounds (batch, *node) that contain the given ones with some room at each finite end."""
    sizes = torch.where(bounds.magnitude.isfinite(), bounds.magnitude, 0.0).flatten(1).amax(1)
    room = (slack * sizes).reshape(-1, *[1] * (bounds.lower.dim() - 1)) + torch.finfo(bounds.lower.dtype).tiny
    return Interval(bounds.lower - room, bounds.upper + room)


def stage_nodes(network: Network) -> list[tuple[int, ...]]:
    """The stages that the checker sees, in order, by the nodes of their pre-activations: those of u and v of u v."""
    found: list[tuple[int, ...]] = []
    for k, stage in enumerate(network.stages[:-1], 1):
        if stage.factor is None and not stage.linear:
            found.append((k,))
        elif stage.factor is not None and not stage.factor.first:
            found.append((k, k + stage.factor.other))
    return found


def _crossed(a: Interval, b: Interval) -> bool:
    """Whether some entries of two intervals are disjoint."""
    return bool((torch.maximum(a.lower, b.lower) > torch.minimum(a.upper, b.upper)).any())


@final
@dataclass(frozen=True)
class WitnessLines(AbstractLineRule):
    """CROWN's lines, moved outward by a little where both are not the same line."""

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {}

    @property
    def title(self) -> str:
        return "CROWN, as checked"

    def lines(self, activation: AbstractActivation, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        found, size = CrownLines().lines(activation, z, arithmetic), z.magnitude.unsqueeze(1)
        below = SLACK * (found.lower_intercept.abs() + found.lower_slope.abs() * size)
        above = SLACK * (found.upper_intercept.abs() + found.upper_slope.abs() * size)
        return replace(
            found,
            lower_intercept=torch.where(found.exact, 0.0, found.lower_intercept - below),
            upper_intercept=torch.where(found.exact, 0.0, found.upper_intercept + above),
        )


@final
@dataclass(frozen=True)
class Ranges:
    """What is known of a network's stages over the region of one sample, all but the last stage.

    chains: the proofs of those stages that are bounded by secants; None if that was not tried.
    proved: bounds of the stages for all inputs whose earlier pre-activations lie in the intervals of `state.known`, up
    to the first stage at which they show that there is no such input.
    Stages without activation have ranges by intervals only, since the checker sees no such stages.
    """

    state: PreactivationState
    rule: AbstractPreactivation
    chains: Mapping[int, Proof] | None
    proved: Sequence[Interval]

    @classmethod
    def of(
        cls, network: Network, region: BoundRegion, known: Known, *, lines: bool = True, chains: bool = False
    ) -> Ranges:
        """Ranges by intervals, and for the neurons that these leave unstable by lines if `lines`.

        They are those of the inputs at which pre-activations lie in the intervals `known` of some nodes.
        If `chains`, also by secants from the centre, for what lines leave unstable.
        """
        arithmetic = Fast() if network.unproved_rounding() or not region.rigorous else Rigorous()
        state = PreactivationState(network, region, arithmetic, Planner(), known)
        rule = Refine(IBP(), WitnessLines()) if lines else IBP()
        single, proofs = {nodes[0] for nodes in stage_nodes(network) if len(nodes) == 1}, {}
        proved: list[Interval] = []
        for k in range(1, network.depth):
            found = rule.stage(state, k)
            around = Around.stage(state, k, found) if chains and k in single else None
            if around is not None:
                found, proofs[k] = arithmetic.intersect(found, around.bounds), around.proof
            proved.append(widened(found))
            state.append(proved[-1], WitnessLines())
            if _crossed(proved[-1], state.pre(k)):
                break
        return cls(state, rule, proofs if chains else None, proved)

    @property
    def network(self) -> Network:
        return self.state.network

    @property
    def empty(self) -> bool:
        """Whether it is proved that no input is left."""
        return _crossed(self.proved[-1], self.state.pre(len(self.proved))) if self.proved else False

    def ends(self, k: int) -> tuple[Tensor, Tensor] | None:
        """The ends of stage k that are claimed, (1, *stage); they cross where no input is left; None if not bounded."""
        if k > len(self.proved):
            return None
        own, cut = self.proved[k - 1], self.state.pre(k)
        return torch.maximum(own.lower, cut.lower), torch.minimum(own.upper, cut.upper)

    @property
    def by_lines(self) -> bool:
        """Whether forms are pulled back through lines to the input."""
        return isinstance(self.rule, Refine)

    @cached_property
    def stages(self) -> Sequence[tuple[int, ...]]:
        """The nodes of each stage that the checker sees."""
        return stage_nodes(self.network)

    def lines(self, k: int) -> LinearRelaxation:
        """The lines of stage k, (1, 1, *stage)."""
        return self.state.relaxed(WitnessLines()).lines(k)

    def outputs(self, rows: Tensor, around: Around | None) -> Interval:
        """Bounds of rows · f for rows (K, *output), of which others are known: (1, K), rounded outward."""
        state, forms = self.state, DenseForms(rows[None, None], self.state.arithmetic)
        if not self.by_lines:
            return widened(IBP().output(self.of_rows(rows)))
        found = sweep(PullRoute(state.relaxed(WitnessLines()), self.network.depth), self.network.depth, forms)
        bounds = found.map(lambda t: t[:, 0])
        return widened(bounds if around is None else state.arithmetic.intersect(bounds, around.bounds))

    def of_rows(self, rows: Tensor) -> PreactivationState:
        """The same ranges for the network rows · f, for rows (K, *output)."""
        state, combined = self.state, self.network.combine(rows.flatten(1))
        own = PreactivationState(combined, state.region, state.arithmetic, Planner(), state.known)
        for k in range(1, combined.depth):
            own.append(state.pre(k), None)
        return own

    def around(self, rows: Tensor) -> Around | None:
        """Bounds of the same by secants, if these are asked for."""
        return None if self.chains is None else Around.outputs(self.state, rows)

    def chain(self, rows: Tensor) -> ChainRule:
        """The chain rule of rows · f, for rows (K, *output)."""
        return replace(self.state.chain(), covectors=rows[None], skeleton=None)
