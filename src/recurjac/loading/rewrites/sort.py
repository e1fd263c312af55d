"""Exact rewrite of sorting along an axis (GroupSort, MaxMin): a sorting network, in which a comparison is one ReLU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from recurjac.activations import ReLU
from recurjac.loading.expression import Expression
from recurjac.operators.gather import gather
from recurjac.operators.scale import scaled
from recurjac.registry import Unread, torch_ops

_MOST = 32
"""The maximum length of a sorted axis; k entries need about k² / 2 comparisons."""


@torch_ops.reads("aten.sort.default", "aten.sort.stable")
def sort(x: Expression, dim: int = -1, descending: bool = False, stable: bool | None = None) -> Any:
    """The entries along an axis in sorted order, and an `Unread` in place of their former positions.

    With d = relu(b - a), max(a, b) = a + d and min(a, b) = b - d.  Groups of k (Anil et al. 2019) are sorted exactly.
    """
    axis, size = dim % len(x.shape), x.shape[dim]
    if size > _MOST:
        raise ValueError(f"a sort of {size} entries; at most {_MOST} are read")
    x = x.settled()
    entries = [x.apply(gather(lambda t, i=i: t.narrow(axis, i, 1), x.shape)) for i in range(size)]
    for i, j in _comparisons(size):
        a, b = entries[i], entries[j]
        rise = b.plus(scaled(a, -1.0)).activate(ReLU())
        most, least = a.plus(rise), b.plus(scaled(rise, -1.0))
        entries[i], entries[j] = (most, least) if descending else (least, most)
    total = None
    for i, entry in enumerate(entries):
        placed = entry.apply(gather(lambda t, i=i: _placed(t, axis, i, size), entry.shape))
        total = placed if total is None else total.plus(placed)
    total = None if total is None else total.selected_from(x, 1)  # every comparison mixes two entries of a row
    return (total, Unread("the order of a sort, which is not differentiable"))


def _comparisons(size: int) -> Iterator[tuple[int, int]]:
    """Odd-even transposition: `size` rounds of neighbours sort any sequence (Knuth, vol. 3, section 5.3.4)."""
    for step in range(size):
        yield from ((i, i + 1) for i in range(step % 2, size - 1, 2))


def _placed(t: torch.Tensor, axis: int, i: int, size: int) -> torch.Tensor:
    blank = torch.zeros_like(t)
    return torch.cat([t if k == i else blank for k in range(size)], axis)
