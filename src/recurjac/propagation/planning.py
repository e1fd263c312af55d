"""Every decision of cost, in one object that travels with a problem.

No decision changes what is true of a bound; the ways to compute it differ by rounding alone.  Costs are counted in
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
from recurjac.network import Network


@runtime_checkable
class Linked(Protocol):
    """What a planner reads of a chain rule: the shapes of nodes, the edges into each, the number of covectors."""

    @property
    def shapes(self) -> tuple[Shape, ...]: ...
    @property
    def edges(self) -> tuple[Any, ...]: ...
    @property
    def rows(self) -> int: ...


@final
@dataclass(frozen=True)
class Thresholds:
    """Where another way of computing begins to be cheaper.

    batch_work: the multiply-adds of one sample (`Network.cost`) from which a batch is taken apart, so that every sample
    has a skeleton of its own.  Below it, one call for all samples is faster.
    live_share, live_least: neurons of slope 0 are left out where at most this share of at least so many is live; else
    copying parts of the matrices costs more than it saves.
    tile: about so many forms of a convolutional layer travel together: enough to be fast, few enough to stay close.
    restricted_share: the share of a route's entries up to which restricting it to what forms reach is worthwhile.
    cache: the bytes that one coefficient tensor should take on a processor, so that it stays in the cache.
    few_forms: so many forms travel together whatever the cache, as smaller products waste time in calls.
    balls, ball_work: regions that an application bounds in one call, and the multiply-adds for which radii that may
    turn out to be unneeded are bounded ahead.
    inputs, input_work: inputs that a command bounds in one call, and the multiply-adds of one input from which it takes
    them one by one, for progress and interruption.
    """

    batch_work: int = 5 * 10**7
    live_share: float = 0.85
    live_least: int = 32
    tile: int = 192
    restricted_share: float = 0.5
    cache: int = 2**20
    few_forms: int = 256
    balls: int = 256
    ball_work: int = 10**9
    inputs: int = 16
    input_work: int = 10**8


class AbstractPlanner(ABC):
    """Decides how bounds are computed; the final methods follow from `thresholds` alone."""

    thresholds: Thresholds

    @abstractmethod
    def pushes_skeleton(self, network: Network, kept: Sequence[int]) -> bool:
        """Whether the skeleton of a network is pushed along with its pre-activations (`skeleton_pushed`).

        kept: how many neurons of the first stages are kept; of the others the same share is expected.
        """

    @abstractmethod
    def pulls_skeleton(self, chain: Linked, kept: Mapping[int, Tensor]) -> bool:
        """Whether rows of a chain rule's skeleton between the neurons `kept` are pulled back (`skeleton_pulled`)."""

    @abstractmethod
    def splits_batch(self, network: Network, batch: int) -> bool:
        """Whether the samples of a batch are bounded one by one."""

    @final
    def live(self, live: Tensor) -> Tensor | None:
        """The flat positions where `live` (entries,) is True, if leaving out the others is worthwhile."""
        index, t = live.nonzero().flatten(), self.thresholds
        return index if 0 < len(index) <= t.live_share * len(live) and len(live) >= t.live_least else None

    @final
    def tiles(self, count: int, axes: int) -> int:
        """Into how many parts each axis of positions is cut for `count` unit forms; 0: the forms stay together."""
        tile = self.thresholds.tile
        return 0 if axes < 1 or count <= tile // 2 else ceil((count / tile) ** (1 / axes))

    @final
    def restricts(self, reached: int, entries: int) -> bool:
        """Whether a route is restricted to `reached` of its entries."""
        t = self.thresholds
        return reached <= t.restricted_share * max(entries, 1) + 2 * t.tile

    @final
    def together(self, form: int, copies: int, memory: int, device: torch.device) -> int:
        """How many forms of `form` bytes travel together, `copies` of them being held, within `memory` bytes."""
        size = max(1, memory // max(1, copies * form))
        if device.type == "cpu":
            size = min(size, max(self.thresholds.few_forms, self.thresholds.cache // max(1, 2 * form)))
        return size

    @final
    def radii_ahead(self, network: Network) -> int:
        """How many radii of one input are bounded in one call although some may turn out to be unneeded."""
        return max(1, self.thresholds.ball_work // max(1, network.cost))

    @final
    def inputs_together(self, network: Network) -> int:
        """How many inputs a command takes in one call."""
        return 1 if network.cost > self.thresholds.input_work else self.thresholds.inputs


@final
@dataclass(frozen=True)
class Planner(AbstractPlanner):
    """Takes the way of the least count of multiply-adds."""

    thresholds: Thresholds = field(default_factory=Thresholds)

    def pushes_skeleton(self, network: Network, kept: Sequence[int]) -> bool:
        """Counted are the pushed columns and the sweeps over kept neurons, against sweeps over all neurons.

        Never with convolutions: sweeps along receptive fields (`receptive_field.py`) do less there than this counts,
        and measured faster.
        """
        return not network.local and pushed_work(network, kept) <= plain_work(network, kept)

    def pulls_skeleton(self, chain: Linked, kept: Mapping[int, Tensor]) -> bool:
        """Never where everything is dense: there a skeleton is pushed along with pre-activations, if at all."""
        if not any(e.operator.local for into in chain.edges for e in into):
            return False
        pulled, plain = pulled_work(chain, {k: len(index) for k, index in kept.items()})
        return pulled <= plain

    def splits_batch(self, network: Network, batch: int) -> bool:
        """A skeleton may save tens of times what taking the batch apart may lose, which is at most a factor of two.

        With convolutions this is known only once pre-activations are bounded.  On an accelerator a batch stays whole,
        since the cost there is in the number of calls.
        """
        if batch < 2 or network.device.type != "cpu" or network.cost <= self.thresholds.batch_work:
            return False
        return network.local or self.pushes_skeleton(network, ())


@final
@dataclass(frozen=True)
class PlainOnly(AbstractPlanner):
    """Sweeps over all neurons; no skeleton is made and no batch is taken apart."""

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
    """A skeleton is pushed for every single sample, whatever it costs."""

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
    """Pre-activations by plain sweeps, and the Jacobian of every single sample by a pulled skeleton."""

    thresholds: Thresholds = field(default_factory=Thresholds)

    def pushes_skeleton(self, network: Network, kept: Sequence[int]) -> bool:
        return False

    def pulls_skeleton(self, chain: Linked, kept: Mapping[int, Tensor]) -> bool:
        return True

    def splits_batch(self, network: Network, batch: int) -> bool:
        return batch > 1


def _expected(network: Network, kept: Sequence[int]) -> tuple[list[float], float]:
    """How many neurons of each stage but the last are kept, the input first left out, and the share of those known.

    Of stages that are not bounded yet the share of the others is expected; all neurons of a smooth stage are kept.
    """
    sizes = [prod(network.shape(k)) for k in range(network.depth)]
    seen = sum(sizes[1 : len(kept) + 1])
    share = sum(kept) / seen if seen else 0.0
    ahead = zip(network.stages[len(kept) : -1], sizes[len(kept) + 1 :], strict=True)
    return [*kept, *(n * (share if s.activation.piecewise_linear or s.linear else 1.0) for s, n in ahead)], share


def pushed_work(network: Network, kept: Sequence[int]) -> float:
    """Multiply-adds of pushing a skeleton and of both sweeps over its kept neurons (docs/mathematics.md, §5.5)."""
    u, share = _expected(network, kept)
    active = 0.5 * (1 + share)  # of the neurons that are not kept, some half has slope 0
    inputs, outputs, work = prod(network.input_shape), prod(network.output_shape), network.work
    before = [sum(u[:k]) for k in range(network.depth)]
    pushed = sum(w * active * (inputs + b) for w, b in zip(work[1:], before[:-1], strict=True))
    pulled = sum(n * b * (inputs + b / 2) for n, b in zip(u, before, strict=False))
    tangents = inputs * sum(u) ** 2 / 2 + sum(n * (sum(u) - b - n) ** 2 / 2 for n, b in zip(u, before, strict=False))
    return pushed + 2 * pulled + 2 * outputs * tangents


def plain_work(network: Network, kept: Sequence[int]) -> float:
    """Multiply-adds of plain sweeps for pre-activations and the Jacobian (docs/mathematics.md, §5)."""
    u, _ = _expected(network, kept)
    inputs, outputs, work = prod(network.input_shape), prod(network.output_shape), network.work
    done = [sum(work[: k + 1]) for k in range(network.depth)]
    plain = 2 * sum(n * d for n, d in zip(u, done, strict=False))
    ahead = sum(n * (sum(work) - d) for n, d in zip(u, done, strict=False))
    return plain + 2 * outputs * (inputs * sum(work[1:]) + ahead)


def pulled_work(chain: Linked, kept: Mapping[int, int]) -> tuple[int, int]:
    """Multiply-adds with a pulled skeleton between so many kept neurons a node, and without it.

    The basis of the input needs no products to leave it, and the covectors meet the last edges once for all.
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
