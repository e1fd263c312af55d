"""Norms by a P-chain: one quadratic bound of all rows, the family of LipSDP (docs/mathematics.md, §6.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf, prod
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import largest_eigenvalue, length_of, root_up, round_up_to
from recurjac.arithmetic.rounding import grow
from recurjac.deadline import Deadline, check_seconds, shorter
from recurjac.errors import expect_counts
from recurjac.jacobian import Gradients
from recurjac.norms.base import AbstractNormMethod
from recurjac.norms.induced import vector_norm
from recurjac.norms.product import ProductOfNorms
from recurjac.propagation.chain_rule import ChainRule
from recurjac.quadratic import (
    LayerMultipliers,
    Layers,
    Loss,
    Multipliers,
    Reached,
    System,
    Weigh,
    improved,
    layers_of,
    optimised,
    positive,
    reach,
    reach_layers,
    system_of,
)

_WIDEST = 4096
"""The size of the largest matrix that is formed; wider networks are bounded by the product of norms alone."""
_NARROW = 1024
"""Up to this size, one matrix over whole nodes is carried, which all graphs allow; above it, a factor along layers."""
_ROOM = 2**25
"""The largest number of entries of a factor along layers; a few such are in memory at a time."""
_ALONG = 2
"""How many steps the search along layers takes for each step of the search over whole nodes: they are cheap."""
_MANY = 129
"""From so many rows on, the search along layers makes the largest eigenvalue small."""
_LIGHT = 1e-6
"""The least weight of a row."""
_SHARP = 16.0
"""How sharply the search weighs the largest of several rows."""


@final
@dataclass(frozen=True)
class QuadraticNorm(AbstractNormMethod):
    """(c J v)² <= c G cᵀ for every row c and every v of the unit ball, with multipliers that all rows share.

    Norms are never above the product of norms, which is all that is known of networks that are too wide.
    steps: of the search for multipliers, at most.  Results are proved with whatever it finds, and have no derivatives.
    seconds: for the search, which ends earlier if its steps take longer.
    Source: docs/mathematics.md, §6.4; Fazlyab et al. 2019 (arXiv:1906.04893).
    """

    steps: int = 60
    seconds: float = inf

    def __post_init__(self) -> None:
        check_seconds("QuadraticNorm", self.seconds)
        expect_counts("QuadraticNorm", steps=self.steps)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractNormMethod]:
        return {"quadratic": cls()}

    @property
    def title(self) -> str:
        return "P-chain"

    def within(self, seconds: float) -> QuadraticNorm:
        return replace(self, seconds=shorter(self.seconds, seconds))

    def supports(self, p: float, q: float) -> bool:
        return True

    def norm(self, gradients: Gradients, p: float, q: float) -> Tensor:
        chain = gradients.chain
        with torch.no_grad():
            found = [norm_of(reached, q, chain) for reached in self._each_reached(chain, p, AIMS[q])]
            return torch.fmin(torch.stack(found), ProductOfNorms(self.seconds).norm(gradients, p, q))

    def rows(self, gradients: Gradients, p: float) -> Tensor:
        chain = gradients.chain
        with torch.no_grad():
            found = [_rows_of(reached, chain) for reached in self._each_reached(chain, p, _EACH)]
            return torch.fmin(torch.stack(found), ProductOfNorms(self.seconds).rows(gradients, p))

    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        return []

    def _each_reached(self, chain: ChainRule, p: float, aim: Aim) -> Iterator[Reached | None]:
        """What the rows reach for each sample, all of which get the same share of the time."""
        for i in range(chain.batch):
            yield self._reached(chain.sample(i), p, aim, Deadline.after(self.seconds / chain.batch))

    def _reached(self, chain: ChainRule, p: float, aim: Aim, deadline: Deadline) -> Reached | None:
        """What the rows reach for one sample; None if the network is too wide."""
        system = system_of(chain)
        cut = _widest(system)
        layers = layers_of(chain) if cut > _NARROW else None
        if layers is not None and max(layers.widest, layers.inputs) <= _WIDEST and layers.room <= _ROOM:
            return self._along(layers, p, aim, deadline)
        if cut > _WIDEST:
            return None
        radius = torch.ones(prod(system.inputs), dtype=torch.float64, device=chain.device)
        best = Multipliers.first(system, radius, euclidean=p != inf)
        best = optimised(system, best, radius, aim.loss, self.steps, deadline)
        gram = reach(system, best.start(radius), best.choose)
        return None if gram is None else Reached.exactly(gram)

    def _along(self, layers: Layers, p: float, aim: Aim, deadline: Deadline) -> Reached | None:
        """What the rows reach through layers."""
        radius = torch.ones(layers.inputs, dtype=torch.float64, device=layers.rows.mid.device)
        begin, weigh = LayerMultipliers.first(layers, radius, p != inf), aim.weigh
        if weigh is not None and len(layers.rows.mid) not in range(2, _MANY):
            weigh = None  # of one row, the largest eigenvalue is the square; many share their largest
        best = improved(layers, begin, radius, aim.loss, weigh, _ALONG * self.steps, deadline)
        return reach_layers(layers, best.start(radius), best)


def _widest(system: System) -> int:
    """The size of the largest matrix of a P-chain."""
    shapes = [system.inputs, *(node.shape for node in system.nodes)]
    cuts = [prod(node.shape) + sum(prod(shapes[i]) for i in node.kept) for node in system.nodes]
    return max([prod(system.inputs), *cuts])


def _rows_of(reached: Reached | None, chain: ChainRule) -> Tensor:
    """Upper bounds of the norms of all rows, (K,), infinite where nothing is known."""
    if reached is None:
        return torch.full((chain.rows,), inf, dtype=chain.dtype, device=chain.device)
    found = grow(root_up(reached.gram.map(torch.diagonal).upper() * reached.growth) + reached.rest, 4)
    return round_up_to(torch.where(found.isnan(), inf, found), chain.dtype)


def norm_of(reached: Reached | None, q: float, chain: ChainRule) -> Tensor:
    """The norm to l_q: that of the rows' norms, and for q = 2 and 1 also √λ and √(K λ), λ the largest eigenvalue."""
    plain = vector_norm(_rows_of(reached, chain), q, chain.arithmetic)
    if reached is None or q == inf:
        return plain
    gram = reached.gram
    other = root_up(grow(largest_eigenvalue(gram).clamp(min=0) * reached.growth * (chain.rows if q == 1 else 1), 4))
    rest = length_of(reached.rest, 2) if q == 2 else reached.rest.sum()
    other = grow(other + rest, chain.rows + 4)
    return torch.minimum(plain, round_up_to(torch.where(other.isnan(), inf, other), chain.dtype))


