"""What a Jacobian method states: how it prepares a chain rule, so that tangents can be pushed through it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import final

from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import AbstractSeeds, DenseForms


class AbstractPrepared(ABC):
    """A chain rule on which a method has done the work that does not depend on the tangents."""

    chain: ChainRule

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
    def prepare(self, chain: ChainRule) -> AbstractPrepared:
        """Do what can be done before the tangents are known."""

    @classmethod
    @abstractmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        """What `--method` calls objects of this class; empty if it has no name there."""

    @property
    @abstractmethod
    def title(self) -> str:
        """The name for tables and plots."""

    @property
    @final
    def differentiable(self) -> bool:
        """Whether bounds carry gradients of the network's live parameters."""
        return True
