"""The questions of the tightness benchmark: networks, regions and norms, with the figures to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

import recurjac as rj
from recurjac.activations import AbstractActivation, Arctan, LeakyReLU, ReLU, Tanh

ASKED_AT = (10.0, 120.0)
"""The numbers of seconds for which `Question.asked` states figures."""


@final
@dataclass(frozen=True)
class Question:
    """One constant: of the output that is largest at x if `largest`, otherwise of all outputs.

    norms: of the ball, of the inputs and of the outputs.  asked: the figures that should be reached after `ASKED_AT`
    seconds.  opponent: the figure of `by`.  quick: whether it belongs to the quick run.
    box: the lower and upper ends of a region that takes the place of the ball; `radius` is then its largest half-width.
    """

    table: str
    network: str
    radius: float
    read: Callable[[], tuple[rj.Network, Tensor]]
    norms: tuple[float, float, float] = (inf, inf, inf)
    largest: bool = True
    asked: tuple[float, float] | None = None
    opponent: float | None = None
    by: str = ""
    quick: bool = False
    box: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def problem(self) -> rj.Problem:
        """The network over the ball."""
        network, x = self.read()
        flat = network.flattened_output()
        if self.largest:
            with torch.no_grad():
                flat = flat.output(int(flat(x.unsqueeze(0)).argmax()))
        if self.box is None:
            return rj.Problem(flat, rj.LpBall(x, self.radius, self.norms[0]))
        lower, upper = (torch.tensor(end, dtype=torch.float64).reshape(1, *flat.input_shape) for end in self.box)
        return rj.Problem(flat, rj.Box(lower, upper))


@final
@dataclass(frozen=True)
class WeightList:
    """A .npz file of weights and a centre `x`; without one, the centre is 0."""

    path: Path

    def __call__(self) -> tuple[rj.Network, Tensor]:
        network = rj.load(self.path)
        with np.load(self.path) as arrays:
            size = network.input_shape[0]
            x = torch.from_numpy(arrays["x"]).double() if "x" in arrays else torch.zeros(size, dtype=torch.float64)
        return network, x


@final
@dataclass(frozen=True)
class OnImage:
    """A network file, and one of the test images as its centre, with pixels from 0 to 1."""

    path: Path
    images: Path
    index: int

    def __call__(self) -> tuple[rj.Network, Tensor]:
        network = rj.load(self.path)
        with np.load(self.images) as arrays:
            x = torch.from_numpy(arrays["x_test"][self.index]).double() / 255
        if x.dim() == 3 and x.shape[-1] == 3:
            x = x.permute(2, 0, 1)
        return network, x.reshape(network.input_shape)


@final
@dataclass(frozen=True)
class Random:
    """Random dense layers of these sizes, with weights of variance `gain` / fan-in, around a random centre."""

    sizes: tuple[int, ...]
    activation: AbstractActivation
    gain: float
    seed: int

    def __call__(self) -> tuple[rj.Network, Tensor]:
        g = torch.Generator().manual_seed(self.seed)
        layers = [
            (
                torch.randn(n, m, generator=g, dtype=torch.float64) * (self.gain / m) ** 0.5,
                torch.randn(n, generator=g, dtype=torch.float64) / 10,
            )
            for m, n in pairwise(self.sizes)
        ]
        network = rj.load(layers, activation=self.activation)
        return network, torch.rand(self.sizes[0], generator=g, dtype=torch.float64)


@final
@dataclass(frozen=True)
class Onnx:
    """An ONNX file, around 0."""

    path: Path

    def __call__(self) -> tuple[rj.Network, Tensor]:
        network = rj.load(self.path)
        return network, torch.zeros(network.input_shape, dtype=torch.float64)


_CROWN = "auto_LiRPA"
_PUBLISHED = (
    # name, radius, ball, asked after 10 s and 120 s, opponent, quick
    ("mnist_6x100_relu", 0.001, inf, (160.0, 159.6), 161.88523, False),
    ("mnist_6x100_relu", 0.005, inf, (172.0, 166.0), 212.319, True),
    ("mnist_6x100_relu", 0.01, inf, (205.0, 185.0), None, False),
    ("mnist_6x100_relu", 0.02, inf, (330.0, 240.0), 64471.5, True),
    ("mnist_6x100_relu", 0.1, inf, (2400.0, 1500.0), 196556.0, False),
    ("mnist_9x200_relu", 0.005, inf, (180.0, 165.0), 270.382, False),
    ("mnist_9x200_relu", 0.02, inf, (50000.0, 450.0), 9.638e8, False),
    ("rand_leaky_10x20", 0.01, inf, (1150.0, 600.0), 58827.6, True),
    ("rand_leaky_10x20", 0.05, inf, (1900.0, 1200.0), 124177.0, False),
    ("rand_tanh_4x50", 0.05, 2.0, (31.3, 30.95), 31.46910, True),
    ("rand_arctan_3x30", 0.5, 1.0, (2.6, 2.15), 3.94231, True),
)
"""auto_LiRPA's figures are the best of its settings (git, May 2026; float64)."""
_FAMILIES = (
    ("leaky 784-9×20-10", (784, *[20] * 9, 10), LeakyReLU(0.3), 3.0, 0.01, inf, True),
    ("relu 784-5×100-10", (784, *[100] * 5, 10), ReLU(), 2.0, 0.02, inf, False),
    ("tanh 784-3×50-10", (784, *[50] * 3, 10), Tanh(), 1.0, 0.05, 2.0, True),
    ("arctan 20-2×30-10", (20, *[30] * 2, 10), Arctan(), 1.0, 0.5, 1.0, True),
)
_ELSEWHERE = (("mnist_6x100_relu", 0.005), ("mnist_6x100_relu", 0.02), ("mnist_9x200_relu", 0.005))
_GLOBAL = (("lipsdp_random_weights", 36.49, 43.30557), ("lipsdp_mnist_weights", 24.40, 31.50351))
"""Networks with the constant that should be proved, and the product of their norms."""
_SEEDS = (1, 2, 3)
_BOXES = (
    # file, box, asked after 10 s and 120 s: 1.5 and 1.15 times what is attained
    ("cases/acasxu_2_7.onnx", (-0.3035, -0.0095, 0.4934, 0.3, 0.3), (-0.2986, 0.0095, 0.5, 0.5, 0.5), (2.134, 1.636)),
    ("cases/tll_8.onnx", (-2.0, -2.0), (2.0, 2.0), (10.735, 8.23)),
    ("nets/ACASXU_run2a_1_1.onnx", (0.6, -0.5, -0.5, 0.45, -0.5), (0.68, 0.5, 0.5, 0.5, -0.45), (3.333, 2.555)),
)


