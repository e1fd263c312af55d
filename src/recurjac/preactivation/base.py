"""What a pre-activation rule states, the stages bounded so far, and the wrappers of rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import final

from torch import Tensor

from recurjac.activations import AbstractActivation
from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.machine import keep_freed_memory
from recurjac.network import Network, Stage
from recurjac.operators import AbstractOperator
from recurjac.operators.base import AbstractLeaf
from recurjac.operators.part import part
from recurjac.propagation.chain_rule import ChainRule, worth_leaving
from recurjac.propagation.route import AbstractRoute
from recurjac.propagation.skeleton import Affine, Skeleton, SkeletonRoute, is_cheaper
from recurjac.region import BoundRegion
from recurjac.relaxations import LinearRelaxation


@final
@dataclass
class Prefix:
    """The stages of a network whose pre-activations are bounded already; grows by one stage at a time."""

    network: Network
    region: BoundRegion
    arithmetic: AbstractArithmetic
    _pre: list[Interval] = field(default_factory=list)
    _post: dict[int, Interval] = field(default_factory=dict)
    _lines: dict[tuple[AbstractPreactivation, int], LinearRelaxation] = field(default_factory=dict)
    _skeleton: Skeleton | None = None
    _affine: dict[int, Affine] = field(default_factory=dict)
    _slopes: dict[int, Interval] = field(default_factory=dict)
    _kept_lines: dict[tuple[AbstractPreactivation, int], LinearRelaxation] = field(default_factory=dict)
    _live_lines: dict[tuple[AbstractPreactivation, int], LinearRelaxation] = field(default_factory=dict)
    _live: dict[tuple[AbstractPreactivation, int], Tensor | None] = field(default_factory=dict)
    _pulls: dict[tuple[AbstractPreactivation, int, bool], Sequence[tuple[int, AbstractOperator]]] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        keep_freed_memory()
        self.network.check_weights()
        if self.region.batch == 1 and is_cheaper(self.network, ()):
            self._skeleton = Skeleton(self.network, self.arithmetic)

    def extend(self, rule: AbstractPreactivation, depth: int) -> None:
        """Bound the stages up to `depth` by `rule`."""
        for k in range(len(self._pre) + 1, depth + 1):
            self._pre.append(rule.stage(self, k))
            self._settle(rule, k)

    def _settle(self, rule: AbstractPreactivation, k: int) -> None:
        """Go on with the skeleton, as long as it pays."""
        skeleton, z = self._skeleton, self.affine(k)
        if skeleton is None or z is None:
            return
        if isinstance(rule, AbstractRelaxation):
            lines = self.lines(rule, k)
        else:
            lines = self.stage(k).activation.lines(self.pre(k), self.arithmetic)
        exact = (lines.exact[:, 0] & self.slopes(k).is_point).flatten()
        skeleton.append_stage(k, z, lines.upper_slope[0, 0].flatten(), exact)
        del self._affine[k]
        counts = [p.count for p in skeleton.post[1:]]
        if (k == 1 or counts[-1]) and not is_cheaper(self.network, counts):
            self._skeleton = None

    def affine(self, k: int) -> Affine | None:
        """z_k in terms of the input and the neurons that are not linear, or None where that does not pay."""
        if self._skeleton is None:
            return None
        if k not in self._affine:
            self._affine[k] = self._skeleton.pre(k)
        return self._affine[k]

    def route(self, rule: AbstractRelaxation, k: int) -> AbstractRoute | None:
        """From the entries of stage k, as a vector, back to the input along the skeleton; None where there is none."""
        z = self.affine(k)
        if self._skeleton is None or z is None:
            return None
        found = {g: self._lines_of_kept(self._skeleton, rule, g) for g in self._skeleton.kept_rows}
        return SkeletonRoute(self._skeleton, k, z, found, self.region)

    def live_lines(self, rule: AbstractRelaxation, k: int) -> LinearRelaxation:
        """The lines that `rule` takes at the neurons `live` of stage k, or at all."""
        live = self.live(rule, k)
        if live is None:
            return self.lines(rule, k)
        if (rule, k) not in self._live_lines:
            self._live_lines[rule, k] = self.lines(rule, k).at(live)
        return self._live_lines[rule, k]

    def _lines_of_kept(self, skeleton: Skeleton, rule: AbstractRelaxation, k: int) -> LinearRelaxation:
        if (rule, k) not in self._kept_lines:
            self._kept_lines[rule, k] = self.lines(rule, k).at(skeleton.post[k].kept)
        return self._kept_lines[rule, k]

    def live(self, rule: AbstractRelaxation, k: int) -> Tensor | None:
        """The neurons of stage k that `rule` does not know to be 0; None where leaving out others is not worth it."""
        if (rule, k) not in self._live:
            beside = [e for i, s in enumerate(self.network.stages, 1) for e in s.edges if k in (e.source, i)]
            local = k == 0 or self.stage(k).linear or any(e.operator.local for e in beside)
            self._live[rule, k] = None if local else worth_leaving(~self.lines(rule, k).zero.flatten(2).all((0, 1)))
        return self._live[rule, k]

    def pulls(self, rule: AbstractRelaxation, k: int, whole: bool) -> Sequence[tuple[int, AbstractOperator]]:
        """Where forms of stage k go on their way to the input, and the transposed operators between live neurons.

        whole: of all neurons of stage k.
        """
        if (rule, k, whole) not in self._pulls:
            outputs = None if whole else self.live(rule, k)
            parts = [(e.source, part(e.operator, outputs, self.live(rule, e.source))) for e in self.stage(k).edges]
            self._pulls[rule, k, whole] = [(source, o.transpose()) for source, o in parts if o is not None]
        return self._pulls[rule, k, whole]

    def reduced(self, chain: ChainRule) -> ChainRule | None:
        """The chain rule of the whole network between its neurons that are not linear; None where that does not pay."""
        output = self.affine(self.network.depth)
        return None if self._skeleton is None or output is None else self._skeleton.chain(chain, output)

    def pre(self, k: int) -> Interval:
        """Bounds of z_k."""
        return self._pre[k - 1]

    def post(self, k: int) -> Interval:
        """Bounds of h_k; h_0 is the input."""
        if k not in self._post:
            if k == 0:
                self._post[k] = self.region.box(self.arithmetic)
            else:
                self._post[k] = self.stage(k).activation.value_range(self.pre(k), self.arithmetic)
        return self._post[k]

    def lines(self, rule: AbstractRelaxation, k: int) -> LinearRelaxation:
        """The lines that `rule` takes at stage k."""
        if (rule, k) not in self._lines:
            self._lines[rule, k] = rule.lines(self.stage(k).activation, self.pre(k), self.arithmetic)
        return self._lines[rule, k]

    def stage(self, k: int) -> Stage:
        return self.network.stages[k - 1]

    @cached_property
    def everywhere(self) -> bool:
        """Whether no sample's region is bounded."""
        return bool(self.region.unbounded.all())

    def intervals_suffice(self, k: int) -> bool:
        """Whether interval propagation gives the smallest bounds of stage k: one operator on a bounded box."""
        edges = self.stage(k).edges
        first = len(edges) == 1 and edges[0].source == 0 and isinstance(edges[0].operator, AbstractLeaf)
        return first and self.region.is_box and not bool(self.region.unbounded.any())

    def unstable(self, k: int, z: Interval) -> Tensor:
        """True where the slope at stage k is not one number on z: (batch, *stage)."""
        return self.stage(k).activation.unstable(z, self.arithmetic)

    def slopes(self, k: int) -> Interval:
        """All slopes at stage k: (batch, *stage)."""
        if k not in self._slopes:
            self._slopes[k] = self.stage(k).activation.slope_range(self.pre(k), self.arithmetic)
        return self._slopes[k]


