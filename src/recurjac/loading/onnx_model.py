"""An ONNX file as plain data: its nodes, its constants in float64, and its evaluation by `onnx.reference`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, final

import numpy as np
from torch import Tensor

from recurjac._types import Shape
from recurjac.errors import InvalidNetwork, InvalidRequest, UnreadableFile, UnsupportedLayer
from recurjac.loading.entrance import Entrance
from recurjac.loading.expression import LARGEST
from recurjac.loading.messages import first_line
from recurjac.loading.onnx_branches import graphs, read_by
from recurjac.loading.onnx_checks import (
    check_external,
    check_functions,
    check_length,
    check_names,
    check_opset,
    check_stored,
)
from recurjac.loading.onnx_reference import evaluate, evaluator
from recurjac.loading.wanted import Wanted

_NO_END = float(np.finfo(np.float32).max)
"""The default end of a Clip, which means infinity."""


@final
@dataclass(frozen=True)
class Model:
    """A model in float64: nodes in order, constants by name, one input and one output.

    constants: stored tensors, and the values of inputs that are fixed.
    batched: whether the first axis of the input is a batch axis, of one entry or of open size; `input_shape` does not
    include it.
    """

    proto: Any
    constants: dict[str, np.ndarray[Any, Any]]
    input_name: str
    input_shape: Shape
    batched: bool
    output_name: str

    @property
    def nodes(self) -> Iterable[Any]:
        return self.proto.graph.node  # type: ignore[no-any-return]

    def attributes(self, node: Any) -> dict[str, Any]:
        """The attributes of a node by name, with the defaults of its opset: numbers, strings and lists of them."""
        from onnx import AttributeProto, defs, helper

        known = not node.domain and defs.has(node.op_type, self._opset, "")
        schema = defs.get_schema(node.op_type, self._opset) if known else None
        defaults = [] if schema is None else [a.default_value for a in schema.attributes.values()]
        found: dict[str, Any] = {}
        for a in (*(d for d in defaults if abs(d.f) < _NO_END), *node.attribute):
            if a.type != AttributeProto.UNDEFINED:
                value = helper.get_attribute_value(a)
                found[a.name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        return found

    @cached_property
    def _opset(self) -> int:
        return next(int(o.version) for o in self.proto.opset_import if not o.domain)

    def run_node(self, node: Any, arrays: Iterable[Any]) -> list[np.ndarray[Any, Any]]:
        """The results of one node on arrays (None for an absent input); floating-point results are float64."""
        from onnx import TensorProto, helper

        names = {n for n in node.input if n}
        feeds = {n: a for n, a in zip(node.input, arrays, strict=True) if n}
        results = [n for n in node.output if n]
        given, made = (
            [helper.make_tensor_value_info(n, TensorProto.DOUBLE, None) for n in ns] for ns in (names, results)
        )
        graph = helper.make_graph([node], "one", given, made)
        model = helper.make_model(graph, opset_imports=list(self.proto.opset_import))
        return [_wide(r) for r in evaluate(evaluator(model), feeds)]

    def run(self, x: Tensor) -> np.ndarray[Any, Any]:
        """The output for one input in float64, in the shape that the file defines."""
        return _wide(evaluate(self._whole, {**self.constants, self.input_name: x.numpy()})[0])

    @cached_property
    def _whole(self) -> Any:
        return evaluator(self.proto)


def _wide(result: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(result)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"it computes values of type {array.dtype}; only numbers are read")
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def parse(path: Path, wanted: Wanted, entrance: Entrance) -> Model:
    """The wanted part of the model in a file, as a function of its free input.  Raises as `read_onnx` does."""
    proto = _proto(path)
    _name_domain(proto)
    check_opset(proto)
    for graph in graphs(proto.graph):
        check_names(graph)
        check_stored(graph)
    _bring_external_data(proto, path)
    constants = {t.name: _constant(t) for t in proto.graph.initializer}
    if any(graph.sparse_initializer for graph in graphs(proto.graph)):
        raise UnsupportedLayer("the file holds sparse initialisers; export dense initialisers")
    inputs = {i.name: i for i in proto.graph.input if i.name not in constants}
    likely = [n for n, i in inputs.items() if i.type.tensor_type.elem_type in _floats()]
    free = inputs[entrance.free(list(inputs), "the file", likely)]
    constants.update((name, _fixed(inputs[name], entrance)) for name in entrance.fixed)
    _keep(proto.graph, _end(proto.graph, wanted))
    shape, batched = _input_shape(free, entrance)
    _widen(proto)
    return Model(_copy(proto), constants, free.name, shape, batched, proto.graph.output[0].name)


def _floats() -> tuple[int, int]:
    """The types of inputs and outputs that are read, by their ONNX numbers."""
    from onnx import TensorProto

    return TensorProto.FLOAT, TensorProto.DOUBLE


def _fixed(value: Any, entrance: Entrance) -> np.ndarray[Any, Any]:
    """The value of a fixed input, in the type in which the graph reads it."""
    from onnx import TensorProto

    kind = value.type.tensor_type
    name = TensorProto.DataType.Name(kind.elem_type) if kind.elem_type in TensorProto.DataType.values() else "unknown"
    if not value.type.HasField("tensor_type") or name not in _KINDS:
        raise UnsupportedLayer(f"the input {value.name!r} is not a tensor of numbers; export the network without it")
    declared = _declared(kind) if kind.HasField("shape") else None
    floating = kind.elem_type in (*_floats(), TensorProto.FLOAT16, TensorProto.BFLOAT16)
    array = entrance.value(value.name, declared, not floating)
    if floating:
        return array
    narrow = array.astype(_INTEGERS[name])
    if not np.array_equal(narrow, array):
        raise InvalidRequest(f"the input {value.name!r} is of type {name}, which does not hold the value given")
    return narrow


def _declared(kind: Any) -> list[int | None]:
    """The sizes of the axes of a tensor's type; None for one of open size, which some exporters write as -1."""
    return [d.dim_value if d.HasField("dim_value") and d.dim_value != -1 else None for d in kind.shape.dim]


