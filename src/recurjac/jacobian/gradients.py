"""What is known of the gradient at every node of a chain rule; the backward counterpart of `PreactivationState`.

g_h is the derivative of each covector's output with respect to the output h of a node, and g_z with respect to its
pre-activation z (docs/mathematics.md, §1).  Methods bound g_h from the last node to the first.  Every method has its
own `Gradients` (a view), on the chain rule that suits it, so that the lines of one method do not change those of
another.  The bounds of all views are available through the object from which the views were made.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.network import Selection
from recurjac.preactivation import PreactivationState
from recurjac.preactivation.closed import norm_of
from recurjac.problem import Problem
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.push_route import AbstractPushRoute, PushRoute, StackedPushRoute
from recurjac.propagation.skeleton_pulled import between_unstable


@final
@dataclass
class Gradients:
    """Bounds [L, U] of g_h, and lines of g_z in terms of g_h, at the nodes of a chain rule; grows node by node.

    problem: the problem whose Jacobian it is; None for a part of a chain rule or a reversed one (`given`).
    stacked: whether the chain rule is a skeleton, in which every node reads all earlier nodes through matrices.
    combinations: (batch or 1, rows, *output), of the outputs whose gradients these are; None for all outputs.
    """

    problem: Problem | None = None
    given: ChainRule | None = None
    stacked: bool = False
    combinations: Tensor | None = None
    _bounds: dict[int, Interval] = field(default_factory=dict)
    _through: dict[int, Interval] = field(default_factory=dict)
    _routes: dict[Hashable, AbstractPushRoute] = field(default_factory=dict)
    _views: list[Gradients] = field(default_factory=list)

    @cached_property
    def state(self) -> PreactivationState:
        """The pre-activations from which the slopes are computed.  Raises ValueError without a problem."""
        if self.problem is None:
            raise ValueError("this chain rule is a part of another one; it has no pre-activations of its own")
        return self.problem.preactivations()

    @cached_property
    def chain(self) -> ChainRule:
        """The chain rule whose gradients these are."""
        if self.given is not None:
            return self.given
        whole = self.state.settled_chain()
        return whole if self.combinations is None else replace(whole, covectors=self.combinations, skeleton=None)

    def selection(self, node: int) -> Selection | None:
        """What is known of a node of the whole network that selects among entries of another; None: nothing."""
        if self.given is not None or node == 0:
            return None
        return self.state.stage(node).selection

    def closed_norm(self, node: int, p: float) -> tuple[int, Tensor] | None:
        """A node on which a node of the whole network depends in a closed form, and a bound of the norm; None: unknown.

        The bound is one of ‖·‖_{p→p} of the derivatives of this node by the other, (batch,).
        """
        if self.given is not None or node == 0:
            return None
        closed = self.state.closed(node)
        if closed is None:
            return None
        return closed.source, norm_of(closed, self.state.post(closed.source), p, self.state.arithmetic)

    def own(self) -> Gradients:
        """A view of the same chain rule for one method; `known` includes the bounds that it learns."""
        return self._view(self.chain, False)

    def shortened(self) -> Gradients:
        """A view on the exact skeleton if that is cheaper, otherwise without neurons of slope 0."""
        skeleton = self._skeleton
        return self._view(self._live, False) if skeleton is None else self._view(skeleton, True)

    @cached_property
    def _skeleton(self) -> ChainRule | None:
        return between_unstable(self.chain)

    @cached_property
    def _live(self) -> ChainRule:
        return self.chain.without_dead()

    def _view(self, chain: ChainRule, stacked: bool) -> Gradients:
        view = Gradients(self.problem, chain, stacked)
        self._views.append(view)
        return view

    def learn(self, node: int, bounds: Interval) -> None:
        """Intersect with bounds of g_h at a node, (batch or 1, K, *node), infinite where nothing is known."""
        known = self._bounds.get(node)
        self._bounds[node] = bounds if known is None else self.chain.arithmetic.intersect(known, bounds)
        self._through.pop(node, None)

    def at(self, node: int) -> Interval | None:
        """The bounds of g_h at a node that this object learned, (batch or 1, K, *node); None if there are none."""
        return self._bounds.get(node)

    def through(self, node: int) -> Interval | None:
        """Bounds of g_z at a node, from the bounds of g_h and the slopes; None if there are no bounds of g_h."""
        bounds = self._bounds.get(node)
        if bounds is None:
            return None
        if node not in self._through:
            self._through[node] = through_slopes(self.chain, node, bounds)
        return self._through[node]

    def known(self, node: int) -> Interval:
        """The bounds of g_h at a node of `chain` from all methods: (batch, K, *node), infinite where none is known."""
        shape = (self.chain.batch, self.chain.rows, *self.chain.shapes[node])
        end = torch.full(shape, torch.inf, dtype=self.chain.dtype, device=self.chain.device)
        found = Interval(-end, end)
        if node in self._bounds:
            found = self.chain.arithmetic.intersect(found, self._bounds[node].map(lambda t: t.expand(shape)))
        for view in self._views:
            for i, place in enumerate(_places(view.chain)):
                if place[0] == node:
                    found = self.chain.arithmetic.intersect(found, _placed(view.known(i), place[1], shape))
        return found

    def route(self, method: Hashable) -> AbstractPushRoute:
        """The route of a method's forms to the covectors, with the lines that the method has chosen so far."""
        if method not in self._routes:
            kind = StackedPushRoute if self.stacked else PushRoute
            self._routes[method] = kind(self.chain)
        return self._routes[method]


def through_slopes(chain: ChainRule, node: int, gradient: Interval) -> Interval:
    """Bounds of g_z from those of g_h at a node: the interval product with its slopes."""
    slopes = chain.slopes[node]
    if slopes is None:
        return gradient
    return chain.arithmetic.product(gradient, slopes.map(lambda t: t.unsqueeze(1)))


def _places(chain: ChainRule) -> list[tuple[int, Tensor | None]]:
    if chain.places is None:
        return [(node, None) for node in range(len(chain.shapes))]
    return [(p.node, p.index) for p in chain.places]


def _placed(bounds: Interval, index: Tensor | None, shape: tuple[int, ...]) -> Interval:
    """Bounds of the neurons `index` of a node as bounds of the whole node, infinite elsewhere."""
    if index is None:
        return bounds.map(lambda t: t.reshape(shape))
    blank = bounds.lower.new_full((*shape[:2], prod(shape[2:])), torch.inf)
    low, high = ((e * blank).index_copy(2, index, t.flatten(2)) for e, t in ((-1, bounds.lower), (1, bounds.upper)))
    return Interval(low.reshape(shape), high.reshape(shape))
