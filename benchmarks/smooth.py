"""Lipschitz constants of smooth networks, beside CROWN of the gradient graph as auto_LiRPA computes it.

From the root of the repository: `python -m benchmarks.smooth DATA.npz NETWORK.onnx`, where DATA has x_train, y_train
and x_test as MNIST.  Beside the network given, a sigmoid network of four layers of 100 is trained on the data.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.activations import slope_lines
from recurjac.network import Network
from recurjac.relaxations import LinearRelaxation

RADII = (0.002, 0.02)
METHODS = (rj.Chords(), rj.XLinear(), rj.Centred(), rj.QuadraticNorm())


@final
@dataclass(frozen=True)
class GradientGraph:
    """CROWN of the graph that computes the gradient of one output of a chain, in plain floating point.

    Products of a slope δ in [d, D] and a gradient y in [L, U] are between L δ + d y - d L and U δ + d y - d U
    (McCormick); σ' and σ are between the lines of the library, which are at least as tight as those of auto_LiRPA; the
    sum of absolute values is between chords.  Source: Shi et al., NeurIPS 2022, arXiv:2210.07394.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    values: tuple[LinearRelaxation, ...]
    slopes: tuple[LinearRelaxation, ...]
    ranges: tuple[rj.Interval, ...]
    x: Tensor
    radius: float

    @classmethod
    def of(cls, network: Network, x: Tensor, radius: float) -> GradientGraph:
        """The graph over an l∞ ball."""
        state = rj.Problem(network, rj.LpBall(x, radius), arithmetic=rj.Fast()).preactivations()
        weights, biases = zip(*(_dense(network, k) for k in range(network.depth)), strict=True)
        inner = range(1, network.depth)
        acts = [state.stage(k).activation for k in inner]
        values = [a.lines(state.pre(k), rj.Fast()) for k, a in zip(inner, acts, strict=True)]
        slopes = [slope_lines(a, state.pre(k), 0.5, rj.Fast()) for k, a in zip(inner, acts, strict=True)]
        ranges = [state.slopes(k) for k in inner]
        return cls(weights, biases, tuple(values), tuple(slopes), tuple(ranges), x.flatten(), radius)

    def constant(self) -> float:
        """An upper bound of Σ |∂f/∂x_r|."""
        known: dict[int, tuple[Tensor, Tensor]] = {}
        for k in range(len(self.weights) - 1, -1, -1):
            eye = torch.eye(self.weights[k].shape[1], dtype=self.x.dtype)
            known[k] = -self._upper(k, -eye, known), self._upper(k, eye, known)
        low, high = (-known[0][0]).clamp(min=0), known[0][1].clamp(min=0)
        width = (low + high).clamp(min=1e-300)
        return float((self._upper(0, ((high - low) / width)[None], known) + (2 * low * high / width).sum()).detach())

    def _upper(self, start: int, c: Tensor, known: dict[int, tuple[Tensor, Tensor]]) -> Tensor:
        """Upper bounds of the rows of c times the gradient with respect to the output of layer `start`."""
        total, behind = torch.zeros(len(c), dtype=c.dtype), {}
        for k in range(start, len(self.weights) - 1):
            c = c @ self.weights[k].mT
            low, high = known[k + 1]
            d = self.ranges[k].lower[0].flatten()
            plus, minus = c.clamp(min=0), c.clamp(max=0)
            total = total - plus @ (d * high) - minus @ (d * low)
            behind[k], rest = _substituted(plus * high + minus * low, self.slopes[k])
            total, c = total + rest, c * d
        total, back = total + c @ self.weights[-1][0], None
        for k in range(len(self.weights) - 2, -1, -1):
            form = behind.get(k)
            if back is not None:
                own, rest = _substituted(back, self.values[k])
                total, form = total + rest, own if form is None else form + own
            if form is not None:
                total, back = total + form @ self.biases[k], form @ self.weights[k]
        return total if back is None else total + back @ self.x + self.radius * back.abs().sum(1)