def _end(graph: Any, wanted: Wanted) -> str:
    """The name of the tensor that is the output."""
    if wanted.cut_at is None:
        names = [v.name for v in graph.output]
        likely = next((v.name for v in graph.output if v.type.tensor_type.elem_type in _floats()), None)
        return str(names[wanted.output(names, "the file", likely)])
    called = [n for n in graph.node if n.name == wanted.cut_at and n.output]
    if len(called) > 1:
        raise InvalidRequest(
            f"{len(called)} nodes are called {wanted.cut_at!r}; name a tensor that one of them computes"
        )
    if called:
        return str(called[0].output[0])
    computed = [name for n in graph.node for name in n.output if name]
    if wanted.cut_at not in computed:
        raise wanted.unknown([*(n.name for n in graph.node if n.name), *computed])
    return wanted.cut_at


def _keep(graph: Any, end: str) -> None:
    """Make the tensor `end` the only output, in place, and drop the nodes that it does not need."""
    from onnx import TensorProto, helper

    if [v.name for v in graph.output] == [end]:
        return
    kept, needed = [], {end}
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed.update(read_by(node))
            kept.append(node)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(end, TensorProto.FLOAT, None))
    nodes = [type(n).FromString(n.SerializeToString()) for n in reversed(kept)]
    del graph.node[:]
    graph.node.extend(nodes)


def _proto(path: Path) -> Any:
    from google.protobuf.message import DecodeError
    from onnx import ModelProto
    from onnx.inliner import inline_local_functions

    check_length(path)
    proto = ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
        check_functions(proto)
        if proto.functions:
            proto = inline_local_functions(proto)
    except UnsupportedLayer:
        raise
    except (DecodeError, ValueError, RuntimeError, MemoryError) as error:
        raise UnreadableFile(f"{path} is not a readable ONNX file: {first_line(error)}; export it again") from error
    if not proto.graph.output:
        raise UnreadableFile(f"{path} is not a readable ONNX file: it holds no graph with an output; export it again")
    return proto


def _name_domain(proto: Any) -> None:
    """Rename ONNX's own domain to the first of its two names, in place."""
    for part in (*proto.graph.node, *proto.opset_import):
        if part.domain == "ai.onnx":
            part.domain = ""


