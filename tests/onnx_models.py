"""ONNX models in a few words, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402  (the line above may skip)

__all__ = [
    "DOUBLE", "FLOAT", "INT64", "Shape", "TensorProto", "helper", "model", "node", "numpy_helper", "tensor", "value",
]  # fmt: skip
Shape = Sequence[int | str | None]
FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64


def node(kind: str, inputs: str, outputs: str = "y", /, domain: str = "", **attributes: Any) -> Any:
    """A node that reads and makes the tensors named, apart by spaces; `-` stands for an absent input."""
    names = ["" if n == "-" else n for n in inputs.split()]
    return helper.make_node(kind, names, outputs.split(), domain=domain, **attributes)


def value(name: str, shape: Shape | None, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def tensor(name: str, array: Any, kind: int = FLOAT) -> Any:
    """A stored tensor: arrays of integers and booleans as they are, numbers in the type `kind`."""
    array = np.asarray(array)
    wide = np.float64 if kind == DOUBLE else np.float32
    return numpy_helper.from_array(array.astype(wide) if array.dtype.kind == "f" else array, name)


def model(
    nodes: Sequence[Any],
    shape: Shape | None,
    constants: Mapping[str, Any] | None = None,
    opset: int = 17,
    **changes: Any,
) -> Any:
    """A model from the input `x` of `shape` to the output `y`.

    changes: `inputs`, `outputs`, `extra` (tensors beside the constants), `domains` (versions of others than ONNX's),
    `kind` (the type of input and output).
    """
    kind = changes.pop("kind", FLOAT)
    stored = [tensor(name, array, kind) for name, array in (constants or {}).items()]
    graph = helper.make_graph(
        list(nodes),
        "graph",
        changes.pop("inputs", [value("x", shape, kind)]),
        changes.pop("outputs", [value("y", None, kind)]),
        [*stored, *changes.pop("extra", ())],
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(name, version) for name, version in changes.pop("domains", {}).items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=changes.pop("ir_version", 8), **changes)
