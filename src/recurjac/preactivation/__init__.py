"""Bounds of the pre-activations z_k over a region: one file for each rule, and one driver for all rules."""

from __future__ import annotations

from recurjac.preactivation.anytime import AutoRanges
from recurjac.preactivation.base import (
    AbstractOffersRule,
    AbstractPreactivation,
    Alone,
    PreIntersection,
    Refine,
    RuleLike,
    as_rule,
    extend,
)
from recurjac.preactivation.dual import Dual, DualRanges
from recurjac.preactivation.given import Given
from recurjac.preactivation.halfspaces import HalfSpaceRanges, HalfSpaces
from recurjac.preactivation.ibp import IBP
from recurjac.preactivation.relaxation import AbstractLineRule, Crown, CrownLines, FastLin, FastLinLines
from recurjac.preactivation.secants import SecantRanges, Secants
from recurjac.preactivation.state import AbstractLineChoice, PreactivationState

__all__ = [
    "IBP", "AbstractLineChoice", "AbstractLineRule", "AbstractOffersRule", "AbstractPreactivation", "Alone",
    "AutoRanges", "Crown", "CrownLines", "Dual", "DualRanges", "FastLin", "FastLinLines", "Given", "HalfSpaceRanges",
    "HalfSpaces", "PreIntersection", "PreactivationState", "Refine", "RuleLike", "SecantRanges", "Secants", "as_rule",
    "extend",
]  # fmt: skip
