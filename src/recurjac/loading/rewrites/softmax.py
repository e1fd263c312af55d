"""Softmax: the sigmoid of an entry less the logarithm of the sum of the exponentials of all others.

In a tree over the entries, logarithms of such sums go up to the root, and those of all other entries come back down.
Each of them is log(exp a + exp b) = (a + b) / 2 + log(2 cosh((a - b) / 2)), so that nothing overflows; where a and b
are near to each other, the last term has a small slope, and errors of a and b do not add up from level to level.
Source: docs/mathematics.md, §1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from math import prod
from typing import Any, final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.activations import LogCosh, LogSigmoid, Sigmoid, SoftmaxRows, Softplus
from recurjac.loading.expression import Expression
from recurjac.loading.rewrites.masks import unmasked, value_of
from recurjac.operators.gather import Gather
from recurjac.operators.scale import scaled
from recurjac.registry import onnx_ops, torch_ops

_APART = 1e4
"""Numbers that differ by more lose digits where one is added to the other."""


@final
@dataclass(frozen=True)
class _Level:
    """Logarithms of sums of exponentials: entries of a vector, and where each one is in it; -1 stands for -∞.

    base: about how large each entry of the vector is for an input of ordinary size, from constants that are added.
    """

    vector: Expression
    index: Tensor
    base: Tensor

    def sizes(self, index: Tensor) -> Tensor:
        """`base` at these positions of the vector, -∞ at negative ones."""
        return torch.where(index >= 0, self.base[index.clamp(min=0)], -torch.inf)

    def taken(self, index: Tensor) -> Expression:
        """The entries at these positions of the vector, 0 at negative ones."""
        table = index.reshape(1, -1)
        return self.vector.apply(Gather(table, self.vector.shape, (table.shape[1],)))


def _joined(one: _Level, other: _Level) -> _Level:
    """log(exp a + exp b) for the entries a of one level and b of another, which lie side by side.

    Where a mask of large numbers makes one much smaller, it is the larger plus softplus of the difference, so that
    rounding is that of the larger.
    """
    a, b = one.index, other.index
    present = (a >= 0) | (b >= 0)
    both = ((a >= 0) & (b >= 0))[present]
    index = torch.where(present, present.flatten().cumsum(0).reshape(present.shape) - 1, -1)
    first, second = a[present], b[present]
    sizes = one.sizes(first), other.sizes(second)
    above, below = (both & (x > y + _APART) for x, y in (sizes, sizes[::-1]))
    near = both & ~above & ~below
    taken = (other, torch.where(above, -1, second)), (one, torch.where(below, -1, first))
    parts = [level.taken(at) for level, at in taken if bool((at >= 0).any())]
    if bool(near.any()):  # of these, the mean
        parts = [scaled(part, torch.where(near, 0.5, 1.0)) for part in parts]
        parts.append(_spread(_difference(one, first[near], other, second[near]).activate(LogCosh()), near))
    for far, ends in ((above, (other, second, one, first)), (below, (one, first, other, second))):
        if bool(far.any()):
            small, at, large, place = ends
            parts.append(_spread(_difference(small, at[far], large, place[far]).activate(Softplus()), far))
    return _Level(reduce(Expression.plus, parts).settled(), index, torch.maximum(*sizes))


def _difference(one: _Level, first: Tensor, other: _Level, second: Tensor) -> Expression:
    """Entries of one level less those of another."""
    return one.taken(first).plus(scaled(other.taken(second), -1.0))


def _spread(values: Expression, at: Tensor) -> Expression:
    """A vector with these values where `at` is True, in this order, and 0 elsewhere."""
    return _Level(values, at, torch.zeros(0)).taken(torch.where(at, at.cumsum(0) - 1, -1))


def _others(leaves: _Level) -> _Level:
    """For each entry of a row of (rows, n) entries, the logarithm of the sum of the exponentials of all others."""
    levels = [leaves]
    while levels[-1].index.shape[1] > 1:
        last = levels[-1]
        odd = last.index.shape[1] % 2
        padded = torch.nn.functional.pad(last.index, (0, odd), value=-1)
        pair = replace(last, index=padded[:, 1::2]), replace(last, index=padded[:, ::2])
        levels.append(_joined(*pair))
    rest = replace(levels[-1], index=torch.full_like(levels[-1].index, -1))
    for level in reversed(levels[:-1]):
        count = level.index.shape[1]
        padded = torch.nn.functional.pad(level.index, (0, count % 2), value=-1)
        sibling = padded.unflatten(1, (-1, 2)).flip(2).flatten(1)[:, :count]
        above = replace(rest, index=rest.index.repeat_interleave(2, 1)[:, :count])
        rest = _joined(above, replace(level, index=sibling))
    return rest


def _log_odds(x: Expression, mask: Tensor, axis: int, base: Tensor) -> tuple[Expression | None, Tensor, Tensor]:
    """x less the logarithm of the sum of the exponentials of the others in its row, where both exist; as a vector.

    mask: True where x counts as -∞.  base: as in `_Level`.  Returns also where the entries of that vector belong, and
    where x is alone.
    """
    count, size = x.shape[axis], prod(x.shape)
    seat = torch.arange(size).reshape(x.shape).movedim(axis, -1)
    seat = seat.reshape(-1, count)
    hidden = mask.movedim(axis, -1).reshape(-1, count)
    if bool(hidden.all(1).any()):
        raise ValueError("a softmax over entries that are all masked")
    flat = x.apply(_flattening(x.shape)).settled()
    leaves = _Level(flat, torch.where(hidden, -1, seat), base)
    rest = _others(leaves)
    both = (leaves.index >= 0) & (rest.index >= 0)
    alone = (leaves.index >= 0) & (rest.index < 0)
    if not bool(both.any()):
        return None, seat[both], seat[alone]
    gap = leaves.taken(leaves.index[both]).plus(scaled(rest.taken(rest.index[both]), -1.0))
    return gap, seat[both], seat[alone]


def _constants(x: Expression) -> Tensor:
    """What x adds to its branches, as a vector."""
    total = torch.zeros(prod(x.shape), dtype=torch.float64)
    for constant in x.constants:
        total += value_of(constant).detach().double().cpu().flatten()
    return total


def _flattening(shape: Shape) -> Gather:
    return Gather(torch.arange(prod(shape)).unsqueeze(0), shape, (prod(shape),))


def _placed(x: Expression, at: Tensor, shape: Shape) -> Expression:
    """The entries of a vector at flat positions of a tensor of zeros."""
    table = torch.full((1, prod(shape)), -1)
    table[0, at] = torch.arange(len(at))
    return x.apply(Gather(table, x.shape, shape))


def softmax(x: Expression, axis: int) -> Expression:
    """exp(x) / Σ exp(x) along an axis; where a constant in x is -∞, it is 0."""
    logits, mask = unmasked(x)
    hidden = mask.movedim(axis, -1).reshape(-1, x.shape[axis])
    closed = int((~hidden).sum(-1).max()) > 2  # of two entries, nothing is lost
    source = logits.settled() if closed else logits
    gap, at, alone = _log_odds(source, mask, axis % len(x.shape), _constants(logits))
    only = torch.zeros(prod(x.shape), dtype=torch.float64)
    only[alone] = 1.0
    if gap is None:
        return x.builder.constant(only.reshape(x.shape))
    shares = _placed(gap.activate(Sigmoid()), at, x.shape)
    shares = shares.shift(only.reshape(x.shape)) if len(alone) else shares
    return _known(shares, source, axis, hidden) if closed else shares


def _known(shares: Expression, source: Expression, axis: int, hidden: Tensor) -> Expression:
    """Shares that are known to be a softmax of `source`, of the entries that are not hidden (rows, n)."""
    index = torch.arange(prod(shares.shape)).reshape(shares.shape).movedim(axis, -1).reshape(hidden.shape)
    function = SoftmaxRows(hidden if bool(hidden.any()) else None)
    return shares.known_as(function, source, torch.where(hidden, -1, index), index.flatten().argsort())


def log_softmax(x: Expression, axis: int) -> Expression:
    """The logarithm of the softmax along an axis, which must not be -∞ anywhere."""
    logits, mask = unmasked(x)
    if bool(mask.any()):
        raise ValueError("the logarithm of a softmax over masked entries, which is infinite")
    gap, at, _ = _log_odds(logits, mask, axis % len(x.shape), _constants(logits))
    if gap is None:
        return x.builder.constant(torch.zeros(x.shape))
    return _placed(gap.activate(LogSigmoid()), at, x.shape)


@torch_ops.reads("aten.softmax.int")
def _softmax(x: Expression, dim: int, dtype: torch.dtype | None = None) -> Any:
    return softmax(x, dim)


@torch_ops.reads("aten._softmax.default")
def _plain_softmax(x: Expression, dim: int, half_to_float: bool = False) -> Any:
    return softmax(x, dim)


@torch_ops.reads("aten.log_softmax.int")
def _log_softmax(x: Expression, dim: int, dtype: torch.dtype | None = None) -> Any:
    return log_softmax(x, dim)


@torch_ops.reads("aten._log_softmax.default")
def _plain_log_softmax(x: Expression, dim: int, half_to_float: bool = False) -> Any:
    return log_softmax(x, dim)


@onnx_ops.reads("Softmax")
def _onnx_softmax(x: Expression, *, axis: int) -> Any:
    return softmax(x, axis)


@onnx_ops.reads("LogSoftmax")
def _onnx_log_softmax(x: Expression, *, axis: int) -> Any:
    return log_softmax(x, axis)
