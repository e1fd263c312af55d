"""Balls around inputs in which an output has no stationary point."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.applications.centres import Centres, around
from recurjac.applications.parted import Parted, PartSigns, parted_radii
from recurjac.applications.radius_search import answered, bracket_radius
from recurjac.applications.signs import strict_signs
from recurjac.branching import Limit
from recurjac.deadline import NEVER, Budget, Deadline, check_time_limit, until
from recurjac.errors import InvalidRequest, OutOfTime, expect
from recurjac.jacobian import AbstractJacobianMethod, AutoEntries, as_jacobian_method, jacobian_bounds
from recurjac.loading import Source
from recurjac.problem import Problem
from recurjac.provenance import AbstractResult, Provenance
from recurjac.region import LpBall, Numbers

_FIRST = 0.5
"""Of a limited time, the largest share for the first method."""
_BALL = 0.25
"""The share of what is left for the balls of one call."""
_WHOLE = 0.5
"""The share of what is left for undivided balls, if balls can be divided."""


@final
@dataclass(frozen=True, repr=False, eq=False)
class StationaryFree(AbstractResult):
    """The output has no stationary point within `radius` of x, because an entry of its gradient keeps its sign there.

    radius: (batch,), the largest that was proved; inf: no stationary point in the whole space, or the whole clip box.
    parts: (batch,), 1 if one entry keeps its sign on the ball; more if that many parts of the ball were bounded, in
    each of which an entry keeps its sign; 0 if no entry has a proved sign at x itself, and the radius is 0.
    witness: (batch,), the row-major number of the entry that keeps its sign; -1 if there is none, or no single one for
    all parts.  lower, upper: (batch,), bounds of that entry over the ball, for every element of Clarke's gradient;
    infinite without a witness.  output, p: the number of the output, and the norm of the ball.  notes: for each sample,
    why its radius is 0; otherwise empty.
    """

    radius: Tensor
    witness: Tensor
    lower: Tensor
    upper: Tensor
    parts: Tensor
    output: int
    p: float
    notes: tuple[str, ...]
    provenance: Provenance

    @property
    def everywhere(self) -> Tensor:
        """True for samples whose output has no stationary point anywhere: (batch,)."""
        return self.radius == inf

    def __repr__(self) -> str:
        each = ("everywhere" if r == inf else f"{r:.6g}" for r in self.radius.tolist())
        radii = self._each(each, len(self.radius))
        notes = "".join(f"; {note}" for note in sorted({n for n in self.notes if n}))
        divided = f"; up to {int(self.parts.max())} parts" if bool((self.parts > 1).any()) else ""
        return (
            f"StationaryFree(output {self.output}, l{self.p:g} radius {radii}{divided}; {self.method}, {self._kind()}"
            f"{notes})"
        )  # fmt: skip


def stationary_free_radius(
    network: Source | Problem,
    x: Numbers | LpBall | None = None,
    *,
    output: int,
    p: float | None = None,
    method: AbstractJacobianMethod | None = None,
    tolerance: float = 1e-3,
    limit: Limit | None = None,
    time_limit: float | None = None,
) -> StationaryFree:
    """The largest radius found around each input within which one output is proved to have no stationary point.

    network: also what `load` reads, such as a module or a file, which is then read again in each call.
    x: one input or a batch, or an `LpBall`, whose centres, norm and clip box are used, but not its radius.  A `Problem`
    over an `LpBall` can replace network and x; its rule and arithmetic are used as well.
    output: its row-major number; for a difference of outputs, use `output=0` of `network.margin(a, b)`.  p: the norm of
    the balls, 1, 2 or inf, by default inf.
    method: as in `jacobian_bounds`, or `AutoEntries(seconds)`: then its first method is tried on all balls, and after
    that the whole of it on larger ones, for so many seconds for each input.  Then larger balls are divided.
    tolerance: relative; the search ends when a radius larger than the result by at most this fraction was tried without
    a proof.  As bounds need not grow with the ball, larger radii may be provable.
    limit: with it, balls beyond those of any other method are divided too, for its seconds for each input and its parts
    for each ball.  Balls of up to 6 inputs are halved along them until some derivative keeps its sign in each part.
    With more inputs, and activations of two pieces, signs of neurons are divided until one derivative keeps its sign.
    time_limit: seconds for all inputs together, in place of a method and a limit: that is then `AutoEntries`.
    The search tries the whole space (or clip box), then the point, then radii in growing steps, then bisection.
    Raises InvalidRegion for inputs, norms or clip boxes that `LpBall` refuses, InvalidRequest for an output that does
    not exist, for a tolerance that is not between 0 and 1, and for a time limit beside a method or a limit.

    Source: docs/mathematics.md, §7.3, §7.6; arXiv:1810.11783, Section 4 (local optimisation landscape).
    """
    if not 0 < tolerance < 1:
        raise InvalidRequest(f"the tolerance {tolerance!r} is not between 0 and 1; give a relative one such as 1e-3")
    if limit is not None:
        expect(limit, Limit, "the limit", "give Limit(seconds=…)")
    check_time_limit(time_limit, method=method, limit=limit)
    asked, ball = around(network, x, p)
    how = as_jacobian_method(method, None if time_limit is None else time_limit / asked.bound.batch)
    one = asked.network.output(output)
    probe = _Probe(asked.of(one), Centres.of(ball, one.input_shape), how)
    with torch.no_grad():
        if isinstance(how, AutoEntries):
            found = _in_time(probe, PartSigns(how.first, limit or Limit(inf)), how, tolerance)
        else:
            found = _largest(probe, tolerance)
            found = found if limit is None else _divided_all(probe, PartSigns(how, limit), found, tolerance)
    notes = tuple(_note(bool(k), float(r)) for k, r in zip(found.proved, found.radius, strict=True))
    return StationaryFree(
        found.radius.to(one.dtype).to(one.device), found.witness.to(one.device), found.lower.to(one.device),
        found.upper.to(one.device), found.parts.to(one.device), output, float(ball.p), notes,
        probe.problem.provenance(how.title),
    )  # fmt: skip


@final
@dataclass(frozen=True)
class _Proofs:
    """For each sample, a proved radius (float64), and the rest as in `StationaryFree`."""

    radius: Tensor
    witness: Tensor
    lower: Tensor
    upper: Tensor
    parts: Tensor

    @property
    def proved(self) -> Tensor:
        return self.parts > 0

    def updated(self, index: Tensor, tried: _Proofs) -> _Proofs:
        """The same, updated by the results `tried` for the samples `index`, where these are proofs."""
        at, new = index[tried.proved], tried.proved
        pairs = zip(self._tensors(), tried._tensors(), strict=True)
        return _Proofs(*(old.index_put((at,), more[new]) for old, more in pairs))

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self.radius, self.witness, self.lower, self.upper, self.parts


@final
@dataclass(frozen=True)
class _Probe:
    """A network of one output, and the inputs around which its gradient is bounded; after `deadline`, nothing is."""

    problem: Problem
    centres: Centres
    method: AbstractJacobianMethod
    deadline: Deadline = NEVER

    @property
    def count(self) -> int:
        return len(self.centres.x)

    def __call__(self, index: Tensor, radius: Tensor) -> _Proofs:
        """What is proved for the samples `index` in balls of `radius`.

        If several entries have a proved sign, the witness is the one whose bounds are farthest from 0.
        """
        if self.deadline.end == inf:
            return self._tried(index, radius)
        part = self.deadline.part(_BALL)
        if part.left > 0:
            own = replace(self, method=self.method.within(part.left))
            with suppress(OutOfTime), until(self.problem.planner.watched(self.problem.network, part)):
                return own._tried(index, radius)
        return self.nothing(len(index))

    def _tried(self, index: Tensor, radius: Tensor) -> _Proofs:
        balls = self.centres.taken(index.tolist()).balls(radius)
        found = jacobian_bounds(self.problem.over(balls), method=self.method)
        lower, upper = found.lower.flatten(1).cpu(), found.upper.flatten(1).cpu()
        witness, low, high = _farthest(lower, upper, found.rigorous)
        return _Proofs(radius, witness, low, high, (witness >= 0).long())

    def divided(self, sample: int, radius: float, how: PartSigns) -> _Proofs:
        """What is proved for a sample in parts of a ball."""
        alone, nothing = torch.tensor([radius], dtype=torch.float64), self.nothing(1)
        ball = self.problem.over(self.centres.taken([sample]).balls(alone))
        part = self.deadline.part(_BALL)
        with suppress(OutOfTime), until(self.problem.planner.watched(self.problem.network, part)):
            found = how.within(part.left)(ball)
            return nothing if found is None else self._of_parts(found, alone)
        return nothing

    def _of_parts(self, found: Parted, radius: Tensor) -> _Proofs:
        """With the entry that has the same sign in all parts, if there is one."""
        nothing, dtype = self.nothing(1), self.problem.network.dtype
        if not found.proved:
            return nothing
        rigorous = self.problem.arithmetic.rigorous
        witness, low, high = _farthest(found.lower[None].to(dtype), found.upper[None].to(dtype), rigorous)
        low, high = torch.where(witness >= 0, low, -inf), torch.where(witness >= 0, high, inf)
        return _Proofs(radius, witness, low, high, torch.tensor([found.parts]))

    def nothing(self, count: int) -> _Proofs:
        """The state before any proof, for so many samples."""
        end = torch.full((count,), inf, dtype=self.problem.network.dtype)
        none = torch.full((count,), -1)
        return _Proofs(torch.zeros(count, dtype=torch.float64), none, -end, end, torch.zeros_like(none))

    def limits(self) -> Tensor:
        """For each sample, a radius at which the ball is the whole space, or contains the clip box."""
        return self.centres.whole().clamp(max=float(torch.finfo(self.problem.network.dtype).max) / 4)


def _farthest(lower: Tensor, upper: Tensor, rigorous: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row of bounds (batch, n), the entry with a proved sign that is farthest from 0, or -1, and its bounds."""
    positive, negative = strict_signs(lower, upper, rigorous)
    best = torch.where(positive, lower, torch.where(negative, -upper, -inf)).max(1)
    at, known = best.indices.unsqueeze(1), best.values > 0
    low, high = lower.gather(1, at).squeeze(1), upper.gather(1, at).squeeze(1)
    return torch.where(known, best.indices, -1), low, high


