"""Constant masks: entries that are replaced by others, and additions of -∞, which hide entries from a softmax."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from recurjac.arithmetic import Fast
from recurjac.loading.expression import Expression
from recurjac.loading.readers.choices import choice
from recurjac.network import Constant
from recurjac.operators.gather import Gather
from recurjac.operators.scale import is_constant
from recurjac.registry import torch_ops
from recurjac.tensors import broadcast_shape


def value_of(constant: Constant) -> Tensor:
    """The tensor that a constant of an expression adds, rounded."""
    return constant.operator.push(Fast().exact(constant.tensor)).mid


def unmasked(x: Expression) -> tuple[Expression, Tensor]:
    """x with 0 in place of -∞ in its constants, and where that was."""
    mask = torch.zeros(x.shape, dtype=torch.bool)
    kept: list[Constant] = []
    for c in x.constants:
        hidden = c.tensor == -torch.inf
        if not bool(hidden.any()):
            kept.append(c)
            continue
        marked = value_of(Constant(c.operator, hidden.to(c.tensor.dtype)))
        if bool((marked < 0).any()):
            raise ValueError("a mask of infinite numbers that is scaled by a negative one")
        mask = mask | (marked > 0).cpu()
        kept.append(Constant(c.operator, torch.where(hidden, 0.0, c.tensor)))
    return replace(x, constants=tuple(kept)), mask


def chosen(mask: Any, x: Any, y: Any) -> Any:
    """x where a constant mask is True, and y elsewhere.  Constants may be infinite, if a softmax takes them away."""
    infinite = [v for v in (x, y) if is_constant(v) and bool(torch.as_tensor(v).detach().isinf().any())]
    if not isinstance(mask, Tensor) or not infinite or (is_constant(x) and is_constant(y)):
        return choice(mask, x, y)
    like = y if is_constant(x) else x
    sizes = [tuple(v.shape) for v in (x, y) if not isinstance(v, float | int)]
    shape = broadcast_shape(mask.shape, *sizes)
    taken = mask.bool().cpu().broadcast_to(shape)
    first, second = _shown(x, taken, like), _shown(y, ~taken, like)
    return first.plus(second)


def _shown(x: Any, where: Tensor, like: Any) -> Any:
    """x at some entries, and 0 at all others."""
    if is_constant(x):
        numbers = torch.as_tensor(x, dtype=like.dtype).broadcast_to(where.shape)
        if numbers.requires_grad:
            raise ValueError("a choice of live parameters by a mask; multiply them by the mask instead")
        return like.constant(torch.where(where.to(numbers.device), numbers, 0.0))
    shape = tuple(where.shape)
    table = torch.where(where, torch.arange(prod(shape)).reshape(shape), -1).reshape(1, -1)
    return x.broadcast(shape).apply(Gather(table, shape, shape))


@torch_ops.reads("aten.eq.Scalar")
def _equal(x: Any, number: float) -> Any:
    """Where x is -∞, as attention asks; only constants in x can be."""
    if number != -torch.inf:
        raise ValueError("a comparison has no derivative; leave it out of the network")
    return unmasked(x)[1]
