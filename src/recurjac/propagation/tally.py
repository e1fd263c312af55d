"""What a sweep adds up on its way, and how the rounding of the forms is covered (docs/mathematics.md, §8).

There are two ways.  Radii *travel* with the coefficients of forms: each product costs a second one, but signs and zeros
of coefficients stay exact, and few large matrices do not let radii grow.  Or rounding is *absorbed*: coefficients are
taken as exact as stored, and a form pays for their rounding at each node, by magnitudes that are known there.  That
costs one inner product for each form and node, and the error grows with the depth only.  A route chooses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import reduce
from typing import final

import numpy as np
import torch
from torch import Tensor

from recurjac.arithmetic import (
    AbstractArithmetic,
    Ball,
    Fast,
    Loss,
    concatenate,
    growth_of,
    paid,
    radius_beside,
    summed,
)
from recurjac.propagation.forms import AbstractSeeds, Units
from recurjac.region import Convex
from recurjac.relaxations import Absorption, LinearRelaxation, relax_


class AbstractMagnitudes(ABC):
    """What is known along a route of the vectors that forms belong to, for rounding that is absorbed."""

    def seeded(self, start: int, seeds: Units) -> Tensor:
        """What unit forms lose at `start` beside the radii of their columns: (B, K, R), or 0 without dimensions."""
        return torch.zeros((), dtype=seeds.precision, device=seeds.device)

    @abstractmethod
    def loss(self, node: int) -> Loss:
        """What rounding costs forms that leave `node` (`loss_of`)."""

    @abstractmethod
    def absorption(self, node: int) -> Absorption:
        """The lines of a node with the loss of forms that arrive there."""

    @abstractmethod
    def sizes(self, node: int) -> Tensor:
        """Upper bounds of what arriving forms are multiplied with: (B, K, *node)."""


@dataclass(frozen=True)
class AbstractTally(ABC):
    """The constants of the forms so far: of both signs until `double`, then of the forms and of their negations."""

    arithmetic: AbstractArithmetic
    terms: list[Ball] = field(default_factory=list, init=False)

    @property
    @abstractmethod
    def copies(self) -> int:
        """How many tensors of forms exist at once while they go on from one node to the next."""

    @final
    def add(self, term: Ball | None) -> None:
        if term is not None:
            self.terms.append(term)

    @abstractmethod
    def begin(self, start: int, seeds: AbstractSeeds) -> AbstractArithmetic:
        """The arithmetic in which the seeds leave the node `start`, after what that costs is paid."""

    @abstractmethod
    def columns(self, own: Ball, node: int, beside: int, both: bool) -> Ball:
        """The seeds as they arrive at a node, where they are added to the forms of so many other edges.

        both: whether they stand for themselves and their negations.
        """

    @abstractmethod
    def relax_(self, forms: Ball, node: int, lines: LinearRelaxation | None) -> Ball:
        """The forms after the lines of a node, with their constants added."""

    @abstractmethod
    def meet(self, forms: Ball, rows: Ball | None) -> None:
        """Add the inner products of forms with known numbers."""

    @abstractmethod
    def maximise_(self, forms: Ball, region: Convex) -> None:
        """Add the maxima of the forms over a set."""

    def double(self) -> None:
        """Let the constants be those of the forms followed by their negations."""
        self.terms[:] = [concatenate([t, -t], 2) for t in self.terms]

    @abstractmethod
    def total(self) -> Ball | None:
        """The sum of all constants; None if all are 0."""


@final
@dataclass(frozen=True)
class Travelling(AbstractTally):
    """Radii travel with the coefficients; without radii, as in `Fast`, rounding is not covered."""

    @property
    def copies(self) -> int:
        return 12 if self.arithmetic.rigorous else 6

    def begin(self, start: int, seeds: AbstractSeeds) -> AbstractArithmetic:
        return self.arithmetic

    def columns(self, own: Ball, node: int, beside: int, both: bool) -> Ball:
        return own

    def relax_(self, forms: Ball, node: int, lines: LinearRelaxation | None) -> Ball:
        if lines is None:
            return forms
        forms, constant = relax_(forms, lines, self.arithmetic)
        self.add(constant)
        return forms

    def meet(self, forms: Ball, rows: Ball | None) -> None:
        self.add(None if rows is None else forms.dot(rows))

    def maximise_(self, forms: Ball, region: Convex) -> None:
        self.add(region.support_function_(forms, self.arithmetic))

    def total(self) -> Ball | None:
        return summed(self.terms) if self.terms else None


@final
@dataclass(frozen=True)
class Absorbing(AbstractTally):
    """Coefficients are exact as stored (their balls have no radius), and forms pay for their rounding at each node.

    errors: what rounding cost the forms, (B, K, R).  Until `double`, their negations lose the same.
    """

    magnitudes: AbstractMagnitudes
    errors: list[Tensor] = field(default_factory=list, init=False)

    @property
    def copies(self) -> int:
        return 6

    def begin(self, start: int, seeds: AbstractSeeds) -> AbstractArithmetic:
        """Columns of operators have radii of their own, which `columns` pays; other forms pay as at any node."""
        if isinstance(seeds, Units):
            self._pay(self.magnitudes.seeded(start, seeds))
            return self.arithmetic
        self._pay(paid([(seeds.tensor().detach().abs(), self.magnitudes.loss(start))]))
        return Fast()

    def columns(self, own: Ball, node: int, beside: int, both: bool) -> Ball:
        """Beside k other summands, the columns c lose at most γ_k |c| more; what those lose is in their own loss."""
        if own.rad is not None and not (own.exact and beside == 0):
            rad = radius_beside(own, beside)
            error = paid([(rad, Loss.each(self.magnitudes.sizes(node), own.mid.dim() - 3))])
            self._pay(torch.cat([error, error], 2) if both and error.dim() else error)
        return Ball(own.mid, None)

    def relax_(self, forms: Ball, node: int, lines: LinearRelaxation | None) -> Ball:
        forms, constant, error = self.magnitudes.absorption(node).relax_(forms, self.arithmetic)
        self._pay(error)
        self.add(constant)
        return forms

    def meet(self, forms: Ball, rows: Ball | None) -> None:
        self.add(None if rows is None else self.arithmetic.exact(forms.dot(rows).mid))

    def maximise_(self, forms: Ball, region: Convex) -> None:
        self.add(region.support_function_(self.arithmetic.exact(forms.mid), self.arithmetic))

    def double(self) -> None:
        super().double()
        self.errors[:] = [torch.cat([e, e], 2) for e in self.errors]

    def total(self) -> Ball | None:
        """The sum of all constants, with what was paid as its radius.

        Where it is not finite, a coefficient may have overflowed, which carries no information: its radius is infinite.
        """
        found = summed(self.terms) if self.terms else None
        if found is None and not self.errors:
            return None
        if found is None:
            zero = torch.zeros((), dtype=self.errors[0].dtype, device=self.errors[0].device)
            found = self.arithmetic.exact(zero)
        if found.rad is None:
            raise ValueError("a constant whose rounding is not covered")
        parts = [found.rad, *self.errors]
        mid = found.mid.expand(np.broadcast_shapes(found.shape, *(p.shape for p in parts)))
        with torch.no_grad():
            rad = reduce(torch.add, parts) * growth_of(len(parts) + 2, mid.dtype)
            return Ball(mid, torch.where(mid.isfinite(), rad, torch.inf))

    def _pay(self, error: Tensor) -> None:
        """Add what forms lose at a node; nothing is 0 without dimensions."""
        if error.dim():
            self.errors.append(error)
