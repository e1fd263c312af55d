"""The first bounds of `Auto`, which are cheap on any network, and the report of what all steps gave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from math import inf

from recurjac.auto.arms import Arm, Report, by_sample
from recurjac.auto.conditions import where_steps
from recurjac.auto.work import Work
from recurjac.deadline import until
from recurjac.errors import OutOfTime
from recurjac.jacobian import FastLip, ForwardTangents, GradientForms, Gradients
from recurjac.norms import AbstractNormMethod, JacobianNorm, LinearNetworkNorm, ProductOfNorms
from recurjac.preactivation import IBP

NOISES = 2048
"""The most noises of tangents in loops; more than 512 take hardly longer where ranges are narrow, and give more."""
PRODUCT = 0.1
"""In large networks, the share of the time for the first product of norms."""
_STEPS = 0.95
"""The share of the time after which forms by single steps are given up."""
_PUSHES = 0.7
"""The share of the time for the noises of a linear network of single steps."""
_ENTRIES = 0.4
"""The share of the time after which the first bounds of entries are given up."""


def open_alone(work: Work, opening: Sequence[Arm], report: Callable[[Report], None]) -> None:
    """Bounds with ranges by intervals, and then those of `opening` that fit."""
    product = ProductOfNorms().within(PRODUCT * work.deadline.left)
    found = by_sample(work, work.tighten(product, product.title, quick(work)))
    report(Report(product.title, found, work.lower, work.deadline.spent))
    open_entries(work, opening, report)


def open_entries(work: Work, opening: Sequence[Arm], report: Callable[[Report], None]) -> None:
    """The same after the product of norms.

    In large networks of matrix products and normalisations, of which other methods read every product of entries,
    forms by single steps come first, and all that follows starts from intervals.
    """
    steps = where_steps(work)
    if steps:
        work.gradients = quick(work)
        open_steps(work, report)
    entries, limit, found = JacobianNorm(FastLip()), work.limit, None
    with suppress(OutOfTime), until(limit if limit.end == inf else limit.part(_ENTRIES)):
        found = by_sample(work, work.tighten(entries, entries.title, quick(work)))
    report(Report(entries.title, found, work.lower, work.deadline.spent))
    if work.carries_tangents:
        open_loop(work, report)
    if not steps:
        work.measure()
    for arm in opening:
        if not work.met and arm.step.suits(work) and arm.fits(work):
            report(arm.pull(work))


def open_steps(work: Work, report: Callable[[Report], None]) -> None:
    """One pass of gradients as forms or, where these have no room for noises, of a linear network with noises."""
    method = _by_steps(work)
    with suppress(OutOfTime), until(work.limit.part(_STEPS)):
        found = by_sample(work, work.tighten(method, method.title))
        report(Report(method.title, found, work.lower, work.deadline.spent))


def _by_steps(work: Work) -> AbstractNormMethod:
    """The method of single steps for a problem of such steps."""
    forms, norms, given = GradientForms(), work.question.norms, work.given
    if norms is None or norms[0] != inf or given is None or forms.has_room_for_steps(given):
        return JacobianNorm(forms)
    return LinearNetworkNorm(_PUSHES * work.deadline.left)


def open_loop(work: Work, report: Callable[[Report], None]) -> None:
    """One pass of tangents with ranges by intervals, which it tightens itself; in loops it is never given up.

    Its work is limited by the planner.  Ranges by other rules take longer there, and bounds from intervals are of
    little use.
    """
    method, began = JacobianNorm(ForwardTangents(NOISES)), work.deadline.spent
    found = by_sample(work, work.tighten(method, method.title, quick(work)))
    work.tangent_seconds = work.deadline.spent - began
    report(Report(method.title, found, work.lower, work.deadline.spent))


def quick(work: Work) -> Gradients:
    """The gradients with ranges by intervals."""
    given = work.given
    return work.gradients if given is None or given.pre == IBP() else Gradients(given.by_intervals())


def line(reports: Sequence[Report]) -> str:
    """What each step gave for one sample, or the largest of several, if it is not what it gave before."""
    parts: list[str] = []
    last: dict[str, float] = {}
    for before, now in pairwise([Report("", None, 0.0, 0.0), *reports]):
        bound = None if now.bounds is None else float(now.bounds.max())
        if bound is not None and last.get(now.step) == bound:
            continue
        if bound is not None:
            last[now.step] = bound
        found = "" if bound is None else f"{bound:.6g}"
        if now.step == before.step and parts:
            parts[-1] += f" → {found}" if found else " again"
        else:
            parts.append(f"{now.step} {found}".strip())
    return "; ".join(parts)
