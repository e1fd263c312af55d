"""The product of the layers' norms, the usual baseline (docs/mathematics.md, §6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf, nextafter, sqrt
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, round_up_to
from recurjac.deadline import Deadline, check_seconds, shorter, until
from recurjac.errors import OutOfTime
from recurjac.jacobian import Gradients
from recurjac.network import Selection
from recurjac.norms.base import AbstractNormMethod
from recurjac.norms.induced import induced_norm
from recurjac.operators import AbstractOperator
from recurjac.operators.spectral import schur_norm, spectral_estimate
from recurjac.propagation.chain_rule import ChainRule


@final
@dataclass(frozen=True)
class ProductOfNorms(AbstractNormMethod):
    """Π ‖W‖_{p→p} max|σ'| times the norm of the output rows; branches are added.

    Maxima over windows and sorts count as selections (docs/mathematics.md, §6.3): 1 in every norm, if no two windows
    overlap.  Softmax and normalisations count as what their closed forms give (§3.11).
    seconds: for the spectral norms of large networks; those that take longer are replaced by bounds by Schur's test,
    which have no derivatives.
    """

    seconds: float = inf

    def __post_init__(self) -> None:
        check_seconds("ProductOfNorms", self.seconds)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractNormMethod]:
        return {"product": cls()}

    @property
    def title(self) -> str:
        return "product of norms"

    def within(self, seconds: float) -> ProductOfNorms:
        return replace(self, seconds=shorter(self.seconds, seconds))

    def supports(self, p: float, q: float) -> bool:
        return True

    def norm(self, gradients: Gradients, p: float, q: float) -> Tensor:
        chain = gradients.chain
        limit = chain.planner.watched(chain, Deadline.after(self.seconds))
        return _product(gradients, p, q, lambda operator: _norm_in_time(operator, p, chain.arithmetic, limit))

    def cannot_beat(self, gradients: Gradients, p: float, q: float, upper: Tensor) -> bool:
        """Whether a lower bound of the product, from a few power iterations, is already at least `upper`."""
        if p != 2:
            return False
        with torch.no_grad():
            return bool((_product(gradients, p, q, spectral_estimate) >= upper).all())

    def rows(self, gradients: Gradients, p: float) -> Tensor:
        """For each row, the bound of the largest row."""
        return self.norm(gradients, p, inf).unsqueeze(1).expand(-1, gradients.chain.rows)

    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        return []


def _norm_in_time(operator: AbstractOperator, p: float, arithmetic: AbstractArithmetic, deadline: Deadline) -> Tensor:
    """‖operator‖_{p→p}; for p = 2, after the deadline, the bound of Schur's test."""
    if p != 2 or deadline.end == inf:
        return operator.norm(p, arithmetic)
    with suppress(OutOfTime), until(deadline):
        return operator.norm(p, arithmetic)
    return schur_norm(operator)


def _rounded_up(norm: Tensor, like: Tensor) -> Tensor:
    """A number not below `norm`, in the dtype and on the device of `like`; some operators give float64."""
    return norm.to(like) if norm.dtype == like.dtype else round_up_to(norm, like.dtype).to(like)


def _product(gradients: Gradients, p: float, q: float, norm: Callable[[AbstractOperator], Tensor]) -> Tensor:
    chain = gradients.chain
    exact, one = chain.arithmetic.exact, torch.ones(chain.batch, dtype=chain.dtype, device=chain.device)
    found = [exact(one)]
    for node in range(1, chain.end + 1):
        total = exact(torch.zeros_like(one))
        for e in chain.edges[node]:
            inner = node < chain.end
            factor = _rounded_up(norm(e.operator), one) if inner else _norm_of_rows(chain, e.operator, p, q)
            total = total + found[e.source] * exact(factor)
        slopes, selection = chain.slopes[node], gradients.selection(node)
        steepest = one if slopes is None else slopes.magnitude.flatten(1).amax(1)
        upper = (total * exact(steepest)).upper()
        if selection is not None:
            most = _rounded_up(torch.tensor(_selection_norm(selection, p), dtype=torch.float64), one)
            upper = torch.minimum(upper, (found[selection.source] * exact(most)).upper())
        known = gradients.closed_norm(node, p)
        if known is not None:
            upper = torch.minimum(upper, (found[known[0]] * exact(known[1])).upper().nan_to_num(inf, inf))
        found.append(exact(upper))
    return found[-1].upper()


def _norm_of_rows(chain: ChainRule, operator: AbstractOperator, p: float, q: float) -> Tensor:
    """‖operator‖_{p→q} of an operator into the last node, with the covectors before it."""
    rows = chain.gradient_rows(operator).map(lambda t: t.flatten(2))
    entries = chain.arithmetic.between(rows, rows)
    sums = chain.arithmetic.at_least(entries.magnitude.sum(-1), entries.shape[-1])
    return induced_norm(entries, p, q, chain.arithmetic, sums)


def _selection_norm(selection: Selection, p: float) -> float:
    """‖·‖_{p→p} of what is known by its row and column sums; for p = 2, the root of their product (Schur's test)."""
    if p != 2:
        return selection.row_sum if p == inf else selection.column_sum
    product = selection.row_sum * selection.column_sum
    return product if product == 1 else nextafter(sqrt(nextafter(product, inf)), inf)
