"""Requests for regions that do not exist are refused in one sentence that names the value."""

from __future__ import annotations

import copy
import pickle
from math import inf, nan
from typing import Any

import numpy as np
import pytest
import torch

from recurjac.arithmetic import Fast
from recurjac.errors import InvalidRegion
from recurjac.region import AbstractRegion, BoundRegion, Box, LpBall
from tests.helpers import CPU

X = torch.tensor([[0.5, 0.25]])
BAD: dict[str, tuple[Any, str]] = {
    "norm": (lambda: LpBall(X, 0.1, p=3), "p=3"),
    "centre NaN": (lambda: LpBall([[0.5, nan]], 0.1), r"nan at index \[0, 1\]"),
    "centre infinite": (lambda: LpBall([0.5, inf], 0.1), r"inf at index \[1\]"),
    "centre empty": (lambda: LpBall(torch.zeros(0, 2), 0.1), r"empty \(shape \(0, 2\)\)"),
    "centre no numbers": (lambda: LpBall("picture", 0.1), "picture|not an array of numbers"),
    "centre nothing": (lambda: LpBall(None, 0.1), "not an array of numbers"),
    "centre ragged": (lambda: LpBall([[1.0], [1.0, 2.0]], 0.1), "not an array of numbers"),
    "radius negative": (lambda: LpBall(X, -0.5), r"-0\.5"),
    "radius NaN": (lambda: LpBall(X, [nan, 1.0]), "nan"),
    "radius -inf": (lambda: LpBall(X, -inf), "-inf"),
    "radius empty": (lambda: LpBall(X, []), r"empty \(shape \(0,\)\)"),
    "clip crossed": (lambda: LpBall(X, 0.1, clip=(1, 0)), r"from 1\.0 to 0\.0"),
    "clip NaN": (lambda: LpBall(X, 0.1, clip=(nan, 1)), "from nan to"),
    "clip crossed somewhere": (lambda: LpBall(X, 0.1, clip=([0, 0.5], [1, 0.25])), r"\[0, 1\]: from 0\.5 to 0\.25"),
    "outside clip": (lambda: LpBall(X, 0.1, clip=(0, 0.4)), r"x\[0, 0\] = 0\.5"),
    "outside clip of one": (lambda: LpBall(X, 0.1, clip=([0, 0.3], 1)), r"x\[0, 1\] = 0\.25"),
    "clip of another shape": (lambda: LpBall(X, 0.1, clip=(torch.zeros(3), 1)), r"\(3,\)"),
    "clip ends of two shapes": (lambda: LpBall(X, 0.1, clip=(torch.zeros(2), torch.ones(3))), r"\(2,\), \(3,\)"),
    "clip larger than x": (lambda: LpBall([0.5, 0.25], 0.1, clip=(torch.zeros(3, 2), 1)), r"\(3, 2\)"),
    "radius per feature": (lambda: bound(LpBall(X, [[0.1, 0.2]], p=2)), "p=2"),
    "radius shape": (lambda: bound(LpBall(X, [0.1, 0.2, 0.3])), r"\(3,\)"),
    "radius ambiguous": (lambda: bound(LpBall([[0.5, 0.5], [0.0, 0.1]], [0.1, 0.2])), "samples or features"),
    "centre overflows": (lambda: bound(LpBall([1e300, 0.0], 0.1)), "inf at index"),
    "box shapes": (lambda: Box([0.0], [1.0, 2.0]), r"\(1,\) and \(2,\)"),
    "box crossed": (lambda: Box([0.0, 1.0], [1.0, 0.5]), r"\[1\]: from 1\.0 to 0\.5"),
    "box NaN": (lambda: Box([nan], [1.0]), "from nan to"),
    "box at infinity": (lambda: Box([inf], [inf]), "from inf to inf"),
    "box shape": (lambda: bound(Box([0.0] * 3, [1.0] * 3)), r"\(3,\)"),
}


def bound(region: AbstractRegion) -> BoundRegion:
    return region.bind((2,), torch.float32, CPU)


@pytest.mark.parametrize("name", BAD)
def test_bad_regions_are_refused_in_one_sentence_that_names_the_value(name: str) -> None:
    make, value = BAD[name]
    with pytest.raises(InvalidRegion, match=value) as refused:
        make()
    message = str(refused.value)
    assert len(message) < 250
    assert "\n" not in message


SHOWN: list[tuple[AbstractRegion, tuple[int, ...], str]] = [
    (
        LpBall(torch.zeros(3, 784), 0.1, clip=(0, 1)),
        (784,),
        "LpBall(x=<shape (3, 784)>, radius=0.1, p=inf, clip=(0, 1))",
    ),
    (LpBall([0.5, -1], torch.full((1,), 0.25), 2), (2,), "LpBall(x=[0.5, -1.0], radius=[0.25], p=2)"),
    (
        LpBall(torch.zeros(1), inf, 1, (torch.zeros(1), 1 / 3)),
        (1,),
        "LpBall(x=[0.0], radius=inf, p=1, clip=([0.0], 0.3333333333333333))",
    ),
    (Box([0, -inf], np.ones(2)), (2,), "Box(lower=[0.0, -inf], upper=[1.0, 1.0])"),
    (Box(np.zeros((2, 3)), np.ones((2, 3))), (3,), "Box(lower=<shape (2, 3)>, upper=<shape (2, 3)>)"),
]


@pytest.mark.parametrize(("region", "shape", "text"), SHOWN, ids=[text for _, _, text in SHOWN])
def test_regions_are_shown_in_a_line_and_copied(region: AbstractRegion, shape: tuple[int, ...], text: str) -> None:
    assert repr(region) == text
    bound = region.bind(shape, torch.float64, CPU)
    for twin in (copy.deepcopy(region), pickle.loads(pickle.dumps(region))):  # noqa: S301  (our own bytes)
        assert repr(twin) == text
        assert torch.equal(twin.bind(shape, torch.float64, CPU).x, bound.x)
    for one in (copy.deepcopy(bound), pickle.loads(pickle.dumps(bound))):  # noqa: S301  (our own bytes)
        assert torch.equal(one.box(Fast()).upper, bound.box(Fast()).upper)
