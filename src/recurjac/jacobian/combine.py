"""Methods that combine other methods: intersections of results, and intersections node by node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import final

from recurjac.arithmetic import Interval
from recurjac.errors import InvalidRequest
from recurjac.jacobian.base import AbstractJacobianMethod, AbstractNodewise, AbstractPrepared, Descended, descend
from recurjac.jacobian.gradients import Gradients
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import AbstractSeeds


@final
@dataclass(frozen=True, init=False)
class Intersection(AbstractJacobianMethod):
    """The intersection of the results of independent `methods`.  Raises InvalidRequest without a method.

    Chords and RecurJac share what is the same: their lines differ only where the sign of a gradient is unknown.
    """

    methods: tuple[AbstractJacobianMethod, ...]

    def __init__(self, *methods: AbstractJacobianMethod) -> None:
        if not methods:
            raise InvalidRequest("an intersection of no methods bounds nothing; give at least one")
        object.__setattr__(self, "methods", methods)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {}

    @property
    def title(self) -> str:
        return " ∩ ".join(m.title for m in self.methods)

    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        prepared: list[AbstractPrepared] = []
        for method in self.methods:
            found = method.prepare_beside(gradients, prepared)
            if not any(found is p for p in prepared):
                prepared.append(found)
        return prepared[0] if len(prepared) == 1 else All(gradients.chain, tuple(prepared))


@final
@dataclass(frozen=True)
class All(AbstractPrepared):
    """One chain rule prepared by several methods; their bounds are intersected."""

    whole: ChainRule
    prepared: tuple[AbstractPrepared, ...]

    @property
    def chain(self) -> ChainRule:
        return self.whole

    def push(self, tangents: AbstractSeeds) -> Interval:
        return reduce(self.chain.arithmetic.intersect, (p.push(tangents) for p in self.prepared))


@final
@dataclass(frozen=True, init=False)
class NodeIntersection(AbstractJacobianMethod):
    """The intersection of `methods` at every node, so that each method chooses its lines from the tightest bounds.

    The result is not always tighter than `Intersection` of the same methods, because tighter bounds of g at a node can
    make RecurJac's lines worse.  Raises InvalidRequest without a method.
    """

    methods: tuple[AbstractNodewise, ...]

    def __init__(self, *methods: AbstractNodewise) -> None:
        if not methods:
            raise InvalidRequest("an intersection of no methods bounds nothing; give at least one")
        object.__setattr__(self, "methods", methods)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractJacobianMethod]:
        return {}

    @property
    def title(self) -> str:
        return " ∩ ".join(m.title for m in self.methods) + ", node by node"

    def prepare(self, gradients: Gradients) -> AbstractPrepared:
        known = gradients.shortened()
        descend(known, self.methods)
        return Descended(known, self.methods)
