"""Quadratic bounds of what linear forms of a network's nodes can reach (docs/mathematics.md, §5.6)."""

from recurjac.quadratic.multipliers import Multipliers, optimised
from recurjac.quadratic.system import Node, System, reach, system_of

__all__ = ["Multipliers", "Node", "System", "optimised", "reach", "system_of"]
