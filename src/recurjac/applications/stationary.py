"""Stationary points of an output that are proved to exist, and boxes in which each is the only one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.applications.krawczyk import Krawczyk, StationaryKind, kinds
from recurjac.applications.newton import Newton
from recurjac.arithmetic import AbstractArithmetic, Interval, Rigorous
from recurjac.errors import InvalidRequest, expect
from recurjac.jacobian import AbstractJacobianMethod, as_jacobian_method
from recurjac.jacobian.hessian import Derivatives, check_smooth, derivatives
from recurjac.network import Network
from recurjac.preactivation import AbstractPreactivation
from recurjac.problem import Problem, as_problem
from recurjac.provenance import AbstractResult, Provenance
from recurjac.region import AbstractRegion, BoundBox, BoundRegion

MOST_INPUTS = 64
"""Inputs up to which a Hessian is bounded; boxes that hold a point get hopelessly small with more."""
_HALVINGS = 48
"""Of the box around a candidate, from the region's own half-width on."""
_CONTRACTIONS = 24
"""Of the enclosures of points within their boxes, at most; they end when rounding does not let them shrink."""


@final
@dataclass(frozen=True)
class StationaryPoint:
    """One stationary point, which exists, lies in `enclosure`, and is the only one in `box`; all are of shape (*input).

    point: an approximation inside `box`.  kind: minimum, maximum, saddle, or undecided; the Hessian is regular there.
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
@dataclass(frozen=True, repr=False)
class StationaryPoints(AbstractResult):
    """For each sample the stationary points of one output that were found and proved, the nearest to x first.

    They are different points, and their boxes lie in the region; there may be more that were not found or not proved.
    notes: for each sample why there is none, else empty.
    """

    points: tuple[tuple[StationaryPoint, ...], ...]
    output: int
    notes: tuple[str, ...]
    provenance: Provenance

    @property
    def count(self) -> tuple[int, ...]:
        """How many points are proved for each sample."""
        return tuple(len(found) for found in self.points)

    def __repr__(self) -> str:
        found = "; ".join(_summary(points) for points in self.points)
        return f"StationaryPoints(output {self.output}, {found}; {self.method}, {self._kind()})"


def _summary(points: Sequence[StationaryPoint]) -> str:
    counts = [(sum(p.kind is kind for p in points), kind.value) for kind in StationaryKind]
    return ", ".join(f"{n} {name}" for n, name in counts if n) or "none proved"


def stationary_points(
    network: Network | Problem,
    region: AbstractRegion | None = None,
    *,
    output: int,
    method: AbstractJacobianMethod | None = None,
    pre: AbstractPreactivation | None = None,
    arithmetic: AbstractArithmetic | None = None,
    search: Newton | None = None,
) -> StationaryPoints:
    """Stationary points of one output in `region`, each proved to exist and to be the only one in a box around it.

    network: smooth, of at most 64 inputs.  output: which one, row-major; of a difference, `output=0` of
    `network.margin(a, b)`.  method, pre, arithmetic: as in `jacobian_bounds`.  search: how candidates are found.
    Boxes are as wide as the region at first and are halved until Krawczyk's test proves one; none proves that there is
    no stationary point (`stationary_free_radius` does).
    Raises InvalidRegion if the region does not fit the network; InvalidRequest for an output that is not there, an
    activation without a continuous second derivative, too many inputs.

    Sources: `krawczyk` for the test, `jacobian.hessian` for the enclosure of the Hessian.
    """
    problem, how, newton = as_problem(network, region, pre, arithmetic), as_jacobian_method(method), search or Newton()
    expect(newton, Newton, "the search", "give Newton(starts=…)")
    if problem.pre.holds_samples or problem.known:
        raise InvalidRequest("given pre-activation bounds are of one region, but many boxes are tried; give Crown()")
    one = problem.network.output(output)
    check_inputs(one.input_shape)
    check_smooth(one)
    with torch.no_grad():
        wide = one if one.dtype == torch.float64 else one.to(torch.float64)
        points, open_ = newton.candidates(wide, problem.region)
        probe = _Probe(problem.of(one), points.to(one.dtype), how)
        found = _proved(probe, open_)
    notes = tuple(
        "" if f else "no box with a stationary point was proved; there may be some all the same" for f in found
    )
    return StationaryPoints(found, output, notes, probe.problem.provenance(how.title))


def check_inputs(shape: Shape) -> None:
    """Raise InvalidRequest if there are more inputs than a Hessian is bounded for."""
    if prod(shape) > MOST_INPUTS:
        raise InvalidRequest(
            f"the network has {prod(shape)} inputs; stationary points are proved for at most {MOST_INPUTS}: fold fixed "
            "inputs into the first biases, or put a layer of fewer inputs before it"
        )


@final
@dataclass(frozen=True)
class _Probe:
    """A network of one output, a region and candidates in it, (batch, N, *input)."""

    problem: Problem
    points: Tensor
    method: AbstractJacobianMethod

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
        """Over boxes (candidates, n) around the candidates number `index`."""
        middle = self.points.flatten(0, 1)[index]
        low, high = (end.reshape(middle.shape) for end in (box.lower, box.upper))
        around = BoundBox(middle, torch.full_like(middle, torch.inf), low, high)
        return derivatives(self.problem.over(around), self.method)

    def inside(self, box: Interval) -> Tensor:
        """Which boxes (batch, N, *input) certainly lie in the region: both ends, and the corner that is farthest off.

        A projection that moves nothing is proof, as it is rounded inwards; distances from x are compared after being
        rounded as it does.
        """
        exact, x = Rigorous().exact, self.bound.x.unsqueeze(1)
        right, left = (exact(box.upper) - exact(x)).upper(), (exact(x) - exact(box.lower)).upper()
        certain = torch.ones(self.points.shape[:2], dtype=torch.bool, device=self.points.device)
        for corner in (box.lower, box.upper, torch.where(right >= left, box.upper, box.lower)):
            kept = (self.bound.project(corner) == corner).flatten(2).all(2)
            certain = certain & kept & self.problem.region.holds(corner)
        return certain


@final
@dataclass(frozen=True)
class _Found:
    """The number of a candidate, the box around it, and what encloses the stationary point in there, both (n,)."""

    number: int
    box: Interval
    enclosure: Interval


def _proved(probe: _Probe, open_: Tensor) -> tuple[tuple[StationaryPoint, ...], ...]:
    """For each sample what is proved about those candidates that are `open_`, (batch, N)."""
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
    """The largest boxes proved around candidates number `index`, at which the derivatives are `at`.

    A box that would not even be proved if the Hessian were everywhere as at its middle is not tried.
    """
    flat, found = probe.points.flatten(0, 1).flatten(1)[index], list[_Found]()
    scale = probe.bound.scale.unsqueeze(1).expand_as(probe.points)
    left = torch.ones_like(index, dtype=torch.bool)
    for halving in range(_HALVINGS):
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
    """What is left of enclosures (found, n) of stationary points that are the only ones in their boxes.

    gradient: at the candidates number `index`.
    """
    middle = probe.points.flatten(0, 1).flatten(1)[index]
    for _ in range(_CONTRACTIONS):
        hull = Interval(torch.minimum(enclosure.lower, middle), torch.maximum(enclosure.upper, middle))
        over = probe.derivatives(index, hull)
        before = enclosure.width.amax(1)
        image = Krawczyk.of(middle, hull, gradient, over.hessian).image
        enclosure = probe.arithmetic.intersect(enclosure, image)
        if bool((enclosure.width.amax(1) > 0.9 * before).all()):
            break
    return enclosure


def _apart(found: Sequence[StationaryPoint], x: Tensor) -> tuple[StationaryPoint, ...]:
    """Points that are certainly different, of the largest boxes, the nearest to x first."""
    kept: list[StationaryPoint] = []
    for point in found:  # larger boxes come first
        a = point.enclosure
        if all(bool(((a.upper < b.lower) | (b.upper < a.lower)).any()) for b in (k.enclosure for k in kept)):
            kept.append(point)
    return tuple(sorted(kept, key=lambda p: float((p.point - x).abs().max())))
