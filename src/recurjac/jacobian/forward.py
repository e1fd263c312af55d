"""Methods that start from the input: any method on the reversed chain rule (RecurJac-F0 and F1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch

from recurjac.arithmetic import Interval
from recurjac.jacobian.base import AbstractJacobianMethod, AbstractPrepared
from recurjac.jacobian.fast_lip import last_product
from recurjac.jacobian.gradients import Gradients
from recurjac.jacobian.recursion import RecurJac
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import AbstractSeeds, DenseForms


@final
@dataclass(frozen=True)
class Reversed(AbstractJacobianMethod):
    """`method` on Jᵀ; `Reversed(RecurJac())` is RecurJac-F0.  Source: arXiv:1810.11783, Section 3.3 (forward mode).

    The recursion runs for every tangent, so it is expensive for networks with many inputs.
    """

    method: AbstractJacobianMethod

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {"recurjac-f0": cls(RecurJac())}

    @property
    def title(self) -> str:
        return "RecurJac-F0" if self.method.title == "RecurJac-B" else f"{self.method.title}, reversed"

    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        return _ReversedChain(gradients.chain, self.method)


@final
@dataclass(frozen=True)
class _ReversedChain(AbstractPrepared):
    whole: ChainRule
    method: AbstractJacobianMethod

    @property
    def chain(self) -> ChainRule:
        return self.whole

    def push(self, tangents: AbstractSeeds) -> Interval:
        """The tangents are the covectors of the reversed chain; if they differ between rows, each row runs alone."""
        coefficients = tangents.tensor()
        if coefficients.shape[1] == 1:
            return self._whole(self._push(coefficients[:, 0], self.chain.covector_seeds()))
        rows = [
            self._push(coefficients[:, k], DenseForms(row.unsqueeze(1), self.chain.arithmetic))
            for k, row in enumerate(self._covectors())
        ]
        return Interval(torch.cat([r.lower for r in rows], 1), torch.cat([r.upper for r in rows], 1))

    def _push(self, covectors: torch.Tensor, rows: AbstractSeeds) -> Interval:
        bounds = self.method.prepare(Gradients(given=self.chain.reversed(covectors))).push(rows)
        return bounds.map(lambda t: t.transpose(1, 2).expand(self.chain.batch, -1, -1))

    def _covectors(self) -> list[torch.Tensor]:
        """The covectors one by one, each (batch or 1, 1, *output)."""
        return list(self.chain.covector_seeds().tensor()[:, 0].split(1, dim=1))


@final
@dataclass(frozen=True)
class ReversedAfterFirst(AbstractJacobianMethod):
    """`Reversed(method)` from the first hidden nodes to the output, then one interval product (RecurJac-F1).

    Source: arXiv:1810.11783, Section 3.3 (F1).
    """

    method: AbstractJacobianMethod

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {"recurjac-f1": cls(RecurJac())}

    @property
    def title(self) -> str:
        return "RecurJac-F1" if self.method.title == "RecurJac-B" else f"{self.method.title}, reversed after the first"

    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        known, chain = gradients.own(), gradients.chain
        for node in {e.source for e in chain.successors(0)} - {chain.end}:
            rest = Gradients(given=chain.starting_at(node))
            bounds = Reversed(self.method).prepare(rest).push_all()
            known.learn(node, bounds.map(lambda t, shape=chain.shapes[node]: t.reshape(*t.shape[:2], *shape)))
        return _LastProduct(known)


@final
@dataclass(frozen=True)
class _LastProduct(AbstractPrepared):
    """Bounds of g at the first hidden nodes; one interval product carries them to the input."""

    known: Gradients

    @property
    def chain(self) -> ChainRule:
        return self.known.chain

    def push(self, tangents: AbstractSeeds) -> Interval:
        return self._whole(last_product(self.known, tangents))
