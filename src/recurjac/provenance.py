"""Where a result comes from, and what all results share."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, final

from torch import Tensor


@final
@dataclass(frozen=True)
class Provenance:
    """How a result was computed, in words that tables and files can hold.

    method, pre, arithmetic: their titles.  rigorous: whether floating-point rounding is covered; if not, `reason` says
    why.  region: in words.  weights: the SHA-256 digest of the network, its weights included
    (`Network.digest`).
    version: of recurjac.  notes: what else one should know.
    """

    method: str
    pre: str
    arithmetic: str
    rigorous: bool
    reason: str
    region: str
    weights: str
    version: str
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        kind = "rounding covered" if self.rigorous else f"rounding not covered: {self.reason}"
        parts = [f"{self.method} with {self.pre}", kind, f"over {self.region}", *self.notes]
        return f"Provenance({'; '.join(parts)}; weights {self.weights[:12]}; recurjac {self.version})"


class AbstractResult:
    """What every result offers beside its numbers; a frozen dataclass with a field `provenance`."""

    provenance: Provenance

    @property
    @final
    def method(self) -> str:
        """The name of the method."""
        return self.provenance.method

    @property
    @final
    def rigorous(self) -> bool:
        """Whether floating-point rounding is covered."""
        return self.provenance.rigorous

    @property
    @final
    def reason(self) -> str:
        """Why rounding is not covered; empty if it is."""
        return self.provenance.reason

    @final
    def to_json(self) -> str:
        """All fields as one JSON object: tensors as nested lists, numbers that are not finite as "inf" and "-inf"."""
        return json.dumps(plain(self), allow_nan=False)

    @final
    def _kind(self) -> str:
        """A word on rounding for a repr."""
        return "rigorous" if self.rigorous else f"not rounding-safe: {self.reason}"


def plain(value: Any) -> Any:
    """`value` as JSON can hold it; NaN, which is no bound, becomes null.  Raises TypeError for other objects."""
    if isinstance(value, Tensor):
        return plain(value.detach().cpu().tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{value!r} cannot be written as JSON")
