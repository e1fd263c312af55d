"""The lines and planes of a network, and a search for those that are best for some forms (docs/mathematics.md, §5.8).

Any share of two planes and any mixture of lines is valid, so the numbers that the search finds need no proof.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import cos, pi
from typing import final

import torch
from torch import Tensor

from recurjac.activations import slope_lines, value_lines
from recurjac.adam import Adam
from recurjac.arithmetic import AbstractArithmetic, Enclosure, Interval, no_nan, with_derivative_of
from recurjac.jacobian.gradients import Gradients
from recurjac.propagation.forms import AbstractSeeds
from recurjac.propagation.joint import Joint, planes
from recurjac.relaxations import LinearRelaxation

_SHARES = (0.5, 0.05, 0.3, 0.7, 0.95)
"""The points of an interval at which the lines are tight; a search mixes them, and begins near the first."""
_FIRST = 2.0
"""The first logarithm of the weight of the first line, beside 0 for the others."""
_RATE = 0.3
"""The first step of Adam's method; it falls to nothing along half a cosine."""

_SHARE = 1.0
"""The first logarithm of the odds of the plane that keeps the least slope, d y + … on either side."""

Family = tuple[LinearRelaxation, ...]
"""Lines for the same neurons, (B, 1, *node) each."""
Pairs = Mapping[int, tuple[Tensor, Tensor]]
"""Numbers for the lower and the upper side, by node."""


@final
@dataclass(frozen=True)
class Choice:
    """Free numbers from which lines and planes are made, each for the lower and the upper side.

    planes: (B, K, *node), for each node with slopes that are not known exactly.
    slopes, values: (lines, B, K, *node), for such nodes and for stages with an activation.
    """

    planes: Pairs
    slopes: Pairs
    values: Pairs

    @property
    def leaves(self) -> list[Tensor]:
        return [t for part in (self.planes, self.slopes, self.values) for pair in part.values() for t in pair]


@final
@dataclass(frozen=True)
class Relaxed:
    """A view of gradients of a whole network, with lines of σ' and of σ for each of its stages with an activation."""

    known: Gradients
    slopes: Mapping[int, Family]
    values: Mapping[int, Family]

    @classmethod
    def of(cls, known: Gradients, several: bool) -> Relaxed:
        """One line on each side or, if `several`, a few that can be mixed."""
        state = known.state
        shares = _SHARES if several else _SHARES[:1]
        slopes: dict[int, Family] = {}
        values: dict[int, Family] = {}
        for k in range(1, state.network.depth):
            activation, z = state.activation(k), state.pre(k)
            if state.stage(k).factor is not None:  # the slope is the other factor
                slopes[k] = (LinearRelaxation.proportional(torch.ones_like(z.lower).unsqueeze(1)),)
                values[k] = (activation.lines(z, state.arithmetic),)
            elif not state.stage(k).linear:
                slopes[k] = tuple(slope_lines(activation, z, share, state.arithmetic) for share in shares)
                values[k] = tuple(value_lines(activation, z, share, state.arithmetic) for share in shares)
        return cls(known, slopes, values)

    def with_shares(self, start: int, low: float, high: float) -> Joint:
        """The relaxed network for forms that start at a node, with these shares of planes and the first lines."""
        numbers = torch.tensor([low, high], dtype=self.known.chain.dtype, device=self.known.chain.device)
        return self._joint(start, dict.fromkeys(self.slopes, (numbers[0], numbers[1])), {}, {})

    def chosen(self, start: int, choice: Choice) -> Joint:
        """The relaxed network with the planes and lines of a choice."""
        shares = {k: (low.sigmoid(), high.sigmoid()) for k, (low, high) in choice.planes.items()}
        return self._joint(start, shares, choice.slopes, choice.values)

    def _joint(self, start: int, shares: Pairs, slopes: Pairs, values: Pairs) -> Joint:
        """Shares of planes, and logarithms of weights of lines; without those, the first lines."""
        state, chain, found = self.known.state, self.known.chain, {}
        zero = torch.zeros((), dtype=chain.dtype, device=chain.device)
        for k in range(start + 1, chain.end):
            range_of, y = chain.slopes[k], self.known.at(k)
            if range_of is None:
                continue
            slope = range_of.map(lambda t: t.unsqueeze(1))
            if y is None:
                end = torch.full_like(slope.lower, torch.inf)
                y = Interval(-end, end)
            lines = _mixed(self.slopes[k], slopes.get(k), state.pre(k), chain.arithmetic)
            found[k] = planes(y, slope, shares.get(k, (zero, zero)), lines, chain.arithmetic)
        mixed = {k: _mixed(v, values.get(k), state.pre(k), chain.arithmetic) for k, v in self.values.items()}
        return Joint(chain, state.network, state.region, found, mixed)

    def first(self, start: int, covectors: int) -> Choice:
        """The numbers with which a search begins, for forms with so many covectors."""
        chain = self.known.chain
        shape = {k: (chain.batch, covectors, *chain.shapes[k]) for k in self.values}
        uncertain = [k for k in self.slopes if k > start and chain.unstable(k) is not None]
        even = torch.zeros((), dtype=chain.dtype, device=chain.device)
        shares = {k: (even.expand(shape[k]) - _SHARE, even.expand(shape[k]) + _SHARE) for k in uncertain}
        slopes = {k: _even(len(self.slopes[k]), even.expand(shape[k])) for k in uncertain if len(self.slopes[k]) > 1}
        values = {k: _even(len(v), even.expand(shape[k])) for k, v in self.values.items() if len(v) > 1}
        return Choice(shares, slopes, values)


