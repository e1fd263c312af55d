"""Signs of entries of Jacobians from the signs of weights and slopes, where rounding alone leaves them open."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.jacobian.base import AbstractAround, AbstractJacobianMethod, AbstractPrepared
from recurjac.jacobian.gradients import Gradients
from recurjac.operators.signs import Possible, possible_image
from recurjac.preactivation import IBP
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import AbstractSeeds, Units


@final
@dataclass(frozen=True)
class SignsByStructure(AbstractAround):
    """`method`; ends that are only by rounding on the wrong side of 0 are 0 where no path has that sign.

    A path is a product of weights and slopes.  If the product is not negative on any path, no entry of the Jacobian
    that is a sum of them is; bounds of sums are, by their rounding.  Bounds with the ends far from 0 are left alone.
    With a method that has a time limit, slopes are those of `IBP()`.  The title is that of `method`.
    Source: docs/mathematics.md, §7.4.
    """

    method: AbstractJacobianMethod

    def of(self, method: AbstractJacobianMethod) -> SignsByStructure:
        return SignsByStructure(method)

    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        return _BySigns(self.method.prepare(gradients), gradients, self.method.total < inf)


@final
@dataclass(frozen=True)
class _BySigns(AbstractPrepared):
    """A prepared chain rule, and the gradients whose signs are looked at if a bound asks for it."""

    prepared: AbstractPrepared
    gradients: Gradients
    quick: bool

    @property
    def chain(self) -> ChainRule:
        return self.prepared.chain

    def push(self, tangents: AbstractSeeds) -> Interval:
        found = self.prepared.push(tangents)
        if not bool(_nearly_signed(found).any()):
            return found
        signs = _along(possible_gradients(self._slopes()), tangents)
        return self.chain.arithmetic.intersect(found, self._whole(signs.interval(found.lower)))

    def _slopes(self) -> ChainRule:
        problem = self.gradients.problem
        if not self.quick or problem is None or self.gradients.given is not None:
            return self.gradients.chain
        return Gradients(problem.by(IBP()), combinations=self.gradients.combinations).chain


def _nearly_signed(found: Interval) -> Tensor:
    """Where an end is within rounding of 0, relative to the largest bound of the sample, and on its wrong side."""
    size = found.magnitude.flatten(1).amax(1).nan_to_num(inf).reshape(-1, 1, 1)
    near = size * float(torch.finfo(found.lower.dtype).eps) ** 0.5
    crossed: Tensor = (found.lower < 0) & (found.upper > 0) & ((found.lower >= -near) | (found.upper <= near))
    return crossed


@final
@dataclass
class SignSweep:
    """The possible signs of the gradients of all rows, from the output to the nodes that were not taken yet."""

    chain: ChainRule
    reached: dict[int, Possible] = field(default_factory=dict)

    @classmethod
    def of(cls, chain: ChainRule) -> SignSweep:
        """At the output, where they are those of the covectors."""
        return cls(chain, {chain.end: _covectors(chain)})

    def taken(self, node: int) -> Possible | None:
        """Those of the gradient at a node, (batch or 1, K, *node), after all later nodes; None if no path leads there.

        They are sent on to the sources of the node.
        """
        own = self.reached.pop(node, None)
        if own is None or node == 0:
            return own
        slopes = self.chain.slopes[node]
        through = own if slopes is None else own & Possible.of(slopes).map(lambda t: t.unsqueeze(1))
        for e in self.chain.edges[node]:
            sent = possible_image(e.operator.transpose(), through)
            self.reached[e.source] = self.reached[e.source] | sent if e.source in self.reached else sent
        return own


def possible_gradients(chain: ChainRule) -> Possible:
    """The possible signs of the gradient of each row by the input: (batch or 1, K, *input)."""
    signs = SignSweep.of(chain)
    for node in range(chain.end, 0, -1):
        signs.taken(node)
    found = signs.taken(0)
    if found is not None:
        return found
    none = torch.zeros((1, chain.rows, *chain.shapes[0]), dtype=torch.bool, device=chain.device)
    return Possible(none, none)


def _covectors(chain: ChainRule) -> Possible:
    """The signs of the covectors, (batch or 1, K, *output)."""
    if chain.covectors is not None:
        return Possible(chain.covectors > 0, chain.covectors < 0)
    size = prod(chain.shapes[-1])
    eye = torch.eye(size, dtype=torch.bool, device=chain.device).reshape(1, size, *chain.shapes[-1])
    return Possible(eye, torch.zeros_like(eye))


def _along(gradient: Possible, tangents: AbstractSeeds) -> Possible:
    """The possible signs of gradients times tangents: (batch or 1, K, R)."""
    if isinstance(tangents, Units):
        return gradient.map(tangents.entries)
    ways = tangents.tensor().flatten(3)
    terms = gradient.map(lambda t: t.flatten(2).unsqueeze(2)) & Possible(ways > 0, ways < 0)
    return terms.map(lambda t: t.any(3))
