"""A search for the multipliers of a P-chain that balances, for each, what it costs and what it saves.

Let ℓ be the logarithm of what should be small.  It falls with the entries t of T - Q_UU by a_i = -∂ℓ/∂log t_i there,
and rises with those of diag(t r²) by b_i; the best t has a = b.  A step multiplies t by √(a / b).  It is exact where
one multiplier does not change what the others see, and always a direction of descent, as each entry of the logarithm
has the sign of a - b.  For the weights w of the inputs, the steps go by √(s / w), with s the share of each input in ℓ.
A step that does not make ℓ smaller is shortened.  No proof depends on any of this.  Source: docs/mathematics.md, §5.6.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Ball, Fast
from recurjac.deadline import NEVER, Deadline
from recurjac.network import Edge
from recurjac.quadratic.multipliers import Loss, Multipliers, least_of, start_of
from recurjac.quadratic.system import Choose, System, reach

Measure = Callable[[System, Tensor, Choose], Tensor | None]
"""What should be small, a logarithm, of a system, the diagonal of P at the input, and a choice of multipliers; None if
nothing is known."""

_WIDE = 400
"""Systems with a wider node are searched in single precision."""
_POWER = 0.5
_LONGER = 1.6
"""By how much a shortened step grows after one that helped."""
_SHORTEST = 1 / 64
"""The search ends if a step of this share does not help."""
_ENOUGH = {torch.float32: 1e-4, torch.float64: 1e-6}
"""The search ends if a step promises to make ℓ smaller by less than this, for each unit of its degree."""
_SLOWER = 0.5
_FASTER = 1.3
"""How the pace of a multiplier changes after two steps in opposite directions, and in the same direction."""
_RATE = 0.1
"""The first step of Adam's method, which follows where balancing ends too early."""
_FEW = 8
"""For so few rows, balancing ends early, as the best t may be where the sensitivity of a row changes its sign."""
_PART = 0.3
"""The share of the steps after which it does."""
_LITTLE = 1e-30


@final
@dataclass(frozen=True)
class _Point:
    """Logarithms of the weights of inputs, which may be missing, and of t by node."""

    weights: Tensor | None
    t: Mapping[int, Tensor]

    def moved(self, by: _Point, share: float) -> _Point:
        weights = None
        if self.weights is not None and by.weights is not None:
            weights = torch.log_softmax(self.weights + share * by.weights, 0)
        return _Point(weights, {k: t + share * by.t[k] for k, t in self.t.items()})

    def map(self, change: Callable[[Tensor], Tensor]) -> _Point:
        weights = None if self.weights is None else change(self.weights)
        return _Point(weights, {k: change(t) for k, t in self.t.items()})

    def join(self, other: _Point, change: Callable[[Tensor, Tensor], Tensor]) -> _Point:
        weights = None if self.weights is None or other.weights is None else change(self.weights, other.weights)
        return _Point(weights, {k: change(t, other.t[k]) for k, t in self.t.items()})

    def times(self, other: _Point) -> _Point:
        return self.join(other, torch.mul)


def _paced(pace: Tensor, turn: Tensor) -> Tensor:
    """Shorter where the last two steps had opposite signs, longer where not."""
    return torch.where(turn < 0, _SLOWER * pace, (_FASTER * pace).clamp(max=1.0))


@final
@dataclass(frozen=True)
class _Found:
    """ℓ at a point, the next step, and by how much it should make ℓ smaller, for each unit of ℓ's degree.

    The degree is by how much ℓ grows with the logarithm of all multipliers together: the number of rows for the sum of
    their logarithms.
    """

    value: float
    step: _Point
    promise: float


def optimised(
    system: System, begin: Multipliers, radius: Tensor, loss: Loss, steps: int, deadline: Deadline = NEVER
) -> Multipliers:
    """The best multipliers that are found from `begin` in a number of steps, or until the deadline.

    Balancing comes first; where it gets stuck, Adam's method follows.  `loss` is a logarithm.
    """
    return balanced(system, begin, radius, partial(_lost, loss), steps, deadline)


def _lost(loss: Loss, system: System, start: Tensor, choose: Choose) -> Tensor | None:
    found = reach(system, start, choose)
    return None if found is None else loss(found.mid)


