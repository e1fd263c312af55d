"""Exact norms of small networks: branch and bound over the signs of neurons, with a point in every cell left."""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Fast, Interval
from recurjac.branching.branched import untied
from recurjac.branching.branchers import AbstractBrancher, InputBisection, without_width
from recurjac.branching.cells import HalfSpaceSystem, two_piece
from recurjac.branching.effects import input_effects
from recurjac.branching.search import Limit
from recurjac.branching.signs import divisible, influences, with_signs
from recurjac.errors import InvalidRequest, expect, expect_counts
from recurjac.jacobian import Chords, Gradients
from recurjac.norms import AbstractNormMethod, CornerNorm, JacobianNorm, NormBound, induced_norm
from recurjac.preactivation import PreactivationState
from recurjac.problem import Problem, join
from recurjac.region import BoundRegion, LpBall
from recurjac.search import Attained, Search, better_of, point_jacobian

_LOT = 256
"""The largest number of parts that are divided together."""
_FLOATS = 2**23
"""About the largest number of coefficients of the tangents of all parts that are divided together."""


@final
@dataclass(frozen=True)
class ExactNorm(AbstractNormMethod):
    """The norm by dividing the region into the cells on which the network is affine, where the bound is too large.

    For networks whose activations have two pieces.  Each part is a part of the region, with the signs of some neurons.
    It is bounded by `norm_method`, and divided if its bound exceeds what is attained and it is not proved to be empty.
    `inputs` divides it while more than `few` of its neurons are unstable, if it can and the region is bounded; then
    it is divided by the sign of the neuron with the largest influence in the first stage with an unstable one.  In
    each part that is divided a point is sought, where the gain is proved.  For p = 1, q = inf and p = q = 2 the two
    bounds meet, up to rounding, if there is time; for other norms they meet if the norm of one matrix is bounded
    exactly.
    limit: applies to each sample separately.
    Bounds carry no gradients.  Source: docs/mathematics.md, §6.9.
    """

    limit: Limit = field(default_factory=lambda: Limit(seconds=60.0, parts=2**22, tolerance=1e-6))
    norm_method: AbstractNormMethod = field(default_factory=lambda: CornerNorm(8, JacobianNorm(Chords())))
    inputs: AbstractBrancher = field(default_factory=lambda: InputBisection(8))
    few: int = 20

    def __post_init__(self) -> None:
        expect_counts("ExactNorm", few=self.few)
        expect(self.inputs, AbstractBrancher, "the brancher", "give one such as InputBisection()")
        expect(self.limit, Limit, "the limit", "give Limit(seconds=…)")
        expect(self.norm_method, AbstractNormMethod, "the norm method", "give one such as CornerNorm()")

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractNormMethod]:
        return {"exact": cls()}

    @property
    def title(self) -> str:
        return "exact norm"

    def supports(self, p: float, q: float) -> bool:
        return self.norm_method.supports(p, q)

    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        return self.norm_method.unproved_rounding(p, q, rows)

    def within(self, seconds: float) -> ExactNorm:
        return replace(self, limit=replace(self.limit, seconds=min(self.limit.seconds, seconds)))

    def norm(self, gradients: Gradients, p: float, q: float) -> Tensor:
        return self.bound(gradients, p, q).upper

    def rows(self, gradients: Gradients, p: float) -> Tensor:
        """Each row is bounded separately and may use the whole limit."""
        problem = self._problem(gradients)
        rows = range(problem.network.output_shape[0])
        return torch.stack([self.norm(Gradients(problem.of(problem.network.output(k))), p, inf) for k in rows], 1)

    def bound(self, gradients: Gradients, p: float, q: float) -> NormBound:
        problem = self._problem(gradients)
        return self.towards(gradients, p, q, Search(work=0).attained(problem, p, q))

    def towards(self, gradients: Gradients, p: float, q: float, attained: Attained) -> NormBound:
        problem = self._problem(gradients)
        trees: list[SignTree] = []
        with torch.no_grad():
            for i, sample in enumerate(problem.samples()):
                tree = SignTree.of(sample, self, (p, q), attained.rows(i, i + 1))
                ended = bool(trees) and trees[-1].status == "interrupted"
                tree.run(ended)
                trees.append(tree)
        upper = torch.tensor([t.upper for t in trees], dtype=problem.network.dtype, device=problem.network.device)
        status = ", ".join(dict.fromkeys(t.status for t in trees))
        count = sum(t.count for t in trees)
        return NormBound(upper, status, f"{count} parts bounded", Attained.joined([t.best for t in trees]))

    def _problem(self, gradients: Gradients) -> Problem:
        problem = gradients.problem
        if problem is None or gradients.given is not None:
            raise InvalidRequest(f"{self.title} divides a region, so it cannot bound a part of a chain rule")
        if not two_piece(problem.network) or problem.pre.holds_samples:
            raise InvalidRequest(
                f"{self.title} is for networks of ReLUs and other activations of two pieces; choose another method"
            )
        return problem


