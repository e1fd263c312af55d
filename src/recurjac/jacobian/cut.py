"""Cuts: nodes that all paths go through, where the Jacobian is a product of two (docs/mathematics.md, §5.7)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.errors import expect_counts
from recurjac.jacobian.base import AbstractAround, AbstractJacobianMethod, AbstractPrepared
from recurjac.jacobian.combine import All
from recurjac.jacobian.gradients import Gradients, through_slopes
from recurjac.operators.base import one_hot
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import AbstractSeeds, DenseForms


@final
@dataclass(frozen=True)
class Cut(AbstractAround):
    """`method`, intersected with interval products J_out · J_in at nodes that all paths go through.

    J_out and J_in are bounded by `method`.  A node is used if each output depends on at most `most` of its neurons, and
    some slopes before it and some slopes at or after it are not known exactly.  With one neuron, as with an activation
    on top of an output, the product keeps the sign of J_in, which a common slope σ' >= 0 cannot change.
    Where there are many such nodes, as in a closed loop, those nearest to the outputs are used: each takes as long as
    the whole chain rule does without it (`planner.cuts`).
    Without such a node, only `method` runs; the title is therefore that of `method`.
    Source: docs/mathematics.md, §5.7.
    """

    method: AbstractJacobianMethod
    most: int = 2

    def __post_init__(self) -> None:
        expect_counts("Cut", most=self.most)

    def of(self, method: AbstractJacobianMethod) -> Cut:
        return replace(self, method=method)

    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        whole, chain = self.method.prepare(gradients), gradients.chain
        cuts = list(_cuts(chain, self.most))[-chain.planner.cuts(chain.end) :]
        products = tuple(self._product(chain, k, read) for k, read in cuts)
        return All(chain, (whole, *products)) if products else whole

    def _product(self, chain: ChainRule, node: int, read: Tensor) -> _Product:
        """The product at a node; read: (K, n), the neurons on which each output depends."""
        outer = self.method.prepare(Gradients(given=chain.starting_at(node))).push_all()
        outer = outer.map(lambda t: t.reshape(*t.shape[:2], *chain.shapes[node]))
        outer = through_slopes(chain, node, outer).map(lambda t: t.flatten(2))
        used = read.any(0).nonzero().flatten()
        rows = one_hot(used.reshape(1, -1), chain.shapes[node], chain.dtype)
        inner = self.method.prepare(Gradients(given=_up_to(chain, node, rows)))
        index, present = _positions(read[:, used])
        factors = outer.map(lambda t: torch.where(present, t.gather(2, used[index].expand(len(t), -1, -1)), 0.0))
        return _Product(chain, inner, index, factors)


@final
@dataclass(frozen=True)
class _Product(AbstractPrepared):
    """J_out · J_in: for each output, a few rows of J_in with intervals as factors.

    index: (K, m), positions among the rows of `inner`.  factors: (B, K, m), 0 where an output has fewer rows.
    """

    whole: ChainRule
    inner: AbstractPrepared
    index: Tensor
    factors: Interval

    @property
    def chain(self) -> ChainRule:
        return self.whole

    def push(self, tangents: AbstractSeeds) -> Interval:
        arithmetic, found = self.chain.arithmetic, self._inner(tangents)
        terms = [
            arithmetic.product(
                self.factors.map(lambda t, i=i: t[:, :, i : i + 1]), found.map(lambda t, i=i: t[:, :, i])
            )
            for i in range(self.index.shape[1])
        ]
        return self._whole(arithmetic.sum(terms))

    def _inner(self, tangents: AbstractSeeds) -> Interval:
        """Bounds of the rows of J_in that each output needs, times its tangents: (B, K, m, R)."""
        index = self.index
        if not isinstance(tangents, DenseForms) or tangents.coefficients.shape[1] == 1:
            return self.inner.push(tangents).map(lambda t: t[:, index])
        own, (rows, count) = tangents.coefficients, tangents.coefficients.shape[1:3]
        flat = own.reshape(len(own), 1, rows * count, *own.shape[3:])
        found = self.inner.push(DenseForms(flat, tangents.arithmetic))
        each = torch.arange(rows, device=index.device).unsqueeze(1)
        return found.map(lambda t: t.reshape(*t.shape[:2], rows, count)[:, index, each])


def _cuts(chain: ChainRule, most: int) -> Iterator[tuple[int, Tensor]]:
    """The nodes to use, each with the neurons on which each output depends, (K, n)."""
    uncertain = [k for k in range(1, chain.end) if chain.unstable(k) is not None]
    if not uncertain:
        return
    for k in range(uncertain[0] + 1, uncertain[-1] + 1):
        passed = any(e.source < k < target for target, into in enumerate(chain.edges) for e in into)
        read = None if passed else _read(chain, k, most)
        if read is not None:
            yield k, read


def _read(chain: ChainRule, node: int, most: int) -> Tensor | None:
    """The neurons of a cut on which each output depends, (K, n); None if there are none, or more than `most`."""
    n = prod(chain.shapes[node])
    if n <= most:
        return torch.ones(chain.rows, n, dtype=torch.bool, device=chain.device)
    out = chain.successors(node)
    if any(e.source != chain.end for e in out):
        return None
    read = torch.zeros(chain.rows, n, dtype=torch.bool, device=chain.device)
    for e in out:
        rows = chain.gradient_rows(e.operator)
        read = read | ((rows.lower() != 0) | (rows.upper() != 0)).flatten(2).any(0)
    return read if bool(read.any()) and int(read.sum(1).max()) <= most else None


def _positions(read: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of (K, n), the positions of its True entries, padded: (K, m), and which are not padding."""
    m = max(1, int(read.sum(1).max()))
    order = read.to(torch.int8).sort(dim=1, descending=True, stable=True)
    return order.indices[:, :m], order.values[:, :m].bool()


def _up_to(chain: ChainRule, node: int, covectors: Tensor) -> ChainRule:
    """The chain rule of the pre-activation of a node, with `covectors` (1, K, *node)."""
    return replace(
        chain,
        shapes=chain.shapes[: node + 1],
        edges=chain.edges[: node + 1],
        slopes=(*chain.slopes[:node], None),
        covectors=covectors,
        skeleton=None,
        places=None,
    )
