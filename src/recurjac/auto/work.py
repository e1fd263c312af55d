"""What is known of one question, a norm of a Jacobian over a region: ranges, an upper bound, and what is attained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, prod
from typing import final

import torch
from torch import Tensor

from recurjac.branching import Branching
from recurjac.branching.exact import SignTree
from recurjac.deadline import Deadline
from recurjac.jacobian import Gradients
from recurjac.jacobian.auto import limited
from recurjac.norms import AbstractNormMethod, NormBound
from recurjac.preactivation import AbstractPreactivation
from recurjac.preactivation.anytime import Known, in_time, refined
from recurjac.problem import Problem
from recurjac.search import Aim, Attained, Search, better_of

TOLERANCE = 1e-6
"""The relative gap between the two bounds at which a question counts as answered."""
_MOST = 10.0
"""What a finite bound counts after an infinite one, as a gain: a factor e to this power."""
_LOOPED = 0.15
"""In large loops, the share of the time for ranges by the problem's rule."""
_RATE = 2e9
"""Multiply-adds of such products in a second, each several times, on a slow machine."""

Bound = Callable[[AbstractNormMethod, Gradients], Tensor]
"""The upper bounds by a method, of the norm (batch,) or of all rows (batch, K)."""


@final
@dataclass(frozen=True)
class Question:
    """Which bounds are sought: `bound` applies a method.  p, q: the norms, for the search; None if rows are bounded."""

    bound: Bound
    norms: tuple[float, float] | None


