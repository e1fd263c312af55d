"""Multipliers of a P-chain: feasible by construction, and improved by Adam's method.  No proof depends on it.

With e > 0 for each neuron of U and λ the largest eigenvalue of diag(e)^-½ Q_UU diag(e)^-½, every t = e λ c with c > 1
has diag(t) ≻ Q_UU.  So e and c are free, and no step can leave what is feasible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import cos, log, pi
from typing import final

import torch
from torch import Tensor

from recurjac.adam import Adam
from recurjac.arithmetic import Fast, largest_eigenpair
from recurjac.deadline import NEVER, Deadline
from recurjac.quadratic.system import System, reach

_MARGIN = 1e-4
"""c is at least 1 plus this number."""
_RATE = 0.15
"""The first step of Adam's method; it falls to nothing along half a cosine."""
_EVEN = 0.3
"""The share of the mean that every first weight has in addition."""
_LEAST = 1e-300
"""In place of 0 in quotients and logarithms."""
LN2 = log(2.0)
"""Softplus at 0, in whose units gaps are."""
_NARROWEST = 1e-9
_WIDEST = 1e9
"""The least and the largest part of c above 1 and its margin that are told from 0 and from infinity."""
_DENSE = 200
"""Up to this size, all eigenvalues are computed; above it, Lanczos' iteration is faster."""
_STEPS = 300
"""The largest number of steps of that iteration."""


@final
@dataclass(frozen=True)
class Multipliers:
    """Free numbers of any sign, from which multipliers are made.

    weights: log w for each input, (n_0,); None for a Euclidean ball, where w = 1.
    shapes: log e for each node with unstable neurons.  gaps: a number for each such node; c grows with it.
    """

    weights: Tensor | None
    shapes: Mapping[int, Tensor]
    gaps: Mapping[int, Tensor]

    @classmethod
    def first(cls, system: System, radius: Tensor, euclidean: bool) -> Multipliers:
        """e = 1, c about 2, and weights near the shares of the inputs in rows along the middle of all slopes."""
        weights = None if euclidean else first_weights(system.middle_rows(), radius)
        half = {k: node.half[node.unstable] for k, node in enumerate(system.nodes, 1) if len(node.unstable)}
        return cls(
            weights, {k: torch.zeros_like(r) for k, r in half.items()}, {k: r.new_zeros(()) for k, r in half.items()}
        )

    def start(self, radius: Tensor) -> Tensor:
        """The diagonal of P at the input, (n_0,), for |v_i| <= radius_i, or ‖v / radius‖₂ <= 1 without weights."""
        return start_of(self.weights, radius)

    def choose(self, k: int, q: Tensor) -> Tensor:
        """t for the unstable neurons of node k."""
        e = self.shapes[k].to(q.dtype).exp()
        return self.scaled(k, e, _largest(q, e.rsqrt()))

    def scaled(self, k: int, e: Tensor, most: Tensor) -> Tensor:
        """t for the unstable neurons of node k, from its e and the largest eigenvalue."""
        gap = torch.nn.functional.softplus(self.gaps[k].to(e.dtype)) / LN2
        t: Tensor = e * (most * (1 + _MARGIN + gap))
        return t

    def near(self, system: System, radius: Tensor, weights: Tensor | None, logs: Mapping[int, Tensor]) -> Multipliers:
        """The numbers for which t is near the exponentials of `logs` at each node, and the weights are log w."""
        shapes = dict(logs)
        gaps = dict(self.gaps)

        def chosen(k, q):  # type: ignore[no-untyped-def]  # (annotated functions made here would never be freed in tests)
            spare = (1 / _largest(q, (-shapes[k] / 2).exp()) - 1 - _MARGIN).clamp(min=_NARROWEST, max=_WIDEST) * LN2
            gaps[k] = spare + (-(-spare).expm1()).log()
            return Multipliers(None, shapes, gaps).choose(k, q)

        with torch.no_grad():
            reach(replace(system, arithmetic=Fast()), start_of(weights, radius), chosen)
        return Multipliers(weights, shapes, gaps)

    def chosen(self, system: System, radius: Tensor) -> dict[int, Tensor]:
        """t for each node with unstable neurons, in plain floating point."""
        found: dict[int, Tensor] = {}

        def keep(k, q):  # type: ignore[no-untyped-def]  # (annotated functions made here would never be freed in tests)
            found[k] = self.choose(k, q)
            return found[k]

        reach(replace(system, arithmetic=Fast()), self.start(radius), keep)
        return found

    def map(self, change: Callable[[Tensor], Tensor]) -> Multipliers:
        """The same with `change` applied to all numbers."""
        weights = None if self.weights is None else change(self.weights)
        shapes, gaps = ({k: change(t) for k, t in numbers.items()} for numbers in (self.shapes, self.gaps))
        return Multipliers(weights, shapes, gaps)

    @property
    def leaves(self) -> list[Tensor]:
        return [*([] if self.weights is None else [self.weights]), *self.shapes.values(), *self.gaps.values()]


