"""Branch and bound: bounds over parts of a region, which is divided where the bound is worst."""

from __future__ import annotations

from recurjac.branching.branched import Branched
from recurjac.branching.branchers import AbstractBrancher, InputBisection
from recurjac.branching.exact import ExactNorm
from recurjac.branching.search import AbstractBound, BranchAndBound, Branching, Limit
from recurjac.branching.signs import SignBisection

__all__ = [
    "AbstractBound", "AbstractBrancher", "BranchAndBound", "Branched", "Branching", "ExactNorm", "InputBisection",
    "Limit", "SignBisection",
]  # fmt: skip
