"""Foreign operations become the activations that they are: ATen's by name, ONNX's by type, modules by export."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor, nn

import recurjac as rj
from recurjac.activations import (
    CELU,
    ELU,
    SELU,
    AbstractActivation,
    GELUTanh,
    HardSwish,
    HardTanh,
    SiLU,
)
from recurjac.registry import Registry, onnx_ops, torch_ops
from tests.helpers import concrete_classes


@dataclass(frozen=True)
class Recorder:
    """An expression that answers with the activation it is asked for."""

    shape: tuple[int, ...] = (1, 3)

    def activate(self, activation: AbstractActivation) -> AbstractActivation:
        return activation


Z = torch.linspace(-8, 8, 1001, dtype=torch.float64)
TORCH: dict[str, tuple[dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "aten.hardtanh.default": ({}, F.hardtanh),
    "aten.hardtanh_.default": ({"min_val": -2.0, "max_val": 0.5}, lambda z: z.clamp(-2, 0.5)),
    "aten.relu6.default": ({}, F.relu6),
    "aten.abs.default": ({}, torch.abs),
    "aten.celu.default": ({"alpha": 1.3}, lambda z: F.celu(z, 1.3)),
    "aten.selu.default": ({}, F.selu),
    "aten.log_sigmoid.default": ({}, F.logsigmoid),
    "aten.erf.default": ({}, torch.erf),
    "aten.gelu.default": ({}, F.gelu),
    "aten.gelu_.default": ({"approximate": "tanh"}, lambda z: F.gelu(z, approximate="tanh")),
    "aten.silu.default": ({}, F.silu),
    "aten.mish.default": ({}, F.mish),
    "aten.hardswish.default": ({}, F.hardswish),
    "aten.sin.default": ({}, torch.sin),
    "aten.cos.default": ({}, torch.cos),
    "aten.exp.default": ({}, torch.exp),
}
ONNX: dict[str, list[tuple[dict[str, Any], Callable[[Tensor], Tensor]]]] = {
    "Relu": [({}, F.relu)],
    "LeakyRelu": [({}, F.leaky_relu), ({"alpha": 0.3}, lambda z: F.leaky_relu(z, 0.3))],
    "Elu": [({}, F.elu), ({"alpha": 1.5}, lambda z: F.elu(z, 1.5))],
    "Celu": [({}, F.celu), ({"alpha": 1.5}, lambda z: F.celu(z, 1.5))],
    "Selu": [({"alpha": 0.5, "gamma": 2.0}, lambda z: 2 * F.elu(z, 0.5))],
    "Sigmoid": [({}, torch.sigmoid)],
    "Tanh": [({}, torch.tanh)],
    "Atan": [({}, torch.atan)],
    "Softplus": [({}, F.softplus)],
    "Softsign": [({}, F.softsign)],
    "Erf": [({}, torch.erf)],
    "Gelu": [({}, F.gelu), ({"approximate": "tanh"}, lambda z: F.gelu(z, approximate="tanh"))],
    "Swish": [({}, F.silu), ({"alpha": 0.7}, lambda z: z * torch.sigmoid(0.7 * z))],
    "Mish": [({}, F.mish)],
    "HardSwish": [({}, F.hardswish)],
    "Sin": [({}, torch.sin)],
    "Cos": [({}, torch.cos)],
    "Exp": [({}, torch.exp)],
    "Abs": [({}, torch.abs)],
}
CASES = [
    *((torch_ops, name, *case) for name, case in TORCH.items()),
    *((onnx_ops, name, *case) for name, cases in ONNX.items() for case in cases),
]


@pytest.mark.parametrize(
    ("registry", "name", "arguments", "function"), [pytest.param(*c, id=f"{c[1]}-{len(c[2])}") for c in CASES]
)
def test_readers_give_the_function(
    registry: Registry, name: str, arguments: dict[str, Any], function: Callable[[Tensor], Tensor]
) -> None:
    activation = registry.readers[name](Recorder(), **arguments)
    # PyTorch's softplus is z past its threshold of 20 and differs there by exp(-20)
    torch.testing.assert_close(activation.value(Z), function(Z), rtol=1e-13, atol=1e-13)


def test_onnx_selu_has_the_constants_of_its_standard() -> None:
    """Float32 numbers; PyTorch's are of higher precision."""
    activation = onnx_ops.readers["Selu"](Recorder())
    assert (activation.alpha, activation.gamma) == (1.67326319217681884765625, 1.05070102214813232421875)
    torch.testing.assert_close(activation.value(Z), F.selu(Z), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 3, 1, 1), (1,), (), (5,), (1, 1, 4, 5)])
