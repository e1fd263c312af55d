"""The norm of a Jacobian, from bounds of its entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import final

from torch import Tensor

from recurjac.arithmetic import Interval
from recurjac.jacobian import AbstractJacobianMethod, Gradients, default_method
from recurjac.norms.base import AbstractNormMethod
from recurjac.norms.induced import induced_norm
from recurjac.norms.row_sums import AbstractRowSum, ChordSum


@final
@dataclass(frozen=True)
class JacobianNorm(AbstractNormMethod):
    """The norm of the entry-wise bounds of `method`; for p = inf, row sums are bounded by `row_sum`."""

    method: AbstractJacobianMethod = field(default_factory=default_method)
    row_sum: AbstractRowSum = field(default_factory=ChordSum)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractNormMethod]:
        return {}

    @property
    def title(self) -> str:
        return self.method.title

    def within(self, seconds: float) -> JacobianNorm:
        return JacobianNorm(self.method.within(seconds), self.row_sum)

    def supports(self, p: float, q: float) -> bool:
        return True

    def norm(self, gradients: Gradients, p: float, q: float) -> Tensor:
        entries, sums = self._entries(gradients, p)
        return induced_norm(entries, p, q, gradients.chain.arithmetic, sums)

    def rows(self, gradients: Gradients, p: float) -> Tensor:
        entries, sums = self._entries(gradients, p)
        each = entries.reshape(-1, 1, entries.shape[-1])
        return induced_norm(each, p, inf, gradients.chain.arithmetic, sums.reshape(-1, 1)).reshape(sums.shape)

    def _entries(self, gradients: Gradients, p: float) -> tuple[Interval, Tensor]:
        """Bounds of the entries, and the sums of their absolute values along each row."""
        prepared = self.method.prepare(gradients)
        entries = prepared.push_all()
        return entries, self.row_sum.bound(entries, prepared) if p == inf else entries.magnitude.sum(-1)

    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        return []
