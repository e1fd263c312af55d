"""What certificates claim: for each kind of claim, how good a leaf is, and how the claim is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import final

import torch
from torch import Tensor

from recurjac.witness.leaf import Leaf, Needs
from recurjac.witness.notation import Json, norm, number, numbers, row

_ENOUGH = 1e-4
"""Regions are not divided to come nearer to a result than this share of it."""
_LITTLE = 1e-7
"""Nor to come nearer to a width than this share of the numbers themselves."""


class AbstractQuestion(ABC):
    """A claim about rows of a network that every leaf has to prove."""

    @property
    @abstractmethod
    def goal(self) -> float:
        """A score that is good enough."""

    @abstractmethod
    def score(self, leaf: Leaf) -> float:
        """How much a leaf proves: the less the better; the certificate is as good as its worst leaf."""

    @abstractmethod
    def claims(self, leaves: Sequence[Leaf]) -> list[Json]:
        """What all leaves prove; empty if they prove nothing."""

    def value(self, leaves: Sequence[Leaf]) -> float:
        """The number that the claim proves."""
        return max(self.score(leaf) for leaf in leaves)

    @property
    def needs(self) -> Needs:
        """What the proof is from."""
        return Needs.GRADIENTS

    @property
    def convex(self) -> bool:
        """Whether what is claimed of Jacobians is also true between them, so that parts may have signs of neurons."""
        return True


@final
@dataclass(frozen=True)
class NormQuestion(AbstractQuestion):
    """‖J‖_{p→q} of all rows is at most the score of the worst leaf; `upper` is what would be as good as the result."""

    p: float
    q: float
    upper: float
    attained: Json | None = None

    @property
    def goal(self) -> float:
        return self.upper * (1 + _ENOUGH)

    def score(self, leaf: Leaf) -> float:
        return leaf.slopes.norm(self.p, self.q)

    def claims(self, leaves: Sequence[Leaf]) -> list[Json]:
        return self.written(self.value(leaves), leaves[0].asked.rows, "entries")

    def written(self, upper: float, rows: Tensor, by: str) -> list[Json]:
        """The claim of a bound, and what is attained."""
        if upper == inf:
            return []
        found = {
            "kind": "lipschitz", "rows": [row(r) for r in rows], "from": norm(self.p), "to": norm(self.q), "by": by,
            "upper": number(upper),
        }  # fmt: skip
        return [found] if self.attained is None else [found, self.attained]


@final
@dataclass(frozen=True)
class TangentsQuestion(AbstractQuestion):
    """The same question, answered by P-chains."""

    norm: NormQuestion

    @property
    def goal(self) -> float:
        return self.norm.goal

    def score(self, leaf: Leaf) -> float:
        return inf if leaf.tangents is None else leaf.tangents.norm

    def claims(self, leaves: Sequence[Leaf]) -> list[Json]:
        return self.norm.written(self.value(leaves), leaves[0].asked.rows, "tangents")

    @property
    def needs(self) -> Needs:
        return Needs.TANGENTS


@final
@dataclass(frozen=True)
class MeasureQuestion(AbstractQuestion):
    """μ_p(J) of all rows is at most the score of the worst leaf; `upper` is what would be as good as the result."""

    p: float
    upper: float

    @property
    def goal(self) -> float:
        return self.upper + _ENOUGH * abs(self.upper)

    def score(self, leaf: Leaf) -> float:
        return leaf.slopes.measure(self.p)

    def claims(self, leaves: Sequence[Leaf]) -> list[Json]:
        upper = self.value(leaves)
        return [] if upper == inf else [{"kind": "measure", "norm": norm(self.p), "upper": number(upper)}]


@final
@dataclass(frozen=True)
class EntriesQuestion(AbstractQuestion):
    """Bounds of all entries of the Jacobian; `width` is that of the result's widest, `size` its largest magnitude."""

    width: float
    size: float

    @property
    def goal(self) -> float:
        return self.width * (1 + _ENOUGH) + _LITTLE * self.size

    def score(self, leaf: Leaf) -> float:
        return float(leaf.slopes.entries.width.amax())

    def claims(self, leaves: Sequence[Leaf]) -> list[Json]:
        low, high = _hull(
            [leaf.slopes.entries.lower[0] for leaf in leaves], [e.slopes.entries.upper[0] for e in leaves]
        )
        rows = leaves[0].asked.rows
        return [
            {"kind": "jacobian", "row": row(r), "lower": numbers(a), "upper": numbers(b)}
            for r, a, b in zip(rows, low, high, strict=True)
        ]

    def value(self, leaves: Sequence[Leaf]) -> float:
        low, high = _hull(
            [leaf.slopes.entries.lower[0] for leaf in leaves], [e.slopes.entries.upper[0] for e in leaves]
        )
        return float((high - low).amax())


