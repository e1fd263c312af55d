"""What a program in floating point makes of one stage of a network: how far its numbers are from exact ones.

The model.  The program computes each number z = Σ A h + b of a stage from its own numbers h as a sum of products: one
product for each path from an entry of an h, or of a constant, through the coefficients of the operators.  Products are
multiplied and summed in any order, factors may be multiplied before or after sums, with or without fused operations,
and every sum, product, quotient and root is rounded to nearest, but roots only up to one unit of the last place.
Weights and constants may have been rounded to the program's precision before, and numbers below the smallest normal
number may be flushed to 0.  It then applies the activation.  An operation that is read as several stages, such as a
maximum, has numbers between them that the program does not compute; these are exact functions of those that it does.

Source: docs/mathematics.md, §8.4; Higham, Accuracy and Stability of Numerical Algorithms, ch. 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

import torch
from torch import Tensor

from recurjac.activations import Abs, AbstractActivation, HardTanh, LeakyReLU, PReLU, ReLU, ReLU6, Sigmoid, Tanh
from recurjac.activations import Identity as NoActivation
from recurjac.arithmetic import Ball, Deployed, Interval, summed
from recurjac.network import Network, Stage
from recurjac.operators import (
    AbstractLeaf,
    AbstractOperator,
    Compose,
    Convolution,
    CumulativeSum,
    Dense,
    Divide,
    Gather,
    Negate,
    Reshape,
    Scale,
    Standardise,
    TransposedConvolution,
)
from recurjac.operators import Identity as Same
from recurjac.operators.scale import AbstractDiagonal

_EXACT = (NoActivation, ReLU, Abs, ReLU6)
"""Activations that a program computes without rounding."""
_SCALED = (LeakyReLU, PReLU)
_LIBRARY = (Tanh, Sigmoid)
"""Functions of a library, with the errors that `Deployed` states."""
_OPERATORS = (
    Same, Reshape, Negate, Gather, Dense, Convolution, TransposedConvolution, Scale, Divide, Standardise, CumulativeSum,
)  # fmt: skip
_MORE = 3
"""How many roundings more than it has summands a factor of a composition has: its weight, a reciprocal, a root."""


def check_program(network: Network, deployed: Deployed) -> None:
    """Raise InvalidRequest, naming the stage, for a network whose programs the model does not describe."""
    for what in network.otherwise:
        deployed.refuse(f"a program computes {what} from other numbers than those it is read as")
    for k, stage in enumerate(network.stages, 1):
        activation = stage.activation
        if stage.closed is not None:
            deployed.refuse(f"stage {k} is a function of rows, such as a softmax or a normalisation")
        if not isinstance(activation, (*_EXACT, *_SCALED, *_LIBRARY, HardTanh)):
            known = ", ".join(kind.name for kind in (*_EXACT[1:], *_SCALED, *_LIBRARY, HardTanh))
            deployed.refuse(f"stage {k} has the activation {activation.name}; known are {known}")
        for operator in (*(e.operator for e in stage.edges), *(c.operator for c in stage.constants)):
            for leaf in _leaves(operator):
                if not isinstance(leaf, _OPERATORS):
                    deployed.refuse(f"stage {k} has the operator {type(leaf).__name__}, whose programs are not known")


def input_error(size: Tensor, deployed: Deployed) -> Tensor:
    """Upper bounds of what rounding the inputs, of at most this size, to the program's precision changes."""
    return _scaled(size, deployed.unit, deployed.tiny, deployed)


def stage_error(stage: Stage, sources: Sequence[Tensor], deployed: Deployed) -> Tensor:
    """Upper bounds (batch, *stage) of |ẑ - (Σ A ĥ + b)| for numbers ĥ of the program with |ĥ| <= `sources`.

    sources: for each edge, (batch, *source), float64.  With N as below, every product m of a path meets at most N
    roundings, each a factor 1 + δ or 1 / (1 + δ) with |δ| <= u, so that

        |ẑ - Σ m|  <=  γ_N Σ |m| + 8 N η Σ Π max(1, |factor|),        Σ |m| = Σ |A| |ĥ| + |b|.

    N counts, for every term of the stage, the summands of each operator and three more (`_MORE`), one for the sum of
    the terms, and one for a constant's own rounding; all terms together, because a program may sum them as one sum.
    With `Deployed.sums`, an operator's summands count up to one more, that of the product itself.
    The last part is underflow: an operation whose operands or result are flushed to 0 is off by at most 3 η (1 + γ_N)
    times the other factor, which the rest of the path multiplies; every flush is counted with one of the paths that
    meet in it, and γ_N <= 1.  Where 2 Σ Π max(1, |factor|) is less than the largest number, nothing overflows:
    it is not less than twice any partial sum of any partial products.  Elsewhere the bound is infinite.
    """
    real, batch = deployed.real, len(sources[0]) if sources else 1
    terms = [(e.operator, size) for e, size in zip(stage.edges, sources, strict=True)]
    terms += [(c.operator, c.tensor.detach().abs().unsqueeze(0)) for c in stage.constants]
    if not terms:
        return torch.zeros(batch, *stage.shape, dtype=torch.float64)
    roundings = sum(_roundings(o, deployed) + 1 for o, _ in terms) + len(stage.constants)
    sizes = _sum([absolute(o).push(real.exact(size)).upper() for o, size in terms], deployed)
    paths = _sum([_paths(o, size, deployed) for o, size in terms], deployed).reshape(-1, *[1] * len(stage.shape))
    lost = _scaled(paths, 8 * roundings * deployed.tiny, 0.0, deployed)
    error = _sum([_scaled(sizes, deployed.gamma(roundings), 0.0, deployed), lost], deployed)
    error = torch.where(2 * paths < deployed.largest, error, inf)
    return error.nan_to_num(inf, inf).expand(batch, *stage.shape)