def balanced(
    system: System, begin: Multipliers, radius: Tensor, measure: Measure, steps: int, deadline: Deadline = NEVER
) -> Multipliers:
    """Better multipliers than `begin`, found by evaluating `measure` and its derivative up to `steps` times.

    It ends before the deadline if another step would not, and returns `begin` if that has no finite ℓ.
    """
    if not begin.leaves or steps == 0 or deadline.over:
        return begin
    wide = max([len(node.middle) for node in system.nodes], default=0) > _WIDE
    for dtype in (torch.float32, torch.float64)[0 if wide else 1 :]:
        plain, size = _plain(system, dtype), radius.to(dtype)
        run = _Run(plain, size, measure, deadline)
        if run.descend(begin.map(partial(Tensor.to, dtype=dtype)), steps):
            found = begin.near(plain, size, run.best.weights, run.best.t)
            if not run.settled and run.left > 0:
                found = least_of(partial(_valued, plain, size, measure), found, run.left, deadline, _RATE)
            return found.map(Tensor.double)
    return begin


def _valued(system: System, radius: Tensor, measure: Measure, now: Multipliers) -> Tensor | None:
    return measure(system, now.start(radius), now.choose)


@final
@dataclass
class _Run:
    """The state of a search: the best point, how many steps are left, and whether no step promises anything."""

    system: System
    radius: Tensor
    measure: Measure
    deadline: Deadline
    best: _Point = field(default_factory=lambda: _Point(None, {}))
    left: int = 0
    settled: bool = False

    def descend(self, begin: Multipliers, steps: int) -> bool:
        """Take steps from `begin`; returns whether ℓ is known there."""
        with torch.no_grad():
            first = begin.chosen(self.system, self.radius)
        weights = None if begin.weights is None else torch.log_softmax(begin.weights, 0)
        self.best, self.left = _Point(weights, {k: t.log() for k, t in first.items()}), steps - 1
        found = _evaluated(self.system, self.best, self.radius, self.measure)
        if found is None:
            return False
        share, paces = 1.0, found.step.map(torch.ones_like)
        few = len(next(iter(self.system.rows.values())).mid) <= _FEW
        last = (1 - _PART) * steps if few else 0
        while self.left > last and share >= _SHORTEST:
            self.settled, began = found.promise < _ENOUGH[self.radius.dtype], time.monotonic()
            if self.settled or self.deadline.over:
                break
            point = self.best.moved(found.step.times(paces), share)
            other = _evaluated(self.system, point, self.radius, self.measure)
            self.left -= 1
            if other is None or not other.value < found.value:
                share /= 2
            else:
                paces = paces.join(found.step.times(other.step), _paced)
                self.best, found, share = point, other, min(1.0, _LONGER * share)
            if self.deadline.left < time.monotonic() - began:
                break
        return True


def _evaluated(system: System, point: _Point, radius: Tensor, measure: Measure) -> _Found | None:
    """ℓ and the step from a point; None if ℓ is not finite or does not depend on the point."""
    halves = [node.half.detach().clone().requires_grad_() for node in system.nodes]
    chosen = {k: t.exp().detach().requires_grad_() for k, t in point.t.items()}
    start = start_of(point.weights, radius).detach().requires_grad_()
    nodes = tuple(replace(node, half=half) for node, half in zip(system.nodes, halves, strict=True))
    with torch.enable_grad():
        value = measure(replace(system, nodes=nodes), start, lambda k, _: chosen[k])
        if value is None or not bool(value.isfinite()) or not value.requires_grad:
            return None
        torch.autograd.backward(value)
    shares = (start * _gradient(start)).detach()
    promise, degree, moves = 0.0, float(shares.sum()), {}
    for k, t in chosen.items():
        half, index = halves[k - 1], system.nodes[k - 1].unstable
        costs = (half * _gradient(half) / 2).detach()[index]  # half is read in t r² alone
        slope = (t * _gradient(t)).detach()
        moves[k] = _root(costs - slope, costs)
        promise, degree = promise - float((moves[k] * slope).sum()), degree + float(slope.sum())
    weights = None
    if point.weights is not None:
        even = point.weights.exp() * shares.sum()
        weights = _root(shares, even)
        promise += float((weights * (shares - even)).sum())
    return _Found(float(value.detach()), _Point(weights, moves), promise / max(degree, _LITTLE))


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _root(more: Tensor, less: Tensor) -> Tensor:
    """log √(more / less), moderate where either is about 0."""
    tiny = torch.finfo(more.dtype).tiny
    most = torch.maximum(more, less).clamp(min=tiny * 1e6)
    least = 1e-4 * most
    return _POWER * (torch.maximum(more, least).log() - torch.maximum(less, least).log())


def _plain(system: System, dtype: torch.dtype) -> System:
    """The system in plain floating point."""
    nodes = tuple(
        replace(
            node,
            edges=tuple(Edge(e.source, e.operator.to(dtype, node.middle.device)) for e in node.edges),
            middle=node.middle.to(dtype),
            half=node.half.to(dtype),
        )
        for node in system.nodes
    )
    rows = {i: Ball(b.mid.to(dtype), None) for i, b in system.rows.items()}
    return replace(system, nodes=nodes, rows=rows, arithmetic=Fast())
