"""Tests that draw random numbers without a seed draw the same ones each time."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest
import torch


@pytest.mark.parametrize("name", ["a", "b"])
def test_random_numbers_depend_on_the_name_of_a_test(name: str, request: pytest.FixtureRequest) -> None:
    seed = zlib.crc32(f"tests/test_seeds.py::{request.node.name}".encode())
    assert f"[{name}]" in request.node.name
    assert torch.equal(torch.rand(5), torch.rand(5, generator=torch.Generator().manual_seed(seed)))
    assert random.random() == random.Random(seed).random()  # noqa: S311  (no secrets)
    assert np.random.random() == np.random.RandomState(seed).random()  # noqa: NPY002  (what libraries draw)
