"""Bounds of the pre-activations z_k over a region: one rule a file, one driver for all."""

from __future__ import annotations

from recurjac.arithmetic import AbstractArithmetic, Fast, Interval, Rigorous
from recurjac.network import Network
from recurjac.preactivation.base import AbstractPreactivation, Alone, Prefix, PreIntersection
from recurjac.preactivation.given import Given
from recurjac.preactivation.ibp import IBP
from recurjac.preactivation.relaxation import Crown, FastLin
from recurjac.region import AbstractRegion

__all__ = [
    "AbstractPreactivation", "Alone", "Crown", "FastLin", "Given", "IBP", "PreIntersection", "Prefix",
    "preactivation_bounds",
]  # fmt: skip


def preactivation_bounds(
    network: Network,
    region: AbstractRegion,
    pre: AbstractPreactivation | None = None,
    arithmetic: AbstractArithmetic | None = None,
) -> tuple[Interval, ...]:
    """Bounds of z_1, …, z_K over the region, each (batch, *stage); the last is the output.

    pre: the rule, by default `Crown()`.  arithmetic: by default `Rigorous()` where it is complete, else `Fast()`.
    Raises InvalidRegion if the region does not fit the network.
    """
    rule = Crown() if pre is None else pre
    chosen = arithmetic or (Fast() if network.unproved_rounding() else Rigorous())
    prefix = Prefix(network, region.bind(network.input_shape, network.dtype, network.device), chosen)
    prefix.extend(rule, network.depth - 1)
    return (*(prefix.pre(k) for k in range(1, network.depth)), rule.output(prefix))
