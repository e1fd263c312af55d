"""Bounds of the entries of a network's Jacobian over a region, and the methods that give them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Fast, Rigorous
from recurjac.errors import expect
from recurjac.jacobian.base import AbstractJacobianMethod, AbstractPrepared
from recurjac.jacobian.combine import Intersection
from recurjac.jacobian.fast_lip import FastLip
from recurjac.jacobian.forward import Reversed, ReversedAfterFirst
from recurjac.jacobian.recursion import Chords, RecurJac
from recurjac.network import Network
from recurjac.preactivation import AbstractPreactivation, Crown, Prefix
from recurjac.propagation.chain_rule import ChainRule, chain_rule
from recurjac.propagation.skeleton import is_cheaper
from recurjac.region import AbstractRegion, BoundRegion

__all__ = [
    "AbstractJacobianMethod", "AbstractPrepared", "Chords", "FastLip", "Intersection", "JacobianBounds", "RecurJac",
    "Reversed", "ReversedAfterFirst", "chain_of", "chain_over", "default_method", "jacobian_bounds",
]  # fmt: skip


def default_method() -> AbstractJacobianMethod:
    """The best that the library has."""
    return Intersection(Chords(), RecurJac())


@final
@dataclass(frozen=True)
class JacobianBounds:
    """lower <= ∂f/∂x <= upper for every x of the region and every element of Clarke's Jacobian.

    lower, upper: (batch, *output, *input), in outputs per unit of input.  rigorous: whether floating-point rounding is
    covered; if not, `reason` says why.  method, pre: what gave the bounds.
    """

    lower: Tensor
    upper: Tensor
    rigorous: bool
    reason: str
    method: AbstractJacobianMethod
    pre: AbstractPreactivation

    def __repr__(self) -> str:
        width = (self.upper - self.lower).detach()
        known = ((self.lower > 0) | (self.upper < 0)).detach().double().mean()
        kind = "rigorous" if self.rigorous else f"not rounding-safe: {self.reason}"
        return (
            f"JacobianBounds{tuple(self.lower.shape)} by {self.method.title} ({kind}): widest "
            f"{float(width.max()):.4g}, sign known for {100 * float(known):.1f} % of the entries"
        )


def choose_arithmetic(
    network: Network, region: BoundRegion, asked: AbstractArithmetic | None
) -> tuple[AbstractArithmetic, str]:
    """The arithmetic to compute with, and why it is not rigorous if it is not."""
    wanted = Rigorous() if asked is None else asked
    if not wanted.rigorous:
        return wanted, "Fast arithmetic was asked for"
    reasons = network.unproved_rounding() + ([] if region.rigorous else ["no rounding error is proved for the region"])
    return (Fast(wanted.memory), "; ".join(reasons)) if reasons else (wanted, "")


def chain_over(
    network: Network, region: BoundRegion, pre: AbstractPreactivation, arithmetic: AbstractArithmetic
) -> ChainRule:
    """The chain rule of `network` with the slopes that its pre-activations have over `region`."""
    prefix = Prefix(network, region, arithmetic)
    prefix.extend(pre, network.depth - 1)
    return chain_of(prefix)


def chain_of(prefix: Prefix) -> ChainRule:
    """The chain rule of a network all of whose inner stages are bounded."""
    network = prefix.network
    inner = [None if prefix.stage(k).linear else prefix.slopes(k) for k in range(1, network.depth)]
    chain = chain_rule(network, [None, *inner, None], prefix.region.batch, prefix.arithmetic)
    return replace(chain, skeleton=prefix.reduced(chain))


def check_request(network: object, region: object, pre: object, arithmetic: object) -> None:
    """Raise InvalidRequest unless these are what the applications work on."""
    expect(network, Network, "the network", "read it first: load(module, example)")
    expect(region, AbstractRegion, "the region", "give one such as LpBall(x, radius)")
    expect(pre, AbstractPreactivation, "the rule for pre-activations", "give an object such as Crown()")
    if arithmetic is not None:
        expect(arithmetic, AbstractArithmetic, "the arithmetic", "give Rigorous() or Fast()")


def jacobian_bounds(
    network: Network,
    region: AbstractRegion,
    method: AbstractJacobianMethod | None = None,
    pre: AbstractPreactivation | None = None,
    arithmetic: AbstractArithmetic | None = None,
) -> JacobianBounds:
    """Bounds of every entry of the Jacobian of `network` over `region`.

    method: by default the best that the library has.  pre: the rule for pre-activation bounds, by default `Crown()`.
    arithmetic: by default `Rigorous()` where that is complete for the network, else `Fast()`; the result says which.
    Bounds are differentiable with respect to the network's live parameters.
    Raises InvalidRegion if the region does not fit the network, UnsoundBounds if a proof contradicts itself (a bug).

    Source: arXiv:1810.11783 for the problem; each method names its own.
    """
    rule, how = pre or Crown(), method or default_method()
    check_request(network, region, rule, arithmetic)
    expect(how, AbstractJacobianMethod, "the method", "give an object such as Chords()")
    bound = region.bind(network.input_shape, network.dtype, network.device)
    chosen, reason = choose_arithmetic(network, bound, arithmetic)
    found = [how.prepare(chain_over(network, part, rule, chosen)).push_all() for part in samples(network, bound, rule)]
    shape = (bound.batch, *network.output_shape, *network.input_shape)
    lower, upper = (torch.cat(ends).reshape(shape) for ends in zip(*((b.lower, b.upper) for b in found), strict=True))
    return JacobianBounds(lower, upper, chosen.rigorous, reason, how, rule)


_LARGE = 5 * 10**7
"""Multiply-adds of one sample from which on a batch is better taken apart."""


def samples(network: Network, region: BoundRegion, rule: AbstractPreactivation) -> list[BoundRegion]:
    """The region sample by sample if each may have a skeleton of its own that is worth it, else as it is.

    With convolutions that is known only when pre-activations are bounded; a skeleton then saves tens of times what
    taking the batch apart may lose (up to twice the time, for one output where nearly all neurons are unstable).
    Not on an accelerator: what is done there costs by the call, and a batch is one.
    """
    apart = (
        region.batch > 1
        and network.device.type == "cpu"
        and network.cost > _LARGE
        and not rule.holds_samples
        and (network.local or is_cheaper(network, []))
    )
    return region.split(1) if apart else [region]
