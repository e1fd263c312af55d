"""For which networks a step of `Auto` is worth trying."""

from __future__ import annotations

from recurjac.auto.work import Work

_FEW = 64
"""The largest number of unknown slopes that count as few."""


def anywhere(work: Work) -> bool:  # noqa: ARG001  # (one of several such conditions)
    """Any network."""
    return True


def where_large(work: Work) -> bool:
    """Networks so large that steps are given up at the deadline."""
    return work.large


def where_smooth(work: Work) -> bool:
    """Networks in which some slope changes continuously."""
    return work.unstable and not work.kinks_only


def where_kinked(work: Work) -> bool:
    """Networks whose slopes that are not known only jump."""
    return work.unstable and work.kinks_only


def where_few_kinks(work: Work) -> bool:
    """The same, where so few slopes are not known that their combinations may be tried."""
    return where_kinked(work) and work.unknown <= _FEW