def _largest(q: Tensor, units: Tensor) -> Tensor:
    """About the largest eigenvalue of diag(units) q diag(units), with its derivative; positive."""
    scaled = q * units * units.unsqueeze(1)
    if len(q) <= _DENSE:
        try:
            found: Tensor = torch.linalg.eigvalsh(scaled)[-1]
        except RuntimeError:  # LinAlgError: not finite, or it did not converge; row sums are no less
            found = scaled.abs().sum(1).amax()
    else:
        with torch.no_grad():
            v = largest_eigenpair(scaled.__matmul__, len(q), _STEPS, scaled).vector
        found = v @ (scaled @ v) / (v @ v)  # the derivative of an eigenvalue is vᵀ dM v
    return positive(found)


def positive(numbers: Tensor) -> Tensor:
    """The numbers, with a tiny one in place of those that are less, so that they have logarithms."""
    return numbers.clamp(min=torch.finfo(numbers.dtype).tiny)


def first_weights(middle_rows: Tensor, radius: Tensor) -> Tensor:
    """log w near the shares of the inputs in rows (K, n_0) along the middle of all slopes: (n_0,)."""
    size = middle_rows.abs() * radius
    share = (size / size.sum(1, keepdim=True).clamp(min=_LEAST)).mean(0)
    return (share + _EVEN * share.mean().clamp(min=_LEAST)).log()


def start_of(weights: Tensor | None, radius: Tensor) -> Tensor:
    """The diagonal of P at the input, rounded upwards, (n_0,), for |v_i| <= radius_i, or ‖v / radius‖₂ <= 1 without w.

    The computed w sum to at most 1 + (n_0 + 8) ε, and each operation below rounds once; squares may underflow.
    """
    info = torch.finfo(radius.dtype)
    square = radius.square()
    if weights is None and bool((radius == 1).all()):
        return square
    square = square + info.tiny * (radius > 0).to(radius.dtype)
    if weights is None:
        return square * (1 + 4 * info.eps)
    return square / torch.softmax(weights, 0) * (1 + (len(weights) + 16) * info.eps)


Loss = Callable[[Tensor], Tensor]
"""What should be small, of the matrix G of the rows; differentiable."""


def least_of(
    value: Callable[[Multipliers], Tensor | None],
    begin: Multipliers,
    steps: int,
    deadline: Deadline = NEVER,
    rate: float = _RATE,
) -> Multipliers:
    """The multipliers with the least value that Adam's method finds; None and infinite values end the search, and
    so do values that do not depend on the multipliers.  rate: the first step.
    """
    now = begin.map(lambda t: t.detach().clone().requires_grad_())
    if not now.leaves or steps == 0:
        return begin
    best, least = begin, float("inf")
    adam = Adam(now.leaves)
    for step in range(steps):
        share, passed = step / steps, deadline.share
        if passed >= 1:
            break
        if passed > (step + 1) / steps:  # the time is short; where it is not, it changes nothing
            share = passed
        with torch.enable_grad():
            found = value(now)
            if found is None or not bool(found.isfinite()) or not found.requires_grad:
                break
            if found.item() < least:
                best, least = now.map(lambda t: t.detach().clone()), found.item()
            gradients = torch.autograd.grad(found, now.leaves, allow_unused=True)
        adam.step(gradients, rate * (1 + cos(pi * share)) / 2)
    return best
