"""Numbers that follow from a jet: entries, norms of Jacobians that are attained, margins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from flint import arb

from tests.truth.claims import Measured
from tests.truth.judge import Jet


def stage(k: int) -> Measured:
    """The pre-activations of stage k, counted from 0."""
    return lambda jet: jet.before[k]


def entries(jet: Jet) -> list[Any]:
    return [v for row in jet.jacobian for v in row]


def margin(a: int, b: int) -> Measured:
    return lambda jet: [jet.values[a] - jet.values[b]]


def hessian(output: int) -> Measured:
    return lambda jet: [v for row in jet.hessian(output) for v in row]


def length(v: Sequence[Any], p: float) -> Any:
    """‖v‖_p."""
    if p == 2:
        return sum((a * a for a in v), arb(0)).sqrt()
    sizes = [abs(a) for a in v]
    if p == 1:
        return sum(sizes, arb(0))
    most = sizes[0]
    for s in sizes[1:]:
        most = most.max(s)
    return most


def times(matrix: Sequence[Sequence[Any]], v: Sequence[Any]) -> list[Any]:
    return [sum((a * b for a, b in zip(row, v, strict=True)), arb(0)) for row in matrix]


def gain(direction: Sequence[float], p: float, q: float) -> Measured:
    """‖J v‖_q / ‖v‖_p for one direction v."""

    def measured(jet: Jet) -> list[Any]:
        v = [arb(x) for x in direction]
        return [length(times(jet.jacobian, v), q) / length(v, p)]

    return measured


def along(direction: Sequence[float]) -> Measured:
    """J v."""
    return lambda jet: times(jet.jacobian, [arb(x) for x in direction])


def bend(direction: Sequence[float], output: int) -> Measured:
    """vᵀ H v."""

    def measured(jet: Jet) -> list[Any]:
        v = [arb(x) for x in direction]
        return [sum((a * b for a, b in zip(v, times(jet.hessian(output), v), strict=True)), arb(0))]

    return measured


def norm(p: float, q: float) -> Measured:
    """‖J‖_{p→q}, or where this is hard to compute, a gain that some direction attains."""
    return lambda jet: [_norm(jet.jacobian, p, q)]


def spectral_of_hessian(output: int) -> Measured:
    return lambda jet: [_norm(jet.hessian(output), 2, 2)]


def _norm(matrix: list[list[Any]], p: float, q: float) -> Any:
    columns = [list(c) for c in zip(*matrix, strict=True)]
    if p == 1:
        return length([length(c, q) for c in columns], math.inf)
    if q == math.inf:
        return length([length(row, 1 if p == math.inf else 2) for row in matrix], math.inf)
    if p == math.inf:
        signs = product((1, -1), repeat=len(columns) - 1)
        return length([length(times(matrix, [arb(1), *map(arb, s)]), q) for s in signs], math.inf)
    if q == 1:
        return _norm(columns, math.inf, 2)
    rough = torch.tensor([[float(v) for v in row] for row in matrix], dtype=torch.float64)
    scale = float(rough.abs().max())
    if not 0 < scale < math.inf:
        return length([length(c, 2) for c in columns], math.inf)
    way = torch.linalg.svd(rough / scale)[2][0].tolist()
    v = [arb(x) for x in way]
    return length(times(matrix, v), 2) / length(v, 2)


def sign(value: Any) -> Any:
    """1, 0 or -1; a ball that holds several of them if the sign is not clear."""
    if value > 0:
        return arb(1)
    if value < 0:
        return arb(-1)
    return arb(0) if value.is_zero() else arb(0, 1)


def entry_sign(k: int, i: int) -> Measured:
    return lambda jet: [sign(jet.jacobian[k][i])]


def entry(k: int, i: int) -> Measured:
    return lambda jet: [jet.jacobian[k][i]]


def some_slope(k: int) -> Measured:
    """1 if an entry of the gradient of output k is not 0, 0 if all are."""

    def measured(jet: Jet) -> list[Any]:
        return [length([sign(v) for v in jet.jacobian[k]], math.inf)]

    return measured


def matrix_measure(p: float, weights: Sequence[float] | None) -> Measured:
    """μ_p(D J D⁻¹); for p = 2 a Rayleigh quotient of its symmetric part, which is at most that."""

    def measured(jet: Jet) -> list[Any]:
        n = len(jet.jacobian)
        d = [arb(1)] * n if weights is None else [arb(w) for w in weights]
        found = [[d[i] * v / d[j] for j, v in enumerate(row)] for i, row in enumerate(jet.jacobian)]
        if p == 2:
            return [_rayleigh(found)]
        rows = found if p == math.inf else [list(c) for c in zip(*found, strict=True)]
        sums = [row[i] + sum((abs(v) for j, v in enumerate(row) if j != i), arb(0)) for i, row in enumerate(rows)]
        most = sums[0]
        for s in sums[1:]:
            most = most.max(s)
        return [most]

    return measured


def _rayleigh(matrix: list[list[Any]]) -> Any:
    rough = torch.tensor([[float(v) for v in row] for row in matrix], dtype=torch.float64)
    scale = float(rough.abs().max())
    if not 0 < scale < math.inf:
        return matrix[0][0]
    way = torch.linalg.eigh((rough + rough.mT) / scale)[1][:, -1].tolist()
    v = [arb(x) for x in way]
    return sum((a * b for a, b in zip(v, times(matrix, v), strict=True)), arb(0)) / sum((a * a for a in v), arb(0))
