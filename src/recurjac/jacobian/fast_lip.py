"""Fast-Lip: interval products from node to node, with no pushing past the next one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch

from recurjac.arithmetic import Ball, Interval
from recurjac.jacobian.base import AbstractJacobianMethod, AbstractPrepared
from recurjac.operators.interval import interval_image
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import AbstractSeeds


@final
@dataclass(frozen=True)
class FastLip(AbstractJacobianMethod):
    """g_z = σ' g_h and g_h = Aᵀ g_z in interval arithmetic.

    Source: arXiv:1804.09699, Section 3.4; docs/mathematics.md, §5.1.
    """

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {"fastlip": cls()}

    @property
    def title(self) -> str:
        return "Fast-Lip"

    def prepare(self, chain: ChainRule) -> AbstractPrepared:
        return LastProduct(chain, _gradients(chain))


def _gradients(chain: ChainRule) -> dict[int, Interval]:
    """Intervals of g_z at every node but the last, (batch or 1, K, *node)."""
    found: dict[int, Interval] = {}
    for node in range(chain.end - 1, 0, -1):
        terms = []
        for e in chain.successors(node):
            if e.source == chain.end:
                rows = chain.gradient_rows(e.operator)
                terms.append(chain.arithmetic.between(rows, rows))
            elif e.source in found:
                terms.append(interval_image(e.operator.transpose(), found[e.source], chain.arithmetic))
        if terms:
            found[node] = through_slopes(chain, node, chain.arithmetic.sum(terms))
    return found


def through_slopes(chain: ChainRule, node: int, gradient: Interval) -> Interval:
    """g_z from g_h at a node: the interval product with its slopes."""
    slopes = chain.slopes[node]
    if slopes is None:
        return gradient
    return chain.arithmetic.product(gradient, slopes.map(lambda t: t.unsqueeze(1)))


@final
@dataclass(frozen=True)
class LastProduct(AbstractPrepared):
    """Tangents pushed to the first nodes and multiplied there with intervals of g_z, by node number."""

    chain: ChainRule
    gradients: dict[int, Interval]

    def push(self, tangents: AbstractSeeds) -> Interval:
        chain, total = self.chain, None
        for e in chain.successors(0):
            if e.source == chain.end:
                direct = tangents.dot(chain.gradient_rows(e.operator))
                term = chain.arithmetic.between(direct, direct)
            elif e.source in self.gradients:
                term = self._product(tangents.push(e.operator, chain.arithmetic), self.gradients[e.source])
            else:
                continue
            total = term if total is None else chain.arithmetic.sum([total, term])
        if total is None:
            zero = torch.zeros(1, 1, tangents.count, dtype=chain.dtype, device=chain.device)
            total = Interval.point(zero)
        return self._whole(total)

    def _product(self, column: Ball, gradient: Interval) -> Interval:
        """Bounds of column · g for g in `gradient`: column · m ± |column| · s."""
        arithmetic = self.chain.arithmetic
        middle, half = arithmetic.midrad(gradient)
        centre = column.dot(arithmetic.exact(middle))
        size = arithmetic.exact(Ball(column.mid.abs(), column.rad).upper())
        spread = size.dot(arithmetic.exact(half))
        return arithmetic.between(centre - spread, centre + spread)