def _bring_external_data(proto: Any, path: Path) -> None:
    """Load tensors stored in files next to the model; refuse tensors stored elsewhere."""
    from onnx import TensorProto
    from onnx.external_data_helper import load_external_data_for_tensor

    folder = path.resolve().parent
    for tensor in proto.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        check_external(tensor, folder)
        try:
            load_external_data_for_tensor(tensor, str(folder))
        except Exception as error:  # a damaged file can cause any exception
            raise UnreadableFile(f"the data of {tensor.name!r} cannot be read: {first_line(error)}") from error
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _constant(tensor: Any) -> np.ndarray[Any, Any]:
    """A stored tensor as an array; floating-point numbers become float64."""
    from onnx import TensorProto, numpy_helper

    kind = (
        TensorProto.DataType.Name(tensor.data_type) if tensor.data_type in TensorProto.DataType.values() else "unknown"
    )
    where = f"the tensor {tensor.name!r} of shape {tuple(tensor.dims)}"
    if tensor.data_location == TensorProto.EXTERNAL:
        raise UnsupportedLayer(f"{where} is an attribute stored in a file; only initialisers are read from files")
    if kind not in _KINDS:
        raise UnsupportedLayer(f"{where} has type {kind}; only {', '.join(sorted(_KINDS))} are read")
    try:
        array = numpy_helper.to_array(tensor)
    except Exception as error:  # a damaged file can cause any exception
        raise UnreadableFile(f"{where} is damaged: {first_line(error)}; export the model again") from error
    if kind in _WIDER:
        return array.astype(_WIDER[kind])
    return array.astype(np.float64) if array.dtype.kind == "f" else np.array(array)


_WIDER: dict[str, Any] = {
    "UINT16": np.int32, "INT4": np.int8, "UINT4": np.uint8, "FLOAT16": np.float64, "BFLOAT16": np.float64,
}  # fmt: skip
"""Types of stored tensors that are read as wider ones, which have the same numbers."""
_INTEGERS: dict[str, Any] = {
    "INT64": np.int64, "INT32": np.int32, "INT16": np.int16, "INT8": np.int8, "UINT8": np.uint8, "BOOL": np.bool_,
    "UINT16": np.int32, "INT4": np.int8, "UINT4": np.uint8,
}  # fmt: skip
"""Types of whole numbers, and the arrays in which they are read."""
_KINDS = {"FLOAT", "DOUBLE", "INT64", "INT32", "INT16", "INT8", "UINT8", "BOOL", *_WIDER}


def _input_shape(value: Any, entrance: Entrance) -> tuple[Shape, bool]:
    """The shape of one input without its batch axis, and whether there is a batch axis."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or kind.elem_type not in _floats():
        raise UnsupportedLayer(f"the input {value.name!r} is not a tensor of type float or double; export it as one")
    if not kind.HasField("shape"):
        raise InvalidNetwork(f"the input {value.name!r} has no shape; export the network with a shape")
    sizes = _declared(kind)
    batched = len(sizes) > 1 and sizes[0] in (None, 1)
    shape = entrance.sizes(value.name, sizes[1:] if batched else sizes)
    if any(n is None or n < 1 for n in shape):
        shown = ", ".join(
            d.dim_param or ("?" if n is None else str(n)) for d, n in zip(kind.shape.dim, sizes, strict=True)
        )
        raise InvalidNetwork(
            f"the input {value.name!r} has shape ({shown}), in which only the first axis may be of open size; give the "
            "shape of one input: --input-shape (in Python, an example input)"
        )
    if prod(n or 0 for n in shape) > LARGEST:
        raise InvalidNetwork(
            f"the input {value.name!r} has {prod(n or 0 for n in shape)} entries; at most {LARGEST} are read"
        )
    return tuple(int(n or 0) for n in shape), batched


def _copy(proto: Any) -> Any:
    """A copy of a message that uses only the memory it needs; a message keeps the memory of deleted fields."""
    slim = type(proto)()
    slim.CopyFrom(proto)
    return slim


def _widen(proto: Any) -> None:
    """Convert every float of the model to double, in place, and delete the constants, which are stored separately."""
    from onnx import TensorProto, numpy_helper

    del proto.graph.initializer[:]
    for graph in graphs(proto.graph):
        for stored in graph.initializer:
            stored.CopyFrom(numpy_helper.from_array(_constant(stored), stored.name))
        for node in graph.node:
            _widen_node(node)
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                value.type.tensor_type.elem_type = TensorProto.DOUBLE
        del graph.value_info[:]


def _widen_node(node: Any) -> None:
    """Convert every float of a node to double, in place."""
    from onnx import AttributeProto, TensorProto, helper, numpy_helper

    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))
    for a in node.attribute:
        if a.type == AttributeProto.TENSOR:
            a.t.CopyFrom(numpy_helper.from_array(_constant(a.t)))
        elif a.name in ("to", "dtype") and a.i == TensorProto.FLOAT:
            a.i = TensorProto.DOUBLE
        elif node.op_type == "Constant" and a.name in ("value_float", "value_floats"):
            value = a.f if a.name == "value_float" else list(a.floats)
            tensor = numpy_helper.from_array(np.array(value, dtype=np.float64))
            a.CopyFrom(helper.make_attribute("value", tensor))
