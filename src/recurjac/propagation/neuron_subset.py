"""A subset of the neurons of a node, which may differ between the samples of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.propagation.forms import Units


@final
@dataclass(frozen=True)
class NeuronSubset:
    """The neurons of a node at positions `index` (batch or 1, R); short rows are padded with other neurons.

    shape: (batch, *node).
    """

    index: Tensor
    shape: Shape

    @classmethod
    def of(cls, chosen: Tensor | None, shape: Shape, device: torch.device) -> NeuronSubset:
        """The neurons where `chosen` (batch, *node) is True, or all if it is None; shape: (batch, *node).

        All samples share one list if it is not much longer than the longest list of a single sample.
        """
        size = prod(shape[1:])
        if chosen is None:
            return cls(torch.arange(size, device=device).unsqueeze(0), shape)
        flat = chosen.flatten(1)
        if flat.shape[0] == 1:
            return cls(flat[0].nonzero().mT, shape)
        union = flat.any(0)
        longest = int(flat.sum(1).max())
        if longest > 0.7 * int(union.sum()):
            return cls(union.nonzero().flatten().unsqueeze(0), shape)
        return cls(flat.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :longest], shape)

    def units(self, dtype: torch.dtype) -> Units:
        """The unit forms of the neurons."""
        return Units(self.index, self.shape[1:], dtype)

    def scatter(self, values: Tensor, elsewhere: float) -> Tensor:
        """(..., *node) with `values` (..., R) at these neurons and `elsewhere` at the others; the batch comes first.

        Each value is a bound of the entry that it is written to, so the values of padding neurons are valid too.
        """
        lead, index = values.shape[:-1], self.index
        if index.shape != values.shape:
            index = index.reshape(index.shape[0], *[1] * (len(lead) - 1), -1).expand(*lead, -1)
        flat = values.new_full((*lead, prod(self.shape[1:])), elsewhere)
        return flat.scatter_(-1, index, values).reshape(*lead, *self.shape[1:])
