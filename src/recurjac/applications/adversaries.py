"""The nearest adversaries that are known of some inputs, and how the attacks on them ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import final

import torch
from torch import Tensor

from recurjac.applications.attack import Adversary, Attack
from recurjac.applications.centres import Centres
from recurjac.deadline import NEVER, Deadline
from recurjac.problem import Problem

FOUND, NONE, EARLY, NOT_ATTACKED = "found", "none found", "none found in time", "not attacked"
"""What is known of adversaries: there is one; a whole attack found none; part of one did; nothing was tried."""


@final
@dataclass(frozen=True)
class Nearest:
    """The nearest adversary known of one input: its distance, infinite without one; the point; what was tried."""

    distance: float
    point: Tensor
    status: str = NOT_ATTACKED


@final
@dataclass
class Adversaries:
    """The nearest adversaries known of the inputs `centres`, at which outputs of the problem's network are positive."""

    attack: Attack
    problem: Problem
    centres: Centres
    _known: dict[int, Nearest] = field(default_factory=dict)

    def of(self, i: int) -> Nearest:
        """What is known of the input with the number i; its point is the input if there is no adversary."""
        return self._known.get(i) or Nearest(inf, self.centres.x[i])

    def rush(self, index: Sequence[int], deadline: Deadline) -> None:
        """Look for adversaries of these inputs by a few steps, until the deadline."""
        if index:
            points = self.centres.taken(index).points()
            found = self.attack.rushed(self.problem.network, points, self.problem.arithmetic, deadline)
            self._add(index, replace(found, complete=False))

    def search(self, index: Sequence[int], scale: Sequence[float], deadline: Deadline = NEVER) -> None:
        """Attack these inputs until the deadline; scale: first guesses of the distances."""
        if index:
            points, guess = self.centres.taken(index).points(), torch.tensor(scale, dtype=torch.float64)
            network, arithmetic = self.problem.network, self.problem.arithmetic
            self._add(index, self.attack.nearest(network, points, guess, arithmetic, deadline))

    def nearer(self, i: int, point: Tensor | None) -> float:
        """The distance of the nearest adversary of the input, after a look around a `point` (*input) that is one."""
        if point is not None:
            ball, arithmetic = self.centres.taken([i]).points(), self.problem.arithmetic
            self._add([i], self.attack.closer(self.problem.network, ball, point.unsqueeze(0), arithmetic))
        return self.of(i).distance

    def _add(self, index: Sequence[int], found: Adversary) -> None:
        for i, distance, point in zip(index, found.distance.tolist(), found.point, strict=True):
            known = self.of(i)
            if distance < known.distance:
                self._known[i] = Nearest(distance, point, FOUND)
            elif not isfinite(known.distance):
                self._known[i] = Nearest(inf, point, _ended(found, known.status))


def _ended(found: Adversary, before: str) -> str:
    """How an attack ended on an input for which it found no adversary; before: what was said of it until then."""
    return before if found.rounds == 0 else NONE if found.complete else EARLY


def said(distance: float, status: str) -> str:
    """The distance of an adversary, or how the attack ended without one."""
    return f"{distance:.6g}" if isfinite(distance) else status
