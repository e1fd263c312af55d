"""Bounds of the entries of a network's Jacobian over a region, and the methods that compute them."""

from __future__ import annotations

from recurjac.jacobian.auto import AutoEntries
from recurjac.jacobian.base import AbstractJacobianMethod, AbstractNodewise, AbstractPrepared
from recurjac.jacobian.bounds import JacobianBounds, as_jacobian_method, jacobian_bounds, sharing
from recurjac.jacobian.centred import Centred
from recurjac.jacobian.clamped import Clamped
from recurjac.jacobian.closed_forms import ClosedForms
from recurjac.jacobian.combine import Intersection, NodeIntersection
from recurjac.jacobian.cut import Cut
from recurjac.jacobian.fast_lip import FastLip
from recurjac.jacobian.forward import Reversed, ReversedAfterFirst
from recurjac.jacobian.gradient_forms import GradientForms
from recurjac.jacobian.gradients import Gradients
from recurjac.jacobian.in_time import InTime
from recurjac.jacobian.one_pass import default_method
from recurjac.jacobian.quadratic_clamps import QuadraticClamped
from recurjac.jacobian.recursion import AbstractRecursion, Chords, RecurJac
from recurjac.jacobian.sign_structure import SignsByStructure
from recurjac.jacobian.tangents import ForwardTangents
from recurjac.jacobian.with_tangents import WithTangents
from recurjac.jacobian.x_linear import XLinear

__all__ = [
    "AbstractJacobianMethod", "AbstractNodewise", "AbstractPrepared", "AbstractRecursion", "AutoEntries", "Centred",
    "Chords", "Clamped", "ClosedForms", "Cut", "FastLip", "ForwardTangents", "GradientForms", "Gradients", "InTime",
    "Intersection", "JacobianBounds", "NodeIntersection", "QuadraticClamped", "RecurJac", "Reversed",
    "ReversedAfterFirst", "SignsByStructure", "WithTangents", "XLinear", "as_jacobian_method", "default_method",
    "jacobian_bounds", "sharing",
]  # fmt: skip
