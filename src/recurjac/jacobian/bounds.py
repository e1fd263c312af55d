"""Bounds of the entries of a network's Jacobian over a region."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic
from recurjac.deadline import Budget, check_time_limit
from recurjac.errors import expect
from recurjac.jacobian.auto import AutoEntries
from recurjac.jacobian.base import AbstractJacobianMethod
from recurjac.jacobian.gradients import Gradients
from recurjac.jacobian.one_pass import default_method
from recurjac.loading import Source
from recurjac.preactivation import RuleLike
from recurjac.problem import Problem, as_problem, as_region
from recurjac.provenance import AbstractResult, Provenance
from recurjac.region import AbstractRegion, Numbers


def as_jacobian_method(
    method: AbstractJacobianMethod | None, time_limit: float | None = None
) -> AbstractJacobianMethod:
    """`method`, or if it is None the default: with a time limit, that goes on so long.

    Raises InvalidRequest for anything else, and for a method and a limit together.
    """
    check_time_limit(time_limit, method=method)
    if time_limit is not None:
        return AutoEntries(time_limit)
    how = default_method() if method is None else method
    expect(how, AbstractJacobianMethod, "the method", "give an object such as Chords()")
    return how


def sharing(
    method: AbstractJacobianMethod, parts: Sequence[Problem]
) -> Iterator[tuple[Problem, AbstractJacobianMethod]]:
    """Each part of a batch, with the method in its share of the time."""
    budget = Budget.of(method.total, len(parts))
    for part in parts:
        yield part, method if len(parts) == 1 else method.within(budget.share())


@final
@dataclass(frozen=True, repr=False, eq=False)
class JacobianBounds(AbstractResult):
    """lower <= ∂f/∂x <= upper for every x in the region and every element of Clarke's Jacobian.

    lower, upper: (batch, *output, *input), in outputs per unit of input.
    """

    lower: Tensor
    upper: Tensor
    provenance: Provenance

    def __repr__(self) -> str:
        width = (self.upper - self.lower).detach()
        known = ((self.lower > 0) | (self.upper < 0)).detach().double().mean()
        return (
            f"JacobianBounds{tuple(self.lower.shape)} by {self.method} ({self._kind()}): widest "
            f"{float(width.max()):.4g}, sign known for {100 * float(known):.1f} % of the entries"
        )


def jacobian_bounds(
    network: Source | Problem,
    region: AbstractRegion | Numbers | None = None,
    *,
    radius: Numbers | None = None,
    norm: float | None = None,
    method: AbstractJacobianMethod | None = None,
    pre: RuleLike | None = None,
    arithmetic: AbstractArithmetic | None = None,
    time_limit: float | None = None,
) -> JacobianBounds:
    """Bounds of every entry of the Jacobian of `network` over `region`; a `Problem` can replace both arguments.

    network, region, radius, norm: as in `lipschitz`.
    method: the default is `WithTangents(Cut(ClosedForms(Intersection(Chords(), RecurJac()))))`, in one pass.
    time_limit: seconds for all samples together, in place of a method: that is then `AutoEntries(time_limit)`.
    pre: the rule for pre-activation bounds; the default is `Crown()`.
    arithmetic: the default is `Rigorous()` if rounding can be covered for the network and the region, otherwise
    `Fast()`; the result records which was used.
    The bounds are differentiable with respect to the network's live parameters.
    Raises InvalidRegion if the region does not fit the network, InvalidRequest for a method and a limit together, and
    UnsoundBounds if bounds contradict each other (a bug).

    Source: arXiv:1810.11783 for the problem; each method cites its own source.
    """
    problem = as_problem(network, as_region(region, radius, norm), pre, arithmetic)
    how = as_jacobian_method(method, time_limit)
    found = [one.prepare(Gradients(part)).push_all() for part, one in sharing(how, problem.batches())]
    net = problem.network
    shape = (problem.bound.batch, *net.output_shape, *net.input_shape)
    ends = (torch.cat(e).reshape(shape) for e in zip(*((b.lower, b.upper) for b in found), strict=True))
    lower, upper = (problem.detached(e) for e in ends)
    return JacobianBounds(lower, upper, problem.provenance(how.title))
