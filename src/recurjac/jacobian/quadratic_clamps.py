"""Bounds of the gradient that are clamped by one P-chain of the reversed chain rule (docs/mathematics.md, §5.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf, prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval, root_up, round_up_to
from recurjac.deadline import Deadline, check_seconds, shorter
from recurjac.errors import expect_counts
from recurjac.jacobian.base import AbstractJacobianMethod, AbstractNodewise, AbstractPrepared, Descended, descend
from recurjac.jacobian.combine import All
from recurjac.jacobian.gradients import Gradients
from recurjac.jacobian.recursion import Chords
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import AbstractSeeds
from recurjac.quadratic import Choose, Multipliers, System, balanced, carried, positive, whole_system_of

_WIDEST = 2048
"""The widest node, or sum of nodes of a skeleton, for which matrices are formed."""
_ROWS = 16
"""Up to this number of outputs, each has a chain of its own; the multipliers are those that were found for all."""


@final
@dataclass(frozen=True)
class QuadraticClamped(AbstractJacobianMethod):
    """`method` with the bounds [L, U] of g at each node clamped to ±c, c from a P-chain that starts at the outputs.

    One chain bounds all neurons of all nodes.  As clamps can make lines worse, the result is intersected with that of
    `method` alone.  Networks that are too wide are not clamped.
    steps: of the search for multipliers.  seconds: for the search, which ends earlier if its steps take longer.
    Clamps have no derivatives.  Source: docs/mathematics.md, §5.4.
    """

    method: AbstractNodewise = field(default_factory=Chords)
    steps: int = 30
    seconds: float = inf

    def __post_init__(self) -> None:
        check_seconds("QuadraticClamped", self.seconds)
        expect_counts("QuadraticClamped", steps=self.steps)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {"clamped": cls()}

    @property
    def title(self) -> str:
        return f"{self.method.title}, clamped by the P-chain"

    def within(self, seconds: float) -> QuadraticClamped:
        return replace(self, seconds=shorter(self.seconds, seconds))

    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        whole, view = self.method.prepare(gradients), self.method.view(gradients)
        sizes = self._sizes(view.chain)
        if not sizes:
            return whole
        clamped = _Within(self.method, sizes)
        descend(view, [clamped])
        return All(gradients.chain, (whole, Descended(view, (clamped,))))

    def _sizes(self, chain: ChainRule) -> Mapping[int, Tensor]:
        """For nodes with unstable neurons, upper bounds of |g_h|, (batch, K, *node); nothing if there are none."""
        if chain.covectors is not None or _widest(chain) > _WIDEST:
            return {}
        nodes = [k for k in range(1, chain.end) if chain.unstable(k) is not None]
        zero = torch.zeros(1, 1, *chain.shapes[0], dtype=chain.dtype, device=chain.device)
        deadline = Deadline.after(self.seconds)
        with torch.no_grad():
            each = [self._of_sample(chain.sample(i).reversed(zero), nodes, deadline) for i in range(chain.batch)]
        return {
            k: torch.stack([found[k] for found in each]).reshape(chain.batch, chain.rows, *chain.shapes[k])
            for k in nodes
        }

    def _of_sample(self, back: ChainRule, nodes: list[int], deadline: Deadline) -> Mapping[int, Tensor]:
        """For each of the nodes, (K, n), infinite where nothing is proved; `back` is the reversed chain rule."""
        system, end, outputs = whole_system_of(back), back.end, prod(back.shapes[0])
        places = [end - k for k in nodes]
        ones = torch.ones(outputs, dtype=torch.float64, device=back.device)
        begin = Multipliers.first(system, ones, True)
        best = balanced(system, begin, ones, partial(_logarithms, places), self.steps, deadline)
        starts = torch.diag(ones) if outputs <= _ROWS else ones.unsqueeze(0)
        found = [_roots(system, start, best) for start in starts]
        sizes = {}
        for k in nodes:
            blank = torch.full((prod(back.shapes[end - k]),), inf, dtype=torch.float64, device=back.device)
            rows = torch.stack([row.get(end - k, blank) for row in found])
            sizes[k] = round_up_to(torch.where(rows.isnan(), inf, rows), back.dtype).expand(outputs, -1)
        return sizes


def _widest(chain: ChainRule) -> int:
    """The size of the largest matrix of a P-chain along all nodes, at most."""
    joint = any(len({e.source for e in into}) > 1 for into in chain.edges)
    sizes = [prod(shape) for shape in chain.shapes[1:]]
    return sum(sizes) if joint else max(sizes)


def _logarithms(places: list[int], system: System, start: Tensor, choose: Choose) -> Tensor | None:
    """What the search makes small: the logarithms of all sizes; None if there is no proof."""
    found = [c.before.mid.diagonal() for c in carried(system, start, choose)]
    if len(found) < len(system.nodes):
        return None
    return positive(torch.cat([found[k - 1] for k in places])).log().sum()


def _roots(system: System, start: Tensor, best: Multipliers) -> Mapping[int, Tensor]:
    """Upper bounds of |y| at the nodes where they are proved, for covectors whose squares are at most `start`."""
    each = carried(system, best.start(start), best.choose)
    return {k: root_up(c.before.map(torch.diagonal).upper()) for k, c in enumerate(each, 1)}


@final
@dataclass(frozen=True, eq=False)
class _Within(AbstractNodewise):
    """`method` with |g| at most `sizes` at each node."""

    method: AbstractNodewise
    sizes: Mapping[int, Tensor]

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {}

    @property
    def title(self) -> str:
        return f"{self.method.title}, clamped"

    def view(self, gradients: Gradients) -> Gradients:
        return self.method.view(gradients)

    def node(self, known: Gradients, node: int) -> Interval | None:
        bounds = self.method.node(known, node)
        if bounds is None or node not in self.sizes:
            return bounds
        ends = self.sizes[node].to(bounds.lower)
        return known.chain.arithmetic.intersect(bounds, Interval(-ends, ends))

    def pushed(self, known: Gradients, tangents: AbstractSeeds) -> Interval:
        return self.method.pushed(known, tangents)
