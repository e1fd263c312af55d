"""Local and global Lipschitz constants: a proved upper bound and an attained lower bound."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.auto import Auto
from recurjac.deadline import Deadline, check_time_limit, shorter, until
from recurjac.errors import OutOfTime
from recurjac.jacobian import AbstractJacobianMethod, Gradients
from recurjac.loading import Source
from recurjac.norms import (
    AbstractNormMethod,
    NormBound,
    as_norm_method,
    check_norm,
    check_supported,
    default_norm_method,
)
from recurjac.preactivation import RuleLike
from recurjac.problem import Problem, as_problem, as_region
from recurjac.provenance import AbstractResult, Provenance
from recurjac.region import AbstractRegion, Numbers
from recurjac.search import Aim, Attained, Search, better_of


@final
@dataclass(frozen=True, repr=False, eq=False)
class Lipschitz(AbstractResult):
    """max ‖J(x)‖_{p→q} over the region is at most `upper` and at least `lower`, each (batch,).

    As the region is convex, ‖f(x) - f(y)‖_q <= upper ‖x - y‖_p for all x and y in it; if the problem has constraints,
    all points between x and y must satisfy them.
    witness, direction: (batch, *input), the input and the direction in which the gain `lower` is attained.
    status: "bounded"; for methods that search, why they stopped: "exact" (within their tolerance), "time", "parts",
    "stuck" or "interrupted".  If parts of the batch were bounded separately, all the different words, with
    commas between them.
    steps: for methods of several steps, such as `Auto`, what each gave; a line for each sample.
    """

    upper: Tensor
    lower: Tensor
    witness: Tensor
    direction: Tensor
    p: float
    q: float
    status: str
    provenance: Provenance
    steps: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """Remarks on the result, in one line."""
        return "; ".join(self.provenance.notes)

    def __repr__(self) -> str:
        ends = zip(self.lower, self.upper.detach(), strict=True)
        pairs = self._each((f"{float(a):.6g} … {float(b):.6g}" for a, b in ends), len(self.lower))
        late = "; time was up" if "time" in self.status.split(", ") else ""
        note = f"{late}; {self.note}" if self.note else late
        norms = f"l{self.p:g} → l{self.q:g}"
        return f"Lipschitz({norms}, attained … certified: {pairs}; {self.method}, {self._kind()}{note})"


def lipschitz(
    network: Source | Problem,
    region: AbstractRegion | Numbers | None = None,
    *,
    radius: Numbers | None = None,
    norm: float | None = None,
    p: float = inf,
    q: float = inf,
    method: AbstractJacobianMethod | AbstractNormMethod | None = None,
    pre: RuleLike | None = None,
    arithmetic: AbstractArithmetic | None = None,
    search: Search | None = None,
    time_limit: float | None = None,
) -> Lipschitz:
    """Bounds of the local Lipschitz constant max ‖J(x)‖_{p→q} of `network` over `region`, for each sample.

    network: also what `load` reads, such as a module or a file, which is then read again in each call.
    region: also inputs x (batch, *input) with a `radius`: the ball of that radius in the l_`norm`, by default l_inf.  A
    `Problem` can replace both network and region.
    p: norm of the inputs; q: norm of the vector of all outputs (inf: the largest single output); each is 1, 2 or inf.
    For one output use `network.output(k)`, for the difference of two `network.margin(a, b)`.  A region of infinite
    radius gives the global constant.
    method: a Jacobian method or a norm method.  The default is `Auto()`, which takes up to ten seconds for all samples
    together.  If gradients are recorded for the weights, it is one pass, which is often looser: the norm of the
    entry-wise bounds, or for p = 2 the lesser of this norm and the product of the layers' norms.  That is so for a
    module, in its own dtype, whose parameters ask for gradients; `torch.no_grad()`, `module.requires_grad_(False)` or a
    `time_limit` gives `Auto`.  `upper` is differentiable with respect to live parameters for the methods in one pass
    and others that say so.
    pre: by default `Crown()`; arithmetic: by default `Rigorous()`, if rounding can be covered; search: for the lower
    bound.
    time_limit: seconds for all samples together, in place of a method: that is then `Auto(time_limit)`, and a search
    takes a half of them at most.
    Raises InvalidRequest for an unknown norm or one that the method does not support, and for a method and a limit
    together; InvalidRegion if the region does not fit the network.

    Source: docs/mathematics.md, §6; arXiv:1810.11783, Section 3.5.
    """
    problem = as_problem(network, as_region(region, radius, norm), pre, arithmetic)
    p, q = check_norm(p, "input"), check_norm(q, "output")
    how = _chosen(problem, p, method, time_limit)
    deadline = Deadline.after(inf if time_limit is None else time_limit)
    how_to_search = _in_time(search or how.search, deadline)
    check_supported(how, p, q)
    flat = problem.network.flattened_output()
    problem.network.check_weights()
    question = problem.of(flat).covering(how.unproved_rounding(p, q, flat.output_shape[0]))
    searched = _searched(how_to_search, question, p, q, Aim()) if how.heeds_attained else None
    found = _bounds(how if time_limit is None else how.within(shorter(inf, deadline.left)), question, p, q, searched)
    upper = torch.cat([f.upper for f in found])
    upper = problem.detached(torch.where(upper.isnan(), inf, upper))
    if searched is None:
        searched = _searched(how_to_search, question, p, q, Aim(upper=upper.detach()))
    attained = _best(searched, [f.attained for f in found])
    lower = _not_above(attained.gain, upper.detach(), question.arithmetic)
    Interval(lower, upper.detach())  # raises UnsoundBounds if the bounds cross
    provenance = question.provenance(how.title, *_notes(question, found))
    steps = tuple(line for f in found for line in f.steps)
    return Lipschitz(upper, lower, attained.witness, attained.direction, p, q, _status(found), provenance, steps)


def nested(found: Sequence[Lipschitz]) -> list[Lipschitz]:
    """Results of the same question on regions of which each contains the next, with what they say of each other.

    A bound holds on all smaller regions, and what is attained in a region is attained in all larger ones.  Results that
    cover rounding take nothing from those that do not.
    """
    results = list(found)
    for i in range(1, len(results)):
        results[i] = _inside(results[i], results[i - 1])
    for i in range(len(results) - 2, -1, -1):
        results[i] = _around(results[i], results[i + 1])
    return results


def _inside(own: Lipschitz, larger: Lipschitz) -> Lipschitz:
    """The result on a region that is contained in that of another."""
    if (own.rigorous and not larger.rigorous) or not bool((larger.upper < own.upper).any()):
        return own
    notes = (*own.provenance.notes, "the bound on a larger region is less")
    upper = torch.minimum(own.upper, larger.upper)
    return replace(own, upper=upper, provenance=replace(own.provenance, notes=notes))


def _around(own: Lipschitz, smaller: Lipschitz) -> Lipschitz:
    """The result on a region that contains that of another."""
    if own.rigorous and not smaller.rigorous:
        return own
    best = better_of(*(Attained(r.lower, r.witness, r.direction) for r in (own, smaller)))
    return replace(own, lower=best.gain, witness=best.witness, direction=best.direction)


def _chosen(
    problem: Problem, p: float, method: AbstractJacobianMethod | AbstractNormMethod | None, time_limit: float | None
) -> AbstractNormMethod:
    """The method that is asked for, or a default.  Raises InvalidRequest for a method and a limit together."""
    check_time_limit(time_limit, method=method)
    if method is not None:
        return as_norm_method(method)
    return default_bound(problem, p) if time_limit is None else Auto(time_limit)


def default_bound(problem: Problem, p: float) -> AbstractNormMethod:
    """`Auto`, or a method in one pass if gradients are recorded for the network's weights."""
    return default_norm_method(p) if problem.network.live and torch.is_grad_enabled() else Auto()


