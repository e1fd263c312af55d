"""Stationary points of an output, with proofs that they exist, and boxes in which each is the only one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, prod
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.applications.krawczyk import Krawczyk, StationaryKind, kinds
from recurjac.applications.newton import Newton
from recurjac.arithmetic import AbstractArithmetic, Interval, Rigorous
from recurjac.deadline import Budget, Deadline, check_time_limit
from recurjac.errors import InvalidRequest, expect
from recurjac.jacobian import AbstractJacobianMethod, as_jacobian_method
from recurjac.jacobian.hessian import Derivatives, check_smooth, derivatives
from recurjac.loading import Source
from recurjac.network import Network
from recurjac.preactivation import RuleLike
from recurjac.problem import Problem, as_problem, as_region
from recurjac.provenance import AbstractResult, Provenance
from recurjac.region import AbstractRegion, BoundBox, BoundRegion, Numbers

MOST_INPUTS = 64
"""The largest number of inputs; with more, the boxes that contain a point become too small to be useful."""
_SEARCH = 0.5
"""The largest share of the time for candidates."""
_HALVINGS = 48
"""How often the box around a candidate is halved, from the half-width of the region."""
_CONTRACTIONS = 24
"""The largest number of contractions of an enclosure; they end earlier if it no longer shrinks."""

_Holds = Callable[[Tensor], Tensor]
"""Which points (batch, N, *input) certainly lie in the region that was asked about, which its bound may exceed."""


@final
@dataclass(frozen=True)
class StationaryPoint:
    """A stationary point that is proved to exist, to lie in `enclosure`, and to be the only one in `box`.

    point: an approximation inside `box`; all three have the shape (*input).  kind: minimum, maximum, saddle, or
    undecided; the Hessian is regular at the point.
    """

    point: Tensor
    box: Interval
    enclosure: Interval
    kind: StationaryKind

    def __repr__(self) -> str:
        error = float(self.enclosure.width.max())
        where = ", ".join(f"{v:.6g}" for v in self.point.flatten().tolist())
        half = float(self.box.width.min()) / 2
        return f"StationaryPoint({self.kind.value} at ({where}) up to {error:.1g}, alone within ±{half:.3g})"


@final
@dataclass(frozen=True, repr=False, eq=False)
class StationaryPoints(AbstractResult):
    """For each sample, the stationary points of one output that were found and proved, the nearest to x first.

    The points are different, and their boxes lie in the region.  There may be more points, not found or not proved.
    notes: for each sample without points, a remark; otherwise empty.
    fixed: for each sample, the inputs, row-major, in which the region has no width.  They keep their values, and the
    points are stationary along the other inputs.
    """

    points: tuple[tuple[StationaryPoint, ...], ...]
    output: int
    notes: tuple[str, ...]
    fixed: tuple[tuple[int, ...], ...]
    provenance: Provenance

    @property
    def count(self) -> tuple[int, ...]:
        """The number of proved points for each sample."""
        return tuple(len(found) for found in self.points)

    def __repr__(self) -> str:
        found = self._each((_summary(points) for points in self.points), len(self.points), "; ")
        held = f"; {max(map(len, self.fixed))} inputs fixed" if any(self.fixed) else ""
        return f"StationaryPoints(output {self.output}, {found}{held}; {self.method}, {self._kind()})"


def _summary(points: Sequence[StationaryPoint]) -> str:
    counts = [(sum(p.kind is kind for p in points), kind.value) for kind in StationaryKind]
    return ", ".join(f"{n} {name}" for n, name in counts if n) or "none proved"


def stationary_points(
    network: Source | Problem,
    region: AbstractRegion | Numbers | None = None,
    *,
    radius: Numbers | None = None,
    norm: float | None = None,
    output: int,
    method: AbstractJacobianMethod | None = None,
    pre: RuleLike | None = None,
    arithmetic: AbstractArithmetic | None = None,
    search: Newton | None = None,
    time_limit: float | None = None,
) -> StationaryPoints:
    """Stationary points of one output in `region`, each proved to exist and to be the only one in a box around it.

    network: smooth, with at most 64 inputs in which the region has a width.  If it is a box or an l_inf ball, the other
    inputs are fixed (`Network.fix`), and the points are stationary along those that remain.
    network, region, radius, norm: as in `lipschitz`.
    output: its row-major number; for a difference of outputs, use `output=0` of `network.margin(a, b)`.
    method, pre, arithmetic: as in `jacobian_bounds`.  search: how candidates are found.
    time_limit: seconds for all samples together, of which the search takes half at most; no box is tried after them.
    Boxes are as wide as the region at first, and are halved until Krawczyk's test succeeds.  Finding no point does not
    prove that there is none (`stationary_free_radius` can).
    Raises InvalidRegion if the region does not fit the network; InvalidRequest for an output that does not exist, an
    activation without a continuous second derivative, and too many inputs.

    Sources: `krawczyk` for the test, `jacobian.hessian` for the enclosure of the Hessian.
    """
    problem = as_problem(network, as_region(region, radius, norm), pre, arithmetic)
    how, newton = as_jacobian_method(method), search or Newton()
    check_time_limit(time_limit)
    expect(newton, Newton, "the search", "give Newton(starts=…)")
    if problem.pre.holds_samples or problem.known:
        raise InvalidRequest("given pre-activation bounds belong to one region, but many boxes are tried; give Crown()")
    one = problem.network.output(output)
    check_smooth(one)
    whole = problem.of(one)
    fixed = fixed_inputs(whole.bound)
    budget = Budget.of(inf if time_limit is None else time_limit, len(fixed) if any(fixed) else 1)
    if not any(fixed):
        check_inputs(one.input_shape)
        ways = _Ways(how, newton, Deadline.after(budget.share()))
        with torch.no_grad():
            found = _found(whole, problem.region, ways, problem.holds)
    else:
        check_inputs((max(prod(one.input_shape) - len(f) for f in fixed),))
        with torch.no_grad():
            found = tuple(
                _along_others(whole, i, held, _Ways(how, newton, Deadline.after(budget.share())))
                for i, held in enumerate(fixed)
            )
    notes = tuple(
        "" if f else "no box was proved to contain a stationary point; there may still be some" for f in found
    )
    return StationaryPoints(found, output, notes, fixed, whole.provenance(how.title))


def check_inputs(shape: Shape) -> None:
    """Raise InvalidRequest if there are more than `MOST_INPUTS` inputs."""
    if prod(shape) > MOST_INPUTS:
        raise InvalidRequest(
            f"there are {prod(shape)} inputs; stationary points are proved for at most {MOST_INPUTS}: give a region "
            "without width in some of them (a radius of 0), or reduce them with net.precompose(…)"
        )


def fixed_inputs(bound: BoundRegion) -> tuple[tuple[int, ...], ...]:
    """For each sample the numbers of the inputs in which a box has no width; none for other regions."""
    if not isinstance(bound, BoundBox):
        return ((),) * bound.batch
    held = ((bound.radius == 0) | (bound.low == bound.high)).flatten(1)
    return tuple(tuple(h.nonzero().flatten().tolist()) for h in held)


@final
@dataclass(frozen=True)
class _Ways:
    """What bounds derivatives, how candidates are found, and until when."""

    method: AbstractJacobianMethod
    newton: Newton
    deadline: Deadline


def _found(
    problem: Problem, region: AbstractRegion | BoundRegion, ways: _Ways, holds: _Holds
) -> tuple[tuple[StationaryPoint, ...], ...]:
    """What is proved of a network of one output, for each sample."""
    one = problem.network
    wide = one if one.dtype == torch.float64 else one.to(torch.float64)
    points, open_ = ways.newton.candidates(wide, region, ways.deadline.part(_SEARCH))
    return _proved(_Probe(problem, points.to(one.dtype), ways, holds), open_)


def _along_others(problem: Problem, sample: int, held: tuple[int, ...], ways: _Ways) -> tuple[StationaryPoint, ...]:
    """The stationary points of one sample, in a box, along the inputs other than `held`; none if those are all."""
    one, bound = problem.network, problem.bound
    if not isinstance(bound, BoundBox):
        raise TypeError(f"a {type(bound).__name__} has no inputs without width")
    free = torch.ones(prod(one.input_shape), dtype=torch.bool, device=one.device)
    free[list(held)] = False
    if not bool(free.any()):
        return ()
    x = torch.where(bound.radius == 0, bound.x, bound.low)[sample].flatten()  # where it is fixed

    def whole(some: Tensor) -> Tensor:
        lead = some.shape[:-1]
        every = x.expand(*lead, -1).masked_scatter(free.expand(*lead, -1), some)
        return every.reshape(*lead, *one.input_shape)

    def holds(points: Tensor) -> Tensor:
        every = whole(points)
        return problem.holds(every.expand(bound.batch, *every.shape[1:]))[sample : sample + 1]

    box = BoundBox(*(t[sample].reshape(1, -1)[:, free] for t in (bound.x, bound.radius, bound.low, bound.high)))
    part = Problem(
        one.fix({i: x[i] for i in held}), box, pre=problem.pre, arithmetic=problem.arithmetic, planner=problem.planner
    )
    wide = BoundBox(*(t.double() for t in (box.x, box.radius, box.low, box.high)))
    (found,) = _found(part, wide, ways, holds)
    return tuple(
        replace(f, point=whole(f.point), box=f.box.map(whole), enclosure=f.enclosure.map(whole)) for f in found
    )


@final
@dataclass(frozen=True)
class _Probe:
    """A network of one output, a region, candidates in it, (batch, N, *input), and which points it holds."""

    problem: Problem
    points: Tensor
    ways: _Ways
    holds: _Holds

    @property
    def network(self) -> Network:
        return self.problem.network

    @property
    def bound(self) -> BoundRegion:
        return self.problem.bound

    @property
    def arithmetic(self) -> AbstractArithmetic:
        return self.problem.arithmetic

    def derivatives(self, index: Tensor, box: Interval) -> Derivatives:
        """Derivatives over boxes (candidates, n) around the candidates with the numbers `index`."""
        middle = self.points.flatten(0, 1)[index]
        low, high = (end.reshape(middle.shape) for end in (box.lower, box.upper))
        around = BoundBox(middle, torch.full_like(middle, torch.inf), low, high)
        return derivatives(self.problem.over(around), self.ways.method)

    def inside(self, box: Interval) -> Tensor:
        """Whether each box (batch, N, *input) is proved to lie in the region.

        This checks both ends and the corner that is farthest from x.  Projections onto the region are rounded inwards,
        so a point that the projection does not move lies in the region.  Distances from x are compared after the same
        rounding.
        """
        exact, x = Rigorous().exact, self.bound.x.unsqueeze(1)
        right, left = (exact(box.upper) - exact(x)).upper(), (exact(x) - exact(box.lower)).upper()
        certain = torch.ones(self.points.shape[:2], dtype=torch.bool, device=self.points.device)
        for corner in (box.lower, box.upper, torch.where(right >= left, box.upper, box.lower)):
            kept = (self.bound.project(corner) == corner).flatten(2).all(2)
            certain = certain & kept & self.holds(corner)
        return certain


@final
@dataclass(frozen=True)
class _Found:
    """The number of a candidate, the box around it, and the enclosure of the stationary point in it, both (n,)."""

    number: int
    box: Interval
    enclosure: Interval


def _proved(probe: _Probe, open_: Tensor) -> tuple[tuple[StationaryPoint, ...], ...]:
    """For each sample, the stationary points that are proved near the candidates in the mask `open_`, (batch, N)."""
    flat = probe.points.flatten(0, 1).flatten(1)
    index = (open_.flatten() & flat.isfinite().all(1)).nonzero().flatten()
    samples: list[list[StationaryPoint]] = [[] for _ in range(len(probe.points))]
    if len(index):
        at = probe.derivatives(index, Interval.point(flat[index]))
        found = _boxes(probe, index, at)
        place = {number: i for i, number in enumerate(index.tolist())}
        kind = kinds(at.hessian[[place[f.number] for f in found]]) if found else []
        for f, k in zip(found, kind, strict=True):
            shaped = [i.reshape(*probe.network.input_shape) for i in (f.box, f.enclosure)]
            point = flat[f.number].reshape(probe.network.input_shape)
            samples[f.number // probe.points.shape[1]].append(StationaryPoint(point, shaped[0], shaped[1], k))
    return tuple(_apart(found, x) for found, x in zip(samples, probe.bound.x, strict=True))


def _boxes(probe: _Probe, index: Tensor, at: Derivatives) -> list[_Found]:
    """The largest boxes with a proof around the candidates with the numbers `index`, where the derivatives are `at`.

    A box is skipped if the test would fail even with the Hessian at its midpoint in place of that over the box.
    """
    flat, found = probe.points.flatten(0, 1).flatten(1)[index], list[_Found]()
    scale = probe.bound.scale.unsqueeze(1).expand_as(probe.points)
    left = torch.ones_like(index, dtype=torch.bool)
    for halving in range(_HALVINGS):
        if probe.ways.deadline.over:
            break
        half = scale * 2.0**-halving
        whole = Interval(probe.points - half, probe.points + half)
        box = whole.map(lambda t: t.flatten(0, 1).flatten(1)[index])
        hopeful = Krawczyk.of(flat, box, at.gradient, at.hessian).proved
        now = (left & hopeful & probe.inside(whole).flatten()[index]).nonzero().flatten()
        if len(now) == 0:
            continue
        gradient, tried = at.gradient[now], box[now]
        test = Krawczyk.of(flat[now], tried, gradient, probe.derivatives(index[now], tried).hessian)
        good = test.proved.nonzero().flatten()
        if len(good) == 0:
            continue
        start = probe.arithmetic.intersect(test.image[good], tried[good])
        inner = _contracted(probe, index[now[good]], gradient[good], start)
        numbers = index[now[good]].tolist()
        found += [_Found(n, tried[i], inner[j]) for j, (n, i) in enumerate(zip(numbers, good.tolist(), strict=True))]
        left[now[good]] = False
        if not bool(left.any()):
            break
    return found


def _contracted(probe: _Probe, index: Tensor, gradient: Interval, enclosure: Interval) -> Interval:
    """Contracted enclosures (found, n) of stationary points that are the only ones in their boxes.

    gradient: at the candidates with the numbers `index`.
    """
    middle = probe.points.flatten(0, 1).flatten(1)[index]
    for _ in range(_CONTRACTIONS):
        if probe.ways.deadline.over:
            break
        hull = Interval(torch.minimum(enclosure.lower, middle), torch.maximum(enclosure.upper, middle))
        over = probe.derivatives(index, hull)
        before = enclosure.width.amax(1)
        image = Krawczyk.of(middle, hull, gradient, over.hessian).image
        enclosure = probe.arithmetic.intersect(enclosure, image)
        if bool((enclosure.width.amax(1) > 0.9 * before).all()):
            break
    return enclosure


def _apart(found: Sequence[StationaryPoint], x: Tensor) -> tuple[StationaryPoint, ...]:
    """The points that are proved to differ, with preference for larger boxes; the nearest to x first."""
    kept: list[StationaryPoint] = []
    for point in found:  # larger boxes come first
        a = point.enclosure
        if all(bool(((a.upper < b.lower) | (b.upper < a.lower)).any()) for b in (k.enclosure for k in kept)):
            kept.append(point)
    return tuple(sorted(kept, key=lambda p: float((p.point - x).abs().max())))
