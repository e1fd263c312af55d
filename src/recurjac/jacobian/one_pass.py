"""The default method of one pass."""

from __future__ import annotations

from recurjac.jacobian.base import AbstractJacobianMethod
from recurjac.jacobian.combine import Intersection
from recurjac.jacobian.cut import Cut
from recurjac.jacobian.recursion import Chords, RecurJac


def default_method() -> AbstractJacobianMethod:
    """The intersection of `Chords()` and `RecurJac()`, with products at cuts."""
    return Cut(Intersection(Chords(), RecurJac()))
