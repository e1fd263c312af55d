"""A portfolio: the cheapest bounds first, then those that cost more, as long as there is time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.errors import InvalidRequest
from recurjac.jacobian import Gradients
from recurjac.norms.base import AbstractNormMethod, NormBound
from recurjac.norms.entrywise import JacobianNorm
from recurjac.norms.product import ProductOfNorms
from recurjac.norms.quadratic import QuadraticNorm
from recurjac.preactivation import Refine, SecantRanges

_GROWTH = 3.0
"""A step is expected to take this many times as long as the one before it."""
_ROUNDS = ((10, 30), (30, 80), (100, 250))
"""For each round with secants, the steps of the search for ranges and for the norm."""


@final
@dataclass(frozen=True)
class Auto(AbstractNormMethod):
    """The least of the bounds that fit in a number of seconds for each group of samples.

    In this order: the product of norms, the entry-wise bounds, the P-chain, and the last two again with ranges by
    centred secants, which are searched for longer and longer.  The first two are always computed.  An interrupted
    bound is what was proved so far.  The note names what gave the least bound, and the status is "time" if the limit
    ended it.  Bounds carry no gradients.  Raises InvalidRequest unless the number of seconds is positive.
    """

    seconds: float = 10.0

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise InvalidRequest(f"Auto(seconds={self.seconds!r}) has no time; give a positive number of seconds")

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractNormMethod]:
        return {"auto": cls()}

    @property
    def title(self) -> str:
        return "auto"

    def supports(self, p: float, q: float) -> bool:
        return True

    def norm(self, gradients: Gradients, p: float, q: float) -> Tensor:
        return self.bound(gradients, p, q).upper

    def rows(self, gradients: Gradients, p: float) -> Tensor:
        return self._least(gradients, lambda method, known: method.rows(known, p)).upper

    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        return []

    def bound(self, gradients: Gradients, p: float, q: float) -> NormBound:
        return self._least(gradients, lambda method, known: method.norm(known, p, q))

    def _least(self, gradients: Gradients, apply: Callable[[AbstractNormMethod, Gradients], Tensor]) -> NormBound:
        began, least, best, status = time.monotonic(), None, "", "bounded"
        last, spent = began, 0.0
        try:
            for number, step in enumerate(_steps(gradients)):
                if number > 1 and time.monotonic() - began + _GROWTH * spent > self.seconds:
                    status = "time"
                    break
                found = apply(step.method, step.known(gradients)).detach()
                found = torch.where(found.isnan(), inf, found)
                if least is None or bool((found < least).any()):
                    best = step.title
                least = found if least is None else torch.minimum(least, found)
                now = time.monotonic()
                last, spent = now, now - last
        except KeyboardInterrupt:
            status = "interrupted"
            if least is None:
                raise
        if least is None:
            raise ValueError("there are no steps")
        return NormBound(least, status, f"least by {best}")


@final
@dataclass(frozen=True)
class _Step:
    """A method, and what it bounds: the given problem, or that with ranges by secants in so many steps."""

    title: str
    method: AbstractNormMethod
    ranges: int | None = None

    def known(self, gradients: Gradients) -> Gradients:
        problem = gradients.problem
        if self.ranges is None or problem is None:
            return gradients
        return Gradients(problem.by(Refine(problem.pre, SecantRanges(self.ranges))))


def _steps(gradients: Gradients) -> Iterator[_Step]:
    """What is bounded in turn; a part of a chain rule has no ranges of its own."""
    yield _Step("product of norms", ProductOfNorms())
    yield _Step(JacobianNorm().title, JacobianNorm())
    yield _Step("P-chain", QuadraticNorm(20))
    if gradients.problem is None or gradients.given is not None:
        yield _Step("P-chain", QuadraticNorm(_ROUNDS[-1][1]))
        return
    for ranges, steps in _ROUNDS:
        yield _Step("P-chain with secants", QuadraticNorm(steps), ranges)
        yield _Step(f"{JacobianNorm().title} with secants", JacobianNorm(), ranges)
