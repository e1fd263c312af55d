"""All decisions that depend on cost, in one object that is part of a problem.

No decision changes whether a bound holds: the alternatives differ by rounding only, except that forward forms, where
they are carried, may also make ranges tighter, and that along a skeleton the ranges of neurons whose sign is decided
are intervals over kept neurons.  Costs are counted in
multiply-adds (docs/mathematics.md, §5.5) and compared with thresholds that were measured on processors with one thread
(`make bench`, tables `reference`, `wide` and `growth`; `python -m benchmarks.networks` for convolutions).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, prod
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.deadline import NEVER, Deadline
from recurjac.errors import expect_amounts, expect_counts
from recurjac.network import Network


@runtime_checkable
class Linked(Protocol):
    """The parts of a chain rule that a planner reads: node shapes, edges into each node, number of covectors."""

    @property
    def shapes(self) -> tuple[Shape, ...]: ...
    @property
    def edges(self) -> tuple[Any, ...]: ...
    @property
    def rows(self) -> int: ...


@runtime_checkable
class Costly(Protocol):
    """What a planner reads of a network or a chain rule: its multiply-adds (`Network.cost`), and how deep it is."""

    @property
    def cost(self) -> int: ...
    @property
    def depth(self) -> int: ...


@final
@dataclass(frozen=True)
class Thresholds:
    """The thresholds at which one way of computing becomes cheaper than another.

    batch_work: if one sample costs more multiply-adds than this (`Network.cost`), a batch may be split, so that every
    sample has its own skeleton.  Below it, one call for all samples is faster.
    live_share, live_least: neurons of slope 0 are left out of a node if it has at least `live_least` neurons and at
    most the share `live_share` of them has another slope.  Otherwise copying parts of the matrices costs more than it
    saves.
    tile: the approximate number of forms of a convolutional layer that are propagated together.  It is large enough
    to be fast, and small enough that the forms start near each other.
    restricted_share: a route is restricted to the entries that the forms reach if these are at most about this share.
    cache: the size in bytes that one coefficient tensor should have on a CPU, so that it stays in the cache.
    few_forms: up to this many forms are propagated together even if they exceed the cache, because smaller products
    spend too much time in call overhead.
    forms_share, forms_work: affine forms are carried forward before forms of many neurons are pulled back if they are
    at most this share of those, and if pulling takes at least that many multiply-adds.
    balls, ball_work: the number of regions that an application bounds in one call, and the multiply-adds that it
    spends on bounding radii ahead of time, although they may not be needed.
    inputs, input_work: the number of inputs that a command bounds in one call, and the multiply-adds of one input above
    which it takes inputs one by one, so that it can show progress and be interrupted.
    lot_work, lot_copies: the multiply-adds (`Network.cost`) of samples that a portfolio bounds together, so that it can
    look at the clock between lots, and how many tensors of the size of a sample's gradients these hold.
    lot_forms: how many forms of all samples of a lot, for all outputs, fit in the memory of a sweep, copies included.
    loop_inputs, loop_stages: the most inputs and the fewest curved stages of a network that is like an unrolled loop.
    tangent_work, tangent_noises: the multiply-adds of tangents that are carried forward as forms, and the most noises.
    cut_nodes: about how many nodes the products of two halves of a chain rule may have, all products together.
    point_work: the multiply-adds of the Jacobian at a point that is computed even if there is hardly time for it.
    jet_parts, jet_work: the most parts of a region whose second derivatives are bounded in hardly more time than one
    takes, and their multiply-adds (`Network.cost`).
    merged_entries, merged_each: the most entries of a matrix that replaces several operators, and how many of them take
    as long as calling one more operator.
    watched_work: the multiply-adds (`Network.cost`) above which operations are so large that looking at the clock
    before each of them costs little.
    watched_depth: the depth from which a bound consists of so many small operations that it is done all the same.
    """

    batch_work: int = 5 * 10**7
    live_share: float = 0.85
    live_least: int = 32
    tile: int = 192
    restricted_share: float = 0.5
    cache: int = 2**20
    few_forms: int = 256
    forms_share: float = 0.5
    forms_work: int = 10**8
    balls: int = 256
    ball_work: int = 10**9
    inputs: int = 16
    input_work: int = 10**8
    lot_work: int = 2 * 10**8
    lot_copies: int = 8
    lot_forms: int = 96
    loop_inputs: int = 16
    loop_stages: int = 8
    tangent_work: int = 5 * 10**8
    tangent_noises: int = 2048
    cut_nodes: int = 2**7
    point_work: int = 10**8
    jet_parts: int = 2**8
    jet_work: int = 2 * 10**7
    merged_entries: int = 2**12
    merged_each: int = 2**8
    watched_work: int = 5 * 10**7
    watched_depth: int = 2**7

    def __post_init__(self) -> None:
        shares = {"live_share": self.live_share, "restricted_share": self.restricted_share}
        shares["forms_share"] = self.forms_share
        expect_amounts("Thresholds", **shares)
        expect_counts("Thresholds", **{k: v for k, v in vars(self).items() if k not in shares})


class AbstractPlanner(ABC):
    """Decides how bounds are computed; the final methods depend on `thresholds` only."""

    thresholds: Thresholds

    @abstractmethod
    def pushes_skeleton(self, network: Network, kept: Sequence[int]) -> bool:
        """Whether the skeleton of a network is pushed together with its pre-activations (`skeleton_pushed`).

        kept: the number of kept neurons of each of the first stages.  The same share is assumed for the other stages.
        """

    @abstractmethod
    def pulls_skeleton(self, chain: Linked, kept: Mapping[int, Tensor]) -> bool:
        """Whether the skeleton of a chain rule between the neurons `kept` is pulled (`skeleton_pulled`)."""

    @abstractmethod
    def splits_batch(self, network: Network, batch: int) -> bool:
        """Whether the samples of a batch are bounded one by one."""

    @final
    def live(self, live: Tensor) -> Tensor | None:
        """The flat positions where `live` (entries,) is True; None if leaving out the others saves no work."""
        index, t = live.nonzero().flatten(), self.thresholds
        return index if 0 < len(index) <= t.live_share * len(live) and len(live) >= t.live_least else None

    @final
    def tiles(self, count: int, axes: int) -> int:
        """The number of parts into which each spatial axis is cut for `count` unit forms; 0 means no cutting."""
        tile = self.thresholds.tile
        return 0 if axes < 1 or count <= tile // 2 else ceil((count / tile) ** (1 / axes))

    @final
    def restricts(self, reached: int, entries: int) -> bool:
        """Whether a route is restricted to `reached` of its entries."""
        t = self.thresholds
        return reached <= t.restricted_share * max(entries, 1) + 2 * t.tile

    @final
    def together(self, form: int, copies: int, memory: int, device: torch.device) -> int:
        """How many forms of `form` bytes are propagated together if `copies` of each must fit in `memory` bytes."""
        size = max(1, memory // max(1, copies * form))
        if device.type == "cpu":
            size = min(size, max(self.thresholds.few_forms, self.thresholds.cache // max(1, 2 * form)))
        return size

    @final
    def carries_forms(self, network: Network, k: int, unstable: int, noises: int) -> bool:
        """Whether affine forms are carried to stage k before forms of `unstable` neurons are pulled back.

        They make many neurons stable, so that fewer forms are pulled.  noises: how many forms there are at most, beside
        those of 1 and of the inputs.
        """
        work, t = sum(network.work[:k]), self.thresholds
        carried = 1 + network.sizes[0] + noises
        return carried <= t.forms_share * unstable and 2 * unstable * work >= t.forms_work

    @final
    def carries_tangents(self, network: Network) -> int:
        """How many noises the forms of tangents have that are carried forward beside other bounds; 0 if none are.

        They are worth it for few inputs, and products or many curved stages one after another.
        """
        t, inputs = self.thresholds, network.sizes[0]
        curved = sum(not (s.linear or s.activation.piecewise_linear) for s in network.stages)
        if inputs > t.loop_inputs or not curved or not (network.has_products or curved >= t.loop_stages):
            return 0
        room = t.tangent_work // max(1, sum(network.work) * (1 + inputs)) - 1 - inputs
        return min(room, t.tangent_noises) if room >= curved else 0

    @final
    def quick_at_points(self, network: Network) -> bool:
        """Whether the Jacobian at a point takes a moment, so that it is computed whatever the time."""
        return network.multiply_adds * (1 + network.sizes[-1]) <= self.thresholds.point_work

    @final
    def first_parts(self, network: Network) -> int:
        """The number of parts of a region whose second derivatives are bounded in hardly more time than one takes.

        It is a power of two.
        """
        most = min(self.thresholds.jet_parts, self.thresholds.jet_work // max(1, network.cost))
        return 1 << max(1, most.bit_length() - 1)

    @final
    def cuts(self, nodes: int) -> int:
        """In how many places a chain rule of so many nodes is cut in two."""
        return max(1, self.thresholds.cut_nodes // max(1, nodes))

    @final
    def merges(self, operators: int, work: int, entries: int) -> bool:
        """Whether one matrix of so many entries replaces several operators with so many multiply-adds in total.

        Two operators are left as they are: little is gained, and most of them are a layer and a move of its entries.
        """
        t = self.thresholds
        return operators > 2 and entries <= min(t.merged_entries, work + t.merged_each * (operators - 2))

    @final
    def radii_ahead(self, network: Network) -> int:
        """How many radii of one input are bounded in one call, although some of them may not be needed."""
        return max(1, self.thresholds.ball_work // max(1, network.cost))

    @final
    def watched(self, work: Costly, deadline: Deadline) -> Deadline:
        """The deadline after which work is given up between operations; none for shallow networks of small ones."""
        t = self.thresholds
        return deadline if work.cost > t.watched_work or work.depth >= t.watched_depth else NEVER

    @final
    def samples_together(self, network: Network, batch: int, memory: int) -> int:
        """How many samples of a batch are bounded together; 1 if each may have its own skeleton.

        At most so many that a few forms of all of them fit in the memory of a sweep.
        """
        if self.splits_batch(network, batch):
            return 1
        form = torch.finfo(network.dtype).bits // 8 * network.sizes[-1] * max(network.sizes)
        return max(1, min(batch, memory // (self.thresholds.lot_forms * form)))

    @final
    def lot(self, network: Network, batch: int, memory: int) -> int:
        """How many samples of a batch a portfolio bounds together; 1 if each may have its own skeleton."""
        if batch < 2 or self.splits_batch(network, batch):
            return 1
        sample = torch.finfo(network.dtype).bits // 8 * network.sizes[-1] * sum(network.sizes)
        room = memory // max(1, self.thresholds.lot_copies * sample)
        return max(1, min(batch, room, self.thresholds.lot_work // max(1, network.cost)))

    @final
    def wide_lot(self, network: Network, memory: int) -> int:
        """How many samples have ranges by intervals together."""
        return max(1, memory // (torch.finfo(network.dtype).bits // 4 * sum(network.sizes)))

    @final
    def inputs_together(self, network: Network) -> int:
        """How many inputs a command bounds in one call; large ones, of which batches are taken apart, one by one."""
        t = self.thresholds
        return 1 if network.cost > t.input_work and self.splits_batch(network, t.inputs) else t.inputs


@final
@dataclass(frozen=True)
class Planner(AbstractPlanner):
    """Chooses the alternative with the fewest multiply-adds."""

    thresholds: Thresholds = field(default_factory=Thresholds)

    def pushes_skeleton(self, network: Network, kept: Sequence[int]) -> bool:
        """True if pushing columns and sweeping over kept neurons costs at most as much as sweeping over all neurons.

        Always False with convolutions: sweeps along receptive fields (`receptive_field.py`) do less work there than
        this count assumes, and they were faster when measured.
        """
        if network.local:
            return False
        pushed, plain = pushed_work(network, kept)
        return pushed <= plain

    def pulls_skeleton(self, chain: Linked, kept: Mapping[int, Tensor]) -> bool:
        """True if pulling is estimated to be cheaper; always False if no operator is a convolution.

        Without convolutions, a skeleton is pushed together with the pre-activations or not used.
        """
        if not any(e.operator.local for into in chain.edges for e in into):
            return False
        pulled, plain = pulled_work(chain, {k: len(index) for k, index in kept.items()})
        return pulled <= plain

    def splits_batch(self, network: Network, batch: int) -> bool:
        """True on a CPU for a network that is expensive enough and may have a skeleton.

        Splitting a batch makes it at most twice as slow, and a skeleton can make it tens of times faster.  With
        convolutions, whether a skeleton is cheaper is known only after pre-activations are bounded.  On an accelerator,
        a batch is never split, because the cost depends on the number of calls.
        """
        if batch < 2 or network.device.type != "cpu" or network.cost <= self.thresholds.batch_work:
            return False
        return network.local or self.pushes_skeleton(network, ())


@final
@dataclass(frozen=True)
class PlainOnly(AbstractPlanner):
    """Sweeps over all neurons, without skeletons; never splits a batch."""

    thresholds: Thresholds = field(default_factory=Thresholds)

    def pushes_skeleton(self, network: Network, kept: Sequence[int]) -> bool:
        return False

    def pulls_skeleton(self, chain: Linked, kept: Mapping[int, Tensor]) -> bool:
        return False

    def splits_batch(self, network: Network, batch: int) -> bool:
        return False


@final
@dataclass(frozen=True)
class SkeletonOnly(AbstractPlanner):
    """Pushes a skeleton for each sample, regardless of the cost."""

    thresholds: Thresholds = field(default_factory=Thresholds)

    def pushes_skeleton(self, network: Network, kept: Sequence[int]) -> bool:
        return True

    def pulls_skeleton(self, chain: Linked, kept: Mapping[int, Tensor]) -> bool:
        return True

    def splits_batch(self, network: Network, batch: int) -> bool:
        return batch > 1


@final
@dataclass(frozen=True)
class PulledOnly(AbstractPlanner):
    """Bounds pre-activations by plain sweeps, and the Jacobian of each sample by a pulled skeleton."""

    thresholds: Thresholds = field(default_factory=Thresholds)

    def pushes_skeleton(self, network: Network, kept: Sequence[int]) -> bool:
        return False

    def pulls_skeleton(self, chain: Linked, kept: Mapping[int, Tensor]) -> bool:
        return True

    def splits_batch(self, network: Network, batch: int) -> bool:
        return batch > 1


def pushed_work(network: Network, kept: Sequence[int]) -> tuple[float, float]:
    """Multiply-adds with a pushed skeleton, of which the first stages keep `kept` neurons, and without a skeleton.

    Stages that are not bounded yet are assumed to keep the same share; smooth stages keep all their neurons.
    """
    sizes = network.sizes[:-1]
    seen = sum(sizes[1 : len(kept) + 1])
    share = sum(kept) / seen if seen else 0.0
    ahead = zip(network.stages[len(kept) : -1], sizes[len(kept) + 1 :], strict=True)
    u = [*kept, *(n * (share if s.activation.piecewise_linear or s.linear else 1.0) for s, n in ahead)]
    return _skeleton_work(network, u, share), _plain_work(network, u)


def _skeleton_work(network: Network, u: Sequence[float], share: float) -> float:
    """Of pushing a skeleton and of both sweeps over its kept neurons, u of each stage (docs/mathematics.md, §5.5)."""
    active = 0.5 * (1 + share)  # about half of the neurons that are not kept have slope 0
    inputs, outputs, work = network.sizes[0], network.sizes[-1], network.work
    before = [sum(u[:k]) for k in range(network.depth)]
    pushed = sum(w * active * (inputs + b) for w, b in zip(work[1:], before[:-1], strict=True))
    pulled = sum(n * b * (inputs + b / 2) for n, b in zip(u, before, strict=False))
    tangents = inputs * sum(u) ** 2 / 2 + sum(n * (sum(u) - b - n) ** 2 / 2 for n, b in zip(u, before, strict=False))
    return pushed + 2 * pulled + 2 * outputs * tangents


def _plain_work(network: Network, u: Sequence[float]) -> float:
    """Of plain sweeps for pre-activations and the Jacobian (docs/mathematics.md, §5)."""
    inputs, outputs, work = network.sizes[0], network.sizes[-1], network.work
    done = [sum(work[: k + 1]) for k in range(network.depth)]
    plain = 2 * sum(n * d for n, d in zip(u, done, strict=False))
    ahead = sum(n * (sum(work) - d) for n, d in zip(u, done, strict=False))
    return plain + 2 * outputs * (inputs * sum(work[1:]) + ahead)


def pulled_work(chain: Linked, kept: Mapping[int, int]) -> tuple[int, int]:
    """Multiply-adds with a pulled skeleton that keeps `kept[k]` neurons of node k, and without a skeleton.

    The basis of the input needs no products at the first edge, and the covectors are applied to the last edges once.
    """
    end = len(chain.shapes) - 1
    inputs, outputs, total = prod(chain.shapes[0]), prod(chain.shapes[-1]), sum(kept.values())
    pulled, plain, reduced, later, inner = 0, 0, total * total * inputs // 2, 0, 0
    for k in range(end, 0, -1):
        here = kept.get(k, 0)
        plain += here * inner
        reduced += here * later * later // 2
        later += here
        pulled += (outputs + later) * sum(e.operator.multiply_adds() for e in chain.edges[k])
        if k < end:
            inner += sum(e.operator.multiply_adds() for e in chain.edges[k] if e.source > 0)
    reduced += (total + 1) * (total + inputs)
    return pulled + 2 * chain.rows * reduced, 2 * chain.rows * (plain + inputs * inner)
