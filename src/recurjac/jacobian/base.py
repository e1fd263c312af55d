"""The interface of a Jacobian method: it prepares a chain rule, so that tangents can be pushed through it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import inf
from typing import final

from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.jacobian.gradients import Gradients
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import AbstractSeeds, DenseForms


class AbstractPrepared(ABC):
    """A chain rule on which a method has done the work that does not depend on the tangents."""

    @property
    @abstractmethod
    def chain(self) -> ChainRule:
        """The chain rule of the Jacobian, or a shorter one of the same Jacobian."""

    @abstractmethod
    def push(self, tangents: AbstractSeeds) -> Interval:
        """Bounds of covector · J · tangent for tangents (B or 1, K or 1, R, *input): (batch, K, R)."""

    @final
    def push_all(self) -> Interval:
        """Bounds of every entry of J, with flattened inputs: (batch, K, n_in)."""
        return self.push(self.chain.basis(0))

    @final
    def push_each(self, tangents: Tensor) -> Interval:
        """Bounds of covector · J · tangent for one tangent per covector, (B or 1, K, *input): (batch, K)."""
        return self.push(DenseForms(tangents.unsqueeze(2), self.chain.arithmetic)).map(lambda t: t[:, :, 0])

    @final
    def _whole(self, bounds: Interval) -> Interval:
        """The bounds expanded to all samples and covectors."""
        return bounds.map(lambda t: t.expand(self.chain.batch, self.chain.rows, -1))


class AbstractJacobianMethod(ABC):
    """A way to bound the entries of a Jacobian over a region; a frozen object that holds its settings."""

    @abstractmethod
    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        """Do the work that does not depend on the tangents; bounds of g found on the way are stored in `gradients`.

        A method reads the chain rule (`gradients.chain`), and may read the problem that it belongs to
        (`gradients.problem`, `gradients.state`).
        """

    def prepare_beside(self, gradients: Gradients, others: Sequence[AbstractPrepared]) -> AbstractPrepared:
        """The same, knowing what other methods prepared of these gradients; one of them if it gives the same bounds."""
        return self.prepare(gradients)

    @classmethod
    @abstractmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        """The names of objects of this class for the option `--method`; empty if there are none."""

    @property
    @abstractmethod
    def title(self) -> str:
        """The name for tables and plots."""

    def within(self, seconds: float) -> AbstractJacobianMethod:
        """The same method, which takes at most about this time; by default the method itself, which has no limit."""
        return self

    @property
    def total(self) -> float:
        """The seconds for all samples of a call together; infinite if the method has no such limit."""
        return inf


class AbstractAround(AbstractJacobianMethod):
    """Adds to `method` where there is something to add, and is `method` elsewhere, with its title and its time."""

    method: AbstractJacobianMethod

    @abstractmethod
    def of(self, method: AbstractJacobianMethod) -> AbstractJacobianMethod:
        """The same around another method."""

    @final
    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {}

    @final
    @property
    def title(self) -> str:
        return self.method.title

    @final
    def within(self, seconds: float) -> AbstractJacobianMethod:
        return self.of(self.method.within(seconds))

    @final
    @property
    def total(self) -> float:
        return self.method.total


class AbstractNodewise(AbstractJacobianMethod):
    """A method that bounds g node by node, from the last to the first, each node from the bounds at later nodes."""

    @abstractmethod
    def view(self, gradients: Gradients) -> Gradients:
        """The gradients on which the method works: `gradients.own()` or `gradients.shortened()`."""

    @abstractmethod
    def node(self, known: Gradients, node: int) -> Interval | None:
        """Bounds of g_h at a node, (batch or 1, K, *node), infinite where none is needed; None if none is needed.

        known: a view in which all later nodes are bounded.
        """

    @abstractmethod
    def pushed(self, known: Gradients, tangents: AbstractSeeds) -> Interval:
        """Like `AbstractPrepared.push`, for a view in which every node is bounded; dimensions B and K may be 1."""

    @final
    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        known = self.view(gradients)
        descend(known, [self])
        return Descended(known, (self,))


def descend(known: Gradients, methods: Sequence[AbstractNodewise]) -> None:
    """Bound every inner node of a view, from the last to the first, by the intersection of several methods."""
    for node in range(known.chain.end - 1, 0, -1):
        for method in methods:
            bounds = method.node(known, node)
            if bounds is not None:
                known.learn(node, bounds)


@final
@dataclass(frozen=True)
class Descended(AbstractPrepared):
    """A view in which every node is bounded, and the methods whose bounds of the last step are intersected."""

    known: Gradients
    methods: tuple[AbstractNodewise, ...]

    @property
    def chain(self) -> ChainRule:
        return self.known.chain

    def push(self, tangents: AbstractSeeds) -> Interval:
        found = [self._whole(m.pushed(self.known, tangents)) for m in self.methods]
        return reduce(self.chain.arithmetic.intersect, found)
