"""The request: a network over a region, with a pre-activation rule and an arithmetic, which is validated once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Self, final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Deployed, Fast, Interval, Rigorous, round_up_to
from recurjac.errors import InvalidRegion, InvalidRequest, expect
from recurjac.loading import READABLE, Source, load
from recurjac.network import Network
from recurjac.preactivation import IBP, AbstractPreactivation, Crown, PreactivationState, RuleLike, as_rule, extend
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.merged import with_merged_terms
from recurjac.propagation.planning import AbstractPlanner, PlainOnly, Planner
from recurjac.provenance import Provenance
from recurjac.region import AbstractRegion, BoundBall, BoundPiece, BoundRegion, LpBall, Numbers
from recurjac.version import __version__


@final
@dataclass(frozen=True, init=False)
class Problem:
    """A network over a region, bound to the network's input shape, dtype and device.

    network: with any number of outputs; or what `load` reads without further settings, such as a module or a file.  The
    example for a module is the first centre of the region.  Reading takes time: load once for several questions.
    region: an `AbstractRegion`, or a region that is already bound.
    pre: the rule for pre-activations; the default is `Crown()`.
    arithmetic: the default is `Rigorous()`.  If rounding cannot be covered, it is replaced by `Fast()`, and `reason`
    says why.
    planner: decides how bounds are computed; the default counts operations.
    known: for some stages, an interval (batch or 1, *stage) to which pre-activations are restricted (`constrained`).
    origin: the region that was asked about, of which `region` may be a part.  rows: for each sample, its number there.
    Raises InvalidRequest for objects of other types, and InvalidRegion if the region does not fit the network.
    """

    network: Network
    region: AbstractRegion | BoundRegion
    pre: AbstractPreactivation
    arithmetic: AbstractArithmetic
    planner: AbstractPlanner
    bound: BoundRegion
    reason: str
    known: Mapping[int, Interval]
    origin: AbstractRegion | BoundRegion
    rows: tuple[int, ...]

    def __init__(
        self,
        network: Source,
        region: AbstractRegion | BoundRegion,
        *,
        pre: RuleLike | None = None,
        arithmetic: AbstractArithmetic | None = None,
        planner: AbstractPlanner | None = None,
    ) -> None:
        expect(network, (Network, *READABLE), "the network", "give one that load(…) returns, a module or a file")
        expect(region, (AbstractRegion, BoundRegion), "the region", _REGION)
        network = as_network(network, region)
        rule, plan = Crown() if pre is None else as_rule(pre), Planner() if planner is None else planner
        expect(rule, AbstractPreactivation, "the rule for pre-activations", "give an object such as Crown()")
        expect(plan, AbstractPlanner, "the planner", "give an object such as Planner()")
        if arithmetic is not None:
            expect(arithmetic, AbstractArithmetic, "the arithmetic", "give Rigorous(), Fast() or Deployed()")
        bound = _bound(region, network)
        chosen, reason = _arithmetic(network, bound, arithmetic)
        self._set(network, region, rule, chosen, plan, bound, reason, {}, region, tuple(range(bound.batch)))

    def _set(self, *values: object) -> None:
        for name, value in zip(self.__dataclass_fields__, values, strict=True):
            object.__setattr__(self, name, value)

    def _with(self, **changes: object) -> Self:
        """The same problem with other fields; nothing is validated again."""
        problem = object.__new__(type(self))
        problem._set(*(changes.get(name, getattr(self, name)) for name in self.__dataclass_fields__))
        return problem

    def over(self, region: AbstractRegion | BoundRegion) -> Problem:
        """The same problem on another region, without constraints.  Raises InvalidRegion if the region does not fit."""
        expect(region, (AbstractRegion, BoundRegion), "the region", "give one such as LpBall(x, radius)")
        bound = _bound(region, self.network)
        return self._with(region=region, bound=bound, known={}, origin=region, rows=tuple(range(bound.batch)))

    def part(self, bound: BoundRegion) -> Problem:
        """The same problem, with its constraints, on a part of the region of each sample."""
        expect(bound, BoundRegion, "the part", "give a bound region, such as one of problem.bound.halves(axis)")
        _check_bound(bound, self.network)
        if bound.batch != self.bound.batch:
            raise InvalidRegion(f"the part has {bound.batch} samples; the problem has {self.bound.batch}")
        return self._with(region=bound, bound=bound)

    def of(self, network: Network) -> Problem:
        """The same problem for another network with the same inputs, such as one of the network's outputs.

        Raises InvalidRequest if the inputs differ.  Constraints belong to stages: with them, the networks must share
        the stages up to the last constrained one.
        """
        expect(network, Network, "the network", "read it first: load(module, example)")
        last = max(self.known, default=0)
        shared = zip(network.stages[:last], self.network.stages, strict=False)
        if last >= network.depth or any(a is not b for a, b in shared):
            raise InvalidRequest(
                f"the problem restricts pre-activations of stage {last}, but the network does not share the stages up "
                "to it; constrain a problem of that network"
            )
        if network.input_shape != self.network.input_shape:
            raise InvalidRequest(f"the network takes inputs of shape {network.input_shape}, unlike the problem")
        chosen, reason = self.arithmetic, self.reason
        if chosen.rigorous:
            chosen, reason = _arithmetic(network, self.bound, chosen)
        return self._with(network=network, arithmetic=chosen, reason=reason)

    def by(self, pre: RuleLike) -> Problem:
        """The same problem with another rule for pre-activations."""
        pre = as_rule(pre) or pre
        expect(pre, AbstractPreactivation, "the rule for pre-activations", "give an object such as Crown()")
        return self._with(pre=pre)

    def by_intervals(self) -> Problem:
        """The same problem by `IBP`, without a skeleton: ranges and slopes at little cost, as at single points."""
        return self._with(pre=IBP(), planner=PlainOnly(self.planner.thresholds))

    def constrained(self, stage: int, interval: Interval) -> Problem:
        """The same problem with the pre-activations of a stage, 1 to depth - 1, restricted to an interval.

        interval: (batch or 1, *stage); ends may be infinite.  It is intersected with earlier constraints, and with all
        bounds of that stage.  Results hold for the inputs of the region whose pre-activations lie in it.  Where an end
        is 0, the kink of a ReLU or of another activation of two pieces, derivatives there are those from inside.
        Raises InvalidRequest for a stage that does not exist, and for an interval that does not fit it or is disjoint
        from an earlier constraint.
        """
        expect(interval, Interval, "the interval", "give Interval(lower, upper)")
        whole = isinstance(stage, int) and not isinstance(stage, bool)
        if not whole or not 1 <= stage < self.network.depth:
            raise InvalidRequest(f"stage {stage} cannot be constrained; give one from 1 to {self.network.depth - 1}")
        shape = (self.bound.batch, *self.network.shape(stage))
        if tuple(interval.shape) not in (shape, (1, *shape[1:])):
            raise InvalidRequest(f"the interval for stage {stage} has shape {tuple(interval.shape)}, not {shape}")
        dtype, device = self.network.dtype, self.network.device
        low, high = (round_up_to(t.double().cpu(), dtype).to(device) for t in (-interval.lower, interval.upper))
        low = -low
        if stage in self.known:
            before = self.known[stage]
            low, high = torch.maximum(low, before.lower), torch.minimum(high, before.upper)
        if not bool((low <= high).all()):
            raise InvalidRequest(f"the intervals for stage {stage} are disjoint; nothing is left of the region")
        return self._with(known={**self.known, stage: Interval(low, high)})

    def in_reals(self) -> Problem:
        """The same problem about the network in real arithmetic, if it is about a deployed one."""
        return self._with(arithmetic=self.arithmetic.real) if isinstance(self.arithmetic, Deployed) else self

    def of_program(self, deployed: Deployed) -> Problem:
        """The same problem about the network as it runs, for the provenance of what is proved of it."""
        return self._with(arithmetic=deployed)

    def batches(self) -> list[Problem]:
        """The problem in the parts that are bounded together: sample by sample, in lots, or all samples together."""
        batch, memory = self.bound.batch, self.arithmetic.memory_on(self.network.device)
        size = batch if self.pre.holds_samples else self.planner.samples_together(self.network, batch, memory)
        return self.lots(size) if size < batch else [self]

    def samples(self) -> list[Problem]:
        """The same problem for each sample."""
        return self.lots(1)

    def lots(self, size: int) -> list[Problem]:
        """The same problem for the samples in order, at most `size` at a time."""
        found, begin = list[Problem](), 0
        for part in self.bound.split(size):
            end = begin + part.batch
            known = {k: _rows(z, begin, end) for k, z in self.known.items()}
            found.append(self._with(region=part, bound=part, known=known, rows=self.rows[begin:end]))
            begin = end
        return found

    def at(self, index: Tensor) -> Problem:
        """The same problem for the samples `index` (count,), at least one, which may be repeated or left out."""
        bound = self.bound.at(index)
        known = {k: z if z.shape[0] == 1 else z.map(lambda t: t[index]) for k, z in self.known.items()}
        rows = tuple(self.rows[i] for i in index.tolist())
        return self._with(region=bound, bound=bound, known=known, rows=rows)

    def holds(self, points: Tensor) -> Tensor:
        """Whether points (batch, N, *input) of the bound region are proved to be in the region that was asked about.

        They must also satisfy the constraints.  In float32, a bound region may be larger than the one asked about.
        Shape: (batch, N).
        """
        certain = self.bound.holds(points) & self._held(points)
        if not self.known or not bool(certain.any()):
            return certain
        state = self.over(LpBall(points.flatten(0, 1), 0.0)).by_intervals().preactivations()
        for k, known in self.known.items():
            z = state.pre(k).map(lambda t: t.reshape(*points.shape[:2], *t.shape[1:]))
            held = (z.lower >= known.lower.unsqueeze(1)) & (z.upper <= known.upper.unsqueeze(1))
            certain = certain & held.flatten(2).all(2)
        return certain

    def _held(self, points: Tensor) -> Tensor:
        """Whether each of the points is certainly in its sample of the region that was asked about."""
        count = self._count
        if self.rows == tuple(range(count)):
            return self.origin.holds(points)
        each = [
            self.origin.holds(points[i : i + 1].expand(count, *points.shape[1:]))[row : row + 1]
            for i, row in enumerate(self.rows)
        ]
        return torch.cat(each)

    @property
    def _count(self) -> int:
        """The number of samples of the region that was asked about."""
        if isinstance(self.origin, BoundRegion):
            return self.origin.batch
        return self.origin.bind(self.network.input_shape, self.network.dtype, self.network.device).batch

    def merged(self) -> Problem:
        """The same problem for intervals of weights, where one matrix replaces many small operators; for one call.

        Its stages are those of the network, and its bounds hold for the network; later changes of weights are not seen.
        """
        network = with_merged_terms(self.network, self.planner)
        return self if network is self.network else self._with(network=network)

    def preactivations(self) -> PreactivationState:
        """Bounds of all stages except the last; they are recomputed, because weights may be live."""
        network = self.merged().network
        state = PreactivationState(network, self.bound, self.arithmetic, self.planner, self.known)
        extend(state, self.pre, self.network.depth - 1)
        return state

    def chain(self) -> ChainRule:
        """The chain rule of the Jacobian over the region; it is recomputed."""
        return self.preactivations().chain()

    def output(self, state: PreactivationState) -> Interval:
        """Bounds of the network's output, (batch, *output), from the bounds of earlier stages."""
        return self.pre.output(state)

    def covering(self, unproved: list[str]) -> Problem:
        """The problem with `Fast` arithmetic if there are reasons why rounding cannot be covered, otherwise itself."""
        if not unproved or not self.arithmetic.rigorous:
            return self
        if isinstance(self.arithmetic, Deployed):
            self.arithmetic.refuse("; ".join(unproved))
        return self._with(arithmetic=Fast(self.arithmetic.memory), reason="; ".join(unproved))

    def provenance(self, method: str, *notes: str) -> Provenance:
        """The provenance of a result of `method` for this problem."""
        where = repr(self.origin) if self.region is self.origin else f"a part of {self.origin!r}"
        if self.known:
            stages = ", ".join(map(str, sorted(self.known)))
            where = f"{where}, where the pre-activations of stage {stages} lie in given intervals"
        return Provenance(
            method, self.pre.title, self.arithmetic.title, self.arithmetic.rigorous, self.reason,
            where, self.network.digest(), __version__, tuple(n for n in notes if n), self,
        )  # fmt: skip

    def detached(self, tensor: Tensor) -> Tensor:
        """A tensor of a result, with its derivative if a weight of the network requires a gradient."""
        return tensor.detach() if tensor.requires_grad and not self.network.live else tensor


