"""Branch and bound: bounds over parts of a region, which is divided where the bound is worst."""

from __future__ import annotations

from recurjac.branching.branched import Branched
from recurjac.branching.branchers import AbstractBrancher, InputBisection
from recurjac.branching.caps import VertexCaps
from recurjac.branching.differentials import CurvatureOver, ResidualsOver
from recurjac.branching.entries import BranchedEntries, EntriesOver, Signs, Tight
from recurjac.branching.exact import ExactNorm
from recurjac.branching.pieces import PieceBisection
from recurjac.branching.pool import Leaves
from recurjac.branching.search import AbstractBound, BranchAndBound, Branching, Limit
from recurjac.branching.signs import SignBisection
from recurjac.branching.turns import EntrySigns

__all__ = [
    "AbstractBound", "AbstractBrancher", "BranchAndBound", "Branched", "BranchedEntries", "Branching", "CurvatureOver",
    "EntriesOver", "EntrySigns", "ExactNorm", "InputBisection", "Leaves", "Limit", "PieceBisection", "ResidualsOver",
    "SignBisection", "Signs", "Tight", "VertexCaps",
]  # fmt: skip
