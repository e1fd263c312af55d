"""The product of the layers' norms, the usual baseline (docs/mathematics.md, §6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import round_up_to
from recurjac.jacobian import Gradients
from recurjac.norms.base import AbstractNormMethod
from recurjac.norms.induced import induced_norm
from recurjac.operators import AbstractOperator
from recurjac.operators.spectral import spectral_estimate
from recurjac.propagation.chain_rule import ChainRule


@final
@dataclass(frozen=True)
class ProductOfNorms(AbstractNormMethod):
    """Π ‖W‖_{p→p} max|σ'| times the norm of the output rows; branches are added."""

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractNormMethod]:
        return {"product": cls()}

    @property
    def title(self) -> str:
        return "product of norms"

    def supports(self, p: float, q: float) -> bool:
        return True

    def norm(self, gradients: Gradients, p: float, q: float) -> Tensor:
        return _product(gradients.chain, p, q, lambda operator: operator.norm(p, gradients.chain.arithmetic))

    def cannot_beat(self, gradients: Gradients, p: float, q: float, upper: Tensor) -> bool:
        """Whether a lower bound of the product, from a few power iterations, is already at least `upper`."""
        if p != 2:
            return False
        with torch.no_grad():
            return bool((_product(gradients.chain, p, q, spectral_estimate) >= upper).all())

    def rows(self, gradients: Gradients, p: float) -> Tensor:
        """For each row, the bound of the largest row."""
        return self.norm(gradients, p, inf).unsqueeze(1).expand(-1, gradients.chain.rows)

    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        return []


def _rounded_up(norm: Tensor, like: Tensor) -> Tensor:
    """A number not below `norm`, in the dtype and on the device of `like`; some operators give float64."""
    return norm.to(like) if norm.dtype == like.dtype else round_up_to(norm, like.dtype).to(like)


def _product(chain: ChainRule, p: float, q: float, norm: Callable[[AbstractOperator], Tensor]) -> Tensor:
    exact, one = chain.arithmetic.exact, torch.ones(chain.batch, dtype=chain.dtype, device=chain.device)
    found = [exact(one)]
    for node in range(1, chain.end + 1):
        total = exact(torch.zeros_like(one))
        for e in chain.edges[node]:
            if node < chain.end:
                factor = _rounded_up(norm(e.operator), one)
            else:
                rows = chain.gradient_rows(e.operator).map(lambda t: t.flatten(2))
                entries = chain.arithmetic.between(rows, rows)
                sums = chain.arithmetic.at_least(entries.magnitude.sum(-1), entries.shape[-1])
                factor = induced_norm(entries, p, q, chain.arithmetic, sums)
            total = total + found[e.source] * exact(factor)
        slopes = chain.slopes[node]
        steepest = one if slopes is None else slopes.magnitude.flatten(1).amax(1)
        found.append(exact((total * exact(steepest)).upper()))
    return found[-1].upper()
