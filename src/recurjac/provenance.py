"""The provenance of results, and the base class of all results."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from torch import Tensor

from recurjac.certificates import Certificate, certificates_of
from recurjac.errors import MissingDependency
from recurjac.rows import arrays, gap, rows, table

_ALL, _SOME = 8, 4
"""The number of samples up to which a repr has all of them, and how many it has of more."""


@final
@dataclass(frozen=True)
class Provenance:
    """How a result was computed, as strings for tables and files.

    method, pre: the titles of the method and the pre-activation rule.
    arithmetic: the name of the arithmetic.
    rigorous: whether floating-point rounding is covered.
    reason: why rounding is not covered; empty if it is.
    region: a description of the region.
    weights: the SHA-256 digest of the network including its weights (`Network.digest`).
    version: the version of recurjac.
    notes: further remarks.
    asked: the problem itself, from which certificates are made; it is no part of `to_json` and of comparisons.
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
    asked: object = field(default=None, compare=False, repr=False)

    def __repr__(self) -> str:
        kind = "rounding covered" if self.rigorous else f"rounding not covered: {self.reason}"
        parts = [f"{self.method} with {self.pre}", kind, f"over {self.region}", *self.notes]
        return f"Provenance({'; '.join(parts)}; weights {self.weights[:12]}; recurjac {self.version})"


class AbstractResult:
    """The base class of all results, which are frozen dataclasses with a field `provenance`."""

    provenance: Provenance
    _apart: ClassVar[tuple[str, ...]] = ()
    """Fields that have no entry for each entry of the others, though their shapes may agree by chance."""

    @final
    def __eq__(self, other: object) -> bool:
        """Whether both are results of one kind with the same numbers and the same provenance."""
        return type(self) is type(other) and plain(self) == plain(other)

    @final
    def __hash__(self) -> int:
        return hash((type(self).__name__, self.provenance))

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
        """All fields as one JSON object; tensors become nested lists, and infinite numbers become "inf" and "-inf"."""
        return json.dumps(plain(self), allow_nan=False)

    @final
    def numpy(self) -> dict[str, np.ndarray[Any, Any]]:
        """Every tensor as an array, by the name of its field; of a field with one for each stage, `lower_1`, `lower_2`…

        `np.savez(file, **result.numpy())` writes them.
        """
        return arrays(self)

    @final
    def rows(self) -> list[dict[str, Any]]:
        """One row for each entry of `radius` or `upper`, as numbers and words by the names of the fields.

        sample: its number in the batch; axis_1, axis_2, …: the entry's place in the axes after it, as those of outputs
        and inputs; stage: of pre-activations, from 1.  Stationary points have a row each.
        """
        return list(rows(self, self._apart))

    @final
    def to_dataframe(self) -> Any:
        """The rows as a `pandas.DataFrame`.  Raises MissingDependency without pandas."""
        try:
            import pandas
        except ImportError as error:
            raise MissingDependency("a DataFrame needs pandas; install it with: pip install pandas") from error
        return pandas.DataFrame.from_records(self.rows())

    @final
    def _repr_html_(self) -> str:
        """The first rows as a table, for notebooks."""
        made = self.provenance
        kind = "covered" if made.rigorous else f"not covered: {made.reason}"
        remarks = {
            "method": made.method, "pre-activations": made.pre, "region": made.region, "rounding": kind,
            "notes": "; ".join(made.notes),
        }  # fmt: skip
        widest = gap(self)
        if not math.isnan(widest):
            remarks["largest difference of the bounds"] = f"{widest:.6g}"
        return table(type(self).__name__, rows(self, self._apart), remarks)

    @final
    def certificate(self, model: str | Path, *, seconds: float = 10.0) -> tuple[Certificate, ...]:
        """Certificates of the result, one for each sample, that `recurjac check` verifies without this library.

        model: the ONNX file from which the network was read; the result is about all of its outputs, one of them, or a
        difference of two.  seconds: for all samples together.
        A certificate is made by a computation of its own, whose steps are easy to check.  It may prove less than the
        result, and says how much (`Certificate.value`).
        Raises InvalidRequest for results without certificates, other networks, unbounded regions and constraints.

        Source: docs/certificates.md.
        """
        return certificates_of(self, model, seconds)

    @final
    def _each(self, samples: Iterable[str], count: int, between: str = ", ") -> str:
        """The texts of `count` samples in a repr; of many, the first few and how many there are."""
        if count <= _ALL:
            return between.join(samples)
        return f"{between.join(islice(samples, _SOME))}{between}… ({count} in all)"

    @final
    def _kind(self) -> str:
        """The part of a repr that says whether rounding is covered."""
        return "rigorous" if self.rigorous else f"not rounding-safe: {self.reason}"


def plain(value: Any) -> Any:
    """`value` as JSON data; NaN, which is not a bound, becomes null.  Raises TypeError for other objects."""
    if isinstance(value, Tensor):
        return plain(value.detach().cpu().tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.compare or f.repr}
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