@final
@dataclass(frozen=True)
class OutputsQuestion(AbstractQuestion):
    """Bounds of all rows' values; `width` is that of the result's widest, `size` its largest magnitude."""

    width: float
    size: float

    @property
    def goal(self) -> float:
        return self.width * (1 + _ENOUGH) + _LITTLE * self.size

    def score(self, leaf: Leaf) -> float:
        return float(leaf.outputs.width.amax())

    def claims(self, leaves: Sequence[Leaf]) -> list[Json]:
        low, high = _hull([leaf.outputs.lower[0] for leaf in leaves], [leaf.outputs.upper[0] for leaf in leaves])
        return [
            {"kind": "output", "row": row(r), "lower": number(float(a)), "upper": number(float(b))}
            for r, a, b in zip(leaves[0].asked.rows, low, high, strict=True)
        ]

    def value(self, leaves: Sequence[Leaf]) -> float:
        low, high = _hull([leaf.outputs.lower[0] for leaf in leaves], [leaf.outputs.upper[0] for leaf in leaves])
        return float((high - low).amax())

    @property
    def needs(self) -> Needs:
        return Needs.VALUES


@final
@dataclass(frozen=True)
class MarginQuestion(AbstractQuestion):
    """All rows are positive; `label`: they are the differences of this output and all others, otherwise None."""

    label: int | None

    @property
    def goal(self) -> float:
        return -torch.finfo(torch.float64).tiny

    def score(self, leaf: Leaf) -> float:
        return -float(leaf.outputs.lower.amin())

    def claims(self, leaves: Sequence[Leaf]) -> list[Json]:
        least = self.value(leaves)
        if not least > 0:
            return []
        if self.label is not None:
            return [{"kind": "robust", "label": self.label, "by": "values"}]
        low, _ = _hull([leaf.outputs.lower[0] for leaf in leaves], [leaf.outputs.upper[0] for leaf in leaves])
        return [
            {"kind": "output", "row": row(r), "lower": number(float(a)), "upper": "inf"}
            for r, a in zip(leaves[0].asked.rows, low, strict=True)
        ]

    def value(self, leaves: Sequence[Leaf]) -> float:
        """The least margin."""
        return -max(self.score(leaf) for leaf in leaves)

    @property
    def needs(self) -> Needs:
        return Needs.VALUES


@final
@dataclass(frozen=True)
class SignsQuestion(AbstractQuestion):
    """Entries of the Jacobian that are not negative or not positive; (K, inputs) each, as in the result."""

    increasing: Tensor
    decreasing: Tensor

    @property
    def goal(self) -> float:
        return 0.0

    def score(self, leaf: Leaf) -> float:
        rising, falling = self._proved([leaf])
        return float((self.increasing & ~rising).sum() + (self.decreasing & ~falling).sum())

    def claims(self, leaves: Sequence[Leaf]) -> list[Json]:
        found = []
        for r, up, down in zip(leaves[0].asked.rows, *self._proved(leaves), strict=True):
            if bool(up.any() or down.any()):
                places = {
                    "increasing": up.nonzero().flatten().tolist(),
                    "decreasing": down.nonzero().flatten().tolist(),
                }
                found.append({"kind": "monotone", "row": row(r), **places})
        return found

    def value(self, leaves: Sequence[Leaf]) -> float:
        """How many signs are proved."""
        rising, falling = self._proved(leaves)
        return float(rising.sum() + falling.sum())

    def _proved(self, leaves: Sequence[Leaf]) -> tuple[Tensor, Tensor]:
        rising, falling = self.increasing, self.decreasing
        for leaf in leaves:
            rising = rising & (leaf.slopes.entries.lower[0] >= 0)
            falling = falling & (leaf.slopes.entries.upper[0] <= 0)
        return rising, falling


@final
@dataclass(frozen=True)
class SlopeQuestion(AbstractQuestion):
    """In each leaf, some entry of the gradient of the only row has a sign."""

    @property
    def convex(self) -> bool:
        return False

    @property
    def goal(self) -> float:
        return -torch.finfo(torch.float64).tiny

    def score(self, leaf: Leaf) -> float:
        found = leaf.slopes.entries
        return -float(torch.maximum(found.lower, -found.upper).amax())

    def claims(self, leaves: Sequence[Leaf]) -> list[Json]:
        if not self.value(leaves) > 0:
            return []
        return [{"kind": "no_stationary_point", "row": row(leaves[0].asked.rows[0])}]

    def value(self, leaves: Sequence[Leaf]) -> float:
        """How far from 0 some entry of the gradient is in each leaf."""
        return -max(self.score(leaf) for leaf in leaves)


def _hull(lower: Sequence[Tensor], upper: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.stack(list(lower)).amin(0), torch.stack(list(upper)).amax(0)