class AbstractPreactivation(ABC):
    """A rule that bounds the pre-activations of one stage, given those of all earlier ones.

    Dearer rules name a `cheaper` one: it goes first, and they bound only the neurons that it leaves unstable; both
    results intersect.  `Alone(rule)` switches that off.
    """

    @classmethod
    @abstractmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        """What `--pre` calls objects of this class; empty if it has no name there."""

    @property
    @abstractmethod
    def cheaper(self) -> AbstractPreactivation | None:
        """The rule that goes first, or None."""

    @property
    def holds_samples(self) -> bool:
        """Whether the rule holds numbers for each sample of a batch, which so cannot be taken apart."""
        return False

    @abstractmethod
    def alone(self, prefix: Prefix, k: int, chosen: Tensor | None) -> Interval:
        """Bounds of z_k where `chosen` (batch, *stage), None meaning everywhere; elsewhere they may be infinite."""

    def stage(self, prefix: Prefix, k: int) -> Interval:
        """The bounds of z_k that later stages use."""
        if self.cheaper is None:
            return self.alone(prefix, k, None)
        bounds = self.cheaper.stage(prefix, k)
        unstable = prefix.unstable(k, bounds)
        if prefix.everywhere or prefix.intervals_suffice(k) or not bool(unstable.any()):
            return bounds
        return prefix.arithmetic.intersect(bounds, self.alone(prefix, k, unstable))

    @final
    def output(self, prefix: Prefix) -> Interval:
        """The bounds of the network's output: every entry by this rule, and by the cheaper one."""
        k = prefix.network.depth
        own = self.alone(prefix, k, None)
        return own if self.cheaper is None else prefix.arithmetic.intersect(own, self.cheaper.output(prefix))


class AbstractRelaxation(AbstractPreactivation):
    """A rule that chooses lines for each activation; see `relaxation`."""

    @abstractmethod
    def lines(self, activation: AbstractActivation, z: Interval, arithmetic: AbstractArithmetic) -> LinearRelaxation:
        """The lines of `activation` on z (batch, *stage)."""


@final
@dataclass(frozen=True)
class Alone(AbstractPreactivation):
    """`rule` on every neuron, with no cheaper rule before it and no intersection."""

    rule: AbstractPreactivation

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {}

    @property
    def cheaper(self) -> None:
        return None

    def alone(self, prefix: Prefix, k: int, chosen: Tensor | None) -> Interval:
        return self.rule.alone(prefix, k, None)

    @property
    def holds_samples(self) -> bool:
        return self.rule.holds_samples


@final
@dataclass(frozen=True, init=False)
class PreIntersection(AbstractPreactivation):
    """The intersection of several rules, stage by stage, so that each starts from the tightest bounds of all."""

    rules: tuple[AbstractPreactivation, ...]

    def __init__(self, *rules: AbstractPreactivation) -> None:
        object.__setattr__(self, "rules", rules)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractPreactivation]:
        return {}

    @property
    def cheaper(self) -> None:
        return None

    def alone(self, prefix: Prefix, k: int, chosen: Tensor | None) -> Interval:
        return reduce(prefix.arithmetic.intersect, (r.alone(prefix, k, chosen) for r in self.rules))

    @property
    def holds_samples(self) -> bool:
        return any(r.holds_samples for r in self.rules)

    def stage(self, prefix: Prefix, k: int) -> Interval:
        return reduce(prefix.arithmetic.intersect, (r.stage(prefix, k) for r in self.rules))
