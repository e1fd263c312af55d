"""Bounds on real networks: sound, and the same from an ONNX file and from the module rebuilt in PyTorch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac.jacobian import AbstractJacobianMethod
from tests.rebuilt import MODULES, NETS, rebuilt

HEAVY = {
    "Convnet_maxpool", "cifar_resnet_small_unfolded", "marabou_cifar10_small", "mnist_cnn_maxpool_bn",
    "mnist_cnn_maxpool_bn_unfolded", "resnet_2b",
}  # fmt: skip
RADII = (0.0, 0.001, 0.01)
METHODS: tuple[AbstractJacobianMethod, ...] = (rj.Chords(), rj.RecurJac())
pytestmark = pytest.mark.skipif(not NETS.is_dir(), reason="the networks are not at hand")
every_net = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in HEAVY else []) for n in sorted(MODULES)]
)


def test_every_file_has_a_module() -> None:
    assert {p.stem for p in NETS.glob("*.onnx")} == set(MODULES)


def centre(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@every_net
def test_bounds_are_sound_and_those_of_the_module(name: str) -> None:
    """One output at three radii, against reverse-mode Jacobians of the rebuilt module at sampled points."""
    module, network = rebuilt(name), rj.load(NETS / f"{name}.onnx")
    k = 3 % math.prod(network.output_shape)
    x = centre(network.input_shape)
    one, twin = network.output(k), rj.load(module, x).output(k)
    gradient = torch.func.vmap(torch.func.jacrev(lambda v: module(v[None])[0].flatten()[k]))
    for radius in RADII:
        region = rj.LpBall(x, radius)
        bound = region.bind(network.input_shape, network.dtype, network.device)
        points = torch.cat([bound.x, bound.sample(25, torch.Generator().manual_seed(1))[0]])
        true = gradient(points).detach()
        slack = 1e-9 * float(true.abs().max()) + 1e-300
        for method in METHODS:
            bounds = rj.jacobian_bounds(one, region, method=method)
            assert bool((true >= bounds.lower[0, 0] - slack).all())
            assert bool((true <= bounds.upper[0, 0] + slack).all())
        again = rj.jacobian_bounds(twin, region, method=METHODS[-1])
        for a, b in ((bounds.lower, again.lower), (bounds.upper, again.upper)):
            assert float((a - b).abs().max().detach()) <= 1e-9 * float(a.abs().max()) + 1e-300