@final
@dataclass
class Work:
    """The samples that are bounded together, the best ranges and bounds so far, and where they come from.

    given: the problem as it was asked.  gradients: of the best ranges.  version: how often ranges became tighter.
    upper: (batch,), or (batch, K) for rows; by: for each sample, the method that gave the least bound.  last: the
    bounds of the last method by itself.
    pass_seconds: a guess of how long entry-wise bounds take.  entry_seconds: how long they took; infinite before.
    tangent_seconds: in loops, how long one pass of tangents took.
    attained: a lower bound, if one is known.  branching, tree: the parts of the region so far, if it was
    divided: by inputs, and by signs.
    """

    question: Question
    gradients: Gradients
    deadline: Deadline
    given: Problem | None
    attained: Attained | None = None
    upper: Tensor | None = None
    by: list[str] = field(default_factory=list)
    last: Tensor | None = None
    version: int = 0
    pass_seconds: float = 0.0
    entry_seconds: float = inf
    tangent_seconds: float = 0.0
    branching: Branching | None = None
    tree: SignTree | None = None

    def tighten(self, method: AbstractNormMethod, title: str, gradients: Gradients | None = None) -> float:
        """Apply a method to the best ranges, or to other gradients; returns its bound, the largest of the batch."""
        upper = self.question.bound(method, self.gradients if gradients is None else gradients).detach()
        return self.learn(NormBound(upper), title)

    def learn(self, found: NormBound, title: str) -> float:
        """Take the bounds of a method that also looks for attained values.  Raises KeyboardInterrupt if it was."""
        upper = torch.where(found.upper.isnan(), inf, found.upper)
        better = [True] * len(upper) if self.upper is None else (upper < self.upper).reshape(len(upper), -1).any(1)
        self.by = [title if new else old for new, old in zip(better, self.by or [""] * len(upper), strict=True)]
        self.upper = upper if self.upper is None else torch.minimum(self.upper, upper)
        self.last = upper
        if found.attained is not None:
            self.attained = found.attained if self.attained is None else better_of(self.attained, found.attained)
        if "interrupted" in found.status:
            raise KeyboardInterrupt
        return float(upper.max())

    def narrow(self, rule: AbstractPreactivation, deadline: Deadline) -> bool:
        """Apply a rule to what is unstable; returns whether any range became tighter."""
        before = self.gradients.problem
        if before is None:
            return False
        state = self.gradients.state
        after = Gradients(before.by(refined(state, before.pre, rule, deadline)))
        count = state.network.depth
        known = [(state.pre(k), after.state.pre(k)) for k in range(1, count)]
        better = any(bool(((b.lower > a.lower) | (b.upper < a.upper)).any()) for a, b in known)
        if better:
            self.gradients, self.version = after, self.version + 1
        return better

    @property
    def batch(self) -> int:
        """The number of samples."""
        return self.gradients.chain.batch if self.given is None else self.given.bound.batch

    def drop(self) -> None:
        """Keep only the ranges of what is known of the gradients, for the sake of memory."""
        if self.given is not None:
            state = self.gradients.state
            self.gradients = Gradients(self.given.by(Known.of(state, self.given.pre)))

    def sample(self, i: int) -> Work:
        """The work on one sample alone, with what is known of it.  Raises ValueError without a problem."""
        if self.given is None or self.upper is None:
            raise ValueError("there is no problem whose samples could be taken, or nothing is known of them")
        given = self.given.at(torch.tensor([i]))
        ranges = Known.of(self.gradients.state, self.given.pre).sample(i)
        return Work(
            self.question, Gradients(given.by(ranges)), self.deadline, given,
            None if self.attained is None else self.attained.rows(i, i + 1), self.upper[i : i + 1], self.by[i : i + 1],
            version=self.version, pass_seconds=self.pass_seconds / self.gradients.chain.batch,
            entry_seconds=self.entry_seconds / self.gradients.chain.batch, tangent_seconds=self.tangent_seconds,
        )  # fmt: skip

    def search(self, search: Search) -> None:
        """Look for larger attained values."""
        if self.given is None or self.question.norms is None:
            return
        known = self.attained
        aim = Aim(None if known is None else known.witness.unsqueeze(1), self.upper, self.deadline)
        found = search.attained(self.given, *self.question.norms, aim)
        self.attained = found if known is None else better_of(known, found)

    def measure(self) -> None:
        """Compute the ranges, in a share of the time; the entries of each row take about as long.

        In large loops the share is small, as tangents find their own ranges, which take about as long as other entries.
        """
        began, loops = self.deadline.spent, self.carries_tangents
        if loops and self.large and self.given is not None:
            self.gradients = Gradients(self.given.by(in_time(self.given.pre, self.deadline.part(_LOOPED))))
        else:
            self.gradients, _ = limited(self.gradients, self.deadline)
        rows = self.gradients.chain.rows
        self.pass_seconds = (2 if loops else 1) * rows * (self.deadline.spent - began)

    @property
    def limit(self) -> Deadline:
        """The deadline at which steps are given up between operations; none for networks of small operations."""
        if self.given is not None:
            return self.given.planner.watched(self.given.network, self.deadline)
        chain = self.gradients.chain
        return chain.planner.watched(chain, self.deadline)

    @property
    def large(self) -> bool:
        """Whether steps are given up at the deadline."""
        return self.limit.end < inf

    @property
    def carries_tangents(self) -> bool:
        """Whether entry-wise bounds include tangents that are carried forward, as for closed loops."""
        return self.given is not None and self.given.planner.carries_tangents(self.given.network) > 0

    @property
    def matrix_seconds(self) -> float:
        """A guess of the seconds of one step with the matrices of a P-chain, and its proof."""
        chain, total, before = self.gradients.chain, 0.0, prod(self.gradients.chain.shapes[0])
        for k in range(1, chain.end):
            size, mask = prod(chain.shapes[k]), chain.unstable(k)
            few = 0 if mask is None else int(mask.sum()) // chain.batch
            total += size * before * (size + before) + 10.0 * few**3
            before = size
        return chain.batch * total / _RATE

    @property
    def unstable(self) -> bool:
        """Whether some slope is not known exactly."""
        chain = self.gradients.chain
        return any(chain.unstable(k) is not None for k in range(1, chain.end))

    @property
    def unknown(self) -> int:
        """How many slopes are not known exactly, in the sample with the most of them."""
        chain = self.gradients.chain
        masks = [m for k in range(1, chain.end) if (m := chain.unstable(k)) is not None]
        return int(torch.stack([m.flatten(1).sum(1) for m in masks]).sum(0).max()) if masks else 0

    @property
    def kinks_only(self) -> bool:
        """Whether all activations of the network are piecewise linear; False for a part of a chain rule."""
        problem = self.gradients.problem
        return problem is not None and all(s.linear or s.activation.piecewise_linear for s in problem.network.stages)

    @property
    def lower(self) -> float:
        """The largest attained value; 0 if none is known."""
        return 0.0 if self.attained is None else float(self.attained.gain.max())

    @property
    def met(self) -> bool:
        """Whether the two bounds meet within the tolerance, for every sample."""
        return self.upper is not None and bool(self.meets.all())

    @property
    def meets(self) -> Tensor:
        """For each sample, whether its bounds meet within the tolerance."""
        tops = self.tops
        if self.attained is None:
            return tops == 0
        return tops <= self.attained.gain * (1 + TOLERANCE)

    @property
    def tops(self) -> Tensor:
        """The upper bound of each sample, or the largest of its rows: (batch,).  Raises ValueError if none is known."""
        if self.upper is None:
            raise ValueError("nothing is bounded yet")
        return self.upper.reshape(len(self.upper), -1).amax(1)

    @property
    def gap(self) -> float:
        """The logarithm of the upper bound, less that of what is attained, in the mean; it falls as bounds improve."""
        if self.upper is None:
            return _MOST * 100
        upper = self.upper.double().clamp(min=1e-300).log().nan_to_num(posinf=_MOST * 100)
        lower = 0.0 if self.attained is None else self.attained.gain.double().clamp(min=1e-300).log().mean()
        return float(upper.mean() - lower)