def _in_time(probe: _Probe, splits: PartSigns, method: AutoEntries, tolerance: float) -> _Proofs:
    """The largest radii found by the first method, and then, input by input, by the whole of it on larger balls.

    Last, balls are divided, if that is possible.
    """
    budget = Budget.of(method.seconds * probe.count, probe.count)
    found = _largest(replace(probe, method=method.first, deadline=budget.deadline.part(_FIRST)), tolerance)
    for i, radius in enumerate(found.radius.tolist()):
        deadline = Deadline.after(budget.share())
        divides = splits.divides(probe.problem)
        own = replace(probe, deadline=deadline.part(_WHOLE) if divides else deadline)
        if radius < inf:
            start = torch.tensor([i])
            if not bool(found.proved[i]):
                found = found.updated(start, own(start, torch.zeros(1, dtype=torch.float64)))
            if bool(found.proved[i]):
                found = _searched(own, found, start, tolerance)
            if divides:
                found = _divided(replace(probe, deadline=deadline), splits, found, i, tolerance)
    return found


def _divided_all(probe: _Probe, splits: PartSigns, found: _Proofs, tolerance: float) -> _Proofs:
    """`found`, with larger radii for all samples, each of which has the seconds of the limit."""
    for i in range(probe.count if splits.divides(probe.problem) else 0):
        own = replace(probe, deadline=Deadline.after(splits.limit.seconds))
        found = _divided(own, splits, found, i, tolerance)
    return found


