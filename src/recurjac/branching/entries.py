"""Entries of Jacobians by branch and bound: their ranges, or their signs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.branching.branched import divided_problem, points_within, untied
from recurjac.branching.branchers import AbstractBrancher, InputBisection
from recurjac.branching.cells import HalfSpaceSystem, two_piece
from recurjac.branching.pool import Bounded, Goals
from recurjac.branching.search import AbstractBounds, BranchAndBound, Branching, Limit
from recurjac.deadline import shorter
from recurjac.errors import expect
from recurjac.jacobian import AbstractJacobianMethod, AbstractPrepared, Chords, Gradients, RecurJac, default_method
from recurjac.preactivation import IBP
from recurjac.problem import Problem
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.corners import corners, unknown_slopes
from recurjac.propagation.forms import AbstractSeeds, DenseForms, Units
from recurjac.region import LpBall
from recurjac.search import Attained, point_jacobian


class AbstractAim(ABC):
    """Which bounds of entries are good enough."""

    @abstractmethod
    def goals(self, most: Tensor, least: Tensor, tolerance: float) -> tuple[Goals, Goals]:
        """The goals for the entries and for minus them, if they are proved to attain `most` and `least`, (entries,)."""


@final
@dataclass(frozen=True)
class Tight(AbstractAim):
    """Each end is within `tolerance` times the width of the attained range, or a thousandth of its size."""

    def goals(self, most: Tensor, least: Tensor, tolerance: float) -> tuple[Goals, Goals]:
        size = torch.maximum(most.abs(), least.abs())
        scale = torch.maximum(most - least, _SMALL * size).clamp(min=torch.finfo(most.dtype).tiny)
        return Goals(most + tolerance * scale, scale), Goals(-least + tolerance * scale, scale)


@final
@dataclass(frozen=True, eq=False)
class Signs(AbstractAim):
    """The sign is proved, or both signs are attained.

    wanted: of which entries, (entries,).  margin: how far from 0 a sign counts as attained, relative to the largest
    entry.
    """

    wanted: Tensor
    margin: float

    def goals(self, most: Tensor, least: Tensor, tolerance: float) -> tuple[Goals, Goals]:
        scale = torch.maximum(most.abs(), least.abs()).clamp(min=torch.finfo(most.dtype).tiny)
        clear = self.margin * float(scale.max())
        rises, falls = (most > clear) | ~self.wanted, (least < -clear) | ~self.wanted
        return (
            Goals(torch.where(rises, inf, torch.zeros_like(scale)), scale),
            Goals(torch.where(falls, inf, torch.zeros_like(scale)), scale),
        )


@final
@dataclass(frozen=True)
class EntriesOver(AbstractBounds):
    """The largest values over a region of the entries covector · J · tangent, and then those of minus them.

    within: the problem of one sample whose region attained points must lie in.  brancher: what divides the parts.
    """

    method: AbstractJacobianMethod
    tangents: AbstractSeeds
    aim: AbstractAim
    within: Problem
    brancher: AbstractBrancher = field(default_factory=InputBisection)

    def bounded(self, problem: Problem, goals: Goals) -> Bounded:
        with torch.no_grad():
            uppers, effects, points = list[Tensor](), list[Tensor](), list[Tensor]()
            for part in problem.batches():
                gradients = Gradients(part)
                upper = _both(self.method.prepare(gradients).push(self.tangents), part.bound.batch)
                upper = self._at_corners(gradients.chain, goals.excess(upper) > 0, upper)
                empty, inside = _cells(gradients, goals.excess(upper) > 0)
                uppers.append(torch.where(empty.unsqueeze(1), -inf, upper))
                points.append(inside)
                found = self.brancher.effects(gradients.state, self._weights(upper, goals))
                effects += [] if found is None else [found]
            inside = torch.cat(points)
            return Bounded(torch.cat(uppers), torch.cat(effects) if effects else None, inside if len(inside) else None)

    def _weights(self, upper: Tensor, goals: Goals) -> Tensor:
        """How far each entry of J is above a goal, relative to the one that is farthest: (batch, K, n)."""
        above = torch.where(upper > goals.target, (upper - goals.target) / goals.scale, 0.0)
        most = above.nan_to_num(0.0, _FAR, 0.0).reshape(len(upper), 2, -1, self.tangents.count).amax(1)
        size = most.flatten(1).amax(1).reshape(-1, 1, 1)
        share = torch.where(size > 0, most / torch.where(size > 0, size, 1.0), 1.0).square()
        return torch.matmul(share, self.tangents.tensor()[0, 0].flatten(1).abs().to(share))

    def _at_corners(self, chain: ChainRule, chosen: Tensor, upper: Tensor) -> Tensor:
        count = unknown_slopes(chain)
        for found in corners(chain, chosen & (count >= 1) & (count <= _FEW)):
            known = Chords().prepare(Gradients(given=found.chain)).push(self.tangents)
            upper = found.tighter(upper, _both(known, found.chain.batch))
        return upper

    def found(self, parts: Problem, known: Attained | None) -> Attained:
        """From those centres and random points of parts at which each entry seems to be largest or least."""
        found = self._nothing(parts) if known is None else known
        points = points_within(self.within, parts)
        return self.attaining(points, found) if len(points) else found

    def attaining(self, points: Tensor, known: Attained) -> Attained:
        with torch.no_grad():
            points = self.within.bound.project(points.unsqueeze(0))[0]
            jacobian = point_jacobian(self.within.network, points)
            ways = self.tangents.tensor()[0].flatten(2).expand(jacobian.shape[1], -1, -1)
            seeming = torch.einsum("nki,kri->nkr", jacobian, ways).flatten(1)
            seeming = torch.where(seeming.isfinite(), seeming, 0.0)
            best = torch.cat([seeming, -seeming], 1).max(0)
            wanted = (known.gain == -inf) | (best.values > known.gain + _MORE * known.gain.abs())
            return self._proved(points[best.indices[wanted].unique()], known) if bool(wanted.any()) else known

    def _proved(self, points: Tensor, known: Attained) -> Attained:
        """The largest proved values at the points (N, *input), or what is known."""
        values = RecurJac().prepare(Gradients(self.within.over(LpBall(points, 0.0)).by(IBP()))).push(self.tangents)
        proved = torch.cat([values.lower.flatten(1), -values.upper.flatten(1)], 1).expand(len(points), -1)
        inside = self.within.holds(points.unsqueeze(0))[0].unsqueeze(1) & proved.isfinite()
        best = torch.where(inside, proved, -inf).max(0)
        witness = points[best.indices]
        better = best.values > known.gain
        wide = better.reshape(-1, *[1] * (witness.dim() - 1))
        return Attained(
            torch.where(better, best.values, known.gain), torch.where(wide, witness, known.witness), known.direction
        )

    def _nothing(self, parts: Problem) -> Attained:
        count = 2 * parts.network.sizes[-1] * self.tangents.count
        point = parts.bound.x[:1].expand(count, *parts.bound.x.shape[1:])
        return Attained(parts.bound.x.new_full((count,), -inf), point, torch.zeros_like(point))

    def goals(self, attained: Attained, tolerance: float) -> Goals:
        most, least = attained.gain.chunk(2)
        up, down = self.aim.goals(most, -least, tolerance)
        return Goals(torch.cat([up.target, down.target]), torch.cat([up.scale, down.scale]))


_MORE = 1e-9
"""How much larger a value must seem for a proof, relative to what is known."""
_FAR = 1e30
"""What an infinite distance from a goal counts."""
_FEW = 6
"""The largest number of unknown slopes of a part whose corners are tried."""
_SMALL = 1e-3
"""The least width of a range that counts, relative to the size of the entry."""


def _both(entries: Interval, batch: int) -> Tensor:
    """Upper bounds of the entries and of minus them: (batch, 2 K R); infinite in place of NaN."""
    upper = torch.cat([entries.upper.flatten(1), -entries.lower.flatten(1)], 1)
    return torch.where(upper.isnan(), inf, upper).expand(batch, -1)


def _cells(gradients: Gradients, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Which parts are proved to be empty, (batch,), and points (N, *input) inside of the half-spaces of others.

    chosen: (batch,), the parts to look at, if few of their slopes are unknown.  Source: docs/mathematics.md, §6.10.
    """
    state = gradients.state
    empty, none = state.empty, state.region.x[:0]
    if not state.known or not two_piece(state.network):
        return empty, none
    index = (chosen & ~empty & (unknown_slopes(gradients.chain) <= _FEW)).nonzero().flatten()
    system = HalfSpaceSystem.of(state) if len(index) else None
    if system is None or system.matrix.shape[1] == 0:
        return empty, none
    points, depth, found = system.solved(index)
    multipliers = found.new_zeros(len(empty), found.shape[1]).index_copy(0, index, found)
    state.exclude(system.empty(multipliers))
    inside = points[depth > 0].to(none.dtype).reshape(-1, 1, *none.shape[1:])
    if len(inside):
        inside = state.region.at(index[depth > 0]).project(inside)
    return state.empty, inside.flatten(0, 1)


