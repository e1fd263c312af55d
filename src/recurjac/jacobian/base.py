"""What a Jacobian method states: how it prepares a chain rule, so that tangents can be pushed through it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
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
        """The chain rule of the Jacobian, or one of the same Jacobian that is shorter."""

    @abstractmethod
    def push(self, tangents: AbstractSeeds) -> Interval:
        """Bounds of covector · J · tangent for tangents (B or 1, K or 1, R, *input): (batch, K, R)."""

    @final
    def push_all(self) -> Interval:
        """Bounds of every entry of J, the inputs flattened: (batch, K, n_in)."""
        return self.push(self.chain.basis(0))

    @final
    def push_each(self, tangents: Tensor) -> Interval:
        """Bounds for one tangent a covector, (B or 1, K, *input): (batch, K)."""
        return self.push(DenseForms(tangents.unsqueeze(2), self.chain.arithmetic)).map(lambda t: t[:, :, 0])

    @final
    def _whole(self, bounds: Interval) -> Interval:
        """Bounds expanded to every sample and covector."""
        return bounds.map(lambda t: t.expand(self.chain.batch, self.chain.rows, -1))


class AbstractJacobianMethod(ABC):
    """A way to bound the entries of a Jacobian over a region; a frozen object that holds its settings."""

    @abstractmethod
    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        """Do what can be done before the tangents are known; what is found of g on the way is left in `gradients`.

        A method reads the chain rule (`gradients.chain`) and may read the problem behind it (`gradients.problem`,
        `gradients.state`).
        """

    @classmethod
    @abstractmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        """What `--method` calls objects of this class; empty if it has no name there."""

    @property
    @abstractmethod
    def title(self) -> str:
        """The name for tables and plots."""


class AbstractNodewise(AbstractJacobianMethod):
    """A method that bounds g node after node, from the last to the first, each from what is known of later ones."""

    @abstractmethod
    def view(self, gradients: Gradients) -> Gradients:
        """The gradients that the method works on: `gradients.own()` or `gradients.shortened()`."""

    @abstractmethod
    def node(self, known: Gradients, node: int) -> Interval | None:
        """Bounds of g_h at a node, (batch or 1, K, *node), infinite where none is needed; None if nowhere.

        known: a view, in which all later nodes are bounded.
        """

    @abstractmethod
    def pushed(self, known: Gradients, tangents: AbstractSeeds) -> Interval:
        """As `AbstractPrepared.push`, once every node of a view is bounded; dimensions B and K may be 1."""

    @final
    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        known = self.view(gradients)
        descend(known, [self])
        return Descended(known, (self,))


def descend(known: Gradients, methods: Sequence[AbstractNodewise]) -> None:
    """Bound every inner node of a view by the intersection of several methods, from the last node to the first."""
    for node in range(known.chain.end - 1, 0, -1):
        for method in methods:
            bounds = method.node(known, node)
            if bounds is not None:
                known.learn(node, bounds)


@final
@dataclass(frozen=True)
class Descended(AbstractPrepared):
    """A view all of whose nodes are bounded, and the methods whose last steps intersect."""

    known: Gradients
    methods: tuple[AbstractNodewise, ...]

    @property
    def chain(self) -> ChainRule:
        return self.known.chain

    def push(self, tangents: AbstractSeeds) -> Interval:
        found = [self._whole(m.pushed(self.known, tangents)) for m in self.methods]
        return reduce(self.chain.arithmetic.intersect, found)
