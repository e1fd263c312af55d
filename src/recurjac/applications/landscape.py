"""Balls around inputs in which an output has no stationary point."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.applications.signs import strict_signs
from recurjac.arithmetic import AbstractArithmetic
from recurjac.errors import InvalidRequest
from recurjac.jacobian import AbstractJacobianMethod, as_jacobian_method, jacobian_bounds
from recurjac.network import Network
from recurjac.preactivation import AbstractPreactivation
from recurjac.problem import Problem
from recurjac.provenance import AbstractResult, Provenance
from recurjac.region import LpBall, Numbers
from recurjac.region.numbers import batched, numbers

_FIRST = 1.0
"""The first finite radius tried; the search goes up or down from it by ever larger factors."""
_LARGEST_FACTOR = 2.0**256


@final
@dataclass(frozen=True, repr=False)
class StationaryFree(AbstractResult):
    """No point within `radius` of x is stationary for the output: there, some entry of the gradient keeps its sign.

    radius: (batch,), the largest that was proved; inf: no stationary point in the whole space, or the whole clip box.
    witness: (batch,), which entry keeps its sign, numbered row-major, or -1 where none does even at x; lower, upper:
    (batch,), bounds of that entry over the ball, for every element of Clarke's gradient.  At -1 the radius is 0.
    output, p: which output, and the norm of the ball.  notes: for each sample why its radius is 0, else empty.
    """

    radius: Tensor
    witness: Tensor
    lower: Tensor
    upper: Tensor
    output: int
    p: float
    notes: tuple[str, ...]
    provenance: Provenance

    @property
    def everywhere(self) -> Tensor:
        """True for samples whose output has no stationary point anywhere: (batch,)."""
        return self.radius == inf

    def __repr__(self) -> str:
        radii = ", ".join("everywhere" if r == inf else f"{r:.6g}" for r in self.radius.tolist())
        notes = "".join(f"; {note}" for note in sorted({n for n in self.notes if n}))
        return (
            f"StationaryFree(output {self.output}, l{self.p:g} radius {radii}; {self.method}, {self._kind()}{notes})"
        )  # fmt: skip


def stationary_free_radius(
    network: Network,
    x: Numbers,
    *,
    output: int,
    p: float = inf,
    clip: tuple[Numbers, Numbers] | None = None,
    method: AbstractJacobianMethod | None = None,
    pre: AbstractPreactivation | None = None,
    arithmetic: AbstractArithmetic | None = None,
    tolerance: float = 1e-3,
) -> StationaryFree:
    """The largest radius found around each input within which one output certainly has no stationary point.

    x: one input or a batch.  output: which one, row-major; of a difference, `output=0` of `network.margin(a, b)`.
    p, clip: of the balls, as in `LpBall`.  method, pre, arithmetic: as in `jacobian_bounds`.  tolerance: relative; no
    proof was found at a radius larger than that found by more, but as bounds need not grow with the ball, one may be.
    First the whole space (or clip box) is tried, then the point, then radii in growing steps, then bisection.
    Raises InvalidRegion for inputs, norms or clip boxes that `LpBall` refuses, InvalidRequest for an output that is not
    there and for a tolerance that is not between 0 and 1.

    Source: docs/mathematics.md, §7.3; arXiv:1810.11783, Section 4 (local optimisation landscape).
    """
    if not 0 < tolerance < 1:
        raise InvalidRequest(f"the tolerance {tolerance!r} is not between 0 and 1; give a relative one such as 1e-3")
    how, ball = as_jacobian_method(method), LpBall(x, 0.0, p, clip)
    asked = Problem(network, ball, pre=pre, arithmetic=arithmetic)
    problem = asked.of(network.output(output))
    probe = _Probe(problem, *_samples(x, clip, network.input_shape), p, how)
    with torch.no_grad():
        found, notes = _largest(probe, tolerance)
    device = network.device
    return StationaryFree(
        found.radius.to(network.dtype).to(device), found.witness.to(device), found.lower.to(device),
        found.upper.to(device), output, float(p), notes, problem.provenance(how.title),
    )  # fmt: skip


@final
@dataclass(frozen=True)
class _Proofs:
    """For each sample the radius (float64) at which the entry `witness` has a certain sign; -1: there is none."""

    radius: Tensor
    witness: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def proved(self) -> Tensor:
        return self.witness >= 0

    def updated(self, index: Tensor, tried: _Proofs) -> _Proofs:
        """The same with what was `tried` for the samples `index`, where that was proved."""
        at, new = index[tried.proved], tried.proved
        pairs = zip(self._tensors(), tried._tensors(), strict=True)
        return _Proofs(*(old.index_put((at,), more[new]) for old, more in pairs))

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.radius, self.witness, self.lower, self.upper


@final
@dataclass(frozen=True)
class _Probe:
    """A network of one output and balls around x (batch, *input) in float64, whose clip box, if any, is as large."""

    problem: Problem
    x: Tensor
    clip: tuple[Tensor, Tensor] | None
    p: float
    method: AbstractJacobianMethod

    @property
    def network(self) -> Network:
        return self.problem.network

    def __call__(self, index: Tensor, radius: Tensor) -> _Proofs:
        """What is proved for the samples `index` in balls of `radius`.

        Of several entries with a certain sign the one farthest from 0 is the witness.
        """
        clip = None if self.clip is None else (self.clip[0][index], self.clip[1][index])
        each = radius.reshape(-1, *[1] * (self.x.dim() - 1))  # (batch,) could be taken for one radius a feature
        ball = LpBall(self.x[index], each, self.p, clip)
        found = jacobian_bounds(self.problem.over(ball), method=self.method)
        lower, upper = found.lower.flatten(1).cpu(), found.upper.flatten(1).cpu()
        positive, negative = strict_signs(lower, upper, found.rigorous)
        margin = torch.where(positive, lower, torch.where(negative, -upper, -inf))
        best = margin.max(1)
        at, known = best.indices.unsqueeze(1), best.values > 0
        low, high = lower.gather(1, at).squeeze(1), upper.gather(1, at).squeeze(1)
        return _Proofs(radius, torch.where(known, best.indices, -1), low, high)

    def nothing(self) -> _Proofs:
        """Before any proof: no entry is known at radius 0."""
        zero, end = torch.zeros(len(self.x), dtype=torch.float64), self.x.new_full((len(self.x),), inf)
        end = end.to(self.network.dtype)
        return _Proofs(zero, torch.full((len(self.x),), -1), -end, end)

    def limits(self) -> Tensor:
        """A radius for each sample from which on the ball is the whole space, or holds the clip box, up to rounding."""
        most = torch.full((len(self.x),), float(torch.finfo(self.network.dtype).max) / 4, dtype=torch.float64)
        if self.clip is None:
            return most
        reach = torch.maximum(self.x - self.clip[0], self.clip[1] - self.x).flatten(1)
        return torch.minimum(most, torch.linalg.vector_norm(reach, self.p, dim=1))


def _samples(
    x: Numbers, clip: tuple[Numbers, Numbers] | None, shape: Shape
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """The inputs and the ends of their clip box, (batch, *input) in float64."""
    given = numbers("the centre x", x)
    centre, _ = batched("the centre x", given, shape)
    if clip is None:
        return centre, None
    low, high = (batched("the clip box", numbers("the clip box", c).broadcast_to(given.shape), shape)[0] for c in clip)
    return centre, (low, high)


def _largest(probe: _Probe, tolerance: float) -> tuple[_Proofs, tuple[str, ...]]:
    """The largest radii found, and why some are 0."""
    every = torch.arange(len(probe.x))
    found = probe.nothing()
    tried = probe(every, torch.full((len(every),), inf, dtype=torch.float64))
    found = found.updated(every, tried)
    left = every[~found.proved]
    if len(left):
        found = found.updated(left, probe(left, torch.zeros(len(left), dtype=torch.float64)))
        found = _searched(probe, found, left[found.proved[left]], tolerance)
    notes = tuple(_note(bool(k), float(r)) for k, r in zip(found.proved, found.radius, strict=True))
    return found, notes


def _note(known: bool, radius: float) -> str:
    if not known:
        return "no entry of the gradient has a proved sign at the input itself"
    return "no sign is proved in any ball around the input, only at the input itself" if radius == 0 else ""


@final
@dataclass(frozen=True)
class _Bracket:
    """Where to look next, for each sample: above `low`, which was proved (0: no ball yet), below `high`, which was not.

    factor: of the next step where one end is not known yet; tested: whether a failure at `high` was seen.
    """

    low: Tensor
    high: Tensor
    factor: Tensor
    tested: Tensor
    dtype: torch.dtype

    @classmethod
    def below(cls, limits: Tensor, dtype: torch.dtype) -> _Bracket:
        return cls(
            torch.zeros_like(limits), limits, torch.full_like(limits, 2.0), torch.zeros_like(limits).bool(), dtype
        )

    def next(self) -> Tensor:
        """Radii to try, numbers of the network's dtype: a step up or down, or the geometric mean of both ends."""
        between = self.low.sqrt() * self.high.sqrt()
        up = torch.where(self.low * self.factor < self.high, self.low * self.factor, between)
        down = torch.where(self.tested, self.high / self.factor, (self.high / 2).clamp(max=_FIRST))
        radius = torch.where(self.low == 0, down, torch.where(self.tested, between, up))
        return radius.to(self.dtype).double()

    def open(self, tolerance: float) -> Tensor:
        """Where there is something left to try."""
        tiny = torch.finfo(self.dtype).tiny
        step = self.next()
        return (self.high > self.low * (1 + tolerance)) & (step > self.low) & (step < self.high) & (step >= tiny)

    def after(self, index: Tensor, radius: Tensor, proved: Tensor) -> _Bracket:
        """The bracket once `radius` was tried for the samples `index`."""
        good, bad = index[proved], index[~proved]
        grown = self.factor.index_put((index,), self.factor[index].square().clamp(max=_LARGEST_FACTOR))
        first = (self.low == 0) & ~self.tested  # the first step is not from an end
        return replace(
            self,
            low=self.low.index_put((good,), radius[proved]),
            high=self.high.index_put((bad,), radius[~proved]),
            tested=self.tested.index_put((bad,), torch.ones_like(bad).bool()),
            factor=torch.where(first, self.factor, grown),
        )


def _searched(probe: _Probe, found: _Proofs, left: Tensor, tolerance: float) -> _Proofs:
    """`found` with the largest radii for the samples `left`, which are proved at radius 0 and not at infinity."""
    bracket = _Bracket.below(probe.limits()[left], probe.network.dtype)
    while len(index := bracket.open(tolerance).nonzero().flatten()):
        radius = bracket.next()[index]
        tried = probe(left[index], radius)
        bracket = bracket.after(index, radius, tried.proved)
        found = found.updated(left[index], tried)
    return found
