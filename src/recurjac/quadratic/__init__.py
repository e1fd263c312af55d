"""Quadratic bounds of what linear forms of a network's nodes can reach (docs/mathematics.md, §5.6 and §5.10)."""

from recurjac.quadratic.balance import balanced, optimised
from recurjac.quadratic.dual import Plain, Point, Rows
from recurjac.quadratic.dual_proof import DualSystem, Ranges, proved, proved_safely, proved_together
from recurjac.quadratic.dual_search import COUPLED, SIDES, Scale, Settings, searched
from recurjac.quadratic.dual_shared import Shared, searched_together
from recurjac.quadratic.envelope import optimised_rows, spread_evenly
from recurjac.quadratic.layer_multipliers import LayerMultipliers, improved
from recurjac.quadratic.layer_vectors import Weigh
from recurjac.quadratic.layered import Reached, reach_layers
from recurjac.quadratic.layers import Layers, layers_of
from recurjac.quadratic.lifted import Affine, Lifted, influence, lifted, sectors_of
from recurjac.quadratic.multipliers import Loss, Multipliers, least_of, positive
from recurjac.quadratic.parts import eliminated, reduced
from recurjac.quadratic.system import Carried, Choose, Node, System, carried, reach, system_of, whole_system_of

__all__ = [
    "COUPLED", "SIDES", "Affine", "Carried", "Choose", "DualSystem", "LayerMultipliers", "Layers", "Lifted", "Loss",
    "Multipliers", "Node", "Plain", "Point", "Ranges", "Reached", "Rows", "Scale", "Settings", "Shared", "System",
    "Weigh", "balanced", "carried", "eliminated", "improved", "influence", "layers_of", "least_of", "lifted",
    "optimised", "optimised_rows", "positive", "proved", "proved_safely", "proved_together", "reach", "reach_layers",
    "reduced", "searched", "searched_together", "sectors_of", "spread_evenly", "system_of", "whole_system_of",
]  # fmt: skip
