"""The exact skeleton: between neurons that are not linear, a network is (MATH §5.5).

z_k = c_k + Σ_l E_kl v_l, where v_0 is the input and v_l the outputs of those neurons of stage l, its *kept* ones, that
are not known multiples of their pre-activations.  The columns of E are pushed once, layer by layer, through what is
linear; neurons of slope 0 vanish.  Bounds of pre-activations and Jacobians are then sweeps over kept neurons alone, of
the same results as on the whole network up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Interval, Value
from recurjac.chainrule import ChainRule
from recurjac.lines import Lines
from recurjac.network import Edge, Network
from recurjac.operators import AbstractOperator, Gather, compose
from recurjac.operators.enclosed import Enclosed
from recurjac.region import BoundRegion
from recurjac.route import AbstractRoute


@final
@dataclass(frozen=True)
class Affine:
    """c + Σ_l E_l v_l for entries of one stage: blocks[l] is E_lᵀ, (kept neurons of l, entries), c is (entries,)."""

    blocks: Mapping[int, Value]
    constant: Value

    def at(self, index: Tensor) -> Affine:
        """The entries number `index` alone."""
        blocks = {g: b.map(lambda t: t.index_select(1, index)) for g, b in self.blocks.items()}
        return Affine(blocks, self.constant.map(lambda t: t.index_select(0, index)))

    def times(self, slope: Value) -> Affine:
        """Each entry times a number."""
        return Affine({g: b * slope for g, b in self.blocks.items()}, self.constant * slope)


@final
@dataclass(frozen=True)
class _Post:
    """h_k: known multiples at `support`, of which `linear` says all, and the kept neurons, all in flat positions."""

    support: Tensor
    linear: Affine | None
    kept: Tensor


@final
@dataclass
class Skeleton:
    """The skeleton of the stages of a network so far, for one sample."""

    network: Network
    arithmetic: AbstractArithmetic
    post: list[_Post] = field(default_factory=list)
    kept_rows: dict[int, Affine] = field(default_factory=dict)

    def __post_init__(self) -> None:
        every = torch.arange(_size(self.network, 0), device=self.network.device)
        self.post.append(_Post(every[:0], None, every))

    def pre(self, k: int) -> Affine:
        """z_k in terms of the kept neurons of earlier stages; all of them must be settled."""
        stage, n = self.network.stages[k - 1], _size(self.network, k)
        zero = torch.zeros(n, dtype=self.network.dtype, device=self.network.device)
        bias = stage.bias(self.arithmetic)
        constant = self.arithmetic.exact(zero) if bias is None else bias.map(lambda t: t.reshape(-1))
        blocks: dict[int, Value] = {}
        for e in stage.edges:
            source = self.post[e.source]
            if len(source.kept):
                columns = e.operator.columns(source.kept, self.network.dtype, self.arithmetic)
                _add(blocks, e.source, columns.map(lambda t: t.reshape(len(t), n)))
            near = None if source.linear is None else _taking(e.operator, source.support)
            if source.linear is not None and near is not None:
                for g, block in source.linear.blocks.items():
                    _add(blocks, g, near.push(block).map(lambda t: t.reshape(len(t), n)))
                constant = constant + near.push(source.linear.constant).map(lambda t: t.flatten())
        return Affine(blocks, constant)

    def settle(self, k: int, z: Affine, slope: Tensor, exact: Tensor) -> None:
        """Go on from stage k: `slope` (entries,) times z where `exact`, else neurons that are kept."""
        kept = (~exact).nonzero().flatten()
        support = (exact & (slope != 0)).nonzero().flatten()
        linear = None
        if len(support):
            chosen, steep = z.at(support), slope[support]
            linear = chosen if bool((steep == 1).all()) else chosen.times(self.arithmetic.exact(steep))
        self.post.append(_Post(support, linear, kept))
        if len(kept):
            self.kept_rows[k] = z.at(kept)

    def chain(self, whole: ChainRule, output: Affine) -> ChainRule:
        """The chain rule of the same Jacobian between kept neurons; `output` is the last stage, without a slope."""
        groups = [g for g, p in enumerate(self.post) if g == 0 or len(p.kept)]
        number = {g: i for i, g in enumerate(groups)}
        shapes = [whole.shapes[0], *((len(self.post[g].kept),) for g in groups[1:]), whole.shapes[-1]]
        ends = [*(self.kept_rows[g] for g in groups[1:]), output]
        edges = [
            tuple(
                Edge(number[g], Enclosed(block.map(lambda t: t.mT), shapes[number[g]], shapes[i]))
                for g, block in end.blocks.items()
            )
            for i, end in enumerate(ends, 1)
        ]
        slopes = [None, *(_slopes(whole, g, self.post[g].kept) for g in groups[1:]), None]
        return replace(whole, shapes=tuple(shapes), edges=((), *edges), slopes=tuple(slopes), skeleton=None)


def _slopes(whole: ChainRule, node: int, kept: Tensor) -> Interval | None:
    slopes = whole.slopes[node]
    return None if slopes is None else slopes.map(lambda t: t.flatten(1)[:, kept])


def _size(network: Network, node: int) -> int:
    return prod(network.shape(node))


def _add(blocks: dict[int, Value], group: int, block: Value) -> None:
    blocks[group] = blocks[group] + block if group in blocks else block


def _taking(operator: AbstractOperator, support: Tensor) -> AbstractOperator | None:
    """The operator on the entries `support` of its input alone: (support,) to its whole output; None if it is 0."""
    back, reads = operator.transpose().rows(support)
    part = back.transpose()
    if len(reads) == 0:
        return None
    if len(reads) == prod(operator.out_shape):
        return part
    return compose(Gather.of(reads, operator.out_shape).transpose(), part)


def pays(network: Network, kept: Sequence[int]) -> bool:
    """Whether the skeleton of a network costs fewer multiply-adds than plain sweeps, as far as one can tell.

    kept: how many neurons of the first stages are kept; of the others the same share is expected.  Counted are the
    columns that are pushed, and the sweeps over kept neurons, against sweeps over all (MATH §5, §5.5).  Not with
    convolutions: sweeps along what a form reaches (`reach.py`) do less there than this counts, and measured faster.
    """
    if any(e.operator.local for s in network.stages for e in s.edges):
        return False
    sizes = [_size(network, k) for k in range(network.depth)]
    seen = sum(sizes[1 : len(kept) + 1])
    share = sum(kept) / seen if seen else 0.0
    active = 0.5 * (1 + share)  # of the neurons that are not kept, some half has slope 0
    ahead = zip(network.stages[len(kept) : -1], sizes[len(kept) + 1 :], strict=True)
    u = [*kept, *(n * (share if s.activation.piecewise_linear or s.linear else 1.0) for s, n in ahead)]
    work = [sum(e.operator.multiply_adds() for e in s.edges) for s in network.stages]
    inputs, outputs = sizes[0], _size(network, network.depth)
    columns = [inputs + sum(u[:k]) for k in range(network.depth)]
    pushed = sum(w * active * c for w, c in zip(work[1:], columns[:-1], strict=True))
    among = [sum(u[:k]) * (inputs + sum(u[:k]) / 2) for k in range(network.depth)]
    reduced = 2 * sum(n * a for n, a in zip(u, among, strict=False)) + 2 * outputs * (inputs + sum(u) / 2) * sum(u)
    before = [sum(work[: k + 1]) for k in range(network.depth)]
    plain = 2 * sum(n * b for n, b in zip(u, before, strict=False))
    after = [sum(work) - b for b in before]
    plain += 2 * outputs * (inputs * sum(work[1:]) + sum(n * a for n, a in zip(u, after, strict=False)))
    return pushed + reduced <= plain


@final
@dataclass(frozen=True)
class SkeletonRoute(AbstractRoute):
    """From chosen entries of a stage back to the input, by way of kept neurons.

    Nodes are the stages themselves; the lines of a stage are those of its kept neurons.
    """

    skeleton: Skeleton
    start: int
    chosen: Affine
    found: Mapping[int, Lines]
    inputs: BoundRegion

    @property
    def arithmetic(self) -> AbstractArithmetic:
        return self.skeleton.arithmetic

    def nodes(self, start: int) -> Sequence[int]:
        return [start, *(g for g in range(start - 1, -1, -1) if g == 0 or g in self.skeleton.kept_rows)]

    def _affine(self, node: int) -> Affine:
        return self.chosen if node == self.start else self.skeleton.kept_rows[node]

    def edges(self, node: int) -> Sequence[tuple[int, AbstractOperator]]:
        affine, whole = self._affine(node), self.skeleton.network
        size = (affine.constant.shape[0],)
        return [
            (g, Enclosed(block, size, whole.input_shape if g == 0 else (block.shape[0],)))
            for g, block in affine.blocks.items()
        ]

    def lines(self, node: int) -> Lines | None:
        return None if node == 0 else self.found[node]

    def rows(self, node: int) -> Value | None:
        return None if node == 0 else self._affine(node).constant.map(lambda t: t[None, None])

    def region(self, node: int) -> BoundRegion | None:
        return self.inputs if node == 0 else None

    def floats(self) -> int:
        return self.widest()

    def widest(self) -> int:
        return max(_size(self.skeleton.network, 0), *(len(p.kept) for p in self.skeleton.post))
