"""For which networks a step of `Auto` is worth trying."""

from __future__ import annotations

from math import inf, prod

from recurjac.auto.work import Work
from recurjac.jacobian import GradientForms
from recurjac.region import BoundBall

_FEW = 64
"""The largest number of unknown slopes that count as few."""
_SOME = 300
"""The largest number with which bounds of parts are still quick."""


def anywhere(work: Work) -> bool:  # noqa: ARG001  # (one of several such conditions)
    """Any network."""
    return True


def where_large(work: Work) -> bool:
    """Networks so large that steps are given up at the deadline, but for loops, of which tangents tell more."""
    return work.large and not work.carries_tangents


def where_large_products(work: Work) -> bool:
    """Such networks with products of two neurons, in which slopes are functions of the input as values are.

    Those of which forms by single steps come first are left out.
    """
    products = where_large(work) and work.given is not None and work.given.network.has_products
    return products and not where_steps(work)


def where_steps(work: Work) -> bool:
    """Large networks of matrix products and normalisations that are single steps of forms of gradients."""
    return where_large(work) and work.given is not None and GradientForms().takes_steps(work.given)


def where_smooth(work: Work) -> bool:
    """Networks in which some slope changes continuously."""
    return work.unstable and not work.kinks_only


def where_looped(work: Work) -> bool:
    """The same, where tangents are carried forward: loops, whose parts are then bounded in one pass each."""
    return where_smooth(work) and work.carries_tangents


def where_smooth_at_once(work: Work) -> bool:
    """Other smooth networks; in loops, methods that search for lines or multipliers take long and gain less."""
    return where_smooth(work) and not where_looped(work)


def where_smooth_and_small(work: Work) -> bool:
    """The same, where dear bounds of many parts are quick."""
    return where_smooth_at_once(work) and not work.large


def unless_smooth_and_small(work: Work) -> bool:
    """All others."""
    return not (where_smooth_and_small(work) or where_looped(work))


def where_kinked(work: Work) -> bool:
    """Networks whose slopes that are not known only jump."""
    return work.unstable and work.kinks_only


def where_few_kinks(work: Work) -> bool:
    """The same, where so few slopes are not known that their combinations may be tried."""
    return where_kinked(work) and work.unknown <= _FEW


def where_some_kinks(work: Work) -> bool:
    """Networks with too many such slopes to be tried early, but few enough for a division that goes on and on."""
    return where_kinked(work) and _FEW < work.unknown <= _SOME


def where_row_sums_of_closed_forms(work: Work) -> bool:
    """Networks with closed forms, where row sums are asked for."""
    norms, given = work.question.norms, work.given
    return norms is not None and norms[0] == inf and given is not None and given.network.has_closed_forms


def where_turned_closed_forms(work: Work) -> bool:
    """The same, where Euclidean norms are asked for, which are those of entries in suitable bases."""
    norms, given = work.question.norms, work.given
    return norms is not None and norms[0] == 2 and given is not None and given.network.has_closed_forms


_MANY = 1500
"""The largest number with which the quadratic dual of ranges is formed at most stages."""

_PASSES = 50
"""How many times as long as entry-wise bounds the time is at least in which the dual and a P-chain after it fit."""


def where_many_kinks(work: Work) -> bool:
    """Networks with too many such slopes for combinations, and time for ranges by the quadratic dual at once."""
    seconds = work.deadline.end - work.deadline.began
    return where_kinked(work) and _FEW < work.unknown <= _MANY and seconds >= _PASSES * work.entry_seconds


def unless_many_kinks(work: Work) -> bool:
    """All others; what the dual does not bound, secants do in less time."""
    return not where_many_kinks(work)


_INPUTS = 8
"""The largest number of inputs that are divided in any region."""


def where_many_in_l1(work: Work) -> bool:
    """Networks of smooth activations over an l1 ball in more inputs than are divided in any region."""
    problem = work.given
    if problem is None or not isinstance(problem.bound, BoundBall) or problem.bound.p != 1:
        return False
    return where_smooth(work) and prod(problem.network.input_shape) > _INPUTS
