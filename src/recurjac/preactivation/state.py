"""What is known of pre-activations over a region: bounds, stage by stage, and the network relaxed with them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf, isfinite
from typing import Any, TypeVar, cast, final

import torch
from torch import Tensor

from recurjac.activations import AbstractActivation, Factor, FactorOver
from recurjac.activations.product import factors_over
from recurjac.arithmetic import AbstractArithmetic, Ball, Conditional, Interval, Loss, Sizes
from recurjac.machine import keep_freed_memory
from recurjac.network import Closed, Network, Stage
from recurjac.operators import AbstractOperator
from recurjac.operators.base import AbstractLeaf
from recurjac.operators.interval_matrix import IntervalMatrix, other_terms
from recurjac.operators.part import part
from recurjac.preactivation.closed import values_of
from recurjac.propagation.chain_rule import ChainRule, chain_rule
from recurjac.propagation.planning import AbstractPlanner
from recurjac.propagation.route import AbstractRoute, loss_of
from recurjac.propagation.skeleton_pushed import Affine, Skeleton
from recurjac.propagation.skeleton_rounding import Ranges
from recurjac.propagation.skeleton_route import SkeletonRoute
from recurjac.region import BoundRegion
from recurjac.relaxations import Absorption, LinearRelaxation

_Kept = TypeVar("_Kept")


class AbstractLineChoice(ABC):
    """A rule that chooses two lines for an activation; a frozen object, which serves as a key for the lines."""

    @abstractmethod
    def lines(self, activation: AbstractActivation, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """The lines of `activation` on z (batch, *stage): (batch, 1, *stage)."""


@final
@dataclass
class PreactivationState:
    """The bounds of a network's stages that are known so far; `append` adds the next stage.

    known: for some stages an interval, (batch or 1, *stage), to which bounds are restricted; results hold only for
    inputs whose pre-activations lie in it.  Slopes at an end of it that is a kink are those on its inner side.
    empty: (batch,), True where the region is proved to be empty, or bounds and `known` are disjoint, so that no input
    of that sample is left.
    began: when the state was made, on the clock of `time.monotonic`.
    """

    network: Network
    region: BoundRegion
    arithmetic: AbstractArithmetic
    planner: AbstractPlanner
    known: Mapping[int, Interval] = field(default_factory=dict)
    empty: Tensor = field(init=False)
    _pre: list[Interval] = field(default_factory=list)
    _post: dict[int, Interval] = field(default_factory=dict)
    _slopes: dict[int, Interval] = field(default_factory=dict)
    _factors: dict[int, FactorOver] = field(default_factory=dict)
    _relaxed: dict[AbstractLineChoice, _Found] = field(default_factory=dict)
    _affine: dict[int, Affine] = field(default_factory=dict)
    _kept: dict[Hashable, Any] = field(default_factory=dict)
    skeleton: Skeleton | None = None
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        keep_freed_memory()
        self.network.check_weights()
        if self.known or self.region.may_be_empty:
            self.arithmetic = Conditional(self.arithmetic)
        self.empty = self.region.empty
        if self.region.batch == 1 and not self.network.has_products and self.planner.pushes_skeleton(self.network, ()):
            self._begin_skeleton()

    def _begin_skeleton(self) -> None:
        """Make a skeleton if the region is bounded: its rounding is paid by magnitudes of the input."""
        known = Ranges.of(self.post(0).map(lambda t: t.flatten()), self.arithmetic)
        if isfinite(known.total):
            self.skeleton = Skeleton(self.network, self.arithmetic, self.planner, known)

    @property
    def bounded(self) -> int:
        """The number of stages that are bounded; it is also the number of the last of them."""
        return len(self._pre)

    def append(self, z: Interval, choice: AbstractLineChoice | None) -> None:
        """Append bounds of the next stage; `choice` has the lines that were used, or is None."""
        k = self.bounded + 1
        closed = self.closed(k)
        if closed is not None:
            z = self.arithmetic.intersect(z, values_of(closed, self.post(closed.source), self.arithmetic))
        self._pre.append(self.cut(k, z))
        self._extend_skeleton(choice, k)

    def cut(self, k: int, z: Interval) -> Interval:
        """Bounds of stage k intersected with `known[k]`; where the two are disjoint, `known[k]`."""
        if k not in self.known:
            return z
        known = self.known[k].map(lambda t: t.to(z.lower).expand_as(z.lower))
        lower, upper = torch.maximum(z.lower, known.lower), torch.minimum(z.upper, known.upper)
        crossed = lower > upper
        self.exclude(crossed.flatten(1).any(1))
        return Interval(torch.where(crossed, known.lower, lower), torch.where(crossed, known.upper, upper))

    def _extend_skeleton(self, choice: AbstractLineChoice | None, k: int) -> None:
        """Append stage k to the skeleton, and drop the skeleton if it is not cheaper."""
        skeleton, z = self.skeleton, self.affine(k)
        if skeleton is None or z is None:
            return
        if choice is not None:
            lines = self.relaxed(choice).lines(k)
        else:
            lines = self.activation(k).lines(self.pre(k), self.arithmetic)
        exact = (lines.exact[:, 0] & self.slopes(k).is_point).flatten()
        del self._affine[k]
        skeleton.append_stage(k, z, lines.upper_slope[0, 0].flatten(), exact, self.post(k).map(lambda t: t.flatten()))
        counts = [p.count for p in skeleton.post[1:]]
        covered = isfinite(skeleton.known.total)
        if not covered or ((k == 1 or counts[-1]) and not self.planner.pushes_skeleton(self.network, counts)):
            self.skeleton = None

    def affine(self, k: int) -> Affine | None:
        """z_k in terms of the input and the kept neurons of the skeleton; None without a skeleton."""
        if self.skeleton is None:
            return None
        if k not in self._affine:
            self._affine[k] = self.skeleton.pre(k)
        return self._affine[k]

    def along_skeleton(self, k: int) -> Interval | None:
        """The interval of z_k over all values of the input and the kept neurons; None without a skeleton."""
        z = self.affine(k)
        return None if z is None or z.range is None else z.range.map(lambda t: t.reshape(1, *self.stage(k).shape))

    def relaxed(self, choice: AbstractLineChoice) -> RelaxedNetwork:
        """The bounded stages, with their activations replaced by the lines of `choice`."""
        return RelaxedNetwork(self, choice, self._relaxed.setdefault(choice, _Found()))

    def chain(self) -> ChainRule:
        """The chain rule of the network's Jacobian over the region; all inner stages must be bounded."""
        network = self.network
        inner = [None if self.stage(k).linear else self.slopes(k) for k in range(1, network.depth)]
        whole = chain_rule(network, [None, *inner, None], self.region.batch, self.arithmetic, self.planner)
        output = self.affine(network.depth)
        reduced = None if self.skeleton is None or output is None else self.skeleton.chain(whole, output)
        return replace(whole, skeleton=reduced)

    def settled_chain(self) -> ChainRule:
        """`chain`, where neurons that no tangent reaches have the slope 0, although theirs may be unknown.

        Of max(a, b) = a + ReLU(b - a), with a and b always 0, the ReLU is such a neuron.  J is the same.
        """
        chain = self.chain()
        known = ((slopes, self.pre(k)) for k, slopes in enumerate(chain.slopes) if slopes is not None)
        some = any(bool((z.is_point & ~slopes.is_point).any()) for slopes, z in known)
        return chain.with_settled_slopes() if some else chain

    def kept(self, key: Hashable, make: Callable[[], _Kept]) -> _Kept:
        """What a rule keeps from stage to stage; it is made when it is asked for first."""
        if key not in self._kept:
            self._kept[key] = make()
        return cast(_Kept, self._kept[key])

    def keeps(self, key: Hashable) -> bool:
        """Whether a rule keeps something by this key."""
        return key in self._kept

    def pre(self, k: int) -> Interval:
        """Bounds of z_k."""
        return self._pre[k - 1]

    def post(self, k: int) -> Interval:
        """Bounds of h_k; h_0 is the input.  Those of the second factor of a product are those of the product."""
        if k not in self._post:
            self._post[k] = self._values(k)
        return self._post[k]

    def _values(self, k: int) -> Interval:
        if k == 0:
            return self.region.box(self.arithmetic)
        factor = self.stage(k).factor
        if factor is None:
            return self.stage(k).activation.value_range(self.pre(k), self.arithmetic)
        if factor.first:
            return Interval.point(torch.zeros_like(self.pre(k).lower))
        return self.arithmetic.product(self.pre(k), self.pre(k + factor.other))

    def activation(self, k: int) -> AbstractActivation:
        """The activation of stage k, or over the region what a factor of a product is in its place.

        Ranges and lines of the two factors belong together; they do not go with the values of `post`.
        Both factors must be bounded.  Source: docs/mathematics.md, §3.9.
        """
        factor = self.stage(k).factor
        return self.stage(k).activation if factor is None else self._factor(k, factor)

    def _factor(self, k: int, factor: Factor) -> FactorOver:
        if k not in self._factors:
            first = k if factor.first else k - 1
            parts = factors_over(self.pre(first), self.pre(first + 1), self.arithmetic)
            self._factors[first], self._factors[first + 1] = parts
        return self._factors[k]

    def is_complete(self, k: int) -> bool:
        """Whether stage k is bounded and, if it is a factor of a product, the other factor as well."""
        factor = self.stage(k).factor
        return max(k, k if factor is None else k + factor.other) <= self.bounded

    def part(self, k: int) -> Interval:
        """The range of h_k that goes with the lines of `activation`."""
        return (
            self.post(k)
            if self.stage(k).factor is None
            else self.activation(k).value_range(self.pre(k), self.arithmetic)
        )

    def completed_by(self, k: int) -> Sequence[int]:
        """The stages that are complete once stage k is bounded: itself, with a first factor before it, or none."""
        factor = self.stage(k).factor
        if factor is None:
            return (k,)
        return () if factor.first else (k - 1, k)

    def secants(self, k: int, at: Sequence[Interval]) -> Interval:
        """Intervals of δ with h - h_c = δ (z - z_c) at stage k, where `at` encloses z_1, z_2, … at the point c.

        For the factors of a product u v, they are the means of the other factor and of its value at c, because
        2 (u v - u_c v_c) = (u + u_c)(v - v_c) + (v + v_c)(u - u_c).  Source: docs/mathematics.md, §3.4.
        """
        factor = self.stage(k).factor
        if factor is None:
            return self.stage(k).activation.secant_range(self.pre(k), at[k - 1], self.arithmetic)
        other, half = k + factor.other, Interval.point(torch.full_like(self.pre(k).lower, 0.5))
        both = self.arithmetic.sum([self.pre(other), at[other - 1].map(lambda t: t.expand_as(half.lower))])
        return self.arithmetic.product(both, half)

    def slopes(self, k: int) -> Interval:
        """Intervals of the slopes at stage k, one-sided at a kink where `known` ends: (batch, *stage).

        Source: docs/mathematics.md, §6.9.
        """
        if k not in self._slopes:
            activation = self.activation(k)
            z = self._off_the_jumps(k) if activation.jumps else self.pre(k)
            self._slopes[k] = activation.slope_range(z, self.arithmetic)
        return self._slopes[k]

    def _off_the_jumps(self, k: int) -> Interval:
        """Bounds of z_k that leave out jumps of the slope at which `known` ends; beside them the slope is constant."""
        z = self.pre(k)
        if k not in self.known:
            return z
        known, (low, high) = self.known[k].map(lambda t: t.to(z.lower).expand_as(z.lower)), (z.lower, z.upper)
        for jump in self.stage(k).activation.jumps:
            at = torch.full_like(low, jump)
            above, below = (known.lower == at) & (known.upper > at), (known.upper == at) & (known.lower < at)
            after, before = (_beside(at, toward) for toward in (inf, -inf))
            low, high = (torch.where(above, torch.maximum(end, after), end) for end in (low, high))
            low, high = (torch.where(below, torch.minimum(end, before), end) for end in (low, high))
        return Interval.unchecked(low, high)

    def exclude(self, empty: Tensor) -> None:
        """Record that no input is left where `empty` (batch,) is True, if bounds cover rounding."""
        if self.arithmetic.rigorous:
            self.empty = self.empty | empty

    def unstable(self, k: int, z: Interval) -> Tensor:
        """True where the slope at stage k is not constant on z: (batch, *stage)."""
        return self.stage(k).activation.unstable(z, self.arithmetic)

    def closed(self, k: int) -> Closed | None:
        """The closed form of stage k; None if there is none, or rounding must be covered, which it does not do."""
        closed = self.stage(k).closed
        return closed if closed is None or closed.function.rigorous or not self.arithmetic.rigorous else None

    def stage(self, k: int) -> Stage:
        return self.network.stages[k - 1]

    @cached_property
    def terms_beside(self) -> tuple[int, ...]:
        """How many more summands than its own products an entry of a form that arrives at each node has at most."""
        edges = [e for s in self.network.stages for e in s.edges]
        count = range(self.network.depth + 1)
        return tuple(other_terms([e.operator.transpose() for e in edges if e.source == k]) for k in count)

    @cached_property
    def everywhere(self) -> bool:
        """Whether the region of every sample is unbounded."""
        return bool(self.region.unbounded.all())

    def intervals_suffice(self, k: int) -> bool:
        """Whether interval propagation is exact at stage k, because it is one operator on a bounded box.

        It is not if neurons of the stage are constrained, as constraints of one bound others.
        """
        edges, single = self.stage(k).edges, AbstractLeaf | IntervalMatrix
        first = len(edges) == 1 and edges[0].source == 0 and isinstance(edges[0].operator, single)
        return k not in self.known and first and self.region.is_box and not bool(self.region.unbounded.any())


