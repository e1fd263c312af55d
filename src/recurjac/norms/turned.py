"""Euclidean norms of Jacobians in the bases of the singular vectors of the Jacobian at one point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic
from recurjac.jacobian import AbstractJacobianMethod, AbstractPrepared, Gradients, XLinear
from recurjac.norms.base import AbstractNormMethod
from recurjac.norms.entrywise import JacobianNorm
from recurjac.norms.induced import induced_norm, vector_norm
from recurjac.problem import Problem
from recurjac.propagation.forms import DenseForms
from recurjac.search import point_jacobian

_MOST = 64
"""The largest number of outputs and of inputs for which bases are computed."""


@final
@dataclass(frozen=True)
class TurnedNorm(AbstractNormMethod):
    """For p = 2, the norm of bounds of the entries in bases in which J at the point x of the region is diagonal.

    In these bases J changes the largest entry to first order, and its norm through all others to second order only.
    For other norms, without a problem and for more than 64 inputs or outputs, it is the norm of the entries.
    method: bounds the entries.  Source: docs/mathematics.md, §6.12.
    """

    method: AbstractJacobianMethod = field(default_factory=XLinear)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractNormMethod]:
        return {"turned": cls()}

    @property
    def title(self) -> str:
        return f"{self.method.title} in singular vectors"

    def within(self, seconds: float) -> TurnedNorm:
        return TurnedNorm(self.method.within(seconds))

    def supports(self, p: float, q: float) -> bool:
        return True

    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        return []

    def norm(self, gradients: Gradients, p: float, q: float) -> Tensor:
        problem = _turnable(gradients) if p == 2 else None
        if problem is None or (q == 1 and gradients.chain.rows > 1):
            return JacobianNorm(self.method).norm(gradients, p, q)
        if q == 2 and gradients.chain.rows > 1:
            return self._matrix(problem)
        return self.rows(gradients, p).amax(1)

    def rows(self, gradients: Gradients, p: float) -> Tensor:
        problem = _turnable(gradients) if p == 2 else None
        if problem is None:
            return JacobianNorm(self.method).rows(gradients, p)
        arithmetic, prepared = gradients.chain.arithmetic, self.method.prepare(gradients)
        plain = vector_norm(prepared.push_all().magnitude, 2, arithmetic)
        ways = _bases(point_jacobian(problem.network, problem.bound.x).unsqueeze(2))[1]
        found = vector_norm(_along(prepared, ways), 2, arithmetic)
        return torch.minimum(plain, _over(found, _lost(ways, arithmetic), arithmetic))

    def _matrix(self, problem: Problem) -> Tensor:
        """A bound of ‖J‖₂: (batch,)."""
        left, right = _bases(point_jacobian(problem.network, problem.bound.x))
        turned = Gradients(problem, combinations=left.mT.reshape(*left.shape[:2], *problem.network.output_shape))
        arithmetic = turned.chain.arithmetic
        prepared = self.method.prepare(turned)
        entries = prepared.push(_forms(prepared, right.unsqueeze(1)))
        found = induced_norm(entries, 2, 2, arithmetic, entries.magnitude.sum(-1))
        return _over(_over(found, _lost(left.mT, arithmetic), arithmetic), _lost(right, arithmetic), arithmetic)


def _turnable(gradients: Gradients) -> Problem | None:
    """The problem whose bases are computed; None if there is none, or it is large."""
    problem = gradients.problem
    if problem is None or gradients.given is not None or gradients.combinations is not None:
        return None
    large = max(gradients.chain.rows, problem.network.sizes[0]) > _MOST
    return None if large or problem.network.live else problem


def _forms(prepared: AbstractPrepared, tangents: Tensor) -> DenseForms:
    """Tangents (B, K or 1, R, n) of a prepared chain rule."""
    return DenseForms(tangents.reshape(*tangents.shape[:3], *prepared.chain.shapes[0]), prepared.chain.arithmetic)


def _along(prepared: AbstractPrepared, tangents: Tensor) -> Tensor:
    return prepared.push(_forms(prepared, tangents)).magnitude


def _bases(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors as columns, and right ones as rows, of the largest singular values first."""
    left, _, right = torch.linalg.svd(matrix.nan_to_num(0.0, 0.0, 0.0), full_matrices=True)
    return left, right


def _lost(basis: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
    """e with ‖x‖ (1 - e) <= ‖Q x‖ for nearly orthogonal matrices Q (…, n, n): the Frobenius norm of Q Qᵀ - 1."""
    exact = arithmetic.exact
    gap = exact(basis).matmul(exact(basis)) - exact(torch.eye(basis.shape[-1]).to(basis))
    return vector_norm(torch.maximum(gap.upper(), -gap.lower()).clamp(min=0).flatten(-2), 2, arithmetic)


def _over(norm: Tensor, lost: Tensor, arithmetic: AbstractArithmetic) -> Tensor:
    """norm / (1 - lost), from above."""
    rest = (arithmetic.exact(torch.ones_like(lost)) - arithmetic.exact(lost)).lower()
    found = arithmetic.at_least(norm / rest.clamp(min=0.5), 1)
    return torch.where(rest >= 0.5, found, inf)
