"""One leaf of a certificate: ranges and gradients over a part of the region, and how they are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.network import Network
from recurjac.region import BoundRegion
from recurjac.witness.notation import Json, numbers, row
from recurjac.witness.quadratic import Around, Tangents
from recurjac.witness.ranges import Ranges
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
    """What is known of the asked rows over a region of one sample."""

    asked: Asked
    region: BoundRegion

    @cached_property
    def ranges(self) -> Ranges:
        """The ranges of all stages."""
        return Ranges.of(self.asked.network, self.region, lines=self.asked.lines, chains=self.asked.chains)

    @cached_property
    def slopes(self) -> Slopes:
        """The gradients of the rows."""
        return Slopes.of(self.ranges, self.asked.rows, lines=self.asked.lines)

    @cached_property
    def outputs(self) -> Interval:
        """Bounds of the rows' values, (1, K)."""
        return self.ranges.outputs(self.asked.rows, self.around)

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

    @cached_property
    def axis(self) -> int:
        """The input along which halves of the region gain most, as far as the gradients show."""
        width = self.region.box(self.ranges.state.arithmetic).width.flatten()
        return int((self.slopes.entries.magnitude[0].amax(0).nan_to_num(posinf=1e300) * width).argmax())

    def written(self, needs: Needs) -> Json:
        """The leaf as a node of a certificate's tree, with what is needed."""
        stages = self.ranges.stages
        chains = self._chains(needs is Needs.VALUES)
        values = {"stages": [self._values(nodes) for nodes in stages], "quadratic": chains if any(chains) else None}
        rows = range(len(self.asked.rows)) if needs is Needs.GRADIENTS else ()
        tangents = (
            self.tangents.proof.written(stages) if needs is Needs.TANGENTS and self.tangents is not None else None
        )
        return {"values": values, "gradients": [self._gradient(i) for i in rows], "tangents": tangents}

    def _chains(self, outputs: bool) -> list[Json | None]:
        """The proofs of the stages' ranges and, if they are needed, of those of the outputs."""
        stages, proofs = self.ranges.stages, self.ranges.chains or {}
        found = [proofs[nodes[0]].written(stages[:k]) if nodes[0] in proofs else None for k, nodes in enumerate(stages)]
        around = self.around if outputs else None
        return [*found, None if around is None else around.proof.written(stages)]

    def _values(self, nodes: Sequence[int]) -> Json:
        z = [self.ranges.state.pre(k) for k in nodes]
        lines = [self.ranges.lines(k) for k in nodes] if self.asked.lines else None
        return {
            "lower": _joined(b.lower for b in z),
            "upper": _joined(b.upper for b in z),
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


def _joined(tensors: Iterable[Tensor]) -> list[str]:
    """The numbers of tensors, one after the other."""
    return [text for tensor in tensors for text in numbers(tensor)]