_REGION = "give one such as LpBall(x, radius), or radius=… beside an input x"


def as_region(
    region: AbstractRegion | Numbers | None, radius: Numbers | None, norm: float | None
) -> AbstractRegion | BoundRegion | None:
    """The region that is given, or the ball of `radius` around the inputs that are given in its place.

    norm: that of the ball, by default inf.  Raises InvalidRequest for a radius beside a region or without inputs, and
    for a norm without a radius; InvalidRegion as `LpBall` does.
    """
    if radius is None and norm is None:
        if region is not None:
            expect(region, (AbstractRegion, BoundRegion), "the region", _REGION)
        return region
    given = f"norm={norm!r}" if radius is None else f"radius={radius!r}"
    if region is None or isinstance(region, AbstractRegion | BoundRegion):
        where = "without an input" if region is None else f"beside {region!r}"
        raise InvalidRequest(f"{given} is given {where}; give it beside an input x, or give a region or Problem alone")
    if radius is None:
        raise InvalidRequest(f"{given} is given without a radius; give radius=… too")
    return LpBall(region, radius, inf if norm is None else norm)


def as_network(source: Source, region: AbstractRegion | BoundRegion) -> Network:
    """The network itself, or the one that `load` reads; the first centre of the region is the example of a module."""
    if isinstance(source, Network):
        return source
    centre = region.x if isinstance(region, BoundRegion) else region.centre
    return load(source, centre if centre.dim() < 2 else centre[:1])


