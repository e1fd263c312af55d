"""Under pytest every annotation of the library is checked at every call, and torch computes on one thread.

Random numbers that a test draws without a seed of its own depend on its name only.
"""

import random
import sys
import typing
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from beartype import BeartypeConf, FrozenDict
from beartype.claw import beartype_package

# beartype reads no array of any shape and type but the plain one
arrays: FrozenDict[Any, Any] = FrozenDict({np.ndarray[Any, Any]: np.ndarray})
if sys.version_info < (3, 12):  # later versions list the members of a protocol once, not at every check
    typing._get_protocol_attrs = cache(typing._get_protocol_attrs)  # type: ignore[attr-defined]
beartype_package("recurjac", conf=BeartypeConf(is_pep484_tower=True, claw_is_pep526=False, hint_overrides=arrays))
torch.set_num_threads(1)

from recurjac import lipschitz_constants  # noqa: E402  (beartype must come first)
from recurjac.norms import default_norm_method  # noqa: E402


@pytest.fixture(autouse=True)
def _seeded(request: pytest.FixtureRequest) -> None:
    """Each test begins with the same random numbers, whichever tests ran before it, and in every process."""
    seed = zlib.crc32(request.node.nodeid.encode())
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (what libraries draw)
    torch.manual_seed(seed)


@pytest.fixture(autouse=True)
def _settings_stay() -> Iterator[None]:
    """No test leaves a setting of PyTorch changed, whatever interrupts it."""
    yield
    on, threads = torch.is_grad_enabled(), torch.get_num_threads()
    torch.set_grad_enabled(True)
    torch.set_num_threads(1)
    assert on, "gradients are not recorded any more"
    assert threads == 1, f"PyTorch computes on {threads} threads"


@pytest.fixture(autouse=True)
def _one_pass(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a method, tests bound constants in one pass, which no clock ends; `default` marks those that do not."""
    if request.node.get_closest_marker("default") is None:
        monkeypatch.setattr(lipschitz_constants, "default_bound", lambda _, p: default_norm_method(p))
