"""Activations that are spelled out as products, quotients and powers, in PyTorch and in ONNX with float32 constants."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor, nn

import recurjac as rj
from recurjac.activations import AbstractActivation, GELUTanh, HardSwish
from recurjac.network import Network
from tests.torch_cases import Fn, norm

Formula = Callable[[Tensor], Tensor]
ROOT = math.sqrt(2)
C, K = math.sqrt(2 / math.pi), 0.044715

FORMS: dict[str, tuple[Formula, str]] = {
    "silu": (lambda x: x * torch.sigmoid(x), "silu"),
    "silu-turned": (lambda x: torch.sigmoid(x) * x, "silu"),
    "silu-beta": (lambda x: x * torch.sigmoid(1.702 * x), "silu"),
    "silu-scaled": (lambda x: 2 * x * (torch.sigmoid(x / 3) * 0.7), "silu"),
    "silu-downwards": (lambda x: x * torch.sigmoid(-x), "silu"),
    "silu-shifted": (lambda x: (x + 0.3) * torch.sigmoid((x + 0.3) * 2), "silu"),
    "silu-quotient": (lambda x: x / (1 + torch.exp(-x)), "silu"),
    "silu-tanh": (lambda x: 0.5 * x * (1 + torch.tanh(x * 0.5)), "silu"),
    "silu-more": (lambda x: x * (torch.sigmoid(x) + 0.25), "silu"),
    "gelu": (lambda x: 0.5 * x * (1 + torch.erf(x / ROOT)), "gelu"),
    "gelu-turned": (lambda x: x * 0.5 * (torch.erf(x / ROOT) + 1.0), "gelu"),
    "gelu-inside": (lambda x: x * (0.5 * (1 + torch.erf(x * (1 / ROOT)))), "gelu"),
    "gelu-outside": (lambda x: (x * (torch.erf(x / ROOT) + 1)) * 0.5, "gelu"),
    "gelu-spread": (lambda x: x * (0.5 + 0.5 * torch.erf(x * 0.7071)), "gelu"),
    "gelu-first": (lambda x: (1.0 + torch.erf(x / 1.4142)) * x / 2, "gelu"),
    "gelu-minus": (lambda x: x * (1 - torch.erf(-x / ROOT)), "gelu"),
    "gelu-tanh": (lambda x: 0.5 * x * (1 + torch.tanh(C * (x + K * torch.pow(x, 3)))), "gelu_tanh"),
    "gelu-tanh-products": (lambda x: x * 0.5 * (1.0 + torch.tanh(C * (x + K * x * x * x))), "gelu_tanh"),
    "gelu-tanh-factored": (lambda x: 0.5 * x * (1.0 + torch.tanh(x * 0.797884 * (1.0 + K * x * x))), "gelu_tanh"),
    "mish": (lambda x: x * torch.tanh(F.softplus(x)), "mish"),
    "hard-swish": (lambda x: x * F.relu6(x + 3) / 6, "hard_swish"),
    "hard-swish-clip": (lambda x: x * torch.clamp(x * 0.2 + 0.4, 0.0, 1.0), "hard_swish"),
    "hard-swish-wide": (lambda x: x * torch.clamp(x + 1, 0.0, 4.0), "hard_swish"),
    "hard-swish-falling": (lambda x: x * torch.clamp(0.5 - x, 0.0, 1.0), "hard_swish"),
    "softsign": (lambda x: x / (1 + x.abs()), "softsign"),
    "softsign-scaled": (lambda x: 3 * x / (x.abs() * 0.5 + 2), "softsign"),
    "square": (lambda x: x * x, "square"),
    "square-scaled": (lambda x: (2 * x) * (x - 0.5), "square"),
    "square-power": (lambda x: x**2 + 1, "square"),
    "squared-relu": (lambda x: torch.relu(x) ** 2, "squared_relu"),
    "squared-relu-product": (lambda x: (h := torch.relu(x)) * h, "squared_relu"),
    "squared-relu-scaled": (lambda x: 0.5 * (-2 * torch.relu(3 * x)) ** 2 + 1, "squared_relu"),
    "cube": (lambda x: x**3, "cube"),
    "cube-product": (lambda x: x * x * x, "cube"),
    "sigmoid": (lambda x: 1 / (1 + torch.exp(-x)), "sigmoid"),
    "log-sigmoid": (lambda x: torch.log(torch.sigmoid(x)), "log_sigmoid"),
    "log-sigmoid-soft": (lambda x: -F.softplus(-x), "softplus"),
}  # fmt: skip
TORCH_ONLY: dict[str, tuple[Formula, str]] = {
    "hard-sigmoid": (lambda x: x * F.hardsigmoid(x), "hard_swish"),
    "softsign-named": (F.softsign, "softsign"),
    "squared-relu-named": (lambda x: torch.square(F.relu(x)), "squared_relu"),
    "in-place": (lambda x: (x + 0).mul_(torch.sigmoid(x)), "silu"),
}
NEAR_MISSES: dict[str, Formula] = {
    "another variable": lambda x: x * torch.sigmoid(x.flip(-1)),
    "another slope": lambda x: x * torch.sigmoid(x * torch.tensor([1.0, 2, 3, 4])),
    "a shift": lambda x: x * torch.sigmoid(x + 1),
    "a shift of erf": lambda x: x * (1 + torch.erf(x + 0.5)),
    "a shift of the other": lambda x: (x + 0.1) * (1 + torch.erf(x)),
    "unequal shifts": lambda x: (x + torch.tensor([0.0, 0.1, 0.2, 0.3])) * torch.sigmoid(x),
    "one entry": lambda x: x * torch.sigmoid(x[..., :1]),
    "relu": lambda x: x * torch.relu(x),
    "two gates": lambda x: torch.tanh(x) * torch.sigmoid(x),
    "cubic of another": lambda x: x * (1 + torch.tanh(x + 0.1 * x.flip(-1) ** 3)),
    "mish of another slope": lambda x: x * torch.tanh(2 * F.softplus(x)),
    "divided": lambda x: x / (1 + x.flip(-1).abs()),
    "divided by less": lambda x: x / (x.abs() - 1),
    "inverse": lambda x: 1 / x,
    "power": lambda x: x**4,
    "root": lambda x: (x * x) ** 0.5,
    "logarithm": lambda x: torch.log(x * x + 0.1),
    "logarithm of a shift": lambda x: torch.log(torch.sigmoid(x) + 1),
    "glu": lambda x: torch.cat([x[..., :2] * torch.sigmoid(x[..., 2:])] * 2, -1),
    "steep gelu": lambda x: x * (1 + torch.tanh(x + x**3)),
}  # fmt: skip


def module(formula: Formula) -> nn.Module:
    """A formula of a layer's outputs."""
    torch.manual_seed(0)
    return Fn(lambda p, x: p[1](formula(p[0](x))), nn.Linear(3, 4), nn.Linear(4, 2))