def questions(shared: Path) -> Iterator[Question]:
    """All questions whose files are there."""
    reference, nets, data = shared / "reference", shared / "nets", shared / "data"
    for name, radius, ball, asked, opponent, quick in _PUBLISHED:
        read = WeightList(reference / f"{name}.npz")
        if read.path.is_file():
            yield Question("published", name, radius, read, (ball, inf, inf), asked=asked, opponent=opponent,
                           by=_CROWN, quick=quick)  # fmt: skip
    for name, sizes, activation, gain, radius, ball, quick in _FAMILIES:
        for seed in _SEEDS:
            made = Random(sizes, activation, gain, seed)
            yield Question("fresh seeds", f"{name}, seed {seed}", radius, made, (ball, inf, inf),
                           quick=quick and seed == _SEEDS[0])  # fmt: skip
    for name, wanted, product in _GLOBAL:
        read = WeightList(reference / f"{name}.npz")
        if read.path.is_file():
            yield Question("global l2", name, inf, read, (2.0, 2.0, 2.0), False, (wanted, wanted), product,
                           "product of norms", True)  # fmt: skip
    yield from _on_boxes(shared)
    yield from _on_other_images(reference, data)
    yield from _on_images(nets, data)


def _on_boxes(shared: Path) -> Iterator[Question]:
    for file, lower, upper, asked in _BOXES:
        if (shared / file).is_file():
            radius = max(b - a for a, b in zip(lower, upper, strict=True)) / 2
            yield Question("boxes of few inputs", Path(file).stem, radius, Onnx(shared / file), largest=False,
                           asked=asked, quick=True, box=(lower, upper))  # fmt: skip


def _on_other_images(reference: Path, data: Path) -> Iterator[Question]:
    """The published networks of images around ten other images."""
    for name, radius in _ELSEWHERE:
        for index in range(1, 11):
            yield from _there(reference / f"{name}.npz", data / "mnist.npz", index, radius, "other images",
                              (inf, inf, inf), True, False)  # fmt: skip


def _on_images(nets: Path, data: Path) -> Iterator[Question]:
    mnist, cifar = data / "mnist.npz", data / "cifar10_small.npz"
    for index, radius in ((i, r) for r in (0.002, 0.02) for i in range(10)):
        yield from _there(nets / "mnist_4layer_tanh_100.onnx", mnist, index, radius, "smooth", (inf, inf, inf), True,
                          index == 0)  # fmt: skip
    for radius in (0.01, 0.02):
        yield from _there(nets / "mnist_3layer_relu_1024.onnx", mnist, 0, radius, "wide", (inf, inf, inf), True, False)
    for radius in (0.01, 0.03, 0.1, 0.3, inf):
        for file, images in (("mnist_cnn_maxpool_bn.onnx", mnist), ("cifar_base_kw.onnx", cifar)):
            yield from _there(nets / file, images, 0, radius, "convolutional l2", (2.0, 2.0, 2.0), False, False)


def _there(
    path: Path, images: Path, index: int, radius: float, table: str, norms: tuple[float, float, float], largest: bool,
    quick: bool,
) -> Iterator[Question]:  # fmt: skip
    """A question about a network file around a test image, if both are there."""
    if path.is_file() and images.is_file():
        yield Question(table, f"{path.stem}, image {index}", radius, OnImage(path, images, index), norms, largest,
                       quick=quick)  # fmt: skip
