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
_MEMORY = 12
"""How many steps the method of limited memory remembers."""
_FARTHEST = 2.0
"""The largest change of a logarithm in one of its steps."""
_RATE = 0.15
"""The first step of Adam's method, which follows where these steps get stuck."""
_FEW = 4
"""Up to this number of rows, nothing is balanced."""
_LITTLE = 1e-30


@final
@dataclass(frozen=True)
class _Found:
    """ℓ at a point, its derivative and the balancing step, and how much that promises for each unit of the degree.

    The degree is by how much ℓ grows with the logarithm of all multipliers together: the number of rows for the sum of
    their logarithms.
    """

    point: Tensor
    value: float
    slope: Tensor
    step: Tensor
    promise: float


@final
@dataclass(frozen=True)
class _Layout:
    """Where numbers lie in a point: the logarithms of the weights, if there are any, and those of t by node."""

    weights: bool
    inputs: int
    sizes: Mapping[int, int]

    def packed(self, weights: Tensor | None, logs: Mapping[int, Tensor]) -> Tensor:
        parts = [*([] if weights is None else [weights]), *(logs[k] for k in self.sizes)]
        return torch.cat(parts) if parts else torch.zeros(0)  # where not even the first node is proved

    def unpacked(self, point: Tensor) -> tuple[Tensor | None, dict[int, Tensor]]:
        weights, rest = (point[: self.inputs], point[self.inputs :]) if self.weights else (None, point)
        return weights, dict(zip(self.sizes, rest.split(list(self.sizes.values())), strict=True))


def optimised(
    system: System, begin: Multipliers, radius: Tensor, loss: Loss, steps: int, deadline: Deadline = NEVER
) -> Multipliers:
    """The best multipliers that are found from `begin` in a number of steps, or until the deadline.

    `loss` is a logarithm.  For few rows, Adam's method makes all steps: balancing leaves what is feasible where the
    sensitivity of a single row to a multiplier is about 0.
    """
    measure = partial(_lost, loss)
    if len(next(iter(system.rows.values())).mid) > _FEW:
        return balanced(system, begin, radius, measure, steps, deadline)
    for dtype in _dtypes(system):
        plain, size = _plain(system, dtype), radius.to(dtype)
        now = begin.map(partial(Tensor.to, dtype=dtype))
        found = least_of(partial(_valued, plain, size, measure), now, steps, deadline)
        if found is not now:
            return found.map(Tensor.double)
    return begin


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
    for dtype in _dtypes(system):
        plain, size = _plain(system, dtype), radius.to(dtype)
        run = _Run.starting(plain, size, measure, deadline, begin.map(partial(Tensor.to, dtype=dtype)), steps)
        if run.descend():
            found = begin.near(plain, size, *run.layout.unpacked(run.best))
            if not run.settled and run.left > 0:
                found = least_of(partial(_valued, plain, size, measure), found, run.left, deadline, _RATE)
            return found.map(Tensor.double)
    return begin


def _dtypes(system: System) -> tuple[torch.dtype, ...]:
    """The precisions to search in, one after the other until one succeeds."""
    wide = any(len(node.middle) > _WIDE for node in system.nodes)
    return (torch.float32, torch.float64) if wide else (torch.float64,)


def _valued(system: System, radius: Tensor, measure: Measure, now: Multipliers) -> Tensor | None:
    return measure(system, now.start(radius), now.choose)


@final
@dataclass
class _Run:
    """The state of a search: the best point, how many steps are left, and whether no step promises anything.

    past: differences of the last points and of their derivatives, for the method of limited memory.
    """

    system: System
    radius: Tensor
    measure: Measure
    deadline: Deadline
    layout: _Layout
    best: Tensor
    left: int
    settled: bool = False
    past: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def starting(
        cls, system: System, radius: Tensor, measure: Measure, deadline: Deadline, begin: Multipliers, steps: int
    ) -> _Run:
        with torch.no_grad():
            first = {k: t.log() for k, t in begin.chosen(system, radius).items()}
        layout = _Layout(begin.weights is not None, len(radius), {k: len(t) for k, t in first.items()})
        return cls(system, radius, measure, deadline, layout, layout.packed(begin.weights, first), steps)

    def descend(self) -> bool:
        """Take steps; returns whether ℓ is known at the beginning."""
        found, share = self._evaluated(self.best), 1.0
        if found is None:
            return False
        while self.left > 0 and share >= _SHORTEST:
            self.settled, began = found.promise < _ENOUGH[self.radius.dtype], time.monotonic()
            if self.settled or self.deadline.over:
                break
            other = self._evaluated(found.point + share * self._direction(found))
            if other is None or not other.value < found.value:
                share /= 2
            else:
                self.past = [*self.past[1 - _MEMORY :], (other.point - found.point, other.slope - found.slope)]
                self.best, found, share = other.point, other, min(1.0, _LONGER * share)
            if self.deadline.left < time.monotonic() - began:
                break
        return True

    def _direction(self, found: _Found) -> Tensor:
        """The step of the method of limited memory (L-BFGS) whose first matrix makes the balancing step."""
        scale = torch.where(found.slope != 0, -found.step / found.slope, 0.0)
        turned, shares = found.slope, []
        pairs = [(s, y, float(s @ y)) for s, y in self.past]
        pairs = [(s, y, c) for s, y, c in pairs if c > 0]
        for s, y, c in reversed(pairs):
            shares.append(float(s @ turned) / c)
            turned = turned - shares[-1] * y
        turned = scale * turned
        for (s, y, c), share in zip(pairs, reversed(shares), strict=True):
            turned = turned + (share - float(y @ turned) / c) * s
        if not bool(turned @ found.slope > 0):
            return found.step
        return -turned.clamp(-_FARTHEST, _FARTHEST)

    def _evaluated(self, point: Tensor) -> _Found | None:
        """ℓ and the step from a point; None if ℓ is not finite or does not depend on the point."""
        self.left -= 1
        system, (weights, logs) = self.system, self.layout.unpacked(point)
        halves = [node.half.detach().clone().requires_grad_() for node in system.nodes]
        chosen = {k: t.exp().detach().requires_grad_() for k, t in logs.items()}
        start = start_of(weights, self.radius).detach().requires_grad_()
        nodes = tuple(replace(node, half=half) for node, half in zip(system.nodes, halves, strict=True))
        with torch.enable_grad():
            value = self.measure(replace(system, nodes=nodes), start, lambda k, _: chosen[k])
            if value is None or not bool(value.isfinite()) or not value.requires_grad:
                return None
            torch.autograd.backward(value)
        shares = (start * _gradient(start)).detach()
        saved, costs, degree = {}, {}, float(shares.sum())
        for k, t in chosen.items():
            half, slope = halves[k - 1], (t * _gradient(t)).detach()
            costs[k] = (half * _gradient(half) / 2).detach()[system.nodes[k - 1].unstable]  # half is read in t r² alone
            saved[k], degree = costs[k] - slope, degree + float(slope.sum())
        even = None if weights is None else torch.softmax(weights, 0) * shares.sum()
        a = self.layout.packed(None if weights is None else shares, saved)
        b = self.layout.packed(even, costs)
        step = _root(a, b)
        promise = float(step @ (a - b)) / max(degree, _LITTLE)
        return _Found(point, float(value.detach()), b - a, step, promise)


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
