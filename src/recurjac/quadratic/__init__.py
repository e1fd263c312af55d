"""Quadratic bounds of what linear forms of a network's nodes can reach (docs/mathematics.md, §5.6 and §5.10)."""

from recurjac.quadratic.layer_multipliers import LayerMultipliers, improved
from recurjac.quadratic.layered import Reached, reach_layers
from recurjac.quadratic.layers import Layers, layers_of
from recurjac.quadratic.multipliers import Loss, Multipliers, least_of, optimised
from recurjac.quadratic.system import Carried, Node, System, carried, reach, system_of, whole_system_of

__all__ = [
    "Carried", "LayerMultipliers", "Layers", "Loss", "Multipliers", "Node", "Reached", "System", "carried", "improved",
    "layers_of", "least_of", "optimised", "reach", "reach_layers", "system_of", "whole_system_of",
]  # fmt: skip
