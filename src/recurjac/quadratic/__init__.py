"""Quadratic bounds of what linear forms of a network's nodes can reach (docs/mathematics.md, §5.6)."""

from recurjac.quadratic.multipliers import Multipliers, least_of, optimised
from recurjac.quadratic.system import Carried, Node, System, carried, reach, system_of, whole_system_of

__all__ = [
    "Carried", "Multipliers", "Node", "System", "carried", "least_of", "optimised", "reach", "system_of",
    "whole_system_of",
]  # fmt: skip