@final
@dataclass(frozen=True)
class BranchedEntries(AbstractJacobianMethod):
    """Another Jacobian method on parts of the region; parts are divided where an entry's bound is worst.

    method: bounds each part.  limit: applies to each sample separately; its tolerance is relative to the width of the
    range that an entry is proved to have.  Bounds carry no gradients.  Source: docs/mathematics.md, §6.6.
    """

    method: AbstractJacobianMethod = field(default_factory=default_method)
    brancher: AbstractBrancher = field(default_factory=InputBisection)
    limit: Limit = field(default_factory=lambda: Limit(tolerance=1e-2))

    def __post_init__(self) -> None:
        expect(self.method, AbstractJacobianMethod, "the method", "give one such as Chords()")
        expect(self.brancher, AbstractBrancher, "the brancher", "give one such as InputBisection()")
        expect(self.limit, Limit, "the limit", "give Limit(seconds=…)")

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {}

    @property
    def title(self) -> str:
        return f"{self.method.title} by {self.brancher.title}"

    def within(self, seconds: float) -> BranchedEntries:
        return replace(self, limit=replace(self.limit, seconds=shorter(self.limit.seconds, seconds)))

    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        problem = divided_problem(gradients, self.brancher, self.title)
        return PreparedParts(self, problem, self.method.prepare(gradients))

    def searched(
        self, sample: Problem, tangents: AbstractSeeds, aim: AbstractAim, known: Attained | None = None,
        before: Branching | None = None,
    ) -> Branching:  # fmt: skip
        """The state at the end for the problem of one sample; after an interruption, what was proved until then.

        known: what the entries, and minus them, are known to attain.  before: the end of a search that goes on.
        """
        bound = EntriesOver(self.method, tangents, aim, sample, self.brancher)
        return BranchAndBound(self.brancher, self.limit).last(untied(sample), bound, known, before)


