"""The largest norm at the corners of the box of unknown slopes, where few slopes are unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.errors import InvalidRequest, expect, expect_whole
from recurjac.jacobian import Chords, Gradients
from recurjac.norms.base import AbstractNormMethod
from recurjac.norms.entrywise import JacobianNorm
from recurjac.norms.row_sums import PlainSum
from recurjac.propagation.chain_rule import ChainRule
from recurjac.propagation.corners import corners, unknown_slopes

_MOST = 20
"""The largest number of unknown slopes whose corners may be asked for."""


@final
@dataclass(frozen=True)
class CornerNorm(AbstractNormMethod):
    """The largest norm over all corners of the slopes' ranges for samples with at most `most` unknown slopes.

    J is affine in each slope, so that its norm is convex in it and largest at a corner.  There, J is one matrix, and
    the bound is its norm (for p = 1, q = inf and p = q = 2 exactly, up to rounding).  Where there are more, and unless
    no sample has more, `otherwise` bounds the samples too.  Raises InvalidRequest unless 0 <= most <= 20.
    Source: docs/mathematics.md, §6.6.
    """

    most: int = 8
    otherwise: AbstractNormMethod = field(default_factory=JacobianNorm)

    def __post_init__(self) -> None:
        expect(self.otherwise, AbstractNormMethod, "the norm method", "give one such as JacobianNorm()")
        expect_whole("CornerNorm", most=self.most)
        if not 0 <= self.most <= _MOST:
            raise InvalidRequest(f"most of CornerNorm is {self.most}; give a number from 0 to {_MOST}")

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractNormMethod]:
        return {"corners": cls()}

    @property
    def title(self) -> str:
        return f"corners or {self.otherwise.title}"

    def supports(self, p: float, q: float) -> bool:
        return self.otherwise.supports(p, q)

    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        return self.otherwise.unproved_rounding(p, q, rows)

    def norm(self, gradients: Gradients, p: float, q: float) -> Tensor:
        return self._bounded(gradients, (), lambda method, known: method.norm(known, p, q))

    def rows(self, gradients: Gradients, p: float) -> Tensor:
        return self._bounded(gradients, (gradients.chain.rows,), lambda method, known: method.rows(known, p))

    def tighter(self, chain: ChainRule, chosen: Tensor, bounds: Tensor, norms: tuple[float, float]) -> Tensor:
        """Bounds (batch,) of the norm, at most `bounds`; tighter for `chosen` samples with 1 to `most` unknown slopes.

        It is assumed that bounds of samples without unknown slopes cannot be better.
        """
        count = unknown_slopes(chain)
        few = chosen & (count >= 1) & (count <= self.most)
        return self._at_corners(chain, few, bounds, lambda method, known: method.norm(known, *norms))

    def _bounded(self, gradients: Gradients, shape: tuple[int, ...], bound: _Bound) -> Tensor:
        """The bounds of all samples: (batch, *shape)."""
        chain = gradients.chain
        count = unknown_slopes(chain)
        few = count <= self.most
        if bool(few.all()):
            start = torch.full((chain.batch, *shape), inf, dtype=chain.dtype, device=chain.device)
            return self._at_corners(chain, few, start, bound)
        known = bound(self.otherwise, gradients)
        return self._at_corners(chain, few & (count >= 1), torch.where(known.isnan(), inf, known), bound)

    def _at_corners(self, chain: ChainRule, few: Tensor, bounds: Tensor, bound: _Bound) -> Tensor:
        """`bounds`, lowered to the largest at the corners of the samples `few`."""
        for found in corners(chain, few):
            bounds = found.tighter(bounds, bound(_EXACT, Gradients(given=found.chain)))
        return bounds


_Bound = Callable[[AbstractNormMethod, Gradients], Tensor]
_EXACT = JacobianNorm(Chords(), PlainSum())
"""The norm of one matrix."""