WHERE: dict[str, tuple[Callable[[Formula], nn.Module], tuple[int, ...]]] = {
    "input": (lambda f: Fn(lambda _, x: f(x)), (3,)),
    "image": (lambda f: nn.Sequential(nn.Conv2d(2, 3, 2), norm(nn.BatchNorm2d), Fn(lambda _, x: f(x))), (2, 3, 3)),
    "deep": (lambda f: Fn(lambda p, x: f(p[1](f(F.leaky_relu(p[0](x))))), nn.Linear(3, 4), nn.Linear(4, 2)), (3,)),
    "sum": (lambda f: Fn(lambda p, x: f(p[0](x) + F.relu(p[1](x)) - x), *(nn.Linear(3, 3) for _ in range(2))), (3,)),
}
"""Where in a module a formula may stand."""


def activations(network: Network) -> list[AbstractActivation]:
    return [s.activation for s in network.stages if not s.linear]


@pytest.mark.parametrize("name", [*FORMS, *TORCH_ONLY])
def test_a_formula_is_one_activation(name: str) -> None:
    formula, activation = {**FORMS, **TORCH_ONLY}[name]
    original = module(formula)
    network = rj.load(original, torch.ones(1, 3))
    assert [a.name for a in activations(network)] == [activation]
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3
    torch.testing.assert_close(network(x), original.double()(x), rtol=1e-9, atol=1e-12)
    point = x[:1] * 0.4
    exact = rj.jacobian_bounds(network, rj.LpBall(point, 0.0), method=rj.Chords())
    truth = torch.autograd.functional.jacobian(original, point)[0, :, 0]
    torch.testing.assert_close(exact.upper[0], truth, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(exact.lower[0], truth, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(
    "name", ["silu", "gelu", "gelu-tanh-products", "hard-swish", "softsign", "square", "cube", "mish"]
)
def test_a_formula_stands_anywhere(name: str, where: str) -> None:
    """And so its variable may be an input, a sum, a convolution's or another formula's result."""
    make, shape = WHERE[where]
    torch.manual_seed(1)
    network = rj.load(make(FORMS[name][0]), torch.ones(1, *shape))
    assert [a.name for a in activations(network) if "relu" not in a.name] == [FORMS[name][1]] * (
        2 if where == "deep" else 1
    )


def test_powers_of_a_relu() -> None:
    """The square of a ReLU times the ReLU is its cube; a square of anything but a multiple of a ReLU stays a square."""
    for formula, names in (
        (lambda x: (h := F.relu(x)) * h * h, ["relu", "cube"]),
        (lambda x: (h := 2 * F.relu(3 * x)) * h**2, ["relu", "cube"]),
        (lambda x: F.relu(x) ** 3, ["relu", "cube"]),
        (lambda x: (F.relu(x) + 1) ** 2, ["relu", "square"]),
        (lambda x: (h := F.relu(x)) * (2 * h + 1), ["relu", "squared_relu"]),
        (lambda x: F.relu(x) ** 2 * F.relu(-x), ["product", "product", "relu", "squared_relu"]),
    ):
        original = module(formula)
        network = rj.load(original, torch.ones(1, 3))
        assert sorted(a.name for a in activations(network)) == sorted(names)


def test_the_constants_of_a_formula_are_those_of_the_activation() -> None:
    def of(name: str) -> AbstractActivation:
        return activations(rj.load(module(FORMS[name][0]), torch.ones(1, 3)))[0]

    assert of("hard-swish-clip") == HardSwish(0.2, 0.4)
    for name in ("gelu-tanh", "gelu-tanh-products"):
        found = of(name)
        assert isinstance(found, GELUTanh)
        assert found.c == pytest.approx(C, rel=1e-14)
        assert found.k == pytest.approx(K, rel=1e-14)


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_what_is_no_activation_is_read_as_what_it_is(name: str) -> None:
    """`load` compares it with the module, so that it would refuse an activation that is only near."""
    network = rj.load(module(NEAR_MISSES[name]), torch.ones(1, 3))
    assert [a.name for a in activations(network)] not in [[known] for _, known in FORMS.values()]
    assert network.has_products == (name not in ("inverse", "power", "root", "logarithm", "logarithm of a shift"))


def test_a_learned_slope_is_no_constant() -> None:
    """The network is to follow it, and an activation holds numbers."""
    swish = Fn(lambda p, x: x * torch.sigmoid(p[0].weight[0, 0] * x), nn.Linear(1, 1))
    network = rj.load(swish, torch.ones(1, 3), dtype=torch.float32)
    assert [a.name for a in activations(network)] == ["sigmoid", "product", "product"]


def test_a_copy_of_a_learned_slope_is_a_constant_whose_change_is_noticed() -> None:
    """In float64 the network follows no weights of a float32 module."""
    swish = Fn(lambda p, x: x * torch.sigmoid(p[0].weight[0, 0] * x), nn.Linear(1, 1))
    network, region = rj.load(swish, torch.ones(1, 3)), rj.LpBall(torch.zeros(3), 0.1)
    assert [a.name for a in activations(network)] == ["silu"]
    rj.jacobian_bounds(network, region)
    with torch.no_grad():
        swish.parts[0].weight.fill_(2.0)  # type: ignore[operator]
    with pytest.raises(rj.InvalidNetwork, match="changed after"):
        rj.jacobian_bounds(network, region)


def test_a_learned_slope_in_a_file_is_a_constant(tmp_path: Path) -> None:
    swish = Fn(lambda p, x: x * torch.sigmoid(p[0].weight[0, 0] * x), nn.Linear(1, 1))
    torch.export.save(torch.export.export(swish, (torch.ones(1, 3),)), tmp_path / "m.pt2")
    assert [a.name for a in activations(rj.load(tmp_path / "m.pt2"))] == ["silu"]


def test_a_slope_that_changes_is_noticed() -> None:
    """The network holds the number that a buffer was."""
    swish = Fn(lambda p, x: p[0](x * torch.sigmoid(p[1].running_var * x)), nn.Linear(1, 1), nn.BatchNorm1d(1))
    network = rj.load(swish, torch.ones(1, 1), dtype=torch.float32)
    region = rj.LpBall(torch.zeros(1), 0.1)
    rj.jacobian_bounds(network, region)
    swish.parts[1].running_var.fill_(2.0)  # type: ignore[operator]
    with pytest.raises(rj.InvalidNetwork, match="changed after"):
        rj.jacobian_bounds(network, region)


# ONNX

OPERATORS = {
    "mul": "Mul", "add": "Add", "sub": "Sub", "div": "Div", "sigmoid": "Sigmoid", "erf": "Erf", "tanh": "Tanh",
    "pow": "Pow", "softplus": "Softplus", "abs": "Abs", "exp": "Exp", "neg": "Neg", "clamp": "Clip", "relu6": "Clip",
    "hardtanh": "Clip", "log": "Log", "rsub": "Sub", "reciprocal": "Reciprocal", "relu": "Relu",
}  # fmt: skip


def onnx_model(formula: Formula, path: Path) -> Path:
    """W₂ formula(W₁ x + b) as an ONNX file in float32: the operations that PyTorch traces, and scalars as constants."""
    onnx = pytest.importorskip("onnx")
    g = np.random.default_rng(0)
    weights = {"W1": g.normal(size=(3, 4)), "b1": g.normal(size=4), "W2": g.normal(size=(4, 2))}
    nodes = [onnx.helper.make_node("Gemm", ["x", "W1", "b1"], ["z"])]

    def name(value: Any) -> str:
        if isinstance(value, torch.fx.Node):
            return {"placeholder": "z"}.get(value.op, value.name)
        weights[f"c{len(weights)}"] = np.array(value)
        return f"c{len(weights) - 1}"

    class Whole(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return formula(x)

    last = "z"
    for node in torch.export.export(Whole(), (torch.ones(1, 4),)).graph.nodes:
        if node.op == "call_function":
            operation = str(node.target).split(".")[1]
            arguments = [*node.args, 0.0, 6.0] if operation == "relu6" else list(node.args)
            if operation == "rsub":
                arguments = arguments[::-1]
            last = node.name
            nodes.append(onnx.helper.make_node(OPERATORS[operation], [name(a) for a in arguments], [last]))
    nodes.append(onnx.helper.make_node("MatMul", [last, "W2"], ["y"]))
    tensors = [onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()]
    ends = [onnx.helper.make_tensor_value_info(n, 1, [None, size]) for n, size in (("x", 3), ("y", 2))]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]), str(path))
    return path


@pytest.mark.parametrize("name", FORMS)
def test_a_formula_in_onnx_is_one_activation(name: str, tmp_path: Path) -> None:
    """Loading compares it with onnx.reference on the same float32 constants to 1e-9."""
    formula, activation = FORMS[name]
    network = rj.load(onnx_model(formula, tmp_path / "m.onnx"))
    assert [a.name for a in activations(network)] == [activation]


@pytest.mark.parametrize("name", ["a shift", "a shift of erf", "relu", "two gates", "power", "inverse", "logarithm"])
def test_what_is_no_activation_in_onnx_is_read_as_what_it_is(name: str, tmp_path: Path) -> None:
    formula = NEAR_MISSES[name] if name != "relu" else lambda x: x * torch.exp(x)
    network = rj.load(onnx_model(formula, tmp_path / "m.onnx"))
    assert network.has_products == (name not in ("inverse", "power", "logarithm"))
