"""Sizes of rows that are written out: √(Σ x² / m + eps) over some entries, and quotients of rows by them.

What they are made of is compared exactly, as fractions and positions, so that nothing that differs by rounding or by
an axis is taken for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate
from math import isfinite, prod
from typing import final

import torch
from torch import Tensor

from recurjac.activations import AbstractActivation, FlooredPower, Power, Reciprocal, ReLU, Square
from recurjac.loading.expression import Builder, Expression, Squares
from recurjac.loading.readers.choices import merged
from recurjac.loading.rewrites.forms import equal, uniform
from recurjac.network import Constant, Edge, Stage
from recurjac.operators import AbstractOperator, Compose, Divide, Gather, Identity, Negate, Reshape, Scale, compose

_MOST = 2**23
"""The largest number of positions that a term may read in all."""


@final
@dataclass(frozen=True)
class Part:
    """factor · T core(h), where T sums the entries at positions `table` (terms, entries) of core(h), -1 for none.

    term: the edge or the constant that it is.  core: None if there is none.
    """

    term: Edge | Constant
    factor: Fraction
    table: Tensor
    core: AbstractOperator | None

    @property
    def source(self) -> int | None:
        """The node that is read; None if it is a constant."""
        return self.term.source if isinstance(self.term, Edge) else None

    @property
    def node(self) -> int | None:
        """The stage of which every entry is one entry; None if it is something else."""
        plain = self.source and self.core is None and len(self.table) == 1 and bool((self.table >= 0).all())
        return self.source if plain else None

    def reads_like(self, other: Part, builder: Builder) -> bool:
        """Whether both read the same numbers core(h), now and as long as the network may be used."""
        if self.source != other.source:
            return False
        if isinstance(self.term, Constant) and isinstance(other.term, Constant):
            return _same(self.term.tensor, other.term.tensor, builder) and _same_operators(self, other, builder)
        return _same_operators(self, other, builder)

    def same_as(self, other: Part, builder: Builder) -> bool:
        """Whether both are the same numbers, but for their factors."""
        return (
            self.table.shape == other.table.shape
            and torch.equal(self.table, other.table)
            and self.reads_like(other, builder)
        )


def _same(a: Tensor, b: Tensor, builder: Builder) -> bool:
    if a is b:
        return True
    if a.requires_grad or b.requires_grad or not equal(a, b):
        return False
    builder.taken.extend((a, b))
    return True


def _same_operators(one: Part, other: Part, builder: Builder) -> bool:
    a, b = one.core, other.core
    if a is b:
        return True
    if a is None or b is None or not equal(a, b):
        return False
    return all(_same(s, t, builder) for s, t in zip(a.tensors(), b.tensors(), strict=True))


def parts(x: Expression) -> list[Part] | None:
    """The terms of x, flattened; None if one of them reads too much."""
    flat = Reshape(x.shape, (prod(x.shape),))
    terms: list[Edge | Constant] = [*x.edges, *x.constants]
    found = [_part(x.builder, term, compose(flat, term.operator)) for term in terms]
    known = [p for p in found if p is not None]
    return known if len(known) == len(found) else None


def _part(builder: Builder, term: Edge | Constant, operator: AbstractOperator) -> Part | None:
    factor, table = Fraction(1), torch.arange(prod(operator.out_shape)).unsqueeze(0)
    rest: AbstractOperator | None = operator
    while rest is not None:
        outer, inner = (rest.outer, rest.inner) if isinstance(rest, Compose) else (rest, None)
        number = _number(outer, builder)
        if number is not None:
            factor *= number
        elif isinstance(outer, Gather):
            if len(outer.table) * table.numel() > _MOST:
                return None
            read = outer.table.cpu()[:, table.clamp(min=0)]
            table = torch.where(table >= 0, read, -1).flatten(0, 1)
        elif not isinstance(outer, Identity | Reshape):
            break
        rest = inner
    if rest is not None:
        rest = compose(Reshape(rest.out_shape, (prod(rest.out_shape),)), rest)
    return Part(term, factor, table, rest)


def _number(operator: AbstractOperator, builder: Builder) -> Fraction | None:
    """The number by which an operator multiplies every entry."""
    if isinstance(operator, Negate):
        return Fraction(-1)
    if not isinstance(operator, Scale | Divide):
        return None
    value = uniform(operator.diagonal, builder)
    if value is None or not isfinite(value) or value == 0:
        return None
    return Fraction(value) if isinstance(operator, Scale) else 1 / Fraction(value)


def _same_parts(some: Sequence[Part], others: Sequence[Part], builder: Builder) -> bool:
    """Whether both are the same sum, term by term."""
    left = list(others)
    for part in some:
        match = next((p for p in left if p.factor == part.factor and part.same_as(p, builder)), None)
        if match is None:
            return False
        left.remove(match)
    return not left


def squares_in(x: Expression) -> Squares | None:
    """The sums of squares that x is, entry by entry; None if it is something else."""
    found = parts(x)
    variable = [] if found is None else [p for p in found if p.source is not None]
    eps = None if found is None else _shift([p for p in found if p.source is None], x)
    if not variable or eps is None or eps < 0 or any(p.factor != variable[0].factor for p in variable):
        return None
    stages = {p.source: x.builder.stages[p.source - 1] for p in variable if p.source}
    squared = all(p.source and isinstance(stages[p.source].activation, Square) and p.core is None for p in variable)
    if not squared:
        return None
    arguments = {node: _argument(x.builder, stage) for node, stage in stages.items()}
    before = dict(zip(arguments, accumulate((prod(a.shape) for a in arguments.values()), initial=0), strict=False))
    rows = torch.cat([p.table.T + before[p.source] for p in variable if p.source], 1)
    reads = all(bool((p.table >= 0).all()) for p in variable)
    divisor = 1 / variable[0].factor if variable[0].factor > 0 else Fraction(0)
    if not reads or not _fits(rows, divisor):
        return None
    return Squares(_side_by_side(list(arguments.values())), rows, int(divisor), float(eps))


def _side_by_side(some: Sequence[Expression]) -> Expression:
    """One expression of all entries: the expression itself if there is one, otherwise a vector."""
    if len(some) == 1:
        return some[0]
    joined: Expression = merged(lambda *tensors: torch.cat([t.reshape(1, -1) for t in tensors], 1), *some)
    return joined


def _fits(rows: Tensor, divisor: Fraction) -> bool:
    """Whether each row reads some entries, none of them twice, and the divisor is a number of them."""
    ordered = rows.sort(1).values
    whole = divisor.denominator == 1 and 0 < divisor <= _MOST
    return whole and rows.numel() > 0 and bool((rows >= 0).all()) and bool((ordered.diff(dim=1) > 0).all())


def _argument(builder: Builder, stage: Stage) -> Expression:
    return Expression(builder, stage.edges, stage.constants, stage.shape)


def _shift(constants: Sequence[Part], x: Expression) -> Fraction | None:
    """The one number that constants add to every entry, exact in the dtype; None if there is none."""
    total = Fraction(0)
    for part in constants:
        value = uniform(part.term.tensor, x.builder) if isinstance(part.term, Constant) else None
        plain = part.core is None and len(part.table) == 1 and bool((part.table >= 0).all())
        if value is None or not plain or not isfinite(value):
            return None
        total += part.factor * Fraction(value)
    stored = torch.tensor(float(total), dtype=torch.float64).to(x.dtype)
    return total if Fraction(float(stored)) == total else None


@final
@dataclass(frozen=True)
class Size:
    """max(√(squares), floor) + shift of a row for each entry of an expression, or its inverse.

    owner: which row, for the flat entries.
    """

    squares: Squares
    floor: float
    shift: float
    owner: Tensor


def size_of(x: Expression) -> Size | None:
    """What x is, if every entry is a size of a row, or the larger of it and a number, plus a number; None if not."""
    found = _entries(x)
    if found is None:
        return None
    node, owner, shift = found
    squares = x.builder.sizes.get(node)
    if squares is not None:
        return Size(squares, 0.0, float(shift), owner) if shift >= 0 else None
    stage = x.builder.stages[node - 1]
    inner = _entries(_argument(x.builder, stage)) if isinstance(stage.activation, ReLU) else None
    squares = None if inner is None else x.builder.sizes.get(inner[0])
    if inner is None or squares is None or not inner[2] == -shift < 0:
        return None
    return Size(squares, float(shift), 0.0, inner[1][owner])  # max(s, m) = relu(s - m) + m


def _entries(x: Expression) -> tuple[int, Tensor, Fraction] | None:
    """The node of which all entries of x are entries, plus one number; their positions, and the number."""
    found = parts(x)
    variable = [] if found is None else [p for p in found if p.source is not None]
    if found is None or len(variable) != 1 or variable[0].node is None or variable[0].factor != 1:
        return None
    shift = _shift([p for p in found if p.source is None], x)
    return None if shift is None else (variable[0].node, variable[0].table[0], shift)


def inverse_size_of(x: Expression) -> Size | None:
    """What x is, if every entry is the inverse of a size of a row plus a number; None if it is something else."""
    found = parts(x)
    if found is None or len(found) != 1 or found[0].node is None or found[0].factor != 1:
        return None
    stage = x.builder.stages[found[0].node - 1]
    size = size_of(_argument(x.builder, stage)) if _inverts(stage.activation) else None
    return None if size is None else replace(size, owner=size.owner[found[0].table[0]])


def _inverts(activation: AbstractActivation) -> bool:
    return isinstance(activation, Reciprocal) or (
        isinstance(activation, FlooredPower | Power) and activation.exponent == -1
    )


def divides(size: Size, x: Expression) -> bool:
    """Whether x is what the size is of, and each entry of x is in the row of its own entry of the size."""
    squares, rows = size.squares.x, size.squares.rows
    if not prod(squares.shape) == prod(x.shape) == rows.numel() == len(size.owner):
        return False
    own = torch.full((prod(x.shape),), -1)
    own[rows.flatten()] = torch.arange(len(rows)).repeat_interleave(rows.shape[1])
    numerator, squared = parts(x), parts(squares)
    if numerator is None or squared is None or not torch.equal(own, size.owner):
        return False
    return _same_parts(numerator, squared, x.builder)


def less_mean(x: Expression, rows: Tensor) -> Expression | None:
    """The expression of which x is what remains where each row loses its mean; None if it is something else."""
    found = parts(x)
    if found is None:
        return None
    own = [p for p in found if len(p.table) == 1]
    means, count = [p for p in found if len(p.table) > 1], rows.shape[1]
    owner = torch.empty(rows.numel(), dtype=torch.int64)
    owner[rows.flatten()] = torch.arange(len(rows)).repeat_interleave(count)
    for part in own:
        read = part.table[0][rows].sort(1).values[owner].T  # what the mean of each entry's row reads
        match = next((m for m in means if _is_mean(m, part, read, x.builder)), None)
        if match is None:
            return None
        means.remove(match)
    if means or not own or count == 1:
        return None
    edges = tuple(p.term for p in own if isinstance(p.term, Edge))
    constants = tuple(p.term for p in own if isinstance(p.term, Constant))
    return replace(x, edges=edges, constants=constants)


def _is_mean(mean: Part, part: Part, read: Tensor, builder: Builder) -> bool:
    """Whether a term is minus the mean of what another term gives, over entries at positions (n, entries)."""
    if mean.factor * len(read) != -part.factor or mean.table.shape != read.shape:
        return False
    return torch.equal(mean.table.sort(0).values, read) and mean.reads_like(part, builder)
