"""What tests of numbers are run over."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from _pytest.mark.structures import ParameterSet

from recurjac.testing import methods
from tests.helpers import KINDS

SEEDS = range(4)
DTYPES = (torch.float32, torch.float64)

every_seed = pytest.mark.parametrize("seed", SEEDS, ids=lambda s: f"seed{s}")
every_kind = pytest.mark.parametrize("kind", KINDS)
some_kinds = pytest.mark.parametrize(
    "kinds",
    [
        pytest.param(("falling", "hard_tanh", "tanh"), id="few"),
        pytest.param(methods.KINDS, id="all", marks=pytest.mark.slow),
    ],
)
"""Activations of the networks that `recurjac.testing` takes to check classes; by default without products."""
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def often(values: Iterable[Any], fast: Container[Any]) -> list[ParameterSet]:
    """The values, of which the fast suite has those in `fast`."""
    return [pytest.param(v, marks=() if v in fast else pytest.mark.slow) for v in values]


def in_turn(*axes: Sequence[Any]) -> list[ParameterSet]:
    """All combinations of values of the axes; in the fast suite, the last axis takes turns over those of the others.

    There, every combination of the other axes is run with one value of the last one, and each pair of one of its values
    and one of another axis is met where the axes are about as long.
    """
    last, found = len(axes[-1]), []
    for places in product(*(range(len(values)) for values in axes)):
        chosen = [_case(values[k]) for values, k in zip(axes, places, strict=True)]
        values = [v for case in chosen for v in case.values]
        marks = [m for case in chosen for m in case.marks]
        marks += [] if sum(places[:-1]) % last == places[-1] else [pytest.mark.slow]
        found.append(pytest.param(*values, marks=marks, id="-".join(str(case.id) for case in chosen)))
    return found


def _case(value: Any) -> Any:
    """A value as a set of parameters with an id, which is the same in every process."""
    return value if isinstance(value, ParameterSet) else pytest.param(value, id=str(value))