def _substituted(form: Tensor, lines: LinearRelaxation) -> tuple[Tensor, Tensor]:
    plus, minus = form.clamp(min=0), form.clamp(max=0)
    low, up = lines.lower_slope[0, 0].flatten(), lines.upper_slope[0, 0].flatten()
    rest = plus @ lines.upper_intercept[0, 0].flatten() + minus @ lines.lower_intercept[0, 0].flatten()
    return plus * up + minus * low, rest


def _dense(network: Network, k: int) -> tuple[Tensor, Tensor]:
    """The matrix and bias of a layer of a chain."""
    stage = network.stages[k]
    eye = (
        torch.eye(network.shape(k)[0], dtype=network.dtype) if len(network.shape(k)) == 1 else _units(network.shape(k))
    )
    columns = stage.edges[0].operator.push(rj.Fast().exact(eye)).mid.flatten(1)
    bias = stage.bias(rj.Fast())
    shape = stage.shape
    return columns.mT, (torch.zeros(shape, dtype=network.dtype) if bias is None else bias.mid.expand(shape)).flatten()


def _units(shape: tuple[int, ...]) -> Tensor:
    size = int(np.prod(shape))
    return torch.eye(size, dtype=torch.float64).reshape(size, *shape)


def trained(images: Tensor, labels: Tensor, activation: type[nn.Module], epochs: int = 5) -> nn.Module:
    """A classifier with four layers of 100 neurons, from a fixed seed."""
    torch.manual_seed(0)
    sizes = (images.shape[1], 100, 100, 100, 100, 10)
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), activation())][:-1]
    module = nn.Sequential(*layers)
    for layer in module:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, gain=2.0)
    fit(module, images, labels, epochs)
    return module


def fit(module: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Train a classifier, in an order that is the same in each run."""
    adam = torch.optim.Adam(module.parameters(), lr=2e-3)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        for part in order.split(128):
            loss = nn.functional.cross_entropy(module(images[part]), labels[part])
            adam.zero_grad()
            torch.autograd.backward(loss)
            adam.step()


def rows(network: Network, images: Tensor) -> Iterator[tuple[int, float, float, float, list[tuple[float, float]]]]:
    """For each image and radius: the attained constant, the opponent's, and the bound and seconds of each method."""
    for i, x in enumerate(images):
        point = x.reshape(1, *network.input_shape)
        one = network.output(int(network(point).argmax()))
        for radius in RADII:
            ball = rj.LpBall(point, radius)
            attained = rj.lipschitz(one, ball, method=rj.FastLip()).lower.item()
            found = []
            for method in METHODS:
                began = time.perf_counter()
                upper = rj.lipschitz(one, ball, method=method, search=rj.Search(work=0)).upper.item()
                found.append((upper, time.perf_counter() - began))
            yield i, radius, attained, GradientGraph.of(one, point, radius).constant(), found


def main(data: str, path: str) -> None:
    """Print a table for the network given and one for a sigmoid network trained here."""
    arrays = np.load(data)
    images, tests = (torch.from_numpy(arrays[k]).reshape(len(arrays[k]), -1) for k in ("x_train", "x_test"))
    scale = 255.0 if images.max() > 1 else 1.0
    images, tests = images.float() / scale, tests[:10].double() / scale
    module = trained(images, torch.from_numpy(arrays["y_train"]).long(), nn.Sigmoid)
    given = rj.load(path, dtype=torch.float64)
    for title, network in ((path, given), ("sigmoid 4×100", rj.load(module.double(), tests[:1]))):
        print(title)
        print(" image  radius  attained  gradient graph  " + "  ".join(f"{m.title:>12}" for m in METHODS))
        worst = -inf
        for i, radius, attained, opponent, found in rows(network, tests):
            shown = "  ".join(f"{upper:8.2f} {seconds:3.1f}" for upper, seconds in found)
            worst = max(worst, found[1][0] / opponent)
            print(f"{i:6} {radius:7g} {attained:9.2f} {opponent:15.2f}  {shown}", flush=True)
        print(f"x-linear is at most {worst:.4f} times the bound of the gradient graph")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2])
