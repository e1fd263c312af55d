"""Signs of entries of Jacobians by branch and bound, divided by signs of neurons and by inputs in turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from recurjac.branching.branchers import AbstractBrancher, InputBisection
from recurjac.branching.cells import two_piece
from recurjac.branching.entries import BranchedEntries, Signs
from recurjac.branching.search import Branching, Limit
from recurjac.branching.signs import SignBisection
from recurjac.deadline import shorter
from recurjac.jacobian import AbstractJacobianMethod, Gradients, SignsByStructure, default_method
from recurjac.preactivation import Alone, HalfSpaceRanges, Refine
from recurjac.problem import Problem
from recurjac.propagation.forms import AbstractSeeds
from recurjac.search import Attained, better_of

_FIRST = 1 / 16
"""The share of the time that each way has at first."""
_LEAST = 1e-9
"""The number of seconds of a search for which there is no time left; it bounds the undivided region."""


@final
@dataclass(frozen=True)
class SignedEntries:
    """What several searches for the signs of entries know together.

    uppers: (quantities,) bounds of the entries and then of minus them.  attained: for each of these.
    parts: how many parts were bounded.  titles: of the ways that were tried.  interrupted: whether this was.
    """

    uppers: Tensor
    attained: Attained
    parts: int
    titles: tuple[str, ...]
    interrupted: bool

    def open(self, wanted: Tensor, margin: float) -> Tensor:
        """Which of the wanted entries, (entries,), have no proved sign and do not attain both."""
        most, least = self.uppers.chunk(2)
        scale = self.attained.gain.abs().max() * margin
        both = (self.attained.gain > scale).reshape(2, -1).all(0)
        return wanted & (most > 0) & (least > 0) & ~both


@final
@dataclass(frozen=True)
class EntrySigns:
    """Divides until all signs are known: by signs of neurons if all activations have two pieces, and by `inputs`.

    Each way has a share of the time at first; then the one that has come closer goes on.  All know what the others
    have attained, and look only for what they have left open.  Parts with given signs of neurons are bounded with
    half-spaces, by searches of `steps` steps.
    limit: applies to each sample separately.  Source: docs/mathematics.md, §6.10.
    """

    limit: Limit = field(default_factory=Limit)
    inputs: AbstractBrancher = field(default_factory=InputBisection)
    steps: int = 20

    def within(self, seconds: float) -> EntrySigns:
        """The same in at most this time."""
        return replace(self, limit=replace(self.limit, seconds=shorter(self.limit.seconds, seconds)))

    def divides(self, sample: Problem) -> bool:
        """Whether the region of a problem of one sample can be divided, and is to be."""
        bounded = not bool(sample.bound.unbounded.any()) and not sample.pre.holds_samples
        able = bounded and self.limit.parts > 1 and self.inputs.supports(sample)
        return able and bool(self.inputs.divisible(sample).all())

    def decided(self, sample: Problem, wanted: Tensor, margin: float) -> SignedEntries:
        """The signs of the wanted entries (entries,), as far as there is time; margin: as in `Signs`."""
        ways, began = self._ways(sample), time.perf_counter()
        tangents = Gradients(sample).chain.basis(0)
        ends: list[Branching] = []
        found: SignedEntries | None = None
        while True:
            seconds, parts = self.limit.seconds - (time.perf_counter() - began), self.limit.parts - _parts(ends)
            open_ = wanted if found is None else found.open(wanted, margin)
            at = _next(ends, len(ways), open_)
            done = at is None or seconds <= 0 or parts <= 0 or not bool(open_.any())
            if found is not None and (done or found.interrupted):
                return found
            at = 0 if at is None else at
            if len(ends) < len(ways) > 1:
                seconds = min(seconds, self.limit.seconds * _FIRST)
            before = ends[at] if at < len(ends) else None
            most = parts + (0 if before is None else before.parts)
            limit = replace(self.limit, seconds=max(seconds, _LEAST), parts=max(most, 1))
            known = None if found is None else found.attained
            end = _searched(ways[at], limit, tangents, Signs(open_, margin), known, before)
            ends[at : at + 1] = [end]
            found = _together(ends, ways, found, end)

    def _ways(self, sample: Problem) -> list[tuple[BranchedEntries, Problem]]:
        """The ways to divide, with the problem that each divides."""
        bounded: AbstractJacobianMethod = SignsByStructure(default_method())
        inputs = (BranchedEntries(bounded, self.inputs), sample)
        if not two_piece(sample.network) or all(s.linear for s in sample.network.stages):
            return [inputs]
        plain = isinstance(Alone(sample.pre), HalfSpaceRanges)
        rule = sample.pre if plain else Refine(sample.pre, HalfSpaceRanges(self.steps))
        return [(BranchedEntries(bounded, SignBisection(self.inputs)), sample.by(rule)), inputs]


def _parts(ends: Sequence[Branching]) -> int:
    return sum(e.parts for e in ends)


def _next(ends: Sequence[Branching], count: int, open_: Tensor) -> int | None:
    """The way that is to go on: each once, and then, of those that ran out of time, the one with the least bounds."""
    if len(ends) < count:
        return len(ends)
    able = [i for i, e in enumerate(ends) if e.status == "time"]
    least = [torch.minimum(*e.uppers.chunk(2))[open_].clamp(min=0).sum() for e in ends]
    return min(able, key=lambda i: float(least[i]), default=None)


def _searched(
    way: tuple[BranchedEntries, Problem], limit: Limit, tangents: AbstractSeeds, aim: Signs, known: Attained | None,
    before: Branching | None,
) -> Branching:  # fmt: skip
    splits, problem = way
    return replace(splits, limit=limit).searched(problem, tangents, aim, known, before)


def _together(
    ends: Sequence[Branching], ways: Sequence[tuple[BranchedEntries, Problem]], found: SignedEntries | None,
    end: Branching,
) -> SignedEntries:  # fmt: skip
    """What is known after one more search has ended."""
    uppers = end.uppers if found is None else torch.minimum(found.uppers, end.uppers)
    attained = end.attained if found is None else better_of(found.attained, end.attained)
    titles = tuple(splits.title for splits, _ in ways[: len(ends)])
    return SignedEntries(uppers, attained, _parts(ends), titles, end.status == "interrupted")