# What a search makes small


@final
@dataclass(frozen=True)
class Aim:
    """What should be small, and the weights of rows with which a weighted sum is like it; None for an eigenvalue."""

    loss: Loss
    weigh: Weigh | None


def _each(reached: Tensor) -> Tensor:
    return positive(reached.diagonal()).log().sum()


def _largest(reached: Tensor) -> Tensor:
    """A smooth maximum of the logarithms of the rows."""
    rows = positive(reached.diagonal()).log()
    return torch.logsumexp(_SHARP * rows, 0) / _SHARP


def _spectral(reached: Tensor) -> Tensor:
    largest: Tensor = torch.linalg.eigvalsh(reached)[-1]
    return positive(largest).log()


def _total(reached: Tensor) -> Tensor:
    return positive(reached.diagonal()).sqrt().sum().log()


def _weigh_each(weights: Tensor, reached: Tensor) -> Tensor:
    return _shares((weights / reached).sqrt())


def _weigh_largest(weights: Tensor, reached: Tensor) -> Tensor:
    return _shares(weights * reached.sqrt()).clamp(min=_LIGHT)


def _weigh_total(weights: Tensor, reached: Tensor) -> Tensor:
    return _shares((weights / reached.sqrt()).sqrt())


def _shares(weights: Tensor) -> Tensor:
    return weights / weights.sum()


AIMS = {inf: Aim(_largest, _weigh_largest), 2.0: Aim(_spectral, None), 1.0: Aim(_total, _weigh_total)}
"""What the search makes small for the norm l_q of the output."""
_EACH = Aim(_each, _weigh_each)
"""What it makes small for all rows."""
