"""The intersection of several methods is a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import final

from recurjac.arithmetic import Interval
from recurjac.errors import InvalidRequest
from recurjac.jacobian.base import AbstractJacobianMethod, AbstractPrepared
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.forms import AbstractSeeds


@final
@dataclass(frozen=True, init=False)
class Intersection(AbstractJacobianMethod):
    """Every bound is the tightest of those of `methods`.  Raises InvalidRequest without a method."""

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

    def prepare(self, chain: ChainRule) -> AbstractPrepared:
        return _All(chain, tuple(m.prepare(chain) for m in self.methods))


@final
@dataclass(frozen=True)
class _All(AbstractPrepared):
    chain: ChainRule
    prepared: tuple[AbstractPrepared, ...]

    def push(self, tangents: AbstractSeeds) -> Interval:
        return reduce(self.chain.arithmetic.intersect, (p.push(tangents) for p in self.prepared))
