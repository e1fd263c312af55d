"""Affine expressions in canonical form, which shows whether two of them depend on the same variable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any, final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.loading.expression import Builder, Expression
from recurjac.network import Constant, Edge, Stage
from recurjac.operators import AbstractOperator, Compose, Divide, Gather, Identity, Negate, Reshape, Scale, compose

_SLACK = 2.0**-48
"""The relative difference that a few float64 roundings can cause between equal numbers."""


@final
@dataclass(frozen=True)
class Term:
    """factor · core(h_source), or factor · core(tensor) where `source` is None."""

    source: int | None
    factor: float
    core: AbstractOperator
    tensor: Tensor | None = None

    def like(self, other: Term) -> bool:
        """Whether the two terms differ at most in their factors."""
        same = (self.source, self.tensor is None) == (other.source, other.tensor is None)
        return same and equal(self.tensor, other.tensor) and equal(self.core, other.core)


@final
@dataclass(frozen=True)
class Form:
    """Σ terms + shift, as a vector; the terms differ in their sources, operators or tensors.

    Live parameters stay in the terms, because the network follows them.
    """

    terms: tuple[Term, ...]
    shift: float

    @property
    def variable(self) -> bool:
        """Whether the form depends on the input."""
        return any(t.source is not None for t in self.terms)

    def multiple_of(self, other: Form) -> tuple[float, float] | None:
        """ρ and δ such that self = ρ other + δ; None if there are none."""
        if not other.variable or len(self.terms) != len(other.terms):
            return None
        ratios = []
        for term in other.terms:
            match = next((t for t in self.terms if t.like(term)), None)
            if match is None:
                return None
            ratios.append(match.factor / term.factor)
        if not all(close(r, ratios[0]) for r in ratios):
            return None
        moved = ratios[0] * other.shift
        return ratios[0], 0.0 if close(self.shift, moved) else self.shift - moved

    def without(self, term: Term) -> Form:
        return replace(self, terms=tuple(t for t in self.terms if t is not term))


def close(a: float, b: float) -> bool:
    """Whether two numbers differ only by rounding."""
    return abs(a - b) <= _SLACK * max(abs(a), abs(b))


def form(x: Expression) -> Form:
    return _form(x.builder, x.edges, x.constants, x.shape)


def _form(builder: Builder, edges: Sequence[Edge], constants: Sequence[Constant], shape: Shape) -> Form:
    flat = Identity(shape) if len(shape) == 1 else Reshape(shape, (prod(shape),))
    terms: list[Term] = []
    shift = 0.0
    for edge in edges:
        factor, core = _peeled(compose(flat, edge.operator), builder)
        terms = _joined(terms, Term(edge.source, factor, core))
    for constant in constants:
        factor, core = _peeled(compose(flat, constant.operator), builder)
        value = uniform(constant.tensor, builder)
        if value is not None and _keeps_all(core):
            shift += factor * value
        else:
            terms = _joined(terms, Term(None, factor, core, constant.tensor))
    return Form(tuple(t for t in terms if t.factor != 0), shift)


def _joined(terms: list[Term], new: Term) -> list[Term]:
    """The terms with a new one, which is merged into a like term if there is one."""
    for k, term in enumerate(terms):
        if term.like(new):
            return [*terms[:k], replace(term, factor=term.factor + new.factor), *terms[k + 1 :]]
    return [*terms, new]


def _peeled(operator: AbstractOperator, builder: Builder) -> tuple[float, AbstractOperator]:
    """The operator as a number times another operator; numbers commute with all operators."""
    if isinstance(operator, Compose):
        outer, inner = _peeled(operator.outer, builder), _peeled(operator.inner, builder)
        return outer[0] * inner[0], compose(outer[1], inner[1])
    if isinstance(operator, Negate):
        return -1.0, Identity(operator.in_shape)
    if isinstance(operator, Scale | Divide):
        value = uniform(operator.diagonal, builder)
        if value is not None:
            return (value if isinstance(operator, Scale) else 1 / value), Identity(operator.in_shape)
    return 1.0, operator


def uniform(t: Tensor, builder: Builder) -> float | None:
    """The common value of all entries; None if they differ, or if bounds are differentiable with respect to them."""
    if t.requires_grad or t.numel() == 0 or not bool((t == t.flatten()[0]).all()):
        return None
    builder.taken.append(t)
    return float(t.flatten()[0])


def _keeps_all(operator: AbstractOperator) -> bool:
    """Whether every output is an entry of the input."""
    if isinstance(operator, Gather):
        return len(operator.table) == 1 and bool((operator.table >= 0).all())
    return isinstance(operator, Identity | Reshape)


def equal(a: Any, b: Any) -> bool:
    """Whether two operators, tensors or settings are identical or have equal values."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, AbstractOperator):
        return all(equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))  # type: ignore[arg-type]
    return bool(a == b)


@final
@dataclass(frozen=True)
class Node:
    """factor · σ(before) + shift, where σ(before) is the output of a stage."""

    builder: Builder
    stage: Stage
    factor: float
    shift: float

    @property
    def before(self) -> Form:
        """The argument of σ as a form."""
        return _form(self.builder, self.stage.edges, self.stage.constants, self.stage.shape)

    def argument(self, like: Expression) -> Expression:
        """The argument of σ as an expression, in the shape of `like`, the expression that this node describes."""
        before = Expression(self.builder, self.stage.edges, self.stage.constants, self.stage.shape)
        return before.apply(Reshape(self.stage.shape, like.shape))


def node_of(x: Form, builder: Builder) -> Node | None:
    """The activation of which x is a multiple, entry by entry, plus a shift; None if there is none."""
    if len(x.terms) != 1 or not x.terms[0].source or not isinstance(x.terms[0].core, Identity | Reshape):
        return None
    stage = builder.stages[x.terms[0].source - 1]
    return None if stage.linear else Node(builder, stage, x.terms[0].factor, x.shift)
