"""Windows: the nodes between two layers of weights, taken apart into groups of neurons that do not meet.

Between two dense or convolutional operators, a network only compares, moves and bends entries: a ReLU looks at one
entry, a maximum over a window at the entries of the window.  `windows_of` finds these groups for given nodes of a chain
rule.  In a group with entries y, a neuron of unknown slope receives z_j = α_j y + β_j f, where f are the deviations of
earlier neurons, and gives m_j z_j + r_j f_j with |f_j| <= |z_j|.  What leaves the group is μ y + ν f.
Source: docs/mathematics.md, §5.10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Fast
from recurjac.operators import AbstractOperator, Compose
from recurjac.operators.base import AbstractLeaf
from recurjac.propagation.chain_rule import ChainRule
from recurjac.quadratic.proving import proving
from recurjac.quadratic.system import middle_and_half

_MOST = 48
"""The largest number of entries and neurons of a group."""


@final
@dataclass(frozen=True)
class Windows:
    """g groups, padded to the same size with entries and neurons that are 0.

    size: the number of entries of the layer.  entries: (g, a), outputs: (g, o), flat positions; those of padding are 0.
    bent: (g, u, a + u), the forms [α β] of the neurons.  left: (g, o, a + u), the forms [μ ν] of the outputs.
    """

    size: int
    entries: Tensor
    outputs: Tensor
    bent: Ball
    left: Ball

    def to(self, dtype: torch.dtype) -> Windows:
        """The same in plain floating point."""
        bent, left = (Ball(b.mid.to(dtype), None) for b in (self.bent, self.left))
        return Windows(self.size, self.entries, self.outputs, bent, left)


@final
@dataclass(frozen=True)
class Links:
    """An operator whose outputs are ± single inputs: their positions and signs, (n,) each; the sign may be 0."""

    index: Tensor
    sign: Tensor


def links_of(operator: AbstractOperator, device: torch.device) -> Links | None:
    """The operator as links; None if it multiplies or sums."""
    if isinstance(operator, Compose):
        inner, outer = links_of(operator.inner, device), links_of(operator.outer, device)
        if inner is None or outer is None:
            return None
        return Links(inner.index[outer.index], inner.sign[outer.index] * outer.sign)
    if not isinstance(operator, AbstractLeaf) or operator.summands != 0:
        return None
    n = prod(operator.in_shape)
    numbers = torch.stack([torch.arange(1.0, n + 1, dtype=torch.float64), torch.ones(n, dtype=torch.float64)])
    found = operator.push(Fast().exact(numbers.to(device).reshape(2, *operator.in_shape))).mid.reshape(2, -1)
    return Links((found[0].abs().long() - 1).clamp(min=0), found[1].sign())


def windows_of(chain: ChainRule, nodes: Sequence[int], out: int) -> Windows | None:
    """The groups of the nodes `nodes`, of which the first reads the layer before and `out` is read by the next.

    None if a group is too large, a slope is not finite, or nothing that is read depends on the entries.
    """
    links = {k: [(e.source, links_of(e.operator, chain.device)) for e in chain.edges[k]] for k in nodes[1:]}
    known = {k: [(source, link) for source, link in into if link is not None] for k, into in links.items()}
    sizes = {k: prod(chain.shapes[k]) for k in nodes}
    labels = _components(nodes, sizes, known, chain.device)
    slopes = {k: _slopes(chain, k) for k in nodes}
    if not all(bool(t.isfinite().all()) for pair in slopes.values() for t in pair):
        return None
    number, groups = _numbered(labels)
    places = _Places.of(nodes, number, slopes)
    if groups == 0 or places.entries + places.neurons > _MOST:
        return None
    forms = _forms(proving(chain.arithmetic), nodes, sizes, known, slopes, places)
    return _gathered(nodes, out, number, groups, places, forms)


def _slopes(chain: ChainRule, k: int) -> tuple[Tensor, Tensor]:
    slopes = chain.slopes[k]
    if slopes is None:
        one = torch.ones(prod(chain.shapes[k]), dtype=torch.float64, device=chain.device)
        return one, torch.zeros_like(one)
    return middle_and_half(slopes.lower[0], slopes.upper[0])


_Known = Mapping[int, list[tuple[int, Links]]]


def _components(
    nodes: Sequence[int], sizes: Mapping[int, int], known: _Known, device: torch.device
) -> dict[int, Tensor]:
    """For each neuron the least entry of its group, (n,) for each node; the number of entries where there is none."""
    first = nodes[0]
    labels = {k: torch.full((sizes[k],), sizes[first], device=device) for k in nodes}
    labels[first] = torch.arange(sizes[first], device=device)
    changed = True
    while changed:
        before = torch.cat(list(labels.values()))
        for k in [*nodes[1:], *nodes[:0:-1]]:
            for source, link in known[k]:
                met = link.sign != 0
                at, here = link.index[met], torch.where(met)[0]
                labels[k][here] = torch.minimum(labels[k][here], labels[source][at])
                labels[source].scatter_reduce_(0, at, labels[k][here], "amin")
        changed = not torch.equal(before, torch.cat(list(labels.values())))
    return labels


def _numbered(labels: Mapping[int, Tensor]) -> tuple[dict[int, Tensor], int]:
    """The number of the group of each neuron, -1 for none, and how many groups there are."""
    none = len(next(iter(labels.values())))
    names = torch.cat([t[t < none] for t in labels.values()]).unique()
    return {k: torch.where(t < none, torch.searchsorted(names, t), -1) for k, t in labels.items()}, len(names)


@final
@dataclass(frozen=True)
class _Places:
    """The places of entries and of neurons of unknown slope in the forms of their groups: (n,) for each node, or -1."""

    entry: Tensor
    neuron: Mapping[int, Tensor]
    entries: int
    neurons: int

    @classmethod
    def of(
        cls, nodes: Sequence[int], number: Mapping[int, Tensor], slopes: Mapping[int, tuple[Tensor, Tensor]]
    ) -> _Places:
        entry = _ranks(number[nodes[0]])
        unstable = [torch.where(slopes[k][1] > 0, number[k], -1) for k in nodes]
        ranks = _ranks(torch.cat(unstable)).split([len(t) for t in unstable])
        entries, neurons = (int(t.max()) + 1 if len(t) else 0 for t in (entry, torch.cat(ranks)))
        return cls(entry, dict(zip(nodes, ranks, strict=True)), entries, neurons)


def _ranks(number: Tensor) -> Tensor:
    """For each neuron how many earlier ones have the same number, (n,); -1 where that is -1."""
    order = number.argsort(stable=True)
    ordered = number[order]
    begin = torch.searchsorted(ordered, ordered)
    ranks = torch.empty_like(number)
    ranks[order] = torch.arange(len(number), device=number.device) - begin
    return torch.where(number < 0, -1, ranks)


@final
@dataclass(frozen=True)
class _Forms:
    """Forms (n, a + u) of what each neuron receives and of what it gives, for each node."""

    received: Mapping[int, Ball]
    given: Mapping[int, Ball]


def _forms(
    arithmetic: AbstractArithmetic,
    nodes: Sequence[int],
    sizes: Mapping[int, int],
    known: _Known,
    slopes: Mapping[int, tuple[Tensor, Tensor]],
    places: _Places,
) -> _Forms:
    exact, wide = arithmetic.exact, places.entries + places.neurons
    received: dict[int, Ball] = {}
    given: dict[int, Ball] = {}
    for k in nodes:
        blank = torch.zeros(sizes[k], wide, dtype=torch.float64, device=places.entry.device)
        if k == nodes[0]:
            form = exact(_at(blank, places.entry, 0, torch.ones_like(blank[:, 0])))
        else:
            form = exact(blank)
            for source, link in known[k]:
                term = given[source].map(lambda t, link=link: t[link.index])
                form = form + term * exact(link.sign.double().unsqueeze(1))
        middle, half = slopes[k]
        received[k] = form
        given[k] = form * exact(middle.unsqueeze(1)) + exact(_at(blank, places.neuron[k], places.entries, half))
    return _Forms(received, given)


def _at(blank: Tensor, place: Tensor, offset: int, values: Tensor) -> Tensor:
    """`blank` (n, wide) with a value in each row, at its place after the offset, if that is not -1."""
    some = (place >= 0).nonzero().flatten()
    found = blank.clone()
    found[some, place[some] + offset] = values[some]
    return found


def _gathered(
    nodes: Sequence[int], out: int, number: Mapping[int, Tensor], groups: int, places: _Places, forms: _Forms
) -> Windows:
    """The forms of all nodes by group."""
    device, wide = places.entry.device, places.entries + places.neurons
    entries = torch.zeros(groups, places.entries, dtype=torch.long, device=device)
    first = number[nodes[0]]
    entries[first, places.entry] = torch.arange(len(first), device=device)
    out_rank = _ranks(number[out])
    outputs = torch.zeros(groups, max(int(out_rank.max()) + 1, 1), dtype=torch.long, device=device)
    has = (number[out] >= 0).nonzero().flatten()
    outputs[number[out][has], out_rank[has]] = has
    left = _placed(forms.given[out], has, number[out][has], out_rank[has], (groups, outputs.shape[1], wide))
    parts = [(places.neuron[k] >= 0).nonzero().flatten() for k in nodes]
    shape, bent = (groups, places.neurons, wide), None
    for k, at in zip(nodes, parts, strict=True):
        more = _placed(forms.received[k], at, number[k][at], places.neuron[k][at], shape)
        bent = more if bent is None else Ball(bent.mid + more.mid, _joined(bent.rad, more.rad))  # at different places
    if bent is None:
        raise ValueError("there are no nodes")
    live = (left.size + (0 if left.rad is None else left.rad)).flatten(1).amax(1) > 0
    live[0] |= not bool(live.any())  # one at least
    return Windows(len(first), entries[live], outputs[live], bent.map(lambda t: t[live]), left.map(lambda t: t[live]))


def _joined(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else a + b


def _placed(forms: Ball, rows: Tensor, group: Tensor, rank: Tensor, shape: tuple[int, int, int]) -> Ball:
    """Rows of `forms` at the places (group, rank) of a tensor of that shape; zero elsewhere."""

    def put(t: Tensor) -> Tensor:
        blank = torch.zeros(shape, dtype=t.dtype, device=t.device)
        blank[group, rank] = t[rows]
        return blank

    rad = None if forms.rad is None else put(forms.rad.expand_as(forms.mid))
    return Ball(put(forms.mid), rad)