def as_problem(
    network: Source | Problem,
    region: AbstractRegion | BoundRegion | None,
    pre: RuleLike | None = None,
    arithmetic: AbstractArithmetic | None = None,
) -> Problem:
    """The problem given to an application, as a `Problem` or as a network and a region with settings.

    Raises InvalidRequest if both are given, or neither.
    """
    if isinstance(network, Problem):
        if region is not None or pre is not None or arithmetic is not None:
            raise InvalidRequest(
                "a Problem has its own region, pre-activation rule and arithmetic; give them to Problem(…) instead"
            )
        return network
    if region is None and isinstance(network, (Network, *READABLE)):
        raise InvalidRequest(f"the region is missing; {_REGION}, or a Problem")
    return Problem(network, region, pre=pre, arithmetic=arithmetic)


def join(parts: Sequence[Problem]) -> Problem:
    """Problems with the same network and settings joined into one problem; the reverse of `samples`."""
    first = parts[0]
    bounds = [p.bound for p in parts]
    if len({type(b) for b in bounds}) > 1:  # a ball and its parts
        bounds = [BoundPiece.of(b, b) if isinstance(b, BoundBall) else b for b in bounds]
    bound = type(bounds[0]).joined(bounds)
    stages = sorted({k for p in parts for k in p.known})
    known = {k: _stacked(parts, k) for k in stages}
    return first._with(region=bound, bound=bound, known=known, rows=tuple(r for p in parts for r in p.rows))


