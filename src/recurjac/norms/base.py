"""The interface of norm methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import final

from torch import Tensor

from recurjac.errors import InvalidRequest
from recurjac.jacobian import Gradients
from recurjac.search import Attained, Search


def check_norm(p: float, what: str) -> float:
    """p as a float.  Raises InvalidRequest unless it is 1, 2 or inf."""
    if isinstance(p, bool) or p not in (1, 2, inf):
        raise InvalidRequest(f"the {what} norm {p!r} is not known; use 1, 2 or inf")
    return float(p)


@final
@dataclass(frozen=True)
class NormBound:
    """‖J‖ <= upper (batch,) over the region.

    status: "bounded"; for methods that search, why they stopped: "exact" (within their tolerance), "time", "parts",
    "stuck" or "interrupted".
    note: a remark for the user.  attained: gains that the method found during its search, if it looks for them.
    steps: what was done, for methods of several steps; a line for each sample.
    """

    upper: Tensor
    status: str = "bounded"
    note: str = ""
    attained: Attained | None = None
    steps: tuple[str, ...] = ()


class AbstractNormMethod(ABC):
    """A way to bound the induced norm of a Jacobian over a region.  It is a frozen object that holds its settings."""

    @classmethod
    @abstractmethod
    def command_names(cls) -> Mapping[str, AbstractNormMethod]:
        """Objects of this class by their names for `--method`; empty if it has none."""

    @property
    @abstractmethod
    def title(self) -> str:
        """The name for tables and plots."""

    @abstractmethod
    def supports(self, p: float, q: float) -> bool:
        """Whether the method bounds ‖J‖_{p→q}."""

    @abstractmethod
    def norm(self, gradients: Gradients, p: float, q: float) -> Tensor:
        """An upper bound of ‖J‖_{p→q}: (batch,).  Infinite and NaN entries state no bound.

        A method reads the chain rule (`gradients.chain`) and may read the problem behind it.
        """

    @abstractmethod
    def rows(self, gradients: Gradients, p: float) -> Tensor:
        """Upper bounds of the norm of each single row of J, as a map from ‖·‖_p to numbers: (batch, K)."""

    @abstractmethod
    def unproved_rounding(self, p: float, q: float, rows: int) -> list[str]:
        """The reasons why rounding is not covered, for this number of outputs; empty if it is covered."""

    def bound(self, gradients: Gradients, p: float, q: float) -> NormBound:
        """The bound of `norm`, with everything else that the method knows about it."""
        return NormBound(self.norm(gradients, p, q))

    @property
    def search(self) -> Search:
        """How to look for what is attained, if the user does not say it."""
        return Search()

    @property
    def heeds_attained(self) -> bool:
        """Whether `towards` makes use of what is attained; otherwise the search comes after the bound, and heeds it."""
        return False

    @property
    def divides_batch(self) -> bool:
        """Whether it decides itself which samples it bounds together, so that it is given all of them at once."""
        return False

    def within(self, seconds: float) -> AbstractNormMethod:
        """The same method, which takes at most about this time; by default the method itself, which has no limit."""
        return self

    def towards(self, gradients: Gradients, p: float, q: float, attained: Attained) -> NormBound:
        """The bound of `bound`; methods that search may stop once it meets what is attained (batch,)."""
        return self.bound(gradients, p, q)

    def cannot_beat(self, gradients: Gradients, p: float, q: float, upper: Tensor) -> bool:
        """Whether a cheap test shows that `norm` is not less than `upper` (batch,) for any sample."""
        return False


def check_supported(method: AbstractNormMethod, p: float, q: float) -> None:
    """Raise InvalidRequest unless the method bounds ‖J‖_{p→q}."""
    if not method.supports(p, q):
        raise InvalidRequest(f"{method.title} does not bound the norm l{p:g} → l{q:g}; choose another method or norm")
