"""The interface of a route: the direction of the operators, the lines of each node, and what a form meets there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Loss, Sizes
from recurjac.operators import AbstractOperator
from recurjac.propagation.planning import AbstractPlanner
from recurjac.propagation.tally import Absorbing, AbstractMagnitudes, AbstractTally, Travelling
from recurjac.region import Convex
from recurjac.relaxations import LinearRelaxation


class AbstractRoute(ABC):
    """A directed acyclic graph along which forms are propagated, node by node in the order of `nodes`."""

    @property
    @abstractmethod
    def arithmetic(self) -> AbstractArithmetic:
        """The arithmetic in which forms are computed."""

    @property
    @abstractmethod
    def planner(self) -> AbstractPlanner:
        """Decides how many forms are propagated together."""

    @abstractmethod
    def nodes(self, start: int) -> Sequence[int]:
        """The nodes that a form starting at `start` may visit, in order, `start` first."""

    @abstractmethod
    def edges(self, node: int) -> Sequence[tuple[int, AbstractOperator]]:
        """The targets of the edges out of `node`, each with its operator."""

    def split_passthrough(self, node: int, forms: Ball) -> tuple[Ball, Ball | None]:
        """The part of the arriving forms on the entries of `node`, and the part that passes to the next node unchanged.

        The second part is usually None.  If not, it is added to the forms that leave the node along its first edge.
        """
        return forms, None

    @abstractmethod
    def lines(self, node: int) -> LinearRelaxation | None:
        """The lines of a node at which forms arrive, other than their start; None if the forms pass unchanged."""

    @abstractmethod
    def rows(self, node: int) -> Ball | None:
        """Known numbers (B, K, *node) whose product with a form at `node` is a term of the bound; None if none."""

    @abstractmethod
    def region(self, node: int) -> Convex | None:
        """The set over which forms that arrive at `node` are maximised; None except at the end of a route."""

    @abstractmethod
    def floats(self) -> int:
        """An upper estimate of the coefficients of one form at its widest node, over all samples and outputs."""

    @abstractmethod
    def widest(self) -> int:
        """The number of entries of the widest node."""

    def tally(self) -> AbstractTally:
        """How the rounding of forms is covered along this route; a new one for each sweep."""
        return Travelling(self.arithmetic)


class AbstractAbsorbingRoute(AbstractRoute, AbstractMagnitudes):
    """A route that absorbs rounding where it is to be covered."""

    @final
    def tally(self) -> AbstractTally:
        return Absorbing(self.arithmetic, self) if self.arithmetic.rigorous else Travelling(self.arithmetic)


def loss_of(images: Sequence[Sizes], rows: Ball | None, before: Tensor | None, dims: int) -> Loss:
    """The loss at a node with so many dimensions.

    images: what the operators of all edges cost.  rows: numbers with which the forms are multiplied.  before: upper
    bounds of what forms are multiplied with after the node's lines, (B, K, *node); None if it has no lines.
    """
    parts = list(images)
    if rows is not None:
        parts.append(Sizes.of_row(rows, dims))
    if before is not None:
        parts.append(Sizes.of(before).rounded())
    return Loss.of(parts, dims)
