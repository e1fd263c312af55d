"""What a sweep travels along: which way the operators point, which lines each node has, what a form meets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from recurjac.arithmetic import AbstractArithmetic, Ball
from recurjac.operators import AbstractOperator
from recurjac.propagation.planning import AbstractPlanner
from recurjac.region import Convex
from recurjac.relaxations import LinearRelaxation


class AbstractRoute(ABC):
    """A directed acyclic graph along which forms travel, node by node in the order of `nodes`."""

    @property
    @abstractmethod
    def arithmetic(self) -> AbstractArithmetic:
        """How forms are computed."""

    @property
    @abstractmethod
    def planner(self) -> AbstractPlanner:
        """What decides how many forms travel together."""

    @property
    def dense(self) -> bool:
        """Whether a form reaches all of every next node, so that it cannot go along a part of the route."""
        return False

    @abstractmethod
    def nodes(self, start: int) -> Sequence[int]:
        """The nodes that a form starting at `start` may visit, in order, `start` first."""

    @abstractmethod
    def edges(self, node: int) -> Sequence[tuple[int, AbstractOperator]]:
        """Where forms go from `node`, and the operator that takes them there."""

    def split_passthrough(self, node: int, forms: Ball) -> tuple[Ball, Ball | None]:
        """Of the forms that come to `node`, the part on its own entries, and what is only on its way to the next one.

        Usually nothing is; what there is joins what the node sends along its one edge.
        """
        return forms, None

    @abstractmethod
    def lines(self, node: int) -> LinearRelaxation | None:
        """The lines of a node that forms arrive at (not of their start); None if nothing happens there."""

    @abstractmethod
    def rows(self, node: int) -> Ball | None:
        """Known numbers that a form at `node` is multiplied with and sheds, (B, K, *node); None if there are none."""

    @abstractmethod
    def region(self, node: int) -> Convex | None:
        """The set over which forms that arrive at `node` are maximised; None but at the end of a pull."""

    @abstractmethod
    def floats(self) -> int:
        """An upper estimate of the numbers that one form occupies at its widest node, over all samples and outputs."""

    @abstractmethod
    def widest(self) -> int:
        """The number of entries of the widest node."""
