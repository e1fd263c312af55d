"""Exact norms by branching on signs, against enumeration of all cells and against a mixed-integer program."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from torch import Tensor

import recurjac as rj
from recurjac.activations import AbstractActivation, Abs, LeakyReLU, PReLU, ReLU
from recurjac.branching.cells import HalfSpaceSystem
from recurjac.branching.signs import divisible, with_signs
from recurjac.testing.networks import random_network, true_jacobians

Layers = list[tuple[Tensor, Tensor]]
SLOPES: dict[str, tuple[AbstractActivation, float]] = {
    "relu": (ReLU(), 0.0), "leaky": (LeakyReLU(0.2), 0.2), "steep": (LeakyReLU(1.6), 1.6),
    "falling": (LeakyReLU(-0.5), -0.5), "abs": (Abs(), -1.0),
    "prelu": (PReLU(torch.tensor(0.3, dtype=torch.float64)), 0.3),
}  # fmt: skip
EXACT = rj.ExactNorm(rj.Limit(seconds=600, parts=2**20, tolerance=1e-7))
_DEEP = 1e-9
"""Cells in which no ball of this radius fits may count or not."""


def layers(seed: int, sizes: tuple[int, ...]) -> Layers:
    g = torch.Generator().manual_seed(seed)
    pairs = zip(sizes[1:], sizes[:-1], strict=True)
    return [(torch.randn(m, n, generator=g, dtype=torch.float64) * 1.5 / n**0.5,
             0.5 * torch.randn(m, generator=g, dtype=torch.float64)) for m, n in pairs]  # fmt: skip


def depth_of(rows: list[np.ndarray], ends: list[float], box: tuple[np.ndarray, np.ndarray] | None, n: int) -> float:
    """How large a ball fits into {rows · x + ends >= 0}, at most 1; negative if nothing does."""
    size = [float(np.linalg.norm(r)) for r in rows]
    a = np.array([[*(-r), s] for r, s in zip(rows, size, strict=True)]).reshape(-1, n + 1)
    limits = [(None, None)] * n if box is None else list(zip(*box, strict=True))
    found = linprog([*[0.0] * n, -1.0], A_ub=a, b_ub=np.array(ends), bounds=[*limits, (None, 1.0)])
    return -inf if found.status == 2 else -float(found.fun)


def cells(net: Layers, slope: float, box: tuple[np.ndarray, np.ndarray] | None) -> Iterator[np.ndarray]:
    """J on every cell of a network, found by adding one half-space after the other."""
    n = net[0][0].shape[1]

    def deeper(k: int, matrix: np.ndarray, shift: np.ndarray, rows: list[np.ndarray], ends: list[float]) -> Iterator[np.ndarray]:
        w, b = (t.numpy() for t in net[k])
        z, c = w @ matrix, w @ shift + b
        if k == len(net) - 1:
            yield z
            return
        open_: list[tuple[list[float], list[np.ndarray], list[float]]] = [([], rows, ends)]
        for j in range(len(c)):
            after = []
            for signs, r, e in open_:
                for side in (1.0, -1.0):
                    more, end = [*r, side * z[j]], [*e, float(side * c[j])]
                    if depth_of(more, end, box, n) > _DEEP:
                        after.append(([*signs, 1.0 if side > 0 else slope], more, end))
            open_ = after
        for signs, r, e in open_:
            d = np.array(signs)
            yield from deeper(k + 1, d[:, None] * z, d * c, r, e)

    yield from deeper(0, np.eye(n), np.zeros(n), [], [])


def norm_of(jacobian: np.ndarray, p: float) -> float:
    return float(np.linalg.norm(jacobian, p if p == 2 else (1 if p == 1 else np.inf)))


def compared(seed: int) -> None:
    """One random network: its exact norm is that of the enumeration."""
    kind = list(SLOPES)[seed % len(SLOPES)]
    activation, slope = SLOPES[kind]
    sizes = [(2, 3, 1), (2, 4, 2), (3, 4, 2), (2, 3, 3, 2), (1, 4, 3, 1), (3, 3, 2, 2, 1), (2, 5, 3, 1)][seed % 7]
    net, p = layers(seed, sizes), (1, 2, inf)[seed % 3]
    everywhere = seed % 4 == 3
    high = np.full(sizes[0], 0.3 + (seed % 5) * 0.4)
    region: rj.LpBall | rj.Box = rj.LpBall(torch.zeros(1, sizes[0], dtype=torch.float64), inf)
    if not everywhere:
        region = rj.Box(torch.tensor(-high)[None], torch.tensor(high)[None])
    true = max(norm_of(j, p) for j in cells(net, slope, None if everywhere else (-high, high)))
    found = rj.lipschitz(rj.load(net, activation=activation), region, p=p, q=p, method=EXACT, search=rj.Search(work=0))
    assert found.rigorous
    assert true <= float(found.upper) * (1 + 1e-13), seed
    assert float(found.upper) <= true * (1 + 1e-6) + 1e-12, seed
    assert float(found.lower) >= true * (1 - 1e-6) - 1e-12, seed
    assert found.status == "exact", seed


@pytest.mark.parametrize("seed", range(30))
def test_exact_norms_are_those_of_an_enumeration(seed: int) -> None:
    compared(seed)


@pytest.mark.slow
@pytest.mark.parametrize("tens", range(50))
def test_exact_norms_of_many_networks_are_those_of_an_enumeration(tens: int) -> None:
    for seed in range(10 * tens, 10 * tens + 10):
        compared(seed)
