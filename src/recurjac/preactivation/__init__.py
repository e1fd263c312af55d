"""Bounds of the pre-activations z_k over a region: one file for each rule, and one driver for all rules."""

from __future__ import annotations

from recurjac.preactivation.base import AbstractPreactivation, Alone, PreIntersection, Refine, extend
from recurjac.preactivation.dual import Dual, DualRanges
from recurjac.preactivation.given import Given
from recurjac.preactivation.ibp import IBP
from recurjac.preactivation.relaxation import AbstractLineRule, Crown, CrownLines, FastLin, FastLinLines
from recurjac.preactivation.secants import SecantRanges, Secants
from recurjac.preactivation.state import AbstractLineChoice, PreactivationState

__all__ = [
    "AbstractLineChoice", "AbstractLineRule", "AbstractPreactivation", "Alone", "Crown", "CrownLines", "Dual",
    "DualRanges", "FastLin", "FastLinLines", "Given", "IBP", "PreIntersection", "PreactivationState", "Refine",
    "SecantRanges", "Secants", "extend",
]  # fmt: skip
