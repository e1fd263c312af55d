"""Ranges that use the half-spaces of constraints: CROWN with a multiplier for each constrained neuron and each row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.activations.two_piece import AbstractTwoPiece
from recurjac.arithmetic import AbstractArithmetic, Ball, Fast, Interval, summed
from recurjac.deadline import Deadline, check_seconds, shorter
from recurjac.errors import expect_counts
from recurjac.preactivation.base import AbstractPreactivation, Refine
from recurjac.preactivation.relaxation import Crown
from recurjac.preactivation.state import PreactivationState
from recurjac.propagation.neuron_subset import NeuronSubset
from recurjac.relaxations import LinearRelaxation, relax_

_RATE = 0.3
"""The first step of the search, in units of the largest coefficient for multipliers, and of 1 for slopes of lines."""
_TENSORS = 8
"""About how many tensors of the size of the forms exist at once."""
_LAST = 0.01
"""The size of the last step, as a share of the first."""


@final
@dataclass(frozen=True)
class HalfSpaceRanges(AbstractPreactivation):
    """Bounds of z_k over the inputs that satisfy the constraints of stages up to k (`Problem.constrained`).

    Each constraint is added with a multiplier for each bound, as its form passes on its way to the input.  The
    multipliers, and the free lines of activations of two pieces, are found by `steps` steps of Adam's method in plain
    floating point; any of them give a valid bound.  Where a bound excludes a constraint of stage k, or two bounds
    exclude each other, the sample is empty.  Without constraints, it is CROWN with better lines.
    seconds: for each stage; searches end earlier if their steps take longer.
    Source: docs/mathematics.md, §3.8.
    """

    steps: int = 20
    seconds: float = inf

    def __post_init__(self) -> None:
        check_seconds("HalfSpaceRanges", self.seconds)
        expect_counts("HalfSpaceRanges", steps=self.steps)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {"half-spaces": HalfSpaces()}

    @property
    def title(self) -> str:
        return "half-spaces"

    def within(self, seconds: float) -> HalfSpaceRanges:
        return replace(self, seconds=shorter(self.seconds, seconds))

    def bound(self, state: PreactivationState, k: int, chosen: Tensor | None) -> Interval:
        shape = (state.region.batch, *state.stage(k).shape)
        subset = NeuronSubset.of(chosen, shape, state.network.device)
        units = subset.units(state.network.dtype).tensor().transpose(1, 2)
        rows = torch.cat([units, -units], 1).expand(shape[0], *[-1] * (units.dim() - 1))
        floats = shape[0] * max(state.network.sizes) * _TENSORS
        lot = max(1, state.arithmetic.memory_on(state.network.device) // (8 * floats))
        deadline = Deadline.after(self.seconds)
        with torch.no_grad():
            pulls = [Pull.of(state, k, part) for part in rows.split(lot, 1)]
            upper = torch.cat([p.upper(p.searched(self.steps, deadline), state.arithmetic) for p in pulls], 1)
        count = units.shape[1]
        low, high = subset.scatter(-upper[:, count:], -inf), subset.scatter(upper[:, :count], inf)
        known = state.known.get(k)
        crossed = low > high
        if known is not None:
            crossed = crossed | (low > known.upper) | (high < known.lower)
        state.exclude(crossed.flatten(1).any(1))
        return Interval.unchecked(torch.minimum(low, high), torch.maximum(low, high))


def HalfSpaces(steps: int = 20) -> Refine:  # noqa: N802  (it stands for an object)
    """CROWN, then half-spaces on the neurons that it leaves unstable."""
    return Refine(Crown(), HalfSpaceRanges(steps))


@final
@dataclass(frozen=True)
class Chosen:
    """For each bound its own multipliers of constraints, and slopes of the free lines: (B, R, *node) by stage."""

    multipliers: Mapping[int, Tensor]
    slopes: Mapping[int, Tensor]

    def tensors(self) -> list[Tensor]:
        return [*self.multipliers.values(), *self.slopes.values()]

    def of(self, tensors: list[Tensor]) -> Chosen:
        """The same stages with other tensors."""
        count = len(self.multipliers)
        return Chosen(
            dict(zip(self.multipliers, tensors[:count], strict=True)),
            dict(zip(self.slopes, tensors[count:], strict=True)),
        )


@final
@dataclass(frozen=True)
class Pull:
    """Forms `rows` (B, R, 1, *node) of z_k, to be bounded over the region and the constraints of stages up to k.

    lines: CROWN's lines of earlier stages.  ranges: the constraints, by stage.
    free: where the lower line goes through 0 with any slope from `least` to 1, by stage.
    """

    state: PreactivationState
    k: int
    rows: Tensor
    lines: Mapping[int, LinearRelaxation]
    ranges: Mapping[int, Interval]
    free: Mapping[int, Tensor]
    least: Mapping[int, Tensor]

    @classmethod
    def of(cls, state: PreactivationState, k: int, rows: Tensor) -> Pull:
        lines, free, least = {}, {}, {}
        for j in range(1, k):
            stage = state.stage(j)
            if stage.linear or not state.is_complete(j):
                continue  # nothing reads a factor before the other one is bounded
            z = state.pre(j)
            lines[j] = state.activation(j).lines(z, state.arithmetic)
            if isinstance(stage.activation, AbstractTwoPiece):
                s = stage.activation.slope_below(z.lower)
                mask = (z.lower < 0) & (z.upper > 0) & (s < 1)
                if bool(mask.any()):
                    free[j], least[j] = mask.unsqueeze(1), s.unsqueeze(1)
        ranges = {
            j: z for j, z in state.known.items() if j <= k and bool((z.lower.isfinite() | z.upper.isfinite()).any())
        }
        return cls(state, k, rows, lines, ranges, free, least)

    def begin(self) -> Chosen:
        """No multipliers, and CROWN's lines."""
        lead = self.rows.shape[:2]
        multipliers = {j: self.rows.new_zeros(*lead, *self.state.stage(j).shape) for j in self.ranges}
        slopes = {j: self.lines[j].lower_slope.expand(*lead, *self.state.stage(j).shape).clone() for j in self.free}
        return Chosen(multipliers, slopes)

    def upper(self, chosen: Chosen, arithmetic: AbstractArithmetic) -> Tensor:
        """Upper bounds of the rows: (B, R); NaN, which is no bound, becomes infinity."""
        bound = self.bounds(chosen, arithmetic)[0].upper()
        return torch.where(bound.isnan(), inf, bound)

    def bounds(self, chosen: Chosen, arithmetic: AbstractArithmetic) -> tuple[Ball, dict[int, Tensor]]:
        """The bounds (B, R), and the largest coefficients of the forms that arrive at each constrained stage."""
        terms: list[Ball] = []
        arriving: dict[int, Ball] = {}
        sizes: dict[int, Tensor] = {}
        state = self.state
        for j in range(self.k, 0, -1):
            form = arithmetic.exact(self.rows) if j == self.k else arriving.pop(j, None)
            if form is not None and j < self.k and j in self.lines:
                form, constant = relax_(form, self.lines_of(j, chosen), arithmetic)
                if constant is not None:
                    terms.append(constant)
            if j in chosen.multipliers:
                extra = chosen.multipliers[j]
                sizes[j] = (
                    torch.zeros_like(extra.flatten(2)[:, :, 0])
                    if form is None
                    else form.mid.detach().abs().flatten(2).amax(2)
                )
                terms.append(_support(-extra, self.ranges[j], arithmetic))
                more = arithmetic.exact(extra.unsqueeze(2))
                form = more if form is None else form + more
            if form is None:
                continue
            bias = state.stage(j).bias(arithmetic)
            if bias is not None:
                terms.append(form.dot(bias.map(lambda t: t[None, None])))
            for edge in state.stage(j).edges:
                sent = edge.operator.transpose().push(form)
                known = arriving.get(edge.source)
                arriving[edge.source] = sent.map(torch.clone) if known is None else known + sent
        if 0 in arriving:
            terms.append(state.region.support_function_(arriving[0], arithmetic))
        return summed(terms).map(lambda t: t[:, :, 0]), sizes

    def lines_of(self, j: int, chosen: Chosen) -> LinearRelaxation:
        """The lines of stage j, of which free ones have the slopes that are chosen."""
        if j not in self.free:
            return self.lines[j]
        lines = self.lines[j]
        return replace(lines, lower_slope=torch.where(self.free[j], chosen.slopes[j], lines.lower_slope))

    def searched(self, steps: int, deadline: Deadline, begin: Chosen | None = None) -> Chosen:
        """The best multipliers and slopes of a search by Adam's method, for each row, from `begin` if it is given."""
        start, fast = self.begin() if begin is None else begin, Fast()
        if not start.tensors() or bool(self.state.region.unbounded.any()):
            return start
        first, sizes = self.bounds(start, fast)
        units = [sizes[j].reshape(*sizes[j].shape, *[1] * (m.dim() - 2)) for j, m in start.multipliers.items()]
        moves = _Adam.of(start.tensors(), [*units, *(t.new_ones(()) for t in start.slopes.values())])
        best, least, now = start, first.mid, start.tensors()
        for step in range(steps):
            if deadline.over:
                return best
            value, slopes = self._slopes(start, now)
            best, least = _better(best, least, start.of(now), value)
            now = self._allowed(start.of(moves.step(now, slopes, _RATE * _LAST ** (step / steps)))).tensors()
        return _better(best, least, start.of(now), self.bounds(start.of(now), fast)[0].mid)[0]

    def _slopes(self, start: Chosen, now: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The bounds and their derivatives in plain floating point; derivatives that are not finite are 0."""
        leaves = [t.detach().requires_grad_() for t in now]
        with torch.enable_grad():
            value = self.bounds(start.of(leaves), Fast())[0].mid
            some = value.requires_grad  # stages with free lines may be on another branch
            found = torch.autograd.grad(value.sum(), leaves, allow_unused=True) if some else [None] * len(leaves)
        pairs = zip(found, leaves, strict=True)
        return value.detach(), [torch.zeros_like(t) if g is None else g.nan_to_num(0.0, 0.0, 0.0) for g, t in pairs]

    def _allowed(self, chosen: Chosen) -> Chosen:
        """The nearest multipliers that the constraints allow, and slopes between the two pieces."""
        multipliers = {}
        for j, m in chosen.multipliers.items():
            low, high = (end.isfinite().unsqueeze(1) for end in (self.ranges[j].lower, self.ranges[j].upper))
            positive = torch.where(low, m.clamp(min=0), 0.0)
            multipliers[j] = positive + torch.where(high, m.clamp(max=0), 0.0)
        slopes = {
            j: torch.minimum(torch.maximum(a, self.least[j]), torch.ones_like(a)) for j, a in chosen.slopes.items()
        }
        return Chosen(multipliers, slopes)


@final
@dataclass
class _Adam:
    """The moments of Adam's method (arXiv:1412.6980) for some tensors, and the units of their steps."""

    units: list[Tensor]
    mean: list[Tensor]
    square: list[Tensor]
    count: int = 0

    @classmethod
    def of(cls, tensors: list[Tensor], units: list[Tensor]) -> _Adam:
        return cls(units, [torch.zeros_like(t) for t in tensors], [torch.zeros_like(t) for t in tensors])

    def step(self, now: list[Tensor], slopes: list[Tensor], rate: float) -> list[Tensor]:
        self.count += 1
        self.mean = [0.9 * m + 0.1 * g for m, g in zip(self.mean, slopes, strict=True)]
        self.square = [0.99 * s + 0.01 * g.square() for s, g in zip(self.square, slopes, strict=True)]
        sizes = [(s / (1 - 0.99**self.count)).sqrt().clamp(min=1e-30) for s in self.square]
        moves = [u * m / (1 - 0.9**self.count) / s for u, m, s in zip(self.units, self.mean, sizes, strict=True)]
        return [t - rate * move for t, move in zip(now, moves, strict=True)]


def _support(forms: Tensor, ranges: Interval, arithmetic: AbstractArithmetic) -> Ball:
    """The largest values of forms (B, R, *node) over a box, whose ends are finite where forms need them: (B, R, 1)."""
    ends = (ranges.upper, ranges.lower)
    parts = (forms.clamp(min=0), forms.clamp(max=0))
    terms = []
    for part, end in zip(parts, ends, strict=True):
        row = torch.where(end.isfinite(), end, 0.0).unsqueeze(1)
        terms.append(arithmetic.exact(part.unsqueeze(2)).dot(arithmetic.exact(row)))
    return terms[0] + terms[1]


def _better(best: Chosen, least: Tensor, now: Chosen, value: Tensor) -> tuple[Chosen, Tensor]:
    """For each row, the choice with the smaller bound."""
    better = value < least
    pairs = zip(best.tensors(), now.tensors(), strict=True)
    kept = [torch.where(better.reshape(*better.shape, *[1] * (a.dim() - 2)), b, a) for a, b in pairs]
    return best.of(kept), torch.where(better, value, least)