def _in_time(search: Search, deadline: Deadline) -> Search:
    """The search in at most half of the time; the same search if there is no limit."""
    return search if deadline.end == inf else replace(search, seconds=shorter(search.seconds, deadline.left / 2))


def _searched(search: Search, question: Problem, p: float, q: float, aim: Aim) -> Attained:
    """What the search attains; if it is given up because it takes longer than it may, what the centre does.

    Nothing is known of the centre of a network that takes long at a point.
    """
    limit = question.planner.watched(question.network, Deadline.after(search.seconds))
    with suppress(OutOfTime), until(limit):
        return search.attained(question, p, q, aim)
    if question.planner.quick_at_points(question.network):
        return Search(work=0, seconds=search.seconds).attained(question, p, q)
    x = question.bound.x
    return Attained(x.new_zeros(len(x)), x, torch.zeros_like(x))


def _bounds(
    how: AbstractNormMethod, question: Problem, p: float, q: float, attained: Attained | None
) -> list[NormBound]:
    """The bounds of the parts of a batch; after an interruption, those of the others come from a method in one pass."""
    found: list[NormBound] = []
    begin = 0
    for part in [question] if how.divides_batch else question.batches():
        own = None if attained is None else attained.rows(begin, begin + part.bound.batch)
        begin += part.bound.batch
        if found and "interrupted" in found[-1].status:
            found.append(replace(default_norm_method(p).bound(Gradients(part), p, q), status="interrupted"))
        else:
            known = Gradients(part)
            found.append(how.bound(known, p, q) if own is None else how.towards(known, p, q, own))
    return found


def _best(searched: Attained, found: list[Attained | None]) -> Attained:
    """For each sample, the larger of the gains from the search and from the method."""
    known = [f for f in found if f is not None]
    return better_of(searched, Attained.joined(known)) if len(known) == len(found) else searched


def _notes(question: Problem, found: list[NormBound]) -> list[str]:
    notes = list(dict.fromkeys(f.note for f in found if f.note))
    if bool(question.bound.unbounded.any()):
        notes.append("the region is unbounded: `lower` is from inputs spread widely around those given")
    return notes


def _status(found: list[NormBound]) -> str:
    return ", ".join(dict.fromkeys(f.status for f in found))


def _not_above(lower: Tensor, upper: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
    """`lower`; if rounding is not covered, at most `upper` where the two cross by no more than rounding."""
    if arithmetic.rigorous:
        return lower
    close = lower <= upper * (1 + torch.finfo(upper.dtype).eps ** 0.5)
    return torch.where(close, torch.minimum(lower, upper), lower)