def activation_error(activation: AbstractActivation, values: Interval, deployed: Deployed) -> Tensor:
    """Upper bounds of |ĥ - σ(ẑ)|, where `values` has σ(ẑ); both of the shape (batch, *stage).

    A slope of a leaky ReLU is rounded, and its product; the ends of a clamp may be rounded.  A unit of the last place
    of y is at most 2 u |y|, or less than η if y is subnormal.
    """
    size = values.magnitude.detach()
    if isinstance(activation, _SCALED):
        return _scaled(size, deployed.gamma(2), 3 * deployed.tiny, deployed)
    if isinstance(activation, _LIBRARY):
        slack = (deployed.ulps + 2) * deployed.tiny + deployed.absolute
        return _scaled(size, 2 * deployed.ulps * deployed.unit, slack * (1 + 2.0**-50), deployed)
    if isinstance(activation, HardTanh):
        ends = torch.tensor(activation.kinks, dtype=torch.float64)
        moved = float((ends - ends.to(deployed.dtype).double()).abs().max())  # without rounding, by Sterbenz's lemma
        return torch.full_like(size, moved)
    return torch.zeros_like(size)


def absolute(operator: AbstractOperator) -> AbstractOperator:
    """|A_1| … |A_n| for a composition A_1 … A_n; its coefficients are sums over all paths of products of sizes."""
    if isinstance(operator, Compose):
        return Compose(absolute(operator.outer), absolute(operator.inner))
    assert isinstance(operator, AbstractLeaf)  # noqa: S101  # (narrows the type; `check_program` has checked)
    return operator.absolute()


def _leaves(operator: AbstractOperator) -> Iterator[AbstractOperator]:
    """The factors of a composition, the innermost first."""
    if isinstance(operator, Compose):
        yield from _leaves(operator.inner)
        yield from _leaves(operator.outer)
    else:
        yield operator


def _roundings(operator: AbstractOperator, deployed: Deployed) -> int:
    """How many roundings a product of a path meets on its way through the operator; none if entries are only moved.

    A diagonal operator has no sums, but up to four roundings of its own, which are its `summands`.
    """
    leaves = [leaf for leaf in _leaves(operator) if isinstance(leaf, AbstractLeaf) and leaf.summands]
    most = inf if deployed.sums is None else deployed.sums + 1
    return sum(_MORE + (leaf.summands if isinstance(leaf, AbstractDiagonal) else int(min(leaf.summands, most)))
               for leaf in leaves)  # fmt: skip


def _paths(operator: AbstractOperator, size: Tensor, deployed: Deployed) -> Tensor:
    """Upper bounds, (batch,), of Σ Π max(1, |factor|) over the paths to any one entry of the result.

    One factor is the source, at most `size`.  The sum over the coefficients of one row of an operator is at most the
    row's sum of sizes and its number of summands.
    """
    real = deployed.real
    most = (size.flatten(1).amax(1) if size[0].numel() else size.new_zeros(len(size))).clamp(min=1)
    for leaf in _leaves(operator):
        assert isinstance(leaf, AbstractLeaf)  # noqa: S101  # (narrows the type; `check_program` has checked)
        if not _divides_safely(leaf, deployed):
            return torch.full_like(most, inf)
        row = leaf.norm(inf, real).detach().to(most)
        factor = (real.exact(row) + real.exact(row.new_tensor(float(leaf.summands)))).upper().clamp(min=1)
        most = (real.exact(most) * real.exact(factor)).upper()
    return most


def _divides_safely(leaf: AbstractLeaf, deployed: Deployed) -> bool:
    """Whether divisors neither overflow nor come so near to 0 that a flush would change them much."""
    if isinstance(leaf, Divide):
        size = leaf.divisor.detach().abs()
        return bool(((size >= 2 * deployed.tiny) & (size <= deployed.largest)).all())
    if isinstance(leaf, Standardise):
        total = leaf.variance.detach() + leaf.floor
        return bool(((total >= 2 * deployed.tiny / deployed.unit) & (total <= deployed.largest / 2)).all())
    return True


def _scaled(size: Tensor, factor: float, more: float, deployed: Deployed) -> Tensor:
    """size · factor + more for numbers that are not negative, rounded upwards."""
    real = deployed.real
    product = real.exact(size) * real.exact(size.new_tensor(factor))
    return (product + real.exact(size.new_tensor(more))).upper() if more else product.upper()


def _sum(terms: Sequence[Tensor], deployed: Deployed) -> Tensor:
    """The sum of tensors, rounded upwards."""
    balls: list[Ball] = [deployed.real.exact(t) for t in terms]
    return summed(balls).upper()
