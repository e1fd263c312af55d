"""The reference networks and other tools' figures, where they are at hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
import torch

import recurjac as rj
from recurjac.activations import AbstractActivation, Arctan, LeakyReLU, ReLU, Tanh
from recurjac.network import Network, chain

SHARED = Path(__file__).resolve().parents[2] / "shared"
FOLDER = SHARED / "reference"
needs_reference = pytest.mark.skipif(not FOLDER.is_dir(), reason="the reference networks are not at hand")

CASES = [
    ("rand_relu_tiny", 3), ("rand_leaky_10x20", 3), ("rand_tanh_4x50", 3), ("rand_arctan_3x30", 3),
    ("mnist_6x100_relu", 4), ("mnist_9x200_relu", 3),
]  # fmt: skip
"""Names and numbers of radii of the networks with figures."""

RADII = [pytest.param(name, i, id=f"{name}-eps{i}") for name, count in CASES for i in range(count)]


@final
@dataclass(frozen=True)
class Reference:
    """A reference network at one of its radii."""

    arrays: dict[str, Any]
    name: str
    i: int

    @property
    def network(self) -> Network:
        layers = int(self.arrays["n_layers"])
        slope = float(self.arrays["slope"])
        kinds: dict[str, AbstractActivation] = {
            "relu": ReLU(), "leaky_relu": LeakyReLU(slope), "tanh": Tanh(), "arctan": Arctan(),
        }  # fmt: skip
        activation = kinds[str(self.arrays["activation"])]
        return dense(self.arrays, [activation] * (layers - 1))

    @property
    def p(self) -> float:
        return float(str(self.arrays["p"]))

    @property
    def radius(self) -> float:
        return float(self.arrays["eps"][self.i])

    @property
    def region(self) -> rj.LpBall:
        return rj.LpBall(self.arrays["x"], self.radius, self.p)

    @property
    def given(self) -> rj.Given:
        count = int(self.arrays["n_layers"]) - 1
        return rj.Given(
            [self.figure(f"preact_lb_{k}") for k in range(count)], [self.figure(f"preact_ub_{k}") for k in range(count)]
        )

    def has(self, key: str) -> bool:
        return f"recurjac/eps{self.i}_{key}" in self.arrays

    def figure(self, key: str) -> Any:
        return self.arrays[f"recurjac/eps{self.i}_{key}"]


def dense(arrays: dict[str, Any], activations: list[AbstractActivation]) -> Network:
    """The chain of `W0`, `b0`, …"""
    layers = [
        (torch.tensor(arrays[f"W{i}"]), torch.tensor(arrays[f"b{i}"]) if f"b{i}" in arrays else None)
        for i in range(len(activations) + 1)
    ]
    return chain(layers, activations)


def read(name: str) -> dict[str, Any]:
    with np.load(FOLDER / f"{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}


def reference(name: str, i: int) -> Reference:
    return Reference(read(name), name, i)
