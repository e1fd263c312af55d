"""Branch and bound: the largest bound over parts of a region, split where it is worst."""

from __future__ import annotations

from recurjac.branching.branched import Branched
from recurjac.branching.branchers import AbstractBrancher, InputBisection
from recurjac.branching.search import AbstractBound, BranchAndBound, Branching, Limit

__all__ = [
    "AbstractBound", "AbstractBrancher", "BranchAndBound", "Branched", "Branching", "InputBisection", "Limit",
]  # fmt: skip
