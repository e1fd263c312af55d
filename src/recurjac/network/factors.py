"""Products of two pre-activations: pairs of stages that are read together (docs/mathematics.md, §1)."""

from __future__ import annotations

from collections.abc import Sequence

from recurjac.errors import InvalidNetwork
from recurjac.network.stage import Stage


def has_factors(stages: Sequence[Stage]) -> bool:
    """Whether some stages are factors of a product."""
    return any(s.factor is not None for s in stages)


def check_factors(stages: Sequence[Stage]) -> None:
    """Raise InvalidNetwork unless factors stand side by side, and every stage that reads one reads both alike."""
    for k, stage in enumerate(stages, 1):
        if stage.factor is not None:
            _check_pair(stages, k, stage)
        read = [e.source for e in stage.edges if e.source > 0 and stages[e.source - 1].factor is not None]
        firsts = [i for i in read if _is_first(stages[i - 1])]
        if sorted(i + 1 for i in firsts) != sorted(i for i in read if not _is_first(stages[i - 1])):
            raise InvalidNetwork(f"stage {k} reads one factor of a product without the other")


def _check_pair(stages: Sequence[Stage], k: int, stage: Stage) -> None:
    partner = k + 1 if _is_first(stage) else k - 1
    other = stages[partner - 1] if 1 <= partner <= len(stages) else None
    paired = other is not None and other.factor is not None and _is_first(other) != _is_first(stage)
    if not paired or other is None or other.shape != stage.shape:
        raise InvalidNetwork(f"stage {k} is a factor of a product whose other factor, stage {partner}, does not fit")


def _is_first(stage: Stage) -> bool:
    return stage.factor is not None and stage.factor.first
