"""What tests of numbers are run over."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import KINDS

SEEDS = range(4)
DTYPES = (torch.float32, torch.float64)

every_seed = pytest.mark.parametrize("seed", SEEDS, ids=lambda s: f"seed{s}")
every_kind = pytest.mark.parametrize("kind", KINDS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