def _divided(probe: _Probe, splits: PartSigns, found: _Proofs, sample: int, tolerance: float) -> _Proofs:
    """`found`, with a larger radius for one sample, if it has one already and there is time."""
    radius, index = float(found.radius[sample]), torch.tensor([sample])
    if not bool(found.proved[sample]) or radius == inf:
        return found
    whole = float(probe.centres.whole()[sample])
    search = parted_radii(radius, whole, probe.problem.network.dtype, tolerance)
    try:
        asked = next(search)
        while not probe.deadline.over:
            tried = probe.divided(sample, asked[0], splits)
            found = found.updated(index, tried)
            asked = search.send(tried.proved.tolist())
    except StopIteration:
        pass
    return found


def _largest(probe: _Probe, tolerance: float) -> _Proofs:
    """The largest radii found."""
    every = torch.arange(probe.count)
    found = probe.nothing(probe.count)
    tried = probe(every, torch.full((len(every),), inf, dtype=torch.float64))
    found = found.updated(every, tried)
    left = every[~found.proved]
    if len(left):
        found = found.updated(left, probe(left, torch.zeros(len(left), dtype=torch.float64)))
        found = _searched(probe, found, left[found.proved[left]], tolerance)
    return found


def _note(known: bool, radius: float) -> str:
    if not known:
        return "no entry of the gradient has a proved sign at the input itself"
    return "no sign is proved in any ball around the input, only at the input itself" if radius == 0 else ""


def _searched(probe: _Probe, found: _Proofs, left: Tensor, tolerance: float) -> _Proofs:
    """`found`, with larger radii for the samples `left`, from those on that are proved, none of which is infinite."""
    begin = found.radius.tolist()
    limits, dtype = probe.limits().tolist(), probe.problem.network.dtype

    def proved(samples: Sequence[int], radii: Sequence[float]) -> list[bool]:
        nonlocal found
        index = torch.tensor(samples)
        tried = probe(index, torch.tensor(radii, dtype=torch.float64))
        found = found.updated(index, tried)
        known: list[bool] = tried.proved.tolist()
        return known

    answered({i: bracket_radius(limits[i], dtype, tolerance, begin[i]) for i in left.tolist()}, proved)
    return found
