"""Certified bounds on the Jacobian of a neural network over a region of inputs, and what follows from them."""

from math import inf

from recurjac.arithmetic import Fast, Interval, Rigorous
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
from recurjac.network import Network, chain
from recurjac.preactivation import IBP, Alone, Crown, FastLin, Given, PreIntersection, preactivation_bounds
from recurjac.region import Box, LpBall
