"""One leaf of a certificate: ranges and gradients over a part of the region, and how they are written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.network import Network
from recurjac.region import BoundRegion
from recurjac.witness.notation import Json, numbers, row
from recurjac.witness.ranges import Ranges
from recurjac.witness.slopes import Slopes


@final
@dataclass(frozen=True)
class Asked:
    """A network with a vector of outputs, and combinations `rows` (K, outputs) of them; `lines`: as in `Ranges.of`."""

    network: Network
    rows: Tensor
    lines: bool = True

    @property
    def inputs(self) -> int:
        """The number of inputs."""
        return self.network.sizes[0]


@final
@dataclass(frozen=True)
class Leaf:
    """What is known of the asked rows over a region of one sample."""

    asked: Asked
    region: BoundRegion

    @cached_property
    def ranges(self) -> Ranges:
        """The ranges of all stages."""
        return Ranges.of(self.asked.network, self.region, lines=self.asked.lines)

    @cached_property
    def slopes(self) -> Slopes:
        """The gradients of the rows."""
        return Slopes.of(self.ranges, self.asked.rows, lines=self.asked.lines)

    @cached_property
    def outputs(self) -> Interval:
        """Bounds of the rows' values, (1, K)."""
        return self.ranges.outputs(self.asked.rows)

    @cached_property
    def axis(self) -> int:
        """The input along which halves of the region gain most, as far as the gradients show."""
        width = self.region.box(self.ranges.state.arithmetic).width.flatten()
        return int((self.slopes.entries.magnitude[0].amax(0).nan_to_num(posinf=1e300) * width).argmax())

    def written(self, gradients: bool) -> Json:
        """The leaf as a node of a certificate's tree; with the gradients of all rows, or with none."""
        values = {"stages": [self._values(k) for k in self.ranges.nodes], "quadratic": None}
        rows = range(len(self.asked.rows)) if gradients else ()
        return {"values": values, "gradients": [self._gradient(i) for i in rows], "tangents": None}

    def _values(self, k: int) -> Json:
        z = self.ranges.state.pre(k)
        found: Json = {"lower": numbers(z.lower), "upper": numbers(z.upper), "lower_slope": None, "upper_slope": None}
        if self.asked.lines:
            lines = self.ranges.lines(k)
            found["lower_slope"], found["upper_slope"] = numbers(lines.lower_slope), numbers(lines.upper_slope)
        return found

    def _gradient(self, i: int) -> Json:
        stages = [self._slopes(k, i) for k in self.ranges.nodes]
        return {"row": row(self.asked.rows[i]), "stages": stages, "quadratic": None}

    def _slopes(self, k: int, i: int) -> Json | None:
        """Bounds of the gradient of row i at stage k where slopes are not known; nothing is claimed elsewhere."""
        found, unknown = self.slopes.nodes.get(k), self.slopes.known.chain.unstable(k)
        if found is None or unknown is None:
            return None
        low = torch.where(unknown[0], found.lower[0, i], -torch.inf)
        high = torch.where(unknown[0], found.upper[0, i], torch.inf)
        return {"lower": numbers(low), "upper": numbers(high), "lower_slope": None, "upper_slope": None}