@final
@dataclass(frozen=True)
class PreparedParts(AbstractPrepared):
    """A problem whose regions are divided once the tangents are known."""

    how: BranchedEntries
    problem: Problem
    whole: AbstractPrepared

    @property
    def chain(self) -> ChainRule:
        return self.whole.chain

    def push(self, tangents: AbstractSeeds) -> Interval:
        plain = self.whole.push(tangents).map(torch.Tensor.detach)
        lower, upper = list(plain.lower), list(plain.upper)
        for i, sample in enumerate(self.problem.samples()):
            state = self.how.searched(sample, _of_sample(tangents, i), Tight())
            most, least = state.uppers.reshape(2, *plain.shape[1:])
            lower[i], upper[i] = -least, most
            if state.status == "interrupted":
                break
        found = self.chain.arithmetic.enclose(torch.stack(lower), torch.stack(upper))
        return self.chain.arithmetic.intersect(found, plain)


def _of_sample(tangents: AbstractSeeds, i: int) -> AbstractSeeds:
    """The tangents of one sample."""
    if isinstance(tangents, Units):
        return tangents if len(tangents.index) == 1 else replace(tangents, index=tangents.index[i : i + 1])
    forms = tangents.tensor()
    own = forms if len(forms) == 1 else forms[i : i + 1]
    return DenseForms(own, tangents.arithmetic) if isinstance(tangents, DenseForms) else tangents
