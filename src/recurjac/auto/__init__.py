"""The default: a portfolio of methods that goes on while there is time, one file for each of its parts."""

from __future__ import annotations

from recurjac.auto.order import STEPS
from recurjac.auto.portfolio import Auto, Progress
from recurjac.auto.step import AbstractStep
from recurjac.auto.steps import BranchStep, ExactStep, ForwardStep, NormStep, RangeStep, SearchStep

__all__ = [
    "STEPS", "AbstractStep", "Auto", "BranchStep", "ExactStep", "ForwardStep", "NormStep", "Progress", "RangeStep",
    "SearchStep",
]  # fmt: skip
