"""How far an output may fall over a region, by branch and bound: parts are dropped once it is proved to be positive."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf, prod
from typing import final

import torch
from torch import Tensor

from recurjac.activations.two_piece import AbstractTwoPiece
from recurjac.arithmetic import Fast, Interval
from recurjac.branching.branched import points_within
from recurjac.branching.branchers import AbstractBrancher, InputBisection
from recurjac.branching.pool import Bounded, Goals
from recurjac.branching.search import AbstractBounds
from recurjac.deadline import NEVER, Deadline
from recurjac.preactivation import PreactivationState
from recurjac.preactivation.halfspaces import Chosen, Pull
from recurjac.problem import Problem
from recurjac.region import BoundBall, BoundRegion, LpBall
from recurjac.search import Attained, outputs_and_jacobian

_POINTS = 32
"""The number of points of some parts from which a search for a point with a negative output starts."""
_DESCENTS = 12
"""The number of its steps, of Frank and Wolfe's method."""
_FAR = 1e3
"""How far beyond a box a direction goes before it is cut, relative to the box."""
_DEPTH = 3
"""How many neurons of a part are cut at once where few parts are divided together; four times as many: one less."""
_LONGER = 10
"""How many times more steps the search has for a part that cannot be divided."""
_TENSORS = 24
"""About how many tensors of the size of the forms exist at once."""


class AbstractMarginBound(AbstractBounds):
    """The maximum over a region of minus the only output of a network, as far as it decides whether it is negative.

    A part is good enough once the output is proved to be positive there, and all parts are once a point is proved to
    have an output of at most 0.  within: the problem of one sample whose region that point must lie in.
    Source: docs/mathematics.md, §7.5.
    """

    within: Problem

    @final
    def goals(self, attained: Attained, tolerance: float) -> Goals:
        positive = torch.full_like(attained.gain, -torch.finfo(attained.gain.dtype).tiny)
        return Goals(torch.where(attained.gain >= 0, inf, positive), torch.ones_like(attained.gain))

    @final
    def found(self, parts: Problem, known: Attained | None) -> Attained:
        """A point with an output of at most 0, if descents from points of the parts find one."""
        with torch.no_grad():
            x = self.within.bound.x
            known = Attained(x.new_full((1,), -inf), x, torch.zeros_like(x)) if known is None else known
            points = points_within(self.within, parts)
            if float(known.gain) >= 0 or len(points) == 0:
                return known
            values = parts.network(points).flatten()
            points = points[torch.where(values.isnan(), inf, values).topk(min(_POINTS, len(points)), largest=False)[1]]
            for point in self._descended(points):
                found = self._proved(point)
                known = found if float(found.gain) > float(known.gain) else known
            return known

    def _descended(self, points: Tensor) -> list[Tensor]:
        """The ends of descents at which the output seems to be at most 0, the least few: (1, *input) each."""
        region, network = self.within.bound, self.within.network
        ones = [1] * (points.dim() - 1)
        best, lowest = points, torch.full((len(points),), inf, dtype=points.dtype, device=points.device)
        for step in range(_DESCENTS + 1):
            values, slopes = outputs_and_jacobian(network, points)
            lower = values.flatten() < lowest
            best = torch.where(lower.reshape(-1, *ones), points, best)
            lowest = torch.where(lower, values.flatten(), lowest)
            if step < _DESCENTS:
                ends = _lowest(region, slopes.reshape(points.shape).nan_to_num(0.0, 0.0, 0.0))
                points = region.project((points + 2 / (step + 2) * (ends - points)).unsqueeze(0))[0]
        order = lowest.argsort()[:2]
        return [best[i : i + 1] for i in order.tolist() if float(lowest[i]) <= 0]

    def _proved(self, point: Tensor) -> Attained:
        at = self.within.over(LpBall(point, 0.0)).by_intervals()
        gain = -at.output(at.preactivations()).upper.flatten()
        inside = self.within.holds(point.unsqueeze(0))[0] & (gain >= 0)
        return Attained(torch.where(inside, gain, -inf), point, torch.zeros_like(point))


@final
@dataclass(frozen=True)
class MarginByInputs(AbstractMarginBound):
    """Parts of few inputs, each bounded by the rule of the problem."""

    within: Problem

    def bounded(self, problem: Problem, goals: Goals) -> Bounded:
        with torch.no_grad():
            uppers, effects = list[Tensor](), list[Tensor]()
            for part in problem.batches():
                state = part.preactivations()
                upper = -part.output(state).lower.flatten(1)
                uppers.append(torch.where(state.empty.unsqueeze(1), -inf, upper))
                effects.append(InputBisection().effects(state))
            return Bounded(torch.cat(uppers), torch.cat(effects))


