"""What is measured: networks, and the job on each of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from math import exp, inf, log
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

import recurjac as rj
from benchmarks import textbook
from benchmarks.measure import Work, counted
from recurjac.activations import ReLU
from recurjac.arithmetic import AbstractArithmetic
from recurjac.jacobian import AbstractJacobianMethod, Gradients
from recurjac.network import Network, chain

Weights = Sequence[tuple[Tensor, Tensor]]


class AbstractSource(ABC):
    """Where a network comes from."""

    @property
    @abstractmethod
    def title(self) -> str:
        """The name used in the tables."""

    @abstractmethod
    def network(self) -> Network:
        """The network with all of its outputs."""

    @abstractmethod
    def centre(self, batch: int) -> Tensor:
        """The inputs around which it is bounded, (batch, *input)."""


class AbstractLayers(AbstractSource):
    """Dense layers with ReLU between them."""

    @abstractmethod
    def layers(self) -> Weights:
        """Weights (out, in) and biases."""

    @final
    def network(self) -> Network:
        layers = self.layers()
        return chain([*layers], [ReLU()] * (len(layers) - 1))


@final
@dataclass(frozen=True)
class Generated(AbstractLayers):
    """Normal weights with variance 2 / in, without biases; `depth` is the number of weight layers."""

    inputs: int
    width: int
    depth: int
    outputs: int

    @property
    def title(self) -> str:
        hidden = self.depth - 1
        return f"{self.inputs}-{hidden}×{self.width}-{self.outputs}"

    def layers(self) -> Weights:
        g = torch.Generator().manual_seed(0)
        sizes = (self.inputs, *[self.width] * (self.depth - 1), self.outputs)
        return [
            (torch.randn(b, a, generator=g, dtype=torch.float64) * (2 / a) ** 0.5, torch.zeros(b, dtype=torch.float64))
            for a, b in pairwise(sizes)
        ]

    def centre(self, batch: int) -> Tensor:
        return _random(batch, (self.inputs,))


@final
@dataclass(frozen=True)
class Reference(AbstractLayers):
    """A ReLU network from an archive of `n_layers`, `W0`, `b0`, … and the input `x`."""

    path: Path

    @property
    def title(self) -> str:
        return self.path.stem

    def layers(self) -> Weights:
        return _archive(self.path)[1]

    def centre(self, batch: int) -> Tensor:
        return _archive(self.path)[0].expand(batch, -1)


@lru_cache(maxsize=1)
def _archive(path: Path) -> tuple[Tensor, Weights]:
    with np.load(path) as archive:
        layers = [
            (torch.tensor(archive[f"W{i}"]).double(), torch.tensor(archive[f"b{i}"]).double())
            for i in range(int(archive["n_layers"]))
        ]
        return torch.tensor(archive["x"]).double().reshape(1, -1), layers


@final
@dataclass(frozen=True)
class OnnxFile(AbstractSource):
    """A network from an ONNX file, around a random input in [0, 1]."""

    path: Path

    @property
    def title(self) -> str:
        return self.path.stem

    def network(self) -> Network:
        return _loaded(self.path)

    def centre(self, batch: int) -> Tensor:
        return _random(batch, self.network().input_shape)


@lru_cache(maxsize=1)
def _loaded(path: Path) -> Network:
    return rj.load(path)


def _random(batch: int, shape: tuple[int, ...]) -> Tensor:
    return torch.rand(batch, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class AbstractOpponent(ABC):
    """One way to do the job."""

    @property
    @abstractmethod
    def titles(self) -> tuple[str, str]:
        """The names of the method and the arithmetic."""

    @abstractmethod
    def job(self, case: Case) -> Callable[[], Any]:
        """A function that computes pre-activation bounds, Jacobian bounds and the l∞ constant; it can be repeated."""

    @abstractmethod
    def work(self, case: Case) -> Work:
        """The work done by one run."""


@final
@dataclass(frozen=True)
class Ours(AbstractOpponent):
    """This library, with CROWN bounds of the pre-activations."""

    method: AbstractJacobianMethod
    arithmetic: AbstractArithmetic

    @property
    def titles(self) -> tuple[str, str]:
        return self.method.title, type(self.arithmetic).__name__

    def job(self, case: Case) -> Callable[[], Any]:
        net = case.network().flattened_output()
        problem = rj.Problem(net, case.region(), arithmetic=self.arithmetic)
        norm = rj.JacobianNorm(self.method)

        def run() -> list[Tensor]:
            return [norm.norm(Gradients(part), inf, inf) for part in problem.batches()]

        return run

    def work(self, case: Case) -> Work:
        return counted(self.job(case))


@final
@dataclass(frozen=True)
class Textbook(AbstractOpponent):
    """CROWN and RecurJac-B in plain NumPy, exactly as in the papers; for one sample and dense layers."""

    @property
    def titles(self) -> tuple[str, str]:
        return "textbook", "NumPy"

    def job(self, case: Case) -> Callable[[], Any]:
        net = self._dense(case)
        x = case.source.centre(1)[0].numpy()
        return partial(textbook.constant, net, x, case.radius)

    def work(self, case: Case) -> Work:
        return Work(textbook.multiply_adds(self._dense(case)), None)

    @staticmethod
    def _dense(case: Case) -> textbook.Dense:
        if not isinstance(case.source, AbstractLayers) or case.batch > 1:
            raise TypeError(f"the textbook bounds one sample of dense layers, not {case}")
        weights, biases = (tuple(t.numpy() for t in ts) for ts in zip(*case.source.layers(), strict=True))
        rows = slice(case.outputs)
        return textbook.Dense((*weights[:-1], weights[-1][rows]), (*biases[:-1], biases[-1][rows]))


@final
@dataclass(frozen=True)
class Case:
    """One measurement.  variable, value: the quantity that its table varies, and its value here.

    outputs: 1 for the first output alone, None for all.  memory: whether its peak memory is also measured.
    device: where the job and the unit are computed.
    """

    table: str
    variable: str
    value: float
    source: AbstractSource
    radius: float
    opponent: AbstractOpponent
    outputs: int | None = None
    batch: int = 1
    threads: int = 1
    memory: bool = False
    device: str = "cpu"

    def network(self) -> Network:
        net = self.source.network().to(torch.float64, torch.device(self.device))
        return net if self.outputs is None else net.output(0)

    def region(self) -> rj.LpBall:
        return rj.LpBall(self.source.centre(self.batch).to(self.device), self.radius)

    def job(self) -> Callable[[], Any]:
        """The job for the opponent."""
        return self.opponent.job(self)


def unstable(network: Network, region: rj.LpBall) -> float:
    """The number of neurons without a known slope over the region, by `Crown`; the mean over the batch."""
    net = network.flattened_output()
    problem = rj.Problem(net, region, arithmetic=rj.Fast())
    rule = problem.chain()
    masks = [rule.unstable(k) for k in range(1, rule.end)]
    return sum(int(m.sum()) for m in masks if m is not None) / problem.bound.batch


@lru_cache
def radius_with(source: AbstractSource, wanted: float) -> float:
    """A radius at which about that many neurons are unstable (within a twentieth, if bisection finds one)."""
    network, centre = source.network(), source.centre(1)
    low, high = log(1e-9), 0.0
    middle = high
    for _ in range(30):
        middle = (low + high) / 2
        found = unstable(network, rj.LpBall(centre, exp(middle)))
        if abs(found - wanted) <= wanted / 20:
            break
        low, high = (middle, high) if found < wanted else (low, middle)
    return exp(middle)
