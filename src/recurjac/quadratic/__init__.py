"""Quadratic bounds of what linear forms of a network's nodes can reach (docs/mathematics.md, §5.6 and §5.7)."""

from recurjac.quadratic.layer_multipliers import LayerMultipliers, improved
from recurjac.quadratic.layered import Reached, reach_layers
from recurjac.quadratic.layers import Layers, layers_of
from recurjac.quadratic.multipliers import Loss, Multipliers, optimised
from recurjac.quadratic.system import Node, System, reach, system_of

__all__ = [
    "LayerMultipliers", "Layers", "Loss", "Multipliers", "Node", "Reached", "System", "improved", "layers_of",
    "optimised", "reach", "reach_layers", "system_of",
]  # fmt: skip
