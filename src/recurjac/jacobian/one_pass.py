"""The default method of one pass."""

from __future__ import annotations

from recurjac.jacobian.base import AbstractJacobianMethod
from recurjac.jacobian.closed_forms import ClosedForms
from recurjac.jacobian.combine import Intersection
from recurjac.jacobian.cut import Cut
from recurjac.jacobian.recursion import Chords, RecurJac
from recurjac.jacobian.with_tangents import WithTangents


def default_method() -> AbstractJacobianMethod:
    """`Chords()` intersected with `RecurJac()`, closed forms, products at cuts, and tangents for loops."""
    return WithTangents(Cut(ClosedForms(Intersection(Chords(), RecurJac()))))
