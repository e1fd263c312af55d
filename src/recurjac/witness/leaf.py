"""One leaf of a certificate: ranges and gradients over a part of the region, and how they are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import cached_property
from math import isfinite
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval, Rigorous
from recurjac.branching.signs import influences
from recurjac.network import Network
from recurjac.region import BoundRegion
from recurjac.witness.halfspaces import Cut, HalfSpaced, restricted
from recurjac.witness.notation import Json, number, numbers, row
from recurjac.witness.quadratic import Around, Tangents
from recurjac.witness.ranges import Known, Ranges
from recurjac.witness.slopes import Slopes


@final
@dataclass(frozen=True)
class Asked:
    """A network with a vector of outputs, and combinations `rows` (K, outputs) of them.

    lines, chains: as in `Ranges.of`.  norm: p and q, if the norm of the Jacobian is asked for.
    """

    network: Network
    rows: Tensor
    lines: bool = True
    chains: bool = False
    norm: tuple[float, float] | None = None

    @property
    def inputs(self) -> int:
        """The number of inputs."""
        return self.network.sizes[0]


class Needs(Enum):
    """What a claim is proved from: values of the rows, their gradients, or tangents."""

    VALUES = auto()
    GRADIENTS = auto()
    TANGENTS = auto()


@final
@dataclass(frozen=True)
class Leaf:
    """What is known of the asked rows over a region of one sample, where neurons have the signs of some cuts.

    known: the intervals that the cuts leave of pre-activations.
    """

    asked: Asked
    region: BoundRegion
    cuts: tuple[Cut, ...] = ()
    known: Known = field(default_factory=dict)

    @cached_property
    def ranges(self) -> Ranges:
        """The ranges of all stages."""
        asked = self.asked
        return Ranges.of(asked.network, self.region, self.known, lines=asked.lines, chains=asked.chains)

    @property
    def empty(self) -> bool:
        """Whether the ranges, or the half-spaces of the cuts, prove that the leaf has no inputs."""
        return self.ranges.empty or (self.contradiction is not None and float(self.contradiction.upper) < 0)

    @cached_property
    def contradiction(self) -> HalfSpaced | None:
        """A bound of 0 by the half-spaces of the cuts; None without cuts."""
        return HalfSpaced.contradiction(self.ranges, self.cuts) if self.cuts and self.asked.lines else None

    @cached_property
    def slopes(self) -> Slopes:
        """The gradients of the rows."""
        return Slopes.of(self.ranges, self.asked.rows, lines=self.asked.lines)

    @cached_property
    def outputs(self) -> Interval:
        """Bounds of the rows' values, (1, K)."""
        found, better = self.ranges.outputs(self.asked.rows, self.around), self.half_spaced
        if better is None:
            return found
        high, low = better.upper[None].chunk(2, 1)
        return self.ranges.state.arithmetic.intersect(
            found, Interval(torch.minimum(-low, high), torch.maximum(-low, high))
        )

    @cached_property
    def half_spaced(self) -> HalfSpaced | None:
        """Bounds of the rows and, after them, of minus the rows by the half-spaces of the cuts; None without cuts."""
        rows, ranges = self.asked.rows, self.ranges
        if not self.cuts or not self.asked.lines:
            return None
        return HalfSpaced.of(ranges, self.cuts, self.asked.network.depth, torch.cat([rows, -rows]))

    @cached_property
    def around(self) -> Around | None:
        """Bounds of the same by secants from the centre; None if they are not asked for, or nothing is proved."""
        return self.ranges.around(self.asked.rows)

    @cached_property
    def tangents(self) -> Tangents | None:
        """A bound of the norm that is asked for by a P-chain; None if it proves nothing."""
        if not self.asked.chains or self.asked.norm is None:
            return None
        return Tangents.of(self.ranges.chain(self.asked.rows), *self.asked.norm)

    def by_input(self) -> Division | None:
        """Halves along the input along which they gain most, as far as gradients show; None if there is none."""
        width = self.region.box(self.ranges.state.arithmetic).width.flatten()
        axis = int((self.slopes.entries.magnitude[0].amax(0).nan_to_num(posinf=1e300) * width).argmax())
        below, above = self.region.halves(torch.tensor([axis], device=self.region.x.device))
        box, half = (r.box(Rigorous()) for r in (self.region, below))
        at = float(half.upper.flatten()[axis])
        if not (isfinite(at) and float(box.lower.flatten()[axis]) < at < float(box.upper.flatten()[axis])):
            return None
        leaves = (replace(self, region=below), replace(self, region=above))
        return {"input": axis, "at": number(at)}, *leaves

    def by_sign(self) -> Division | None:
        """Parts by the sign of the neuron of two pieces with the largest influence; None if there is none."""
        if self.asked.chains or self.asked.network.has_products:
            return None
        found = influences(self.ranges.of_rows(self.asked.rows))
        best = max(found, key=lambda k: float(found[k].amax()), default=None)
        if best is None or not float(found[best].amax()) > 0:
            return None
        i = int(found[best].argmax())
        below, above = (self._cut(Cut(best, i, side)) for side in (-1, 1))
        return {"stage": self.ranges.stages.index((best,)), "neuron": i, "at": number(0.0)}, below, above

    def _cut(self, cut: Cut) -> Leaf:
        cuts = (*self.cuts, cut)
        return replace(self, cuts=cuts, known=restricted(self.ranges, cuts))

    def written(self, needs: Needs) -> Json:
        """The leaf as a node of a certificate's tree, with what is needed."""
        stages = self.ranges.stages
        if self.empty:
            values = {"stages": [self._values(nodes) for nodes in stages], "quadratic": None}
            return {"values": values, "gradients": [], "tangents": None, "halfspaces": self._nothing()}
        chains = self._chains(needs is Needs.VALUES)
        values = {"stages": [self._values(nodes) for nodes in stages], "quadratic": chains if any(chains) else None}
        rows = range(len(self.asked.rows)) if needs is Needs.GRADIENTS else ()
        tangents = (
            self.tangents.proof.written(stages) if needs is Needs.TANGENTS and self.tangents is not None else None
        )
        spaces = self._half_spaces() if needs is Needs.VALUES else []
        gradients = [self._gradient(i) for i in rows]
        return {"values": values, "gradients": gradients, "tangents": tangents, "halfspaces": spaces}

    def _nothing(self) -> list[Json]:
        """The multipliers that prove that an empty leaf is empty, if its ranges do not."""
        if self.ranges.empty or self.contradiction is None:
            return []
        return [{"row": [], "lower": None, "upper": numbers(self.contradiction.multipliers)}]

    def _half_spaces(self) -> list[Json]:
        """The multipliers of the bounds of rows."""
        if self.half_spaced is None:
            return []
        high, low = self.half_spaced.multipliers.chunk(2)
        return [
            {"row": row(r), "lower": numbers(a), "upper": numbers(b)}
            for r, a, b in zip(self.asked.rows, low, high, strict=True)
        ]

    def _chains(self, outputs: bool) -> list[Json | None]:
        """The proofs of the stages' ranges and, if they are needed, of those of the outputs."""
        stages, proofs = self.ranges.stages, self.ranges.chains or {}
        found = [proofs[nodes[0]].written(stages[:k]) if nodes[0] in proofs else None for k, nodes in enumerate(stages)]
        around = self.around if outputs else None
        return [*found, None if around is None else around.proof.written(stages)]

    def _values(self, nodes: Sequence[int]) -> Json | None:
        """The range of a stage; None for those after the first one that shows that the leaf is empty."""
        z = [ends for k in nodes if (ends := self.ranges.ends(k)) is not None]
        if not z:
            return None
        lines = [self.ranges.lines(k) for k in nodes] if self.asked.lines and not self.ranges.empty else None
        return {
            "lower": _joined(low for low, _ in z),
            "upper": _joined(high for _, high in z),
            "lower_slope": lines and _joined(line.lower_slope for line in lines),
            "upper_slope": lines and _joined(line.upper_slope for line in lines),
        }

    def _gradient(self, i: int) -> Json:
        stages = [self._slopes(nodes, i) for nodes in self.ranges.stages]
        return {"row": row(self.asked.rows[i]), "stages": stages, "quadratic": None}

    def _slopes(self, nodes: Sequence[int], i: int) -> Json | None:
        """Bounds of the gradient of row i at a stage where slopes are not known; nothing is claimed elsewhere."""
        claimed = [bounds for k in nodes if (bounds := self._claimed(k, i)) is not None]
        if not claimed:
            return None
        low = torch.stack([b.lower for b in claimed]).amax(0)
        high = torch.stack([b.upper for b in claimed]).amin(0)
        return {"lower": numbers(low), "upper": numbers(high), "lower_slope": None, "upper_slope": None}

    def _claimed(self, k: int, i: int) -> Interval | None:
        """Bounds of the gradient of row i at node k, infinite where the slope of the node is known."""
        found, unknown = self.slopes.nodes.get(k), self.slopes.known.chain.unstable(k)
        if found is None or unknown is None:
            return None
        low = torch.where(unknown[0], found.lower[0, i], -torch.inf)
        return Interval(low, torch.where(unknown[0], found.upper[0, i], torch.inf))


Division = tuple[Json, Leaf, Leaf]
"""A split as it is in a certificate, and the leaves below and above it."""


def _joined(tensors: Iterable[Tensor]) -> list[str]:
    """The numbers of tensors, one after the other."""
    return [text for tensor in tensors for text in numbers(tensor)]
