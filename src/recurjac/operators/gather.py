"""Operators that sum entries at given positions: permutations, slices, padding, placement, repetition, sums."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, prod
from typing import Protocol, Self, final, runtime_checkable

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic, Ball, plus_entries_, root_up
from recurjac.operators.base import AbstractLeaf
from recurjac.operators.reindex import Reshape
from recurjac.operators.spectral import spectral_norm

_ONE_BY_ONE = 32
"""Sums of up to this many terms are added one by one, which needs no memory for all terms at once."""


@final
@dataclass(frozen=True, eq=False)
class Gather(AbstractLeaf):
    """out[i] = Σ_j in[table[j, i]], with `in` and `out` flattened in row-major order; a negative position means 0.

    table: (terms, out), integers.
    """

    table: Tensor
    inputs: Shape
    outputs: Shape

    def __post_init__(self) -> None:
        if self.table.dim() != 2 or self.table.shape[1] != prod(self.outputs):
            raise ValueError(f"a table of shape {tuple(self.table.shape)} does not fit an output of {self.outputs}")
        if self.table.numel() and int(self.table.max()) >= prod(self.inputs):
            raise ValueError(f"position {int(self.table.max())} does not exist in a tensor of {self.inputs}")

    @property
    def in_shape(self) -> Shape:
        return self.inputs

    @property
    def out_shape(self) -> Shape:
        return self.outputs

    @cached_property
    def _whole(self) -> bool:
        """Whether the table has no negative position."""
        return bool((self.table >= 0).all())

    def apply(self, tensor: Tensor) -> Tensor:
        lead = tensor.shape[: tensor.dim() - len(self.inputs)]
        flat = tensor.reshape(*lead, prod(self.inputs))
        if len(self.table) == 0:
            return flat.new_zeros(*lead, *self.outputs)
        if len(self.table) <= _ONE_BY_ONE:
            total = self._pick(flat, 0)
            for row in range(1, len(self.table)):
                total = total + self._pick(flat, row)
        else:
            total = self._pick(flat, slice(None)).reshape(*lead, *self.table.shape).sum(-2)
        return total.reshape((*lead, *self.outputs))

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """The positions, with 0 for negative ones, and where these are."""
        return self.table.clamp(min=0), self.table < 0

    @cached_property
    def placement(self) -> Placement | None:
        """Where the entries that are read go, if there is one term and most of the results are 0; otherwise None."""
        if len(self.table) != 1 or self._whole:
            return None
        absent = self._places[1][0]
        if 2 * int(absent.sum()) < len(absent):
            return None
        places = (~absent).nonzero().flatten()
        source = self.table[0][places]
        same = len(source) == prod(self.inputs) and torch.equal(source, torch.arange(len(source)).to(source))
        return Placement(places, None if same else source)

    def _pick(self, flat: Tensor, rows: int | slice) -> Tensor:
        """The entries at positions in rows of the table; on a CPU, `index_select` takes twice as long as `gather`."""
        if self.placement is not None:
            picked = flat.new_zeros(*flat.shape[:-1], self.table.shape[1])
            picked[..., self.placement.places] = self.placement.read(flat)
            return picked
        places, absent = (t[rows].flatten() for t in self._places)
        if not flat.shape[-1]:
            return flat.new_zeros(*flat.shape[:-1], len(places))
        picked = flat.gather(-1, places.expand(*flat.shape[:-1], -1))
        return picked if self._whole else picked.masked_fill_(absent, 0.0)

    def plus_onto_(self, found: Ball, value: Ball, sign: float) -> Ball | None:
        """`found` plus `sign` times this operator applied to `value`, in the memory of `found`, which must be its own.

        None, and nothing is changed, if that takes more than adding at few places without radii and derivatives.
        """
        lead = value.shape[: len(value.shape) - len(self.inputs)]
        live = found.mid.requires_grad or value.mid.requires_grad
        plain = found.rad is None and value.rad is None and found.mid.is_contiguous()
        if self.placement is None or live or not plain or found.shape != (*lead, *self.outputs):
            return None
        others = self.placement.read(value.mid.reshape(*lead, prod(self.inputs)))
        return plus_entries_(found, self.placement.places, others, sign)

    def transpose(self) -> Gather:
        return self._transposed

    @cached_property
    def _transposed(self) -> Gather:
        target = torch.arange(self.table.shape[1], device=self.table.device).expand_as(self.table)
        present = self.table >= 0
        source, order = self.table[present].sort(stable=True)
        count = torch.bincount(source, minlength=prod(self.inputs))
        place = torch.arange(len(source), device=source.device) - (count.cumsum(0) - count)[source]
        table = self.table.new_full((int(count.max()) if len(count) else 0, prod(self.inputs)), -1)
        table[place, source] = target[present][order]
        return Gather(table, self.outputs, self.inputs)

    def absolute(self) -> Gather:
        return self

    def signs(self) -> Gather:
        return self

    @cached_property
    def _terms(self) -> int:
        """The largest number of terms of an entry."""
        return int((self.table >= 0).sum(0).max()) if self.table.numel() else 0

    @property
    def summands(self) -> int:
        return 0 if self._terms <= 1 else len(self.table)

    @property
    def sums_products(self) -> bool:
        return True

    def columns(self, index: Tensor, dtype: torch.dtype, arithmetic: AbstractArithmetic) -> Ball:
        """The columns, which are exact: each entry counts how often an output reads the position."""
        back = self._transposed.table
        flat = torch.zeros(*index.shape, prod(self.outputs), dtype=dtype, device=index.device)
        for row in back:
            place = row[index]
            some = torch.where(place >= 0, 1.0, 0.0).to(dtype)
            flat.scatter_add_(-1, place.clamp(min=0).unsqueeze(-1), some.unsqueeze(-1))
        return arithmetic.exact(flat.reshape((*index.shape, *self.outputs)))

    def taking(self, shape: Shape) -> Self:
        return replace(self, inputs=shape)

    def giving(self, shape: Shape) -> Self:
        return replace(self, outputs=shape)

    def rows(self, index: Tensor) -> tuple[AbstractLeaf, Tensor]:
        table = self.table[:, index]
        read = table[table >= 0].unique()
        place = torch.searchsorted(read, table.clamp(min=0)).clamp(max=max(len(read) - 1, 0))
        return Gather(torch.where(table >= 0, place, -1), (len(read),), (len(index),)), read

    def norm(self, p: float, arithmetic: AbstractArithmetic) -> Tensor:
        """The largest number of terms of an input for p = 1, and of an output for p = inf; both are exact.

        For p = 2, if the smaller number is at most 1, one of AᵀA and A Aᵀ is diagonal and counts terms, so that the
        norm is the root of their product.  Otherwise it is `spectral_norm`.
        """
        into, out = self._terms, self._transposed._terms
        if p == 2 and min(into, out) > 1:
            return spectral_norm(self)
        value = torch.tensor(float({1: out, inf: into}.get(p, into * out)), dtype=torch.float64)
        return (value if p != 2 or into * out <= 1 else root_up(value)).to(self.table.device)

    def multiply_adds(self) -> int:
        return 0

    def tensors(self) -> Iterable[Tensor]:
        return ()

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        return replace(self, table=self.table.to(device))

    @classmethod
    def of(cls, index: Tensor, inputs: Shape) -> Self:
        """The entries at the flat positions `index`, as a vector."""
        return cls(index.unsqueeze(0), inputs, (len(index),))

    def after(self, inner: Gather) -> Gather:
        """self ∘ inner, for an inner operator with at most one term per entry."""
        if inner.table.numel() == 0:  # nothing is read, so every position here is negative
            return Gather(self.table, inner.inputs, self.outputs)
        first = inner.table[0]
        return Gather(torch.where(self.table >= 0, first[self.table.clamp(min=0)], -1), inner.inputs, self.outputs)

    @classmethod
    def examples(cls) -> list[Gather]:
        def made(rows: list[list[int]], inputs: Shape, outputs: Shape) -> Gather:
            return cls(torch.tensor(rows), inputs, outputs)

        return [
            made([[0, 3, 1, 4, 2, 5]], (2, 3), (3, 2)),  # a transposed matrix
            made([[-1, 0, 1, -1]], (2,), (4,)),  # padding
            made([[-1, 1, -1, -1, 0, -1]], (3,), (2, 3)),  # two of three entries at two of six places
            made([[2, 3]], (2, 2), (2,)),  # a slice
            made([[0, 0, 1, 1]], (2,), (2, 2)),  # repeating
            made([[0, 1], [2, 3], [-1, 4]], (5,), (2, 1)),  # sums
        ]


@final
@dataclass(frozen=True)
class Placement:
    """Entries of a tensor that are copied to some of many places: all entries in order, or those at flat positions.

    places: flat positions of the result, in order, each once.  source: those that are read; None means all.
    """

    places: Tensor
    source: Tensor | None

    def read(self, flat: Tensor) -> Tensor:
        """The entries of (..., n) that are read."""
        return flat if self.source is None else flat.gather(-1, self.source.expand(*flat.shape[:-1], -1))


@runtime_checkable
class Move(Protocol):
    """A function that moves, repeats and drops the entries of a tensor, or adds zeros."""

    def __call__(self, tensor: Tensor, /) -> Tensor: ...


def gather(move: Move, shape: Shape) -> AbstractLeaf:
    """The operator that acts like `move` on tensors of `shape`; it is found by applying `move` to their positions.

    Raises ValueError if `move` computes new numbers.
    """
    return gather_positions(move(positions(shape)), shape)


def positions(shape: Shape) -> Tensor:
    """1, 2, … in `shape`; they are float64, so that any operation accepts them, and 0 is reserved for padding."""
    return torch.arange(1, prod(shape) + 1, dtype=torch.float64).reshape(shape)


def gather_positions(moved: Tensor, shape: Shape) -> AbstractLeaf:
    """The operator that maps `positions(shape)` to `moved`."""
    index = moved.detach().reshape(-1).to(torch.int64, copy=True)
    if not torch.equal(index.to(moved.dtype), moved.reshape(-1)) or bool(((index < 0) | (index > prod(shape))).any()):
        raise ValueError("it computes new numbers; only operations that move entries are read here")
    if len(index) == prod(shape) and torch.equal(index, torch.arange(1, len(index) + 1)):
        return Reshape(shape, tuple(moved.shape))
    return Gather(index.sub_(1).unsqueeze(0), shape, tuple(moved.shape))


def summed(rows: Tensor, shape: Shape, outputs: Shape) -> Gather:
    """The operator of sums of entries of a tensor of `shape`; `rows` (terms, *outputs) has positions, 0 for none."""
    return Gather(rows.reshape(len(rows), -1).to(torch.int64, copy=True).sub_(1), shape, outputs)
