"""The opponent: CROWN and RecurJac-B as printed in the papers, vectorised, in plain NumPy.

For a chain of dense layers with ReLUs in between, and l∞ balls.  Each layer bounds all of its neurons, through all
other layers and separately for each output: no neuron is skipped, and nothing is shared.  Weights are (out, in), z_k is
the pre-activation of hidden layer k = 0, 1, …, and h_k = relu(z_k).

Source: arXiv:1811.00866, Section 3 (CROWN-Ada); arXiv:1810.11783, Algorithm 1 and equations 22 and 23.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@final
@dataclass(frozen=True)
class Bounds:
    """lower <= something <= upper, entry by entry."""

    lower: Array
    upper: Array


@final
@dataclass(frozen=True)
class Lines:
    """low_slope v + low <= something <= high_slope v + high, neuron by neuron."""

    low_slope: Array
    low: Array
    high_slope: Array
    high: Array


@final
@dataclass(frozen=True)
class Dense:
    """W_L relu(… relu(W_1 x + b_1) …) + b_L."""

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]

    @property
    def hidden(self) -> int:
        return len(self.weights) - 1


def preactivations(net: Dense, x: Array, radius: float) -> list[Bounds]:
    """CROWN bounds of z_0, z_1, … on the ball of that radius around x."""
    lines: list[Lines] = []
    found: list[Bounds] = []
    for W, b in zip(net.weights[:-1], net.biases[:-1], strict=True):
        found.append(Bounds(-_highest(net, lines, -W, -b, x, radius), _highest(net, lines, W, b, x, radius)))
        lines.append(_relu(found[-1]))
    return found


def _relu(z: Bounds) -> Lines:
    """Above, the chord; below, a line through 0 with slope 1 if u >= -l, else 0; exact where the sign of z is known."""
    unstable = (z.lower < 0) & (z.upper > 0)
    chord = z.upper / np.where(unstable, z.upper - z.lower, 1.0)
    on = (z.lower >= 0).astype(float)
    low = np.where(unstable, z.upper >= -z.lower, on)
    return Lines(low, np.zeros_like(low), np.where(unstable, chord, on), np.where(unstable, -chord * z.lower, 0.0))


def _highest(net: Dense, lines: Sequence[Lines], form: Array, offset: Array, x: Array, radius: float) -> Array:
    """The maxima of `form` h + offset, where h is the output of the last layer that has lines."""
    for k in reversed(range(len(lines))):
        line, positive, negative = lines[k], np.maximum(form, 0), np.minimum(form, 0)
        form, offset = (
            positive * line.high_slope + negative * line.low_slope,
            offset + positive @ line.high + negative @ line.low,
        )
        form, offset = form @ net.weights[k], offset + form @ net.biases[k]
    highest: Array = form @ x + radius * np.abs(form).sum(1) + offset
    return highest


def gradients(net: Dense, pre: Sequence[Bounds]) -> tuple[Bounds, dict[int, Lines]]:
    """RecurJac-B bounds of ∂f/∂x, (outputs, inputs), and the lines chosen at each hidden layer."""
    lines: dict[int, Lines] = {}
    y = Bounds(net.weights[-1], net.weights[-1])  # ∂f/∂h of the last hidden layer
    for k in reversed(range(net.hidden)):
        lines[k] = _products(y, (pre[k].lower > 0).astype(float), (pre[k].upper >= 0).astype(float))
        tangents = net.weights[k].T[None]  # the columns: one tangent for each input of layer k
        y = Bounds(-_pushed(net, lines, k, -tangents), _pushed(net, lines, k, tangents))
    return y, lines


def _products(y: Bounds, d: Array, D: Array) -> Lines:
    """Lines in y for y δ with δ in [d, D]: exact if d = D, slopes d and D if the sign of y is known, else constants."""
    positive, negative, known = y.lower >= 0, y.upper <= 0, d == D
    low = np.where(known | positive, d, np.where(negative, D, 0.0))
    high = np.where(known | negative, d, np.where(positive, D, 0.0))
    free = ~(known | positive | negative)
    return Lines(low, np.where(free, D * y.lower, 0.0), high, np.where(free, D * y.upper, 0.0))


def _pushed(net: Dense, lines: dict[int, Lines], start: int, tangents: Array) -> Array:
    """Upper bounds of Σ_i c_i ∂f_k/∂z_i at layer `start` for tangents c (outputs or 1, r, n): (outputs, r)."""
    form, offset = tangents, np.zeros((1, 1))
    for k in range(start, net.hidden):
        line = lines[k]
        positive, negative = np.maximum(form, 0), np.minimum(form, 0)
        offset = offset + _rows(positive, line.high) + _rows(negative, line.low)
        form = positive * line.high_slope[:, None] + negative * line.low_slope[:, None]
        if k + 1 < net.hidden:
            form = form @ net.weights[k + 1].T
    return _rows(form, net.weights[-1]) + offset


def _rows(forms: Array, rows: Array) -> Array:
    """Forms (K or 1, r, n) times one row each, (K, n): (K, r)."""
    products: Array = (forms @ rows[:, :, None])[..., 0]
    return products


def constant(net: Dense, x: Array, radius: float) -> float:
    """The l∞ constant max_k Σ_r |∂f_k/∂x_r|: entries of known sign are summed as one tangent, others one by one."""
    y, lines = gradients(net, preactivations(net, x, radius))
    positive, negative = y.lower >= 0, y.upper <= 0
    signs = np.where(positive, 1.0, np.where(negative, -1.0, 0.0))
    together = _pushed(net, lines, 0, (signs @ net.weights[0].T)[:, None])[:, 0]
    apart = np.where(positive | negative, 0.0, np.maximum(-y.lower, y.upper)).sum(1)
    return float((together + apart).max())


def multiply_adds(net: Dense) -> int:
    """The multiply-adds of the matrix products in `constant`."""
    sizes: list[int] = [net.weights[0].shape[1], *(W.shape[0] for W in net.weights)]
    layers: list[int] = [a * b for a, b in pairwise(sizes)]
    hidden, outputs, last = net.hidden, sizes[-1], sizes[-2]
    pulled = sum(sizes[k + 1] * sum(layers[:k]) for k in range(hidden))
    pushed = sum(sizes[k] * (sum(layers[k + 1 : hidden]) + last) for k in range(hidden))
    return 2 * pulled + 2 * outputs * pushed + outputs * sum(layers[:hidden])
