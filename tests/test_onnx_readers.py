"""Every ONNX operator that is read: the network computes what onnxruntime does, and its bounds hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("onnx")

import recurjac as rj
from recurjac.loading.onnx_file import _CASTS, _MOVES
from recurjac.network import Network
from recurjac.registry import onnx_ops
from tests import attention_cases, onnx_cases, onnx_cases_blocks, onnx_cases_shapes, recurrent_cases
from tests.onnx_models import FLOAT, TensorProto, helper, model, node

runtime = pytest.importorskip("onnxruntime")
CASES: dict[str, Any] = {
    **onnx_cases.CASES, **onnx_cases_shapes.CASES, **onnx_cases_blocks.CASES, **attention_cases.ONNX,
    **recurrent_cases.ONNX,
}  # fmt: skip
REFUSED_BY_RUNTIME = ("Conv SAME_UPPER dilated", "LRN of two", "SwiGLU", "SwiGLU by a constant")
"""What onnxruntime 1.32 does not have; `load` alone compares these, with `onnx.reference`."""


def read_by_us(model: Any) -> Iterator[str]:
    """The types of the nodes that depend on the input."""
    known = {v.name for v in model.graph.input} - {t.name for t in model.graph.initializer}
    for one in model.graph.node:
        if known & set(one.input):
            known |= set(one.output)
            yield one.op_type


def test_every_reader_has_a_case() -> None:
    """A new reader needs a model in one of the files of cases."""
    covered = {kind for model in CASES.values() for kind in read_by_us(model)}
    assert not (_MOVES | _CASTS | set(onnx_ops.readers)) - covered


def points(name: str, network: Network, count: int) -> Tensor:
    """Inputs that float32 holds."""
    g = torch.Generator().manual_seed(len(name))
    return torch.randn(count, *network.input_shape, generator=g).double()


def outputs(model: Any, x: Tensor) -> Tensor:
    """What onnxruntime makes of each input, batch axes dropped."""
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL  # which quantises activations
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = next(v for v in session.get_inputs() if v.name == "x" or len(session.get_inputs()) == 1)
    shape = [n if isinstance(n, int) else 1 for n in wanted.shape]
    dtype = np.float64 if "double" in wanted.type else np.float32
    rows = [session.run(None, {wanted.name: row.numpy().astype(dtype).reshape(shape)})[0] for row in x]
    return torch.from_numpy(np.stack(rows)).double()


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Network]:
    """The network of a case, read once."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"

    @cache
    def once(name: str) -> Network:
        path.write_bytes(CASES[name].SerializeToString())
        return rj.load(path)

    return once


@pytest.mark.parametrize("name", [n for n in CASES if n not in REFUSED_BY_RUNTIME])
def test_a_model_computes_what_onnxruntime_does(name: str, load: Callable[[str], Network]) -> None:
    """That it computes what `onnx.reference` does is checked by `load`."""
    network = load(name)
    x = points(name, network, 6)
    theirs = outputs(CASES[name], x)
    ours = network(x)
    assert ours[0].numel() == theirs[0].numel()
    assert tuple(ours.shape[1:]) in (tuple(theirs.shape[1:]), tuple(theirs.shape[2:]))
    scale = float(theirs.abs().max())
    torch.testing.assert_close(ours.reshape(theirs.shape), theirs, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("name", CASES)
def test_bounds_of_a_model_hold(name: str, load: Callable[[str], Network]) -> None:
    """At a point they are its Jacobian, and around it they hold those of nearby points."""
    network = load(name)
    x = points(name, network, 1)
    exact = rj.jacobian_bounds(network, rj.LpBall(x, 0.0), method=rj.Chords())
    truth = jacobians(network, x)
    for side in (exact.lower, exact.upper):
        torch.testing.assert_close(side, truth, rtol=1e-8, atol=1e-8 * float(truth.abs().max()))
    near = x + 0.05 * (2 * torch.rand(4, *x.shape[1:], generator=torch.Generator().manual_seed(0), dtype=x.dtype) - 1)
    bounds, found = rj.jacobian_bounds(network, rj.LpBall(x, 0.05), method=rj.Chords()), jacobians(network, near)
    assert bool((bounds.lower - 1e-9 <= found).all())
    assert bool((found <= bounds.upper + 1e-9).all())


def jacobians(network: Network, x: Tensor) -> Tensor:
    """∂f/∂x at each point, (points, *output, *input), by automatic differentiation."""
    each = [torch.func.jacrev(lambda t: network(t.unsqueeze(0))[0])(row) for row in x]
    return torch.stack(each)


def test_a_quantised_weight_has_its_numbers(load: Callable[[str], Network]) -> None:
    """A power of two as scale, at each opset: the bounds cover rounding, since no weight is rounded."""
    weight = np.random.default_rng(3).integers(-9, 9, (6, 6)) * 0.125
    for opset in (10, 13, 19, 21):
        network = load(f"DequantizeLinear of opset {opset}")
        bounds = rj.jacobian_bounds(network, rj.LpBall(torch.zeros(1, 6), 1.0))
        assert bounds.rigorous
        torch.testing.assert_close(bounds.upper[0], torch.from_numpy(weight.T), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16"])
def test_weights_of_half_precision_are_read(kind: str, tmp_path: Any) -> None:
    weight = np.random.default_rng(0).integers(-9, 9, (6, 2)) / 8
    half = TensorProto.DataType.Value(kind)
    stored = helper.make_tensor("h", half, [6, 2], weight.flatten().tolist())
    made = model([node("Cast", "h", "w", to=FLOAT), node("MatMul", "x w")], [1, 6], extra=[stored])
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    bounds = rj.jacobian_bounds(rj.load(tmp_path / "m.onnx"), rj.LpBall(torch.zeros(1, 6), 1.0))
    assert bounds.rigorous
    torch.testing.assert_close(bounds.upper[0], torch.from_numpy(weight.T), rtol=1e-12, atol=0)


def test_weights_of_four_bits_are_read(tmp_path: Any) -> None:
    weight = np.random.default_rng(0).integers(-8, 8, (6, 2))
    stored = helper.make_tensor("q", TensorProto.INT4, [6, 2], weight.flatten().tolist())
    nodes = [node("DequantizeLinear", "q s", "w"), node("MatMul", "x w")]
    made = model(nodes, [1, 6], {"s": np.array(0.5)}, 21, extra=[stored], ir_version=10)
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    bounds = rj.jacobian_bounds(rj.load(tmp_path / "m.onnx"), rj.LpBall(torch.zeros(1, 6), 1.0))
    torch.testing.assert_close(bounds.upper[0], torch.from_numpy(weight.T * 0.5), rtol=1e-12, atol=0)
