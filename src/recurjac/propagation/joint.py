"""Bounds of gradients that are linear in x: forms go forward as tangents, and back to the input as forms of z.

A tangent c at the output of a node is a form Σ c_i δ_i y_i of slopes δ = σ'(z) and gradients y = g_h.  Each product
lies between two *planes* m δ + s y + b.  The part in y goes on to the next node.  The part in δ is replaced by lines in
z, and all parts in z are pulled back to the input, where the region is known (docs/mathematics.md, §5.8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Interval, Signed, Slopes, shares_memory, summed
from recurjac.network import Network
from recurjac.operators import AbstractOperator
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import AbstractSeeds
from recurjac.region import BoundRegion
from recurjac.relaxations import LinearRelaxation, relax_


@final
@dataclass(frozen=True)
class Planes:
    """lower_weight δ + lower line of y <= δ y <= upper_weight δ + upper line of y, and lines of δ in z.

    All have shape (B, K, *node), where B and K may be 1.
    """

    gradient: LinearRelaxation
    lower_weight: Tensor
    upper_weight: Tensor
    slope: LinearRelaxation


def planes(
    gradient: Interval, slope: Interval, shares: tuple[Tensor, Tensor], lines: LinearRelaxation,
    arithmetic: AbstractArithmetic,
) -> Planes:  # fmt: skip
    """Planes of y δ for y in `gradient` and δ in `slope`, (B, K, *node); `lines` are those of δ.

    shares: of two planes each, for the lower and the upper side, in [0, 1]; every plane is proved at the corners.
    Where an end is infinite or huge, the planes are constants.
    """
    info = torch.finfo(slope.lower.dtype)
    limit = info.max**0.25
    exact = slope.is_point & (slope.magnitude < limit)
    bounded = (gradient.magnitude < limit) & (slope.magnitude < limit)
    y, d = (
        gradient.map(lambda t: torch.where(bounded & ~exact, t, 0.0)),
        slope.map(lambda t: torch.where(bounded, t, 0.0)),
    )
    low, high = shares
    weights = [y.lower + share * (y.upper - y.lower) for share in shares]
    slopes = [d.lower + low * (d.upper - d.lower), d.upper - high * (d.upper - d.lower)]
    slopes = [torch.where(exact, slope.lower, s) for s in slopes]
    hull = arithmetic.product(gradient, slope)
    corners = [_corners(y, d, weight, s, arithmetic) for weight, s in zip(weights, slopes, strict=True)]
    least = reduce(torch.minimum, (c.lower() for c in corners[0]))
    most = reduce(torch.maximum, (c.upper() for c in corners[1]))
    bottom = torch.where(exact, 0.0, torch.where(bounded, least, hull.lower))
    top = torch.where(exact, 0.0, torch.where(bounded, most, hull.upper))
    top = torch.where(~exact & (top == 0), info.tiny, top)  # w is not a multiple of y there
    return Planes(
        LinearRelaxation(slopes[0], bottom, slopes[1], top, hull.magnitude.detach()), weights[0], weights[1], lines
    )


def _corners(y: Interval, d: Interval, weight: Tensor, slope: Tensor, arithmetic: AbstractArithmetic) -> list[Ball]:
    """(y - weight) (δ - slope) - weight · slope at the ends of y and δ."""
    of = arithmetic.exact
    rises = [of(end) - of(weight) for end in (y.lower, y.upper)]
    runs = [of(end) - of(slope) for end in (d.lower, d.upper)]
    base = of(weight) * of(slope)
    return [rise * run - base for rise in rises for run in runs]


@final
@dataclass(frozen=True)
class Joint:
    """A network over a region, and its chain rule with the same nodes.

    planes: of the nodes with slopes.  values: lines of σ of the stages with an activation, (B, K, *stage).
    """

    chain: ChainRule
    network: Network
    region: BoundRegion
    planes: Mapping[int, Planes]
    values: Mapping[int, LinearRelaxation]

    @property
    def arithmetic(self) -> AbstractArithmetic:
        return self.chain.arithmetic

    @cached_property
    def _rows(self) -> dict[int, Ball]:
        """The covectors pulled back to each node that has an edge into the last node."""
        rows: dict[int, Ball] = {}
        for e in self.chain.edges[-1]:
            more = self.chain.gradient_rows(e.operator)
            rows[e.source] = more if e.source not in rows else rows[e.source] + more
        return rows

    def bounds(self, start: int, seeds: AbstractSeeds) -> Interval:
        """Bounds of the forms at node `start`: (B, K, R)."""
        upper, lower = (self.upper(start, seeds, negative) for negative in (False, True))
        return self.arithmetic.enclose(-lower, upper)

    def upper(self, start: int, seeds: AbstractSeeds, negative: bool) -> Tensor:
        """Upper bounds of the forms, or of their negations: (B, K, R)."""
        terms: list[Ball] = []
        behind = self._forward(start, seeds, negative, terms)
        self._back(behind, terms)
        if not terms:
            return torch.zeros(1, 1, seeds.count, dtype=seeds.precision, device=seeds.device)
        return summed(terms).upper()

    def _forward(self, start: int, seeds: AbstractSeeds, negative: bool, terms: list[Ball]) -> dict[int, Ball]:
        """Push the forms to the end; the forms of pre-activations that they leave behind, by node."""
        ahead: dict[int, list[Ball]] = {}
        behind: dict[int, Ball] = {}
        if start in self._rows:
            direct = seeds.dot(self._rows[start])
            terms.append(-direct if negative else direct)
        for e in self.chain.successors(start):
            if e.source != self.chain.end:
                own = seeds.push(e.operator, self.arithmetic)
                ahead.setdefault(e.source, []).append(-own if negative else own.map(torch.clone))
        for node in range(start + 1, self.chain.end):
            if node not in ahead:
                continue
            forms = reduce(Ball.__add__, ahead.pop(node))
            if node in self.planes:
                between = self.planes[node]
                slopes = Slopes(between.upper_weight.unsqueeze(2), between.lower_weight.unsqueeze(2))
                parts = Signed.of_(self.arithmetic.exact(forms.mid), True)
                behind[self._argument(node)] = self._relaxed(parts.times_(slopes, None), between.slope, terms)
                forms = self._relaxed(forms, between.gradient, terms)
            if node in self._rows:
                terms.append(forms.dot(self._rows[node]))
            for e in self.chain.successors(node):
                if e.source != self.chain.end:
                    ahead.setdefault(e.source, []).append(_pushed(e.operator, forms))
        return behind

    def _argument(self, node: int) -> int:
        """The node on whose pre-activations the slopes of a node depend: the other factor, in a product."""
        factor = self.network.stages[node - 1].factor
        return node if factor is None else node + factor.other

    def _back(self, behind: dict[int, Ball], terms: list[Ball]) -> None:
        """Pull the forms of pre-activations back to the input, and add their maximum over the region."""
        ahead: dict[int, list[Ball]] = {}
        for node in range(self.chain.end - 1, 0, -1):
            stage, found = self.network.stages[node - 1], []
            if node in ahead:
                forms = reduce(Ball.__add__, ahead.pop(node))
                found.append(self._relaxed(forms, self.values[node], terms) if node in self.values else forms)
            if node in behind:
                found.append(behind.pop(node))
            if not found:
                continue
            forms, bias = reduce(Ball.__add__, found), stage.bias(self.arithmetic)
            if bias is not None:
                terms.append(forms.dot(bias.map(lambda t: t[None, None])))
            for e in stage.edges:
                ahead.setdefault(e.source, []).append(_pushed(e.operator.transpose(), forms))
        if 0 in ahead:
            terms.append(self.region.support_function_(reduce(Ball.__add__, ahead[0]), self.arithmetic))

    def _relaxed(self, forms: Ball, lines: LinearRelaxation, terms: list[Ball]) -> Ball:
        forms, constant = relax_(forms, lines, self.arithmetic)
        if constant is not None:
            terms.append(constant)
        return forms


def _pushed(operator: AbstractOperator, forms: Ball) -> Ball:
    """The forms after an operator, in memory that nothing else uses."""
    found = operator.push(forms)
    return found.map(torch.clone) if shares_memory(found, forms) else found