def test_onnx_slopes_broadcast_against_the_tensor(shape: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slope = torch.linspace(-1, 2, math.prod(shape), dtype=torch.float64).reshape(shape)
    activation = onnx_ops.readers["PRelu"](Recorder((1, 3, 4, 5)), slope)
    torch.testing.assert_close(activation.value(x), torch.where(x >= 0, x, slope * x))
    activation.slope_below(torch.zeros(3, 4, 5))


def test_torch_slopes_belong_to_the_second_axis() -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slope = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    reader = torch_ops.readers["aten.prelu.default"]
    torch.testing.assert_close(reader(Recorder((1, 3, 4, 5)), slope).value(x), F.prelu(x, slope))
    torch.testing.assert_close(reader(Recorder((1, 3)), slope).value(x[:, :, 0, 0]), F.prelu(x[:, :, 0, 0], slope))
    torch.testing.assert_close(reader(Recorder((1, 3, 4, 5)), slope[:1]).value(x), F.prelu(x, slope[:1]))


def test_modules_are_read_from_an_export() -> None:
    modules = [
        *(nn.SELU(), nn.CELU(0.7), nn.ReLU6(), nn.Hardtanh(-0.5, 2.0), nn.LogSigmoid(), nn.Hardswish(), nn.Mish()),
        *(nn.SiLU(), nn.GELU(), nn.GELU(approximate="tanh")),
        *(nn.SELU(inplace=True), nn.CELU(inplace=True), nn.ReLU6(inplace=True), nn.Hardtanh(inplace=True)),
        *(nn.Hardswish(inplace=True), nn.Mish(inplace=True), nn.SiLU(inplace=True)),
    ]
    torch.manual_seed(0)
    module = nn.Sequential(*(m for a in modules for m in (nn.Linear(4, 4), a))).double().eval()
    x = torch.randn(3, 4, dtype=torch.float64)
    network = rj.load(module, x[:1])
    assert len(network.stages) == len(modules) + 1
    torch.testing.assert_close(network(x), module(x))


REFUSED: dict[str, Callable[[], object]] = {
    "hard tanh of equal ends": lambda: HardTanh(1.0, 1.0),
    "hard tanh of one end": lambda: HardTanh(-math.inf, 1.0),
    "hard tanh of NaN": lambda: HardTanh(math.nan, 1.0),
    "hard tanh past float32": lambda: HardTanh(-1e300, 1.0).to(torch.float32, torch.device("cpu")),
    "CELU of 0": lambda: CELU(0.0),
    "ELU of NaN": lambda: ELU(math.nan),
    "SELU of a falling slope": lambda: SELU(1.0, -1.0),
    "SiLU of 0": lambda: SiLU(0.0),
    "GELU of a steep cubic": lambda: GELUTanh(1.0, 0.2),
    "GELU of a falling cubic": lambda: GELUTanh(1.0, -0.01),
    "GELU of NaN": lambda: GELUTanh(math.nan),
    "hard swish without a parabola": lambda: HardSwish(0.0),
    "hard swish that starts at 0": lambda: HardSwish(1.0, 0.0),
    "unknown GELU": lambda: torch_ops.readers["aten.gelu.default"](Recorder(), approximate="erf"),
    "ELU with SELU's scale": lambda: torch_ops.readers["aten.elu.default"](Recorder(), 1.6, 1.05),
    "slopes of another shape": lambda: onnx_ops.readers["PRelu"](Recorder((1, 3)), torch.ones(2, 3)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_proved_is_refused(case: str) -> None:
    with pytest.raises(ValueError, match=r".{10}"):
        REFUSED[case]()


def test_nan_stays_nan() -> None:
    nan = torch.full((1,), math.nan, dtype=torch.float64)
    for cls in concrete_classes(AbstractActivation):
        for activation in cls.examples():
            assert bool(activation.value(nan).isnan()), activation
