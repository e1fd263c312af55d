"""Certified bounds on the Jacobian of a neural network over a region of inputs, and what follows from them.

import recurjac as rj

net = rj.load(module, example)
lip = rj.lipschitz(net, rj.LpBall(x, radius=0.1, clip=(0, 1)))
lip.upper, lip.lower        # certified, attained at lip.witness
"""

from math import inf

from recurjac.applications.attack import Attack
from recurjac.applications.krawczyk import StationaryKind
from recurjac.applications.landscape import StationaryFree, stationary_free_radius
from recurjac.applications.monotonicity import (
    DirectionalBounds,
    Monotonicity,
    Probe,
    Trend,
    directional_bounds,
    monotone,
)
from recurjac.applications.newton import Newton
from recurjac.applications.radii import Radii
from recurjac.applications.robustness import CertifiedRadius, certified_radius
from recurjac.applications.stationary import StationaryPoint, StationaryPoints, stationary_points
from recurjac.arithmetic import Fast, Interval, Rigorous
from recurjac.errors import (
    ConversionError,
    InvalidNetwork,
    InvalidRegion,
    InvalidRequest,
    MissingDependency,
    RecurJacError,
    UnreadableFile,
    UnsoundBounds,
    UnsupportedLayer,
)
from recurjac.jacobian import (
    Chords,
    FastLip,
    Intersection,
    JacobianBounds,
    RecurJac,
    Reversed,
    ReversedAfterFirst,
    jacobian_bounds,
)
from recurjac.lipschitz import JacobianNorm, Lipschitz, ProductOfNorms, lipschitz
from recurjac.loading import load
from recurjac.network import Network
from recurjac.norms import ChordSum, PlainSum, SignSum
from recurjac.preactivation import IBP, Alone, Crown, FastLin, Given, PreIntersection, preactivation_bounds
from recurjac.region import Box, LpBall
from recurjac.search import Search
from recurjac.version import __version__

__all__ = [
    "Alone", "Attack", "Box", "CertifiedRadius", "Chords", "ChordSum", "ConversionError", "Crown",
    "DirectionalBounds", "Fast", "FastLin", "FastLip", "Given", "IBP", "Intersection", "Interval", "InvalidNetwork",
    "InvalidRegion", "InvalidRequest", "JacobianBounds", "JacobianNorm", "Lipschitz", "LpBall", "MissingDependency",
    "Monotonicity", "Network", "Newton", "PlainSum", "PreIntersection", "Probe", "ProductOfNorms", "Radii",
    "RecurJac", "RecurJacError", "Reversed", "ReversedAfterFirst", "Rigorous", "Search", "SignSum", "StationaryFree",
    "StationaryKind", "StationaryPoint", "StationaryPoints", "Trend", "UnreadableFile", "UnsoundBounds",
    "UnsupportedLayer", "__version__", "certified_radius", "directional_bounds", "inf", "jacobian_bounds",
    "lipschitz", "load", "monotone", "preactivation_bounds", "stationary_free_radius", "stationary_points",
]  # fmt: skip
