"""The least of several bounds of a norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import final

import torch
from torch import Tensor

from recurjac.errors import InvalidRequest
from recurjac.jacobian import Gradients
from recurjac.norms.base import AbstractNormMethod
from recurjac.norms.entrywise import JacobianNorm
from recurjac.norms.product import ProductOfNorms


@final
@dataclass(frozen=True, init=False)
class TightestNorm(AbstractNormMethod):
    """The least of the bounds of those `methods` that support the norm, for each sample and for each row.

    A method is skipped if a cheap test shows that it cannot improve the bound (`cannot_beat`).
    Raises InvalidRequest if no method is given.
    """

    methods: tuple[AbstractNormMethod, ...]

    def __init__(self, *methods: AbstractNormMethod) -> None:
        if not methods:
            raise InvalidRequest("the tightest of no methods bounds nothing; give at least one")
        object.__setattr__(self, "methods", methods)

    @classmethod
    def command_names(cls) -> Mapping[str, AbstractNormMethod]:
        return {"one-pass": cls(JacobianNorm(), ProductOfNorms())}

    @property
    def title(self) -> str:
        return " or ".join(m.title for m in self.methods)

    def supports(self, p: float, q: float) -> bool:
        return any(m.supports(p, q) for m in self.methods)

    def _able(self, p: float, q: float) -> Sequence[AbstractNormMethod]:
        return [m for m in self.methods if m.supports(p, q)]

    def norm(self, gradients: Gradients, p: float, q: float) -> Tensor:
        first, *others = self._able(p, q)
        least = _known(first.norm(gradients, p, q))
        for method in others:
            if not method.cannot_beat(gradients, p, q, least.detach()):
                least = torch.minimum(least, _known(method.norm(gradients, p, q)))
        return least

    def rows(self, gradients: Gradients, p: float) -> Tensor:
        return reduce(torch.minimum, (_known(m.rows(gradients, p)) for m in self._able(p, torch.inf)))

    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        return sorted({reason for m in self._able(p, q) for reason in m.unproved_rounding(p, q, rows)})


def _known(bound: Tensor) -> Tensor:
    """The bound, with infinity in place of NaN."""
    return torch.where(bound.isnan(), torch.inf, bound)
