"""Fast-Lip: interval products from each node to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch

from recurjac.arithmetic import AbstractArithmetic, Ball, Interval
from recurjac.jacobian.base import AbstractJacobianMethod, AbstractNodewise
from recurjac.jacobian.gradients import Gradients
from recurjac.operators.interval import interval_image, mixes_once
from recurjac.propagation.forms import AbstractSeeds, Units


@final
@dataclass(frozen=True)
class FastLip(AbstractNodewise):
    """g_z = σ' g_h and g_h = Aᵀ g_z in interval arithmetic.

    Source: arXiv:1804.09699, Section 3.4; docs/mathematics.md, §5.1.
    """

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {"fastlip": cls()}

    @property
    def title(self) -> str:
        return "Fast-Lip"

    def view(self, gradients: Gradients) -> Gradients:
        return gradients.own()

    def node(self, known: Gradients, node: int) -> Interval | None:
        chain, terms = known.chain, []
        for e in chain.successors(node):
            if e.source == chain.end:
                rows = chain.gradient_rows(e.operator)
                terms.append(chain.arithmetic.between(rows, rows))
            elif (later := known.through(e.source)) is not None:
                terms.append(interval_image(e.operator.transpose(), later, chain.arithmetic))
        return chain.arithmetic.sum(terms) if terms else None

    def pushed(self, known: Gradients, tangents: AbstractSeeds) -> Interval:
        return last_product(known, tangents)


def last_product(known: Gradients, tangents: AbstractSeeds) -> Interval:
    """Bounds from tangents pushed to the first nodes and multiplied there with intervals of g_z: (B, K, R)."""
    chain, total = known.chain, None
    for e in chain.successors(0):
        if e.source == chain.end:
            direct = tangents.dot(chain.gradient_rows(e.operator))
            term = chain.arithmetic.between(direct, direct)
        elif (gradient := known.through(e.source)) is None:
            continue
        elif isinstance(tangents, Units) and mixes_once(e.operator):  # the same bounds with less work
            term = interval_image(e.operator.transpose(), gradient, chain.arithmetic).map(tangents.entries)
        else:
            term = interval_dot(tangents.push(e.operator, chain.arithmetic), gradient, chain.arithmetic)
        total = term if total is None else chain.arithmetic.sum([total, term])
    if total is None:
        return Interval.point(torch.zeros(1, 1, tangents.count, dtype=chain.dtype, device=chain.device))
    return total


def interval_dot(column: Ball, gradient: Interval, arithmetic: AbstractArithmetic) -> Interval:
    """Bounds of column · g for columns (B, K, R, *node), g in an interval (B, K, *node): column · m ± |column| · s."""
    middle, half = arithmetic.midrad(gradient)
    centre = column.dot(arithmetic.exact(middle))
    size = arithmetic.exact(Ball(column.mid.abs(), column.rad).upper())
    spread = size.dot(arithmetic.exact(half))
    return arithmetic.between(centre - spread, centre + spread)
