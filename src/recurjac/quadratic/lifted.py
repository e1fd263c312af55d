"""A chain rule of one sample as one system: unknown neurons as variables, and all others written in terms of them.

With v in the unit box or ball, ζ = B v and w_j the outputs of the neurons whose slope is not known,

    y_j = Σ C_j· ζ + Σ E_ji w_i    for each of these neurons j (E is strictly lower triangular by nodes),

and likewise for the rows at the end (docs/mathematics.md, §3.6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.arithmetic import AbstractArithmetic, Ball, concatenate
from recurjac.network import Edge
from recurjac.propagation.chain_rule import ChainRule
from recurjac.quadratic.system import System


@final
@dataclass(frozen=True)
class Affine:
    """Numbers as sums over ζ and w: coefficients (n, n_ζ) and (n, u)."""

    base: Ball
    units: Ball

    def at(self, index: Tensor) -> Affine:
        """The numbers at these positions."""
        return Affine(self.base.map(lambda t: t[index]), self.units.map(lambda t: t[index]))

    def times(self, signs: Tensor) -> Affine:
        """The numbers times 1 or -1 each, (n,)."""
        return Affine(_signed(self.base, signs), _signed(self.units, signs))

    def with_copies(self, copy: int, copies: int) -> Affine:
        """Coefficients (n, copies, …) of one of several copies of ζ and w; those of the others are 0."""
        return Affine(_in_copy(self.base, copy, copies), _in_copy(self.units, copy, copies))


def _in_copy(numbers: Ball, copy: int, copies: int) -> Ball:
    def placed(t):  # type: ignore[no-untyped-def]
        found = t.new_zeros(len(t), copies, t.shape[1])
        found[:, copy] = t
        return found

    return numbers.map(placed)


def _signed(numbers: Ball, signs: Tensor) -> Ball:
    return Ball(numbers.mid * signs.unsqueeze(1), numbers.rad)


@final
@dataclass(frozen=True)
class Lifted:
    """The unknown neurons of a chain rule, in order of their nodes, and what they and the rows are sums of.

    base: B, (n_ζ, n_0), already times the radius of each input.  neurons: y, (u, …).  rows: (K, …).
    places: for each node with unknown neurons its number and their flat positions.
    """

    base: Ball
    neurons: Affine
    rows: Affine
    places: tuple[tuple[int, Tensor], ...]

    @property
    def size(self) -> int:
        """The number of variables, n_ζ + u."""
        return len(self.base.mid) + len(self.neurons.base.mid)


def unknown_neurons(chain: ChainRule) -> tuple[tuple[int, Tensor], ...]:
    """For each node of one sample with slopes that are not known: its number and their flat positions."""
    found = []
    for k in range(1, chain.end):
        slopes = chain.slopes[k]
        if slopes is not None and bool(
            (index := (slopes.lower[0] != slopes.upper[0]).flatten().nonzero().flatten()).numel()
        ):
            found.append((k, index))
    return tuple(found)


def base_of(chain: ChainRule, radius: Tensor) -> Ball:
    """B of a chain rule of one sample for inputs of this radius: (n_ζ, n_0)."""
    return _base(chain.shapes, _edges(chain), chain.arithmetic.exact(torch.diag(radius)))[1]


def _edges(chain: ChainRule) -> list[tuple[Edge, ...]]:
    """The edges, with operators in float64."""
    return [tuple(Edge(e.source, e.operator.to(torch.float64, chain.device)) for e in into) for into in chain.edges]


def variables(chain: ChainRule) -> int:
    """The number of variables n_ζ + u of the system of one sample, without forming it."""
    first = chain.shapes[1 if _starts_at_first(chain.shapes, chain.edges) else 0]
    return prod(first) + sum(len(index) for _, index in unknown_neurons(chain))


def lifted(chain: ChainRule, radius: Tensor) -> Lifted:
    """The system of a chain rule of one sample, for inputs v_i radius_i; radius (n_0,), all in float64."""
    places = unknown_neurons(chain)
    edges = _edges(chain)
    first, base = _base(chain.shapes, edges, chain.arithmetic.exact(torch.diag(radius)))
    columns = _Columns(len(base.mid), sum(len(index) for _, index in places), chain.arithmetic, chain.device, {})
    if first == 0:
        columns.values[0] = columns.unit(0, columns.base)
    neurons, index_of, begin = [], dict(places), columns.base
    for k in range(1, chain.end):
        y = columns.unit(0, columns.base) if k == first else columns.pushed(edges[k], prod(chain.shapes[k]))
        index, slopes = index_of.get(k), chain.slopes[k]
        if slopes is not None:
            known = slopes.lower[0].detach().double().flatten()
            if index is not None:
                neurons.append(taken_rows(y, index))
                known = known.index_fill(0, index, 0.0)
            y = y * chain.arithmetic.exact(known)
        if index is not None:
            y = y + columns.units_at(begin, index, prod(chain.shapes[k]))
            begin += len(index)
        columns.values[k] = y
    found = concatenate(neurons, 0) if neurons else columns.nothing()
    return Lifted(base, columns.split(found), columns.split(_rows(chain, columns)), places)


def _base(shapes: Sequence[Shape], edges: Sequence[Sequence[Edge]], inputs: Ball) -> tuple[int, Ball]:
    """The node whose y is ζ, and B: node 1 if it alone reads the input and is smaller, else the input itself."""
    n = prod(shapes[0])
    if not _starts_at_first(shapes, edges):
        return 0, inputs
    pushed = edges[1][0].operator.push(inputs.map(lambda t: t.reshape(n, *shapes[0])))
    return 1, pushed.map(lambda t: t.reshape(n, -1).mT)


def _starts_at_first(shapes: Sequence[Shape], edges: Sequence[Sequence[Edge]]) -> bool:
    """Whether node 1 alone reads the input, is an inner node, and is smaller than the input."""
    readers = [k for k, into in enumerate(edges) for e in into if e.source == 0]
    return readers == [1] and len(edges[1]) == 1 and len(shapes) > 2 and prod(shapes[1]) < prod(shapes[0])


def taken_rows(columns: Ball, index: Tensor) -> Ball:
    """The neurons at these positions of columns (n + u, node), as rows (…, n + u)."""
    return columns.map(lambda t: t[:, index].mT)


@final
@dataclass(frozen=True)
class _Columns:
    """What each node is for every unit of ζ and w: (base + units, node) by number of the node."""

    base: int
    units: int
    arithmetic: AbstractArithmetic
    device: torch.device
    values: dict[int, Ball]

    def _zeros(self, size: int) -> Tensor:
        return torch.zeros(self.base + self.units, size, dtype=torch.float64, device=self.device)

    def unit(self, begin: int, size: int) -> Ball:
        """The identity in the rows from `begin` on."""
        return self.units_at(begin, torch.arange(size, device=self.device), size)

    def units_at(self, begin: int, index: Tensor, size: int) -> Ball:
        """One in column index[i] of row begin + i, and zeros elsewhere."""
        eye = self._zeros(size)
        eye[torch.arange(begin, begin + len(index), device=self.device), index] = 1
        return self.arithmetic.exact(eye)

    def pushed(self, edges: Sequence[Edge], size: int) -> Ball:
        """y of a node."""
        terms, count = [], self.base + self.units
        for e in edges:
            shape = (count, *e.operator.in_shape)
            terms.append(e.operator.push(self.values[e.source].map(partial(torch.reshape, shape=shape))))
        if not terms:
            return self.arithmetic.exact(self._zeros(size))
        return reduce(Ball.__add__, terms).map(lambda t: t.reshape(count, size))

    def nothing(self) -> Ball:
        return self.arithmetic.exact(self._zeros(0).mT)

    def split(self, rows: Ball) -> Affine:
        """The coefficients on ζ and those on w."""
        return Affine(rows.map(lambda t: t[:, : self.base]), rows.map(lambda t: t[:, self.base :]))


def _rows(chain: ChainRule, columns: _Columns) -> Ball:
    """The covectors at the end times what it reads: (K, n + u)."""
    terms = []
    for e in chain.edges[chain.end]:
        rows = chain.gradient_rows(e.operator).map(lambda t: t.flatten(2)[0]).to(torch.float64, chain.device)
        terms.append(rows.matmul(columns.values[e.source]))
    if not terms:
        zero = torch.zeros(chain.rows, columns.base + columns.units, dtype=torch.float64, device=chain.device)
        return chain.arithmetic.exact(zero)
    return reduce(Ball.__add__, terms)


def influence(neurons: Affine, slopes: Tensor, units: Tensor) -> Tensor:
    """How rows with coefficients (R, u) on w depend on each w, through later ones too, if w = slopes y: (R, u)."""
    step = torch.eye(len(slopes), dtype=slopes.dtype, device=slopes.device) - slopes.unsqueeze(1) * neurons.units.mid
    found: Tensor = torch.linalg.solve_triangular(step, units, upper=False, left=False)
    return found


def sectors_of(
    chain: System, places: Sequence[tuple[int, Tensor]], chosen: Mapping[int, Tensor], inflated: float
) -> tuple[Tensor, Tensor]:
    """1 / (t r²) and the middle of the slopes of the unknown neurons, (u,); t grows by a factor from node to node."""
    nodes = [chain.nodes[k - 1] for k, _ in places]
    halves = [node.half[node.unstable] for node in nodes]
    sectors = [
        1 / (chosen[k] * inflated**i * r.square()) for i, ((k, _), r) in enumerate(zip(places, halves, strict=True), 1)
    ]
    return torch.cat(sectors), torch.cat([node.middle[node.unstable] for node in nodes])