@final
@dataclass(frozen=True)
class RangeBisection(AbstractBrancher):
    """Cuts the range of the neuron whose lines seem to cost a bound most, in the middle or at the kink of a ReLU.

    Where few parts are divided together, several neurons of each are cut at once.
    It needs the costs and the cuts that `MarginByPieces` states as effects, (batch, 2, neurons); parts without a
    neuron that costs something cannot be divided.  No proof depends on the choice.
    """

    @property
    def title(self) -> str:
        return "bisection of ranges"

    def supports(self, problem: Problem) -> bool:
        return True

    def divide(self, problem: Problem) -> list[Problem]:
        raise NotImplementedError("ranges are divided by the effects that a bound states")

    def able(self, problem: Problem, effects: Tensor | None) -> Tensor:
        if effects is None:
            return torch.zeros(problem.bound.batch, dtype=torch.bool, device=problem.network.device)
        return effects[:, 0].amax(1) > 0

    def divided(self, problem: Problem, effects: Tensor | None) -> list[Problem]:
        if effects is None:
            return self.divide(problem)
        costs, cuts = effects.unbind(1)
        most = int((costs > 0).sum(1).min())
        depth = max(1, min(most, _DEPTH - (len(costs) - 1).bit_length() // 2))
        parts = [problem]
        for neuron in costs.topk(depth, 1).indices.unbind(1):
            chosen = torch.zeros_like(costs, dtype=torch.bool).scatter(1, neuron.unsqueeze(1), True)
            parts = [half for part in parts for half in _cut(part, chosen, cuts)]
        return parts


def _cut(problem: Problem, chosen: Tensor, cuts: Tensor) -> list[Problem]:
    """The two parts of each sample in which the chosen neuron, (batch, neurons), is on either side of its cut."""
    below, above, begin = problem, problem, 0
    for k in stages(problem):
        shape = problem.network.shape(k)
        end = begin + prod(shape)
        mine, cut = (t[:, begin:end].reshape(-1, *shape) for t in (chosen, cuts))
        begin = end
        if bool(mine.any()):
            infinite = torch.full_like(cut, inf)
            below = below.constrained(k, Interval(-infinite, torch.where(mine, cut, infinite)))
            above = above.constrained(k, Interval(torch.where(mine, cut, -infinite), infinite))
    return [below, above]


def stages(problem: Problem) -> list[int]:
    """The stages with an activation before the output."""
    return [k for k, s in enumerate(problem.network.stages[:-1], 1) if not s.linear]


@final
@dataclass(frozen=True, eq=False)
class MarginByPieces(AbstractMarginBound):
    """Parts given by ranges of neurons: one form is pulled back with a multiplier for each end of a range.

    ranges: of all stages before the last over the whole region, which hold in every part.  steps: of the search for
    multipliers and lines, and at the start for the whole region.
    """

    within: Problem
    ranges: tuple[Interval, ...]
    steps: int = 20
    start: Chosen | None = field(default=None)

    @classmethod
    def of(cls, within: Problem, state: PreactivationState, steps: int, deadline: Deadline) -> MarginByPieces:
        """With the ranges of a state of the same region, whose network has the same stages before the last."""
        ranges = tuple(state.pre(k).map(torch.Tensor.detach) for k in range(1, within.network.depth))
        plain = cls(within, ranges, steps)
        with torch.no_grad():
            return replace(plain, start=plain._pull(plain._state(within)).searched(2 * steps, deadline))

    def bounded(self, problem: Problem, goals: Goals) -> Bounded:
        with torch.no_grad():
            lots = torch.arange(problem.bound.batch).split(self._lot(problem))
            found = [self._bounded(problem.at(lot)) for lot in lots]
            return Bounded(torch.cat([upper for upper, _ in found]), torch.cat([effects for _, effects in found]))

    def _lot(self, problem: Problem) -> int:
        size = 8 * _TENSORS * max(problem.network.sizes)
        return max(1, problem.arithmetic.memory_on(problem.network.device) // size)

    def _bounded(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Bounds and effects; multipliers are only searched where the first ones prove nothing."""
        state = self._state(problem)
        pull = self._pull(state)
        upper = pull.upper(self._begin(pull), state.arithmetic)
        upper = torch.where(state.empty.unsqueeze(1), -inf, upper)
        effects = upper.new_zeros(len(upper), 2, sum(prod(problem.network.shape(k)) for k in stages(problem)))
        left = (upper[:, 0] >= 0).nonzero().flatten()
        if len(left) == 0:
            return upper, effects
        state = self._state(problem.at(left))
        pull = self._pull(state)
        chosen = pull.searched(self.steps, NEVER, self._begin(pull))
        better = torch.minimum(pull.upper(chosen, state.arithmetic), upper[left])
        upper = upper.index_put((left,), torch.where(state.empty.unsqueeze(1), -inf, better))
        effects = effects.index_put((left,), self._effects(pull, chosen))
        last = left[(effects[left, 0].amax(1) <= 0) & (upper[left, 0] >= 0)]
        if len(last):
            upper = upper.index_put((last,), torch.minimum(upper[last], self._affine(problem.at(last))))
        return upper, effects

    def _affine(self, problem: Problem) -> Tensor:
        """Bounds of parts on which no line costs anything: linear programs, for which the search has more steps."""
        state = self._state(problem)
        pull = self._pull(state)
        found = pull.upper(pull.searched(_LONGER * self.steps, NEVER), state.arithmetic)
        return torch.where(state.empty.unsqueeze(1), -inf, found)

    def _state(self, problem: Problem) -> PreactivationState:
        network = problem.merged().network
        state = PreactivationState(network, problem.bound, problem.arithmetic, problem.planner, problem.known)
        for z in self.ranges:
            state.append(z.map(lambda t: t.expand(problem.bound.batch, *t.shape[1:])), None)
        return state

    def _pull(self, state: PreactivationState) -> Pull:
        rows = state.region.x.new_full((state.region.batch, 1, 1, 1), -1.0)
        return Pull.of(state, state.network.depth, rows)

    def _begin(self, pull: Pull) -> Chosen:
        """No multipliers, and the lines that are best for the whole region."""
        begin = pull.begin()
        if self.start is None:
            return begin
        known = self.start.slopes
        slopes = {j: known[j].expand_as(a) if j in known else a for j, a in begin.slopes.items()}
        return replace(begin, slopes=slopes)

    def _effects(self, pull: Pull, chosen: Chosen) -> Tensor:
        """What the lines of each neuron cost, its coefficient times the distance of the lines at the cut, and cuts."""
        costs, cuts = list[Tensor](), list[Tensor]()
        sizes = _coefficients(pull, chosen)
        for k in stages(self.within):
            z, lines = pull.state.pre(k), pull.lines_of(k, chosen)
            middle = (z.lower / 2 + z.upper / 2).nan_to_num(0.0)
            cut = torch.zeros_like(middle) if isinstance(pull.state.stage(k).activation, AbstractTwoPiece) else middle
            divisible = pull.state.unstable(k, z) & (z.lower < cut) & (cut < z.upper)
            at = cut.unsqueeze(1)
            gap = (lines.upper_slope - lines.lower_slope) * at + lines.upper_intercept - lines.lower_intercept
            gap = gap[:, 0].clamp(min=0)
            cost = torch.where(divisible, sizes[k] * gap + torch.finfo(gap.dtype).tiny, 0.0).nan_to_num(0.0, inf, 0.0)
            costs.append(cost.flatten(1))
            cuts.append(cut.flatten(1))
        return torch.stack([torch.cat(costs, 1), torch.cat(cuts, 1)], 1)


def _lowest(region: BoundRegion, slopes: Tensor) -> Tensor:
    """About the points of a region of one sample at which linear functions of slopes (N, *input) are least."""
    size, down = region.scale, -slopes
    flat = (down * size).flatten(1).abs()
    if region.is_box:
        down = _FAR * down.sign()
    elif isinstance(region, BoundBall) and region.p == 1:
        one = torch.zeros_like(flat).scatter(1, flat.argmax(1, keepdim=True), 1.0)
        down = one.reshape(down.shape) * down.sign()
    else:
        most = flat.amax(1).clamp(min=torch.finfo(flat.dtype).tiny)
        down = down * size / most.reshape(-1, *[1] * (down.dim() - 1))
    return region.project((region.x + size * down).unsqueeze(0))[0]


def _coefficients(pull: Pull, chosen: Chosen) -> dict[int, Tensor]:
    """The sizes of the coefficients that the form of each sample has at h_k, in plain floating point: (B, *stage)."""
    state, fast = pull.state, Fast()
    found, arriving = dict[int, Tensor](), {pull.k: pull.rows}
    for j in range(pull.k, 0, -1):
        form = arriving.pop(j, pull.rows.new_zeros(1, 1, 1, *state.stage(j).shape))
        if j in pull.lines:
            found[j] = form[:, 0, 0].abs().expand(state.region.batch, *state.stage(j).shape)
            lines = pull.lines_of(j, chosen)
            form = torch.where(form > 0, form * lines.upper_slope.unsqueeze(2), form * lines.lower_slope.unsqueeze(2))
        if j in chosen.multipliers:
            form = form + chosen.multipliers[j].unsqueeze(2)
        for edge in state.stage(j).edges:
            sent = edge.operator.transpose().push(fast.exact(form)).mid
            arriving[edge.source] = arriving[edge.source] + sent if edge.source in arriving else sent
    return found
