"""Multipliers of P-chains, such that a small program can check what they prove in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.network import Network
from recurjac.norms.quadratic import AIMS, norm_of
from recurjac.preactivation.centred import SecantSystem, secant_system, systems
from recurjac.preactivation.state import PreactivationState
from recurjac.propagation.chain_rule import ChainRule
from recurjac.quadratic import Multipliers, Reached, System, optimised, reach, whole_system_of
from recurjac.witness.notation import Json, numbers

ROOM = 2.0**-28
"""By how much bounds are enlarged, so that the checker reaches them from slopes that differ by rounding."""
_STEPS = 40
"""Steps of the search for multipliers of ranges."""
_TANGENTS = 100
"""Steps of the search for multipliers of a norm."""
_WIDEST = 1024
"""The size of the widest stage that is bounded."""
_WORK = 4e9
"""The multiply-adds above which chains take too long to be checked."""
_GAIN = 0.01
"""The share by which the widths of some unstable neurons have to shrink so that a chain is written."""


def is_affordable(network: Network) -> bool:
    """Whether the P-chains of all stages are checked in a minute or so."""
    sizes = [prod(stage.shape) for stage in network.stages]
    work = sum((len(sizes) - k) * n**3 for k, n in enumerate(sizes))
    return max([*sizes, 0]) <= _WIDEST and work <= _WORK


@final
@dataclass(frozen=True)
class Proof:
    """w of the inputs, (n_0,) or None for the 2-norm, and t of each node with unknown slopes, (n_k,), flat."""

    weights: Tensor | None
    nodes: Mapping[int, Tensor]

    @classmethod
    def of(cls, system: System, multipliers: Multipliers, radius: Tensor) -> Proof:
        """Multipliers as numbers, which are feasible for the system."""
        with torch.no_grad():
            chosen = multipliers.chosen(system, radius)
        weights = multipliers.weights
        wide = {
            k: torch.zeros_like(system.nodes[k - 1].half).index_copy(0, system.nodes[k - 1].unstable, t)
            for k, t in chosen.items()
        }
        return cls(None if weights is None else torch.softmax(weights, 0), wide)

    def reached(self, system: System, radius: Tensor) -> Reached | None:
        """What it proves of the rows of a system over a box or ball of these radii; None if it proves nothing."""
        start = radius.square() / (1 if self.weights is None else self.weights)

        with torch.no_grad():
            gram = reach(system, start, lambda k, _: self.nodes[k][system.nodes[k - 1].unstable])
        return None if gram is None else Reached.exactly(gram)

    def written(self, stages: Sequence[Sequence[int]]) -> Json:
        """As it is in a certificate, for stages given by their nodes."""
        known = [[self.nodes.get(k) for k in nodes] for nodes in stages]
        return {
            "weights": None if self.weights is None else numbers(self.weights),
            "multipliers": [_written(parts) for parts in known],
        }


def _written(parts: Sequence[Tensor | None]) -> list[str] | None:
    """The numbers of all nodes of a stage; None where no slope is unknown."""
    sizes = [len(t) for t in parts if t is not None]
    if not sizes:
        return None
    zeros = torch.zeros(sizes[0], dtype=torch.float64)
    return [v for t in parts for v in numbers(zeros if t is None else t)]


@final
@dataclass(frozen=True)
class Around:
    """Bounds of combinations of the neurons of a stage by secants from the centre, (1, rows), and their proof."""

    bounds: Interval
    proof: Proof

    @classmethod
    def of(cls, secants: SecantSystem, at: Interval) -> Around | None:
        """Around values `at` of the rows at the centre, (rows,); None if nothing is proved."""
        system = whole_system_of(secants.chain)
        proof = Proof.of(system, secants.multipliers(system, _STEPS), secants.radius)
        reached = proof.reached(system, secants.radius)
        if reached is None:
            return None
        half = reached.gram.map(torch.diagonal).upper().clamp(min=0).sqrt() * (1 + ROOM)
        return cls(Interval((at.lower - half)[None], (at.upper + half)[None]), proof)

    @classmethod
    def stage(cls, state: PreactivationState, k: int, z: Interval) -> Around | None:
        """Of all neurons of stage k; None if it narrows none of those that z leaves unstable."""
        unstable = state.unstable(k, z)
        if k == 1 or not bool(unstable.any()):
            return None
        for system in systems(state, k, torch.ones_like(unstable)):
            found = cls.of(system, system.at[-1].map(lambda t: t.flatten().double()))
            if found is None:
                return None
            bounds = found.bounds.map(lambda t: t.reshape(z.shape))
            old, new = z.width[unstable], state.arithmetic.intersect(z, bounds).width[unstable]
            return replace(found, bounds=bounds) if bool((new < (1 - _GAIN) * old).any()) else None
        return None

    @classmethod
    def outputs(cls, state: PreactivationState, rows: Tensor) -> Around | None:
        """Of rows · f, for rows (K, *output)."""
        system = secant_system(state, 0, rows[None])
        if system is None:
            return None
        flat, middle, half = rows.flatten(1), *(t.flatten() for t in (system.at[-1].lower, system.at[-1].width))
        at = flat @ (middle + half / 2), flat.abs() @ half / 2
        return cls.of(system, Interval(at[0] - at[1], at[0] + at[1]))


@final
@dataclass(frozen=True)
class Tangents:
    """A bound of the norm from l_p to l_q of the Jacobian of some rows, rounded outward, and its proof."""

    norm: float
    proof: Proof

    @classmethod
    def of(cls, chain: ChainRule, p: float, q: float) -> Tangents | None:
        """Of a chain rule of one sample; None if nothing is proved."""
        system = whole_system_of(chain)
        radius = torch.ones(prod(system.inputs), dtype=torch.float64)
        best = optimised(system, Multipliers.first(system, radius, p != inf), radius, AIMS[q].loss, _TANGENTS)
        proof = Proof.of(system, best, radius)
        reached = proof.reached(system, radius)
        return None if reached is None else cls(float(norm_of(reached, q, chain)) * (1 + ROOM), proof)