def _beside(at: Tensor, toward: float) -> Tensor:
    """The next numbers in a direction; normal ones beside 0."""
    tiny = torch.finfo(at.dtype).tiny
    return torch.where(at == 0, tiny if toward > 0 else -tiny, torch.nextafter(at, torch.full_like(at, toward)))


@final
@dataclass
class _Found:
    """The results that a relaxed network has computed so far; the state owns it, and it does not refer to the state.

    A reference cycle would keep the tensors of every call until Python's cycle collector runs.
    """

    lines: dict[int, LinearRelaxation] = field(default_factory=dict)
    kept: dict[int, LinearRelaxation] = field(default_factory=dict)
    live_lines: dict[int, LinearRelaxation] = field(default_factory=dict)
    live: dict[int, Tensor | None] = field(default_factory=dict)
    pulls: dict[tuple[int, bool], Sequence[tuple[int, AbstractOperator]]] = field(default_factory=dict)
    absorptions: dict[int, Absorption] = field(default_factory=dict)
    along: dict[int, Absorption] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class RelaxedNetwork:
    """The bounded stages of a network, with each activation between the lines that `choice` gives."""

    state: PreactivationState
    choice: AbstractLineChoice
    found: _Found

    def lines(self, k: int) -> LinearRelaxation:
        """The lines of stage k."""
        if k not in self.found.lines:
            state = self.state
            self.found.lines[k] = self.choice.lines(state.activation(k), state.pre(k), state.arithmetic)
        return self.found.lines[k]

    def live_lines(self, k: int) -> LinearRelaxation:
        """The lines of the neurons `live(k)` of stage k, or of all its neurons if that is None."""
        live = self.live(k)
        if live is None:
            return self.lines(k)
        if k not in self.found.live_lines:
            self.found.live_lines[k] = self.lines(k).at(live)
        return self.found.live_lines[k]

    def live(self, k: int) -> Tensor | None:
        """The neurons of stage k that are not known to be 0; None if leaving out the others saves no work."""
        if k not in self.found.live:
            network = self.state.network
            beside = [e for i, s in enumerate(network.stages, 1) for e in s.edges if k in (e.source, i)]
            local = k == 0 or self.state.stage(k).linear or any(e.operator.local for e in beside)
            planner = self.state.planner
            self.found.live[k] = None if local else planner.live(~self.lines(k).zero.flatten(2).all((0, 1)))
        return self.found.live[k]

    def pulls(self, k: int, whole: bool) -> Sequence[tuple[int, AbstractOperator]]:
        """The sources of stage k, to which forms are pulled, and the transposed operators between live neurons.

        whole: whether the forms are of all neurons of stage k, not only of its live neurons.
        """
        if (k, whole) not in self.found.pulls:
            outputs = None if whole else self.live(k)
            edges = self.state.stage(k).edges
            parts = [(e.source, part(e.operator, outputs, self.live(e.source))) for e in edges]
            self.found.pulls[k, whole] = [(source, o.transpose()) for source, o in parts if o is not None]
        return self.found.pulls[k, whole]

    def sizes(self, k: int) -> Tensor:
        """Upper bounds of |h_k| at the neurons `live(k)`, (batch, 1, *stage or entries); h_0 is the input."""
        state = self.state
        return self._live_of(k, state.post(0) if k == 0 else state.part(k))

    def loss(self, k: int, rows: Ball | None, whole: bool) -> Loss:
        """What rounding costs forms of h_k that are multiplied with `rows` and pulled on; `whole` as for `pulls`."""
        beside = self.state.terms_beside
        images = [o.absorb(Sizes.of(self.sizes(j), beside[j])) for j, o in self.pulls(k, whole)]
        bent = not (whole or self.state.stage(k).linear)
        before = self._live_of(k, self.state.pre(k)) if bent else None
        dims = 1 if not whole and self.live(k) is not None else len(self.state.stage(k).shape)
        return loss_of(images, rows, before, dims)

    def _live_of(self, k: int, bounds: Interval) -> Tensor:
        size, live = bounds.magnitude.detach().unsqueeze(1), self.live(k) if k else None
        return size if live is None else size.flatten(2).index_select(2, live)

    def along_skeleton(self, k: int) -> AbstractRoute | None:
        """The route along the skeleton from the entries of stage k, as a vector, to the input, or None."""
        skeleton, z = self.state.skeleton, self.state.affine(k)
        if skeleton is None or z is None:
            return None
        found = {g: self._lines_of_kept(skeleton, g) for g in skeleton.kept_rows}
        return SkeletonRoute(skeleton, k, z, found, self.found.along, self.state.region)

    def _lines_of_kept(self, skeleton: Skeleton, k: int) -> LinearRelaxation:
        if k not in self.found.kept:
            self.found.kept[k] = self.lines(k).at(skeleton.post[k].kept)
        return self.found.kept[k]