def _stacked(parts: Sequence[Problem], stage: int) -> Interval:
    """The constraints of a stage, concatenated; infinite for samples without one."""
    rows = []
    for part in parts:
        shape = (part.bound.batch, *part.network.shape(stage))
        end = torch.full(shape, torch.inf, dtype=part.network.dtype, device=part.network.device)
        known = part.known.get(stage)
        rows.append(
            Interval(-end, end) if known is None else Interval(known.lower.expand(shape), known.upper.expand(shape))
        )
    return Interval(torch.cat([r.lower for r in rows]), torch.cat([r.upper for r in rows]))


def _bound(region: AbstractRegion | BoundRegion, network: Network) -> BoundRegion:
    if isinstance(region, BoundRegion):
        _check_bound(region, network)
        return region
    return region.bind(network.input_shape, network.dtype, network.device)


def _rows(interval: Interval, begin: int, end: int) -> Interval:
    return interval if interval.shape[0] == 1 else interval.map(lambda t: t[begin:end])


def _arithmetic(
    network: Network, region: BoundRegion, asked: AbstractArithmetic | None
) -> tuple[AbstractArithmetic, str]:
    """The arithmetic to use, and the reason if it is not rigorous."""
    wanted = Rigorous() if asked is None else asked
    if not wanted.rigorous:
        return wanted, "Fast arithmetic was asked for"
    reasons = network.unproved_rounding() + ([] if region.rigorous else ["no rounding error is proved for the region"])
    if reasons and isinstance(wanted, Deployed):
        wanted.refuse("; ".join(reasons))
    return (Fast(wanted.memory), "; ".join(reasons)) if reasons else (wanted, "")


def _check_bound(region: BoundRegion, network: Network) -> None:
    """Raise InvalidRegion unless a bound region fits the network."""
    if tuple(region.x.shape[1:]) != network.input_shape or region.x.dtype != network.dtype:
        raise InvalidRegion(
            f"the region is bound to inputs of shape {tuple(region.x.shape[1:])} in {region.x.dtype}, but the network "
            f"takes {network.input_shape} in {network.dtype}; bind it for this network"
        )
