"""Bounds of some random networks of all kinds of layers hold at sampled points; `make fuzz` takes 2000."""

from __future__ import annotations

import pytest
import torch

from tests.fuzz.checks import outside
from tests.fuzz.run import Report, answered

GROUPS, EACH = 40, 4


@pytest.mark.parametrize("group", [g if g == 0 else pytest.param(g, marks=pytest.mark.slow) for g in range(GROUPS)])
def test_bounds_of_random_networks_hold(group: int) -> None:
    """Numbers from 10000 on, which `make fuzz` does not take."""
    total = Report()
    for seed in range(10_000 + group * EACH, 10_000 + (group + 1) * EACH):
        total = total.plus(answered(seed))
    assert total.wrong == ()
    assert total.networks >= EACH // 2


def test_truth_outside_of_bounds_is_noticed() -> None:
    true = torch.tensor([[[1.0], [2.0], [torch.nan]]], dtype=torch.float64)
    low, high = torch.tensor([[0.5]], dtype=torch.float64), torch.tensor([[2.0]], dtype=torch.float64)
    assert outside(low, true, high) is None
    assert outside(low, true, high - 1e-6) is not None
    assert outside(low + 0.6, true, high) is not None
    assert outside(low * torch.nan, true, high) == "a bound is NaN"
