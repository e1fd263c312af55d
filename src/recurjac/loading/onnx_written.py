"""Networks of dense layers written as ONNX files, so that programs can read them that know nothing of this library."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recurjac.activations import AbstractActivation, LeakyReLU, Softplus
from recurjac.arithmetic import Fast
from recurjac.errors import MissingDependency, UnsupportedLayer, expect
from recurjac.network import Network, Stage
from recurjac.operators import AbstractOperator
from recurjac.operators.base import AbstractLeaf

_NAMES = {
    "relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "arctan": "Atan", "sin": "Sin", "cos": "Cos", "exp": "Exp",
    "softsign": "Softsign", "erf": "Erf", "softplus": "Softplus", "abs": "Abs",
}  # fmt: skip
"""The operators of ONNX without parameters, by the names of activations."""
_LARGEST = 2**26
"""The number of entries of the largest matrix that is written."""


def save_onnx(network: Network, path: str | Path) -> None:
    """Write a network of dense layers, such as one that was read from a weight list, as an ONNX file in float64.

    The file is of the same function in real arithmetic: no number is rounded.  Read it with `load`, and ask for results
    of that network, if they are to have certificates.
    Raises UnsupportedLayer for operators that are composed of others and for activations without an operator of ONNX,
    MissingDependency if onnx is not installed, OSError if the file cannot be written.
    """
    expect(network, Network, "the network", "read it first: load(…)")
    network.check_weights()
    model = _model(network.detached())
    Path(path).write_bytes(model.SerializeToString())


def _model(network: Network) -> Any:
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise MissingDependency("ONNX files need the package onnx: pip install onnx") from error
    nodes, held = [helper.make_node("Flatten", ["input"], ["h0"], axis=1)], []

    def constant(name: str, tensor: Tensor) -> str:
        held.append(numpy_helper.from_array(np.ascontiguousarray(tensor.double().cpu().numpy()), name))
        return name

    for k, stage in enumerate(network.stages, 1):
        terms = [constant(f"b{k}", _bias(stage, k).reshape(1, -1))]
        for i, e in enumerate(stage.edges):
            weight = constant(f"W{k}_{i}", _matrix(e.operator, network.dtype, k))
            nodes.append(helper.make_node("MatMul", [f"h{e.source}", weight], [f"z{k}_{i}"]))
            terms.append(f"z{k}_{i}")
        nodes.append(helper.make_node("Sum", terms, [f"z{k}"]))
        kind, slopes = _operator(stage.activation, k)
        more = [constant(f"slope{k}", slopes)] if slopes is not None else []
        nodes.append(helper.make_node(kind, [f"z{k}", *more], [f"h{k}"]))
    shape = helper.make_node("Reshape", [f"h{network.depth}", "shape"], ["output"])
    held.append(numpy_helper.from_array(np.array([1, *network.output_shape], dtype=np.int64), "shape"))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.DOUBLE, [1, *size])
        for name, size in (("input", network.input_shape), ("output", network.output_shape))
    ]
    graph = helper.make_graph([*nodes, shape], "recurjac", ends[:1], ends[1:], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _bias(stage: Stage, k: int) -> Tensor:
    """The constant of a stage, which is one tensor at most, so that no sum is rounded."""
    if len(stage.constants) > 1:
        raise UnsupportedLayer(f"stage {k} adds several constants, whose sum would be rounded; {_REMEDY}")
    if not stage.constants:
        return torch.zeros(prod(stage.shape), dtype=torch.float64)
    own = stage.constants[0]
    if not isinstance(own.operator, AbstractLeaf) or own.operator.summands > 1:
        raise UnsupportedLayer(f"the constant of stage {k} would be rounded; {_REMEDY}")
    return own.operator.apply(own.tensor).flatten()


def _matrix(operator: AbstractOperator, dtype: torch.dtype, k: int) -> Tensor:
    """The transposed matrix of an operator, (inputs, outputs): its columns, of which each entry is one number of it."""
    size = prod(operator.in_shape)
    if not isinstance(operator, AbstractLeaf) or size * prod(operator.out_shape) > _LARGEST:
        raise UnsupportedLayer(f"stage {k} has an operator {type(operator).__name__} that is not written; {_REMEDY}")
    return operator.columns(torch.arange(size), dtype, Fast()).mid.reshape(size, -1)


def _operator(activation: AbstractActivation, k: int) -> tuple[str, Tensor | None]:
    """The operator of ONNX, and its parameter: slopes are written in float64, which LeakyRelu could not hold."""
    if activation.name == "linear":
        return "Identity", None
    if isinstance(activation, LeakyReLU):
        return "PRelu", torch.tensor([activation.negative_slope], dtype=torch.float64)
    if activation.name not in _NAMES or (vars(activation) and activation != Softplus(1.0)):
        raise UnsupportedLayer(f"stage {k} has the activation {activation.name}, which is not written; {_REMEDY}")
    return _NAMES[activation.name], None


_REMEDY = "export the original module (torch.onnx.export)"