def _even(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    start = torch.zeros(count, *like.shape, dtype=like.dtype, device=like.device)
    start[0] = _FIRST
    return start, start.clone()


def _mixed(
    family: Family, logits: tuple[Tensor, Tensor] | None, z: Interval, arithmetic: AbstractArithmetic
) -> LinearRelaxation:
    """The lines with these weights, for the lower and the upper side; the first ones without any."""
    if logits is None:
        return family[0]
    low, high = (t.softmax(0) for t in logits)
    sides = (
        (low, [f.lower_slope for f in family]), (low, [f.lower_intercept for f in family]),
        (high, [f.upper_slope for f in family]), (high, [f.upper_intercept for f in family]),
    )  # fmt: skip
    slope, bottom, steep, top = ((w * torch.stack(t)).sum(0) for w, t in sides)
    if arithmetic.rigorous:
        with torch.no_grad():
            below = mixed_intercept(low, [-t for t in sides[0][1]], [-t for t in sides[1][1]], -slope, z)
            above = mixed_intercept(high, sides[2][1], sides[3][1], steep, z)
        bottom, top = with_derivative_of(bottom, -below), with_derivative_of(top, above)
    return LinearRelaxation(slope, bottom, steep, top, family[0].size)


def mixed_intercept(
    weights: Tensor, slopes: Sequence[Tensor], intercepts: Sequence[Tensor], slope: Tensor, z: Interval
) -> Tensor:
    """A proved intercept of a line above z ↦ w with a computed slope, from lines (B, K, *node) that are above it on z.

    Weights are decreased, so that all but the first sum up to less than 1; the first line has the rest.  What the exact
    slope of the mixture differs by is multiplied by z.
    """
    count = len(weights)
    shares = [Enclosure.point(w * (1 - 4 * count * torch.finfo(w.dtype).eps)) for w in weights[1:]]
    rest = Enclosure.number(1.0, weights)
    for share in shares:
        rest = rest - share
    shares = [rest.within(0.0), *shares]
    exact_slope, intercept = (
        reduce(Enclosure.__add__, (w * Enclosure.point(t) for w, t in zip(shares, lines, strict=True)))
        for lines in (slopes, intercepts)
    )
    flat = reduce(torch.logical_and, (t == 0 for t in slopes))
    tilt = exact_slope - Enclosure.point(slope)
    moved = tilt * Enclosure(z.lower.detach().unsqueeze(1), z.upper.detach().unsqueeze(1))
    moved = Enclosure.number(0.0, weights).where(flat, moved)
    return no_nan((intercept + moved).upper, torch.inf)


def searched(relaxed: Relaxed, start: int, seeds: AbstractSeeds, negative: bool, steps: int) -> Choice:
    """The best choice that Adam's method finds for the sum of the upper bounds of the forms, or of their negations."""
    rows = seeds.tensor().shape[1] if relaxed.known.chain.rows == 1 else relaxed.known.chain.rows
    now = relaxed.first(start, rows)
    leaves = [t.requires_grad_() for t in now.leaves]
    best, least = [t.detach().clone() for t in leaves], torch.inf
    if not leaves:
        return now
    adam = Adam(leaves)
    for step in range(steps):
        with torch.enable_grad():
            value = relaxed.chosen(start, now).upper(start, seeds, negative).sum()
        if not value.requires_grad or not bool(value.isfinite()):
            break
        if value.item() < least:
            best, least = [t.detach().clone() for t in leaves], value.item()
        found = torch.autograd.grad(value, leaves, allow_unused=True)
        adam.step(found, _RATE * (1 + cos(pi * step / steps)) / 2)
    with torch.no_grad():
        for leaf, kept in zip(leaves, best, strict=True):
            leaf.requires_grad_(False).copy_(kept)
    return now