@final
@dataclass(frozen=True)
class _Part:
    """A part of the region, with signs (neurons,), and the neuron that divides it; -1: none does; -2: an input does.

    effects: (inputs,), how much worse the bound is for the width of each input.
    """

    bound: BoundRegion
    signs: Tensor
    neuron: int
    effects: Tensor


_NONE, _INPUT = -1, -2


@final
@dataclass
class SignTree:
    """The parts of one sample that are still open, the worst first.

    upper: a bound of the norm, which is valid at any moment.  closed: the largest bound of parts that are not divided.
    """

    problem: Problem
    method: ExactNorm
    norms: tuple[float, float]
    best: Attained
    status: str = "running"
    count: int = 0
    upper: float = inf
    closed: float = -inf
    began: float = field(default_factory=time.perf_counter)
    _heap: list[tuple[float, int, _Part]] = field(default_factory=list)

    @classmethod
    def of(cls, problem: Problem, method: ExactNorm, norms: tuple[float, float], best: Attained) -> SignTree:
        """The undivided region of a problem of one sample."""
        return cls(untied(problem), method, norms, best)

    @property
    def found(self) -> NormBound:
        upper = torch.full_like(self.best.gain, self.upper)
        return NormBound(upper, self.status, f"{self.count} parts bounded", self.best)

    @property
    def lower(self) -> float:
        return float(self.best.gain[0])

    @property
    def _upper(self) -> float:
        """A bound of the norm while no part is being divided: no less than what is attained."""
        return max(self.closed, -self._heap[0][0] if self._heap else -inf, self.lower)

    @property
    def _target(self) -> float:
        return self.lower * (1 + self.method.limit.tolerance / 2)

    @property
    def stages(self) -> list[int]:
        return divisible(self.problem)

    def run(self, ended: bool) -> None:
        """Divide parts until the bounds meet, or a limit is reached, or an interruption; not at all if `ended`.

        After it has returned with another status than "interrupted", it may be called again, to go on.
        """
        lot = 1
        network = self.problem.network
        most = max(1, min(_LOT, _FLOATS // ((network.sizes[0] + 1) * max(network.sizes))))
        neurons = sum(network.sizes[k] for k in self.stages)
        self.began = time.perf_counter()
        if self.count == 0:
            self._add([self.problem.bound], torch.zeros(1, neurons, dtype=network.dtype), torch.tensor([inf]).double())
        try:
            while True:
                self.upper = self._upper
                self.status = "interrupted" if ended else self._status()
                taken = self._taken(lot) if self.status == "running" else []
                if not taken:
                    self.status = "stuck" if self.status == "running" else self.status
                    return
                started = time.perf_counter()
                self._divide(taken)
                quick = time.perf_counter() - started < self.method.limit.seconds / 20
                lot = min(2 * lot, most) if quick else max(1, lot // 2)
        except KeyboardInterrupt:  # anywhere, so that what is open now is not looked at
            self.status = "interrupted"

    def _status(self) -> str:
        limit = self.method.limit
        if self.upper <= self.lower * (1 + limit.tolerance) or self.upper <= 0:
            return "exact"
        if time.perf_counter() - self.began >= limit.seconds:
            return "time"
        return "parts" if self.count >= limit.parts else "running"

    def _taken(self, most: int) -> list[tuple[float, _Part]]:
        """The worst parts with their bounds; those that nothing divides are closed."""
        taken: list[tuple[float, _Part]] = []
        while self._heap and len(taken) < most and -self._heap[0][0] > self._target:
            upper, _, part = heapq.heappop(self._heap)
            if part.neuron == _NONE:
                self.closed = max(self.closed, -upper)
            else:
                taken.append((-upper, part))
        return taken

    def _divide(self, taken: list[tuple[float, _Part]]) -> None:
        by_sign = [(u, p) for u, p in taken if p.neuron != _INPUT]
        by_input = [(u, p) for u, p in taken if p.neuron == _INPUT]
        bounds, signs, upper = [], [], []
        for side in (1.0, -1.0):
            for u, part in by_sign:
                mine = part.signs.clone()
                mine[part.neuron] = side
                bounds.append(part.bound)
                signs.append(mine)
                upper.append(u)
        if by_input:
            whole = self._parts([p.bound for _, p in by_input], torch.stack([p.signs for _, p in by_input]))
            for half in self.method.inputs.divided(whole, torch.stack([p.effects for _, p in by_input])):
                bounds += half.bound.split(1)
                signs += [p.signs for _, p in by_input]
                upper += [u for u, _ in by_input]
        self._add(bounds, torch.stack(signs), torch.tensor(upper, dtype=torch.float64))

    def _parts(self, bounds: list[BoundRegion], signs: Tensor) -> Problem:
        """Parts of the region with signs (N, neurons), as one problem."""
        whole = join([self.problem] * len(bounds)).part(type(bounds[0]).joined(bounds))
        return with_signs(whole, self.stages, signs)

    def _add(self, bounds: list[BoundRegion], signs: Tensor, upper: Tensor) -> None:
        """Bound parts whose bounds are known to be at most `upper` (N,), and keep those that are not empty."""
        if len({type(b) for b in bounds}) > 1:  # a ball and its parts
            for i, one in enumerate(bounds):
                self._add([one], signs[i : i + 1], upper[i : i + 1])
            return
        problem = self._parts(bounds, signs)
        gradients = Gradients(problem)
        bound = self.method.norm_method.norm(gradients, *self.norms).double().cpu()
        upper = torch.minimum(upper, torch.where(bound.isnan(), inf, bound))
        empty = gradients.state.empty.cpu()
        self.count += len(signs)
        if bool((~empty & (upper > self._target)).any()):
            empty = empty | self._settled(gradients.state, ~empty & (upper > self._target))
        following, effects = self._following(problem, gradients.state), input_effects(gradients.state)
        for i in (~empty).nonzero().flatten().tolist():
            if float(upper[i]) > self._target:
                part = _Part(bounds[i], signs[i], following[i], effects[i])
                heapq.heappush(self._heap, (-float(upper[i]), self.count - len(signs) + i, part))
            else:
                self.closed = max(self.closed, float(upper[i]))

    def _settled(self, state: PreactivationState, left: Tensor) -> Tensor:
        """Where a part is proved to be empty; in others, what is attained at a point inside is learned."""
        system = HalfSpaceSystem.of(state) if state.known else None
        if system is None or system.matrix.shape[1] == 0:
            self._learn(state.region.x[left.to(state.region.x.device)])
            return torch.zeros_like(left)
        points, depth, multipliers = system.solved()
        inside = left.to(depth.device) & (depth > 0)
        if bool(inside.any()):
            self._learn(points[inside])
        return (system.empty(multipliers) & (depth <= 0)).cpu()

    def _learn(self, points: Tensor) -> None:
        """Prove the gain at the best of some points (N, *) of the region."""
        network = self.problem.network
        there = points.to(network.dtype).reshape(1, -1, *network.input_shape)
        there = self.problem.bound.project(there)
        jacobian = point_jacobian(network, there[0])
        size = jacobian.abs().sum(2)
        gain = induced_norm(Interval.point(jacobian), *self.norms, Fast(), size)
        gain = torch.where(self.problem.holds(there)[0], gain, 0.0)
        best = gain.argmax()
        if float(gain[best]) > self.lower:
            alone = self.problem.over(LpBall(there[:, best], 0.0))
            self.best = better_of(self.best, Search(work=0).attained(alone, *self.norms))

    def _following(self, problem: Problem, state: PreactivationState) -> list[int]:
        """What divides each part."""
        weights = influences(state)
        found = torch.full((state.region.batch,), _NONE)
        begin = 0
        for k in self.stages:
            flat = weights[k].flatten(1)
            most = flat.max(1)
            take = (found < 0) & (most.values > 0).cpu()
            found = torch.where(take, begin + most.indices.cpu(), found)
            begin += flat.shape[1]
        if self.method.inputs.supports(problem) and not bool(self.problem.bound.unbounded.any()):
            many = torch.stack([(w > 0).flatten(1).sum(1) for w in weights.values()]).sum(0) > self.method.few
            wide = ~without_width(problem.bound.box(Fast()))
            found = torch.where((many & wide).cpu(), _INPUT, found)
        return [int(i) for i in found]
