"""Quadratic bounds of what linear forms of a network's nodes can reach (docs/mathematics.md, §5.6)."""

from recurjac.quadratic.dual import Plain, Point, Rows
from recurjac.quadratic.dual_proof import DualSystem, Ranges, proved, proved_safely
from recurjac.quadratic.dual_search import COUPLED, Scale, searched
from recurjac.quadratic.lifted import Affine, Lifted, influence, lifted, sectors_of
from recurjac.quadratic.multipliers import Multipliers, optimised
from recurjac.quadratic.system import Node, System, reach, system_of

__all__ = [
    "COUPLED", "Affine", "DualSystem", "Lifted", "Multipliers", "Node", "Plain", "Point", "Ranges", "Rows", "Scale",
    "System", "influence", "lifted", "optimised", "proved", "proved_safely", "reach", "searched", "sectors_of",
    "system_of",
]  # fmt: skip
