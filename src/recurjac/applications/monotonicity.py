"""Which outputs rise or fall with which inputs over a region, and bounds of directional derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from math import inf, prod
from typing import ClassVar, final

import torch
from torch import Tensor

from recurjac.applications.trends import Refuted, decided, points_in, refuted_early
from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.branching import EntrySigns, Limit
from recurjac.deadline import NEVER, Deadline, check_time_limit
from recurjac.errors import InvalidRequest, expect, expect_whole
from recurjac.jacobian import (
    AbstractJacobianMethod,
    Gradients,
    SignsByStructure,
    as_jacobian_method,
    jacobian_bounds,
    sharing,
)
from recurjac.loading import Source
from recurjac.network import Network
from recurjac.preactivation import RuleLike
from recurjac.problem import Problem, as_problem, as_region
from recurjac.propagation.forms import DenseForms
from recurjac.provenance import AbstractResult, Provenance
from recurjac.region import AbstractRegion, Numbers


@final
class Trend(Enum):
    """What is known about an output as one input grows: the first of these that is proved."""

    CONSTANT = "constant"
    INCREASING = "increasing"
    DECREASING = "decreasing"
    VIOLATED = "violated"
    UNDECIDED = "undecided"


_PLACE = {trend: place for place, trend in enumerate(Trend)}


@final
@dataclass(frozen=True)
class Probe:
    """How to look for violations: at `count` points of the region; for at most `proofs` of them, signs are proved.

    seed: of the random generator; the same seed gives the same points.  Raises InvalidRequest for negative numbers.
    """

    count: int = 256
    proofs: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        expect_whole("the probe", count=self.count, proofs=self.proofs, seed=self.seed)
        if self.count < 0 or self.proofs < 0:
            raise InvalidRequest(f"a probe has {self.count} points and {self.proofs} proofs; neither can be negative")


@final
@dataclass(frozen=True, repr=False, eq=False)
class Monotonicity(AbstractResult):
    """Which entries of the Jacobian keep their sign over the region, for every element of Clarke's Jacobian.

    lower, upper: (batch, *output, *input), bounds of the Jacobian, in outputs per unit of input.
    points: for each sample, some inputs (count, *input) of its region; rising, falling: (batch, *output, *input), the
    index of a point at which the derivative is certainly > 0, and of one at which it is certainly < 0; -1 if none was
    found.  Points are sought only where `lower` < 0 < `upper`.
    """

    lower: Tensor
    upper: Tensor
    rising: Tensor
    falling: Tensor
    points: tuple[Tensor, ...]
    provenance: Provenance

    @property
    def _vanished(self) -> Tensor:
        """Where both bounds are 0 and rounding is not covered: derivatives of either sign may have underflowed."""
        return (self.lower == 0) & (self.upper == 0) & (not self.rigorous)

    @property
    def increasing(self) -> Tensor:
        """Where increasing the input never decreases the output."""
        return (self.lower >= 0) & self.lower.isfinite() & ~self._vanished

    @property
    def decreasing(self) -> Tensor:
        """Where increasing the input never increases the output."""
        return (self.upper <= 0) & self.upper.isfinite() & ~self._vanished

    @property
    def constant(self) -> Tensor:
        """Where the output does not depend on the input: both increasing and decreasing, with rounding covered."""
        return self.increasing & self.decreasing

    @property
    def violated(self) -> Tensor:
        """Where the derivative is positive at one point of the region and negative at another."""
        return (self.rising >= 0) & (self.falling >= 0)

    @property
    def undecided(self) -> Tensor:
        """Where nothing is proved."""
        return ~(self.increasing | self.decreasing | self.violated)

    @property
    def trends(self) -> Tensor:
        """The trend of each entry, (batch, *output, *input), as its index in `list(Trend)`."""
        words = (self.constant, self.increasing, self.decreasing, self.violated)
        trends = torch.full(self.lower.shape, _PLACE[Trend.UNDECIDED], device=self.lower.device)
        for mask, trend in reversed(list(zip(words, Trend, strict=False))):
            trends = torch.where(mask, _PLACE[trend], trends)
        return trends

    def trend(self, *entry: int) -> Trend:
        """The trend of an entry (sample, *output, *input)."""
        return list(Trend)[int(self.trends[entry])]

    def witnesses(self, *entry: int) -> tuple[Tensor, Tensor]:
        """Inputs at which the derivative of a violated entry is > 0 and < 0.  Raises InvalidRequest for others."""
        up, down = int(self.rising[entry]), int(self.falling[entry])
        if up < 0 or down < 0:
            raise InvalidRequest(f"the entry {entry} is {self.trend(*entry).value}, not violated; it has no witnesses")
        return self.points[entry[0]][up], self.points[entry[0]][down]

    def __repr__(self) -> str:
        trends = self.trends
        counts = ", ".join(f"{int((trends == place).sum())} {trend.value}" for trend, place in _PLACE.items())
        return f"Monotonicity{tuple(self.lower.shape)}({counts}; {self.method}, {self._kind()})"


def monotone(
    network: Source | Problem,
    region: AbstractRegion | Numbers | None = None,
    *,
    radius: Numbers | None = None,
    norm: float | None = None,
    method: AbstractJacobianMethod | None = None,
    pre: RuleLike | None = None,
    arithmetic: AbstractArithmetic | None = None,
    probe: Probe | None = None,
    limit: Limit | None = None,
    time_limit: float | None = None,
) -> Monotonicity:
    """Prove which outputs rise, fall or do not depend on which inputs over `region`, for each sample.

    Where something is undecided, bounded regions of up to 64 inputs are divided until everything is decided, or
    `limit` is reached, by default after ten seconds for each sample; `Limit(parts=1)` divides nothing.  The parts are
    halves across inputs and, if all activations have two pieces, those where neurons have given signs.  An interruption
    ends this for all samples.

    network, region, radius, norm: as in `lipschitz`.
    time_limit: seconds for all samples together, in place of a method and a limit: first for points that refute
    monotonicity, then for entries by `AutoEntries`, and most of them for parts.
    method, pre, arithmetic: as in `jacobian_bounds`.  probe: how to look for pairs of points that refute monotonicity;
    signs at a point are proved by bounds over a region of radius 0.  The result carries no gradients.  Where signs of
    weights and slopes alone show that no path from the input to the output has the other sign, bounds do not cross 0 by
    rounding (`SignsByStructure`).  Where a least or largest derivative of 0 has another reason, such as terms that
    cancel, the allowance for rounding can leave an entry undecided.
    Raises InvalidRegion if the region does not fit the network, InvalidRequest for objects of the wrong kind, and for a
    time limit beside a method or a limit.

    Source: docs/mathematics.md, §7.4 and §6.10.
    """
    how = probe or Probe()
    expect(how, Probe, "the probe", "give an object such as Probe(count=256)")
    check_time_limit(time_limit, method=method, limit=limit)
    if limit is not None:
        expect(limit, Limit, "the limit", "give Limit(seconds=…)")
    problem = as_problem(network, as_region(region, radius, norm), pre, arithmetic)
    deadline, each = (NEVER, Limit()) if time_limit is None else (Deadline.after(time_limit), Limit(seconds=inf))
    with torch.no_grad():
        points, early, share = points_in(problem, how.count, how.seed), list[Refuted](), None
        if time_limit is not None:
            early = refuted_early(problem, points, how.proofs, deadline.part(_POINTS))
            share = _for_entries(problem, early, deadline)
        how_bounded = SignsByStructure(as_jacobian_method(method, share))
        bounds, net = jacobian_bounds(problem, method=how_bounded), problem.network
        matrix = (len(bounds.lower), prod(net.output_shape), -1)
        entries = Interval(bounds.lower.reshape(matrix), bounds.upper.reshape(matrix))
        found = decided(problem, entries, points, how.proofs, EntrySigns(limit or each), deadline, early)
    shape, title = bounds.lower.shape, bounds.provenance.method
    notes = (*bounds.provenance.notes, *(("interrupted",) if found.interrupted else ()))
    if found.parts:
        title = f"{title}; {found.parts} parts by {' and '.join(found.titles)}"
    rising = torch.stack([r.rising for r in found.refuted]).reshape(shape)
    falling = torch.stack([r.falling for r in found.refuted]).reshape(shape)
    return Monotonicity(
        found.lower.reshape(shape), found.upper.reshape(shape), rising, falling,
        tuple(r.points for r in found.refuted), replace(bounds.provenance, method=title, notes=notes),
    )  # fmt: skip


def _for_entries(problem: Problem, early: Sequence[Refuted], deadline: Deadline) -> float:
    """The seconds for bounds over whole regions: little if points have refuted everything."""
    if all(bool(r.both.all()) for r in early):
        return _LITTLE
    splits = EntrySigns()
    divides = all(splits.divides(sample) for sample in problem.samples())
    return max(_LITTLE, (_BEFORE_PARTS if divides else 0.5) * deadline.left)


_POINTS = 0.25
"""The share of a time limit for points at which signs are proved, before there are bounds."""
_BEFORE_PARTS = 0.25
"""The share of what is then left for bounds over whole regions, if these can be divided; otherwise it is a half."""
_LITTLE = 1e-3
"""The seconds for bounds where the signs are known."""


def nested_trends(found: Sequence[Monotonicity]) -> list[Monotonicity]:
    """Results of the same question on regions of which each contains the next, with what they say of each other.

    Bounds hold on all smaller regions, and points of a region are points of all larger ones.  Results that cover
    rounding take nothing from those that do not.
    """
    results = list(found)
    for i in range(1, len(results)):
        results[i] = _inside(results[i], results[i - 1])
    for i in range(len(results) - 2, -1, -1):
        results[i] = _around(results[i], results[i + 1])
    return results


def _inside(own: Monotonicity, larger: Monotonicity) -> Monotonicity:
    """The result on a region that is contained in that of another."""
    if own.rigorous and not larger.rigorous:
        return own
    lower, upper = torch.maximum(own.lower, larger.lower), torch.minimum(own.upper, larger.upper)
    if own.rigorous:
        Interval(lower, upper)  # raises UnsoundBounds if the bounds cross
    meets = lower <= upper
    return replace(own, lower=torch.where(meets, lower, own.lower), upper=torch.where(meets, upper, own.upper))


def _around(own: Monotonicity, smaller: Monotonicity) -> Monotonicity:
    """The result on a region that contains that of another."""
    if own.rigorous and not smaller.rigorous:
        return own
    counts = torch.tensor([len(x) for x in own.points], device=own.rising.device)
    after, open_ = counts.reshape(-1, *[1] * (own.rising.dim() - 1)), (own.lower < 0) & (own.upper > 0)
    rising, falling = (
        torch.where((mine < 0) & (its >= 0) & open_, its + after, mine)
        for mine, its in ((own.rising, smaller.rising), (own.falling, smaller.falling))
    )
    if torch.equal(rising, own.rising) and torch.equal(falling, own.falling):
        return own
    points = tuple(torch.cat([mine, its]) for mine, its in zip(own.points, smaller.points, strict=True))
    return replace(own, rising=rising, falling=falling, points=points)


@final
@dataclass(frozen=True, repr=False, eq=False)
class DirectionalBounds(AbstractResult):
    """lower <= J v <= upper for every x of the region and every element J of Clarke's Jacobian.

    lower, upper: (batch, *output), in units of output per unit step along `direction`.
    direction: (batch or 1, *input).
    """

    lower: Tensor
    upper: Tensor
    direction: Tensor
    provenance: Provenance
    _apart: ClassVar[tuple[str, ...]] = ("direction",)

    def __repr__(self) -> str:
        ends = zip(self.lower.detach().flatten().tolist(), self.upper.detach().flatten().tolist(), strict=True)
        shown = self._each((f"{a:.6g} … {b:.6g}" for a, b in ends), self.lower.numel())
        return f"DirectionalBounds{tuple(self.lower.shape)}({shown}; {self.method}, {self._kind()})"


def directional_bounds(
    network: Source | Problem,
    region: AbstractRegion | Numbers | None = None,
    *,
    radius: Numbers | None = None,
    norm: float | None = None,
    direction: Numbers,
    method: AbstractJacobianMethod | None = None,
    pre: RuleLike | None = None,
    arithmetic: AbstractArithmetic | None = None,
    time_limit: float | None = None,
) -> DirectionalBounds:
    """Bounds of the derivative J v of every output in the direction v over `region`.

    network, region, radius, norm: as in `lipschitz`.
    direction: v, (*input), or (batch, *input) for one direction per sample; it is not normalised.  method, pre,
    arithmetic, time_limit: as in `jacobian_bounds`.  The bounds are often tighter than sums of the bounds of entries,
    because v is pushed through the network as one tangent.
    The bounds are differentiable with respect to the network's live parameters.
    Raises InvalidRegion if the region does not fit the network, InvalidRequest for a direction that does not fit it,
    is not finite, or cannot be represented in the network's dtype.

    Source: docs/mathematics.md, §7.4.
    """
    problem = as_problem(network, as_region(region, radius, norm), pre, arithmetic)
    how = as_jacobian_method(method, time_limit)
    ways = _directions(direction, problem.network, problem.bound.batch)
    lower, upper, start = [], [], 0
    for part, one in sharing(how, problem.batches()):
        batch = part.bound.batch
        own = ways if len(ways) == 1 else ways[start : start + batch]
        start += batch
        image = one.prepare(Gradients(part)).push(DenseForms(own[:, None, None], part.arithmetic))
        found = image.reshape(batch, *problem.network.output_shape)
        lower.append(found.lower)
        upper.append(found.upper)
    low, high = (problem.detached(torch.cat(end)) for end in (lower, upper))
    return DirectionalBounds(low, high, ways, problem.provenance(how.title))


def _directions(v: Numbers, network: Network, batch: int) -> Tensor:
    """The directions (batch or 1, *input), in the network's dtype."""
    try:
        wide = torch.as_tensor(v, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidRequest(f"the direction is not an array of numbers: {error}") from error
    shape = network.input_shape
    if tuple(wide.shape) not in (shape, (1, *shape), (batch, *shape)):
        raise InvalidRequest(
            f"the direction has shape {tuple(wide.shape)}; give one of the input's shape {shape}, or one for each of "
            f"the {batch} samples"
        )
    if not bool(wide.isfinite().all()):
        raise InvalidRequest("the direction contains NaN or an infinite number; all numbers must be finite")
    ways = wide.to(network.dtype)
    if not torch.equal(ways.double(), wide):
        raise InvalidRequest(
            f"the direction contains numbers that {network.dtype} cannot represent; give it in {network.dtype}"
        )
    return (ways if wide.dim() > len(shape) else ways.unsqueeze(0)).to(network.device)
