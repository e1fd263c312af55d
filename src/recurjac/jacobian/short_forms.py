"""Forms of a network in which products of matrices, softmax and normalisations are single steps.

The stages in between, such as the products of all entries of two matrices, are not read (docs/mathematics.md, §5.13).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.activations import slope_lines
from recurjac.arithmetic import Ball, Interval
from recurjac.jacobian.form_algebra import FormAlgebra, constant, moved
from recurjac.jacobian.jets import Enclosed
from recurjac.jacobian.row_steps import AbstractRowStep, row_step
from recurjac.jacobian.steps import Steps
from recurjac.network import Closed, Edge, MatrixProduct, Stage
from recurjac.operators import AbstractOperator, Reshape
from recurjac.propagation.affine_forms import band

_LEAST = 1e-3
"""The least share of a range that a rest has, if it becomes a noise."""


@final
@dataclass
class ShortForms:
    """The values of all nodes of `steps`, carried forward, and then gradients of outputs, carried back.

    values: of nodes that are still to be read.  slopes: at nodes with an activation, and at both factors of a product.
    pairs: the factors of products of matrices.  rows: the steps of softmax and normalisations.
    """

    steps: Steps
    algebra: FormAlgebra
    values: dict[int, Enclosed] = field(default_factory=dict)
    slopes: dict[int, Enclosed] = field(default_factory=dict)
    pairs: dict[int, tuple[Enclosed, Enclosed]] = field(default_factory=dict)
    rows: dict[int, AbstractRowStep] = field(default_factory=dict)

    @classmethod
    def of(cls, steps: Steps, algebra: FormAlgebra) -> ShortForms:
        """All that gradients need to know of the values."""
        found, symbols, last = cls(steps, algebra), algebra.symbols, steps.last_reads()
        found.values[0] = Enclosed(symbols.start(), symbols.region.box(symbols.arithmetic))
        for k in list(steps.stages)[:-1]:
            found.values[k] = found._value(k)
            for node in [n for n in found.values if last.get(n, 0) <= k and n != k]:
                del found.values[node]
        found.values.clear()
        return found

    def _value(self, k: int) -> Enclosed:
        """The value of a node, from those that it reads."""
        stage = self.steps.stages[k]
        if stage.closed is not None:
            return self._rows(k, stage.closed, stage.shape)
        if stage.matrices is not None:
            return self._product(k, stage.matrices, stage.shape)
        z = self._read(stage.edges, stage.bias(self.algebra.arithmetic), stage.shape)
        if stage.linear:
            return z
        return self._activated(k, stage, z) if stage.factor is None else self._factor(k, stage.factor.other, z)

    def _read(self, edges: Sequence[Edge], bias: Ball | None, shape: Shape) -> Enclosed:
        return self.algebra.image([(e.operator, self.values[e.source]) for e in edges], bias, shape)

    def _rows(self, k: int, closed: Closed, shape: Shape) -> Enclosed:
        z = self._read([Edge(closed.source, closed.rows)], None, closed.rows.out_shape)
        step = row_step(closed.function, self.algebra, z)
        self.rows[k] = step.valued(self._named(k, step.value))
        return self.algebra.image([(closed.back, self.rows[k].value)], None, shape)

    def _product(self, k: int, product: MatrixProduct, shape: Shape) -> Enclosed:
        a, b = (self._read([e], None, e.operator.out_shape) for e in (product.first, product.second))
        self.pairs[k] = a, b
        found = self._named(k, self.algebra.matrices(a, b))
        return self.algebra.image([(Reshape(product.out_shape, shape), found)], None, shape)

    def _activated(self, k: int, stage: Stage, z: Enclosed) -> Enclosed:
        algebra, activation = self.algebra, stage.activation
        arithmetic, region = algebra.arithmetic, z.bounds
        steep = band(region, [slope_lines(activation, region, 0.5, arithmetic)], arithmetic)
        self.slopes[k] = algebra.banded(z, steep, activation.slope_range(region, arithmetic))
        choices = [activation.lines(region, arithmetic), activation.parallel_lines(region, arithmetic)]
        values = activation.value_range(region, arithmetic)
        return self._named(k, algebra.banded(z, band(region, choices, arithmetic), values))

    def _factor(self, k: int, other: int, z: Enclosed) -> Enclosed:
        """The slope at the other factor; all of the product is the value of the second one."""
        self.slopes[k + other] = z
        if other > 0:
            return constant(Interval.point(torch.zeros_like(z.bounds.lower)), self.algebra.arithmetic)
        return self._named(k, self.algebra.product(z, self.slopes[k]))

    def _named(self, k: int, found: Enclosed) -> Enclosed:
        steps = self.steps
        left = steps.entries(k, steps.end) + steps.entries(1, steps.end)
        return self._with_noises(self.algebra, found, left)

    def _with_noises(self, algebra: FormAlgebra, found: Enclosed, left: int) -> Enclosed:
        """With new noises for all rests of a narrow node, or for a share of them that leaves enough for others.

        Where most rests of a node have noises, little of what is lost before it is multiplied by the sizes of weights.
        left: how many entries of narrow nodes there are from here on.
        """
        symbols, width = algebra.symbols, found.bounds.width
        size, room = width[0].numel(), symbols.limit - symbols.noises
        if size > self.steps.most or left <= 0:
            return found
        share = size if left <= room else room * size // left
        return Enclosed(symbols.named(found.forms, _LEAST * width, share), found.bounds)

    def gradient(self, covector: Ball) -> Enclosed:
        """The gradient at the input of covector · f, for a covector (B or 1, *output): (B, *input).

        Its noises are its own: those of the gradients of other outputs have the same numbers.
        """
        algebra, depth = FormAlgebra(replace(self.algebra.symbols)), self.steps.end
        begin = algebra.arithmetic.between(covector, covector)
        size = algebra.symbols.region.batch
        begin = begin.map(lambda t: t.expand(size, *t.shape[1:]))
        back: dict[int, list[_Term]] = {depth: [_Term(None, constant(begin, algebra.arithmetic))]}
        for k in reversed(list(self.steps.stages)):
            arrived = _arrived(algebra, back.pop(k, []), self.steps.shape(k))
            for source, term in self._through(algebra, k, arrived):
                back.setdefault(source, []).append(term)
        return _arrived(algebra, back.pop(0, []), self.steps.input_shape)

    def _through(self, algebra: FormAlgebra, k: int, g: Enclosed) -> Iterator[tuple[int, _Term]]:
        """The terms of the gradients at the nodes that node k reads."""
        stage, left = self.steps.stages[k], self.steps.entries(1, k + 1)
        if stage.closed is not None:
            closed = stage.closed
            g = algebra.image([(closed.back.transpose(), g)], None, closed.rows.out_shape)
            g = self._with_noises(algebra, self.rows[k].pulled(algebra, g), left)
            yield closed.source, _Term(closed.rows.transpose(), g)
        elif stage.matrices is not None:
            yield from self._through_product(algebra, k, stage.matrices, g)
        else:
            if not stage.linear:
                g = self._with_noises(algebra, algebra.product(g, self.slopes[k]), left)
            for e in stage.edges:
                yield e.source, _Term(e.operator.transpose(), g)

    def _through_product(
        self, algebra: FormAlgebra, k: int, product: MatrixProduct, g: Enclosed
    ) -> Iterator[tuple[int, _Term]]:
        """With C = A Bᵀ, the gradients are G B and Gᵀ A."""
        shape, left = self.steps.shape(k), self.steps.entries(1, k + 1)
        g = algebra.image([(Reshape(shape, product.out_shape), g)], None, product.out_shape)
        a, b = self.pairs[k]
        for own, other, edge in ((g, b, product.first), (moved(g, _turned), a, product.second)):
            found = self._with_noises(algebra, algebra.matrices(own, moved(other, _turned)), left)
            yield edge.source, _Term(edge.operator.transpose(), found)


@final
@dataclass(frozen=True)
class _Term:
    """A gradient, and the operator that carries it to a node that was read; None: it is there already."""

    operator: AbstractOperator | None
    gradient: Enclosed


def _arrived(algebra: FormAlgebra, terms: Sequence[_Term], shape: Shape) -> Enclosed:
    """The gradient at a node, from those at the nodes that read it."""
    if len(terms) == 1 and terms[0].operator is None:
        return terms[0].gradient
    return algebra.image([(t.operator, t.gradient) for t in terms if t.operator is not None], None, shape)


def _turned(t: Tensor) -> Tensor:
    return t.mT
