"""Reading ONNX files: nodes on constants are folded, and every other node is read by the reader of its operator.

The file is checked before memory of any declared size is allocated.  Its numbers are read in float64, and the original
is evaluated in float64 by `onnx.reference`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from recurjac import activations, operators
from recurjac.errors import InvalidNetwork, MissingDependency, UnsupportedLayer
from recurjac.loading import readers as reading
from recurjac.loading import rewrites
from recurjac.loading.entrance import Entrance
from recurjac.loading.expression import LARGEST, Builder, Expression
from recurjac.loading.messages import advice, first_line
from recurjac.loading.onnx_branches import is_branch, stored, taken
from recurjac.loading.onnx_checks import check_node
from recurjac.loading.onnx_model import Model, parse
from recurjac.loading.onnx_sizes import grown, is_folded
from recurjac.loading.rewrites.threshold import Above, check_read
from recurjac.loading.wanted import Wanted, option
from recurjac.network import Network
from recurjac.operators import Reshape
from recurjac.operators.gather import gather_positions, positions
from recurjac.registry import Reader, Unread, import_all, onnx_ops

import_all(operators)
import_all(activations)
import_all(reading)
import_all(rewrites)

_MOVES = {
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "GatherElements", "GatherND", "Split", "Flatten",
    "Expand", "Tile", "Identity", "DepthToSpace", "SpaceToDepth", "Resize", "Upsample", "ReverseSequence", "Trilu",
}  # fmt: skip
"""Operators that move, repeat or drop entries of their first input; they are read by applying them to positions."""
_MIXED = {"linear", "cubic"}
"""Modes of a resize that computes new numbers."""
_CASTS = {"Cast", "CastLike"}
_OTHER_DOMAINS = {
    ("ai.onnx.ml", kind)
    for kind in ("Scaler", "LinearRegressor", "LinearClassifier", "Normalizer", "ArrayFeatureExtractor")
}
"""Operators that are read and are not of ONNX's own domain."""
_EXACT = {
    *_MOVES, *_CASTS, "Constant", "ConstantOfShape", "Concat", "Neg", "Abs", "Pad", "Max", "Min", "Where", "Relu",
    "Floor", "Ceil", "Round", "Sign",
}  # fmt: skip
"""Operators that do not round, so that folding them on constants is exact."""


@final
@dataclass(frozen=True)
class OnnxFile:
    """A model with one input and one output, both tensors of floating-point numbers."""

    model: Model

    def network(self, readers: Mapping[str, Reader] = onnx_ops.readers) -> Network:
        """The normal form in float64, by readers of operations by type.

        Raises UnsupportedLayer, naming the node, if a node has no normal form.
        """
        model = self.model
        builder = Builder(model.input_shape, model.batched, torch.float64, torch.device("cpu"))
        values: dict[str, Any] = {"": None, model.input_name: builder.input()}
        for name, array in model.constants.items():
            values[name] = torch.from_numpy(array)
        _follow(model, model.nodes, values, builder, readers)
        return builder.finish(_output(model, values, builder))

    def evaluate(self, x: Tensor) -> Tensor:
        """The output of the original in float64 on x (batch, *input), computed input by input."""
        try:
            rows = [self.model.run(row.unsqueeze(0) if self.model.batched else row) for row in x.cpu()]
        except ValueError as error:
            raise InvalidNetwork(f"the original cannot be evaluated: {error}; export the network again") from error
        single = rows[0].shape[1:] if self.model.batched and rows[0].shape[:1] == (1,) else rows[0].shape
        return torch.stack([torch.from_numpy(np.array(r)) for r in rows]).reshape(len(rows), *single)


def read_onnx(path: Path, wanted: Wanted, entrance: Entrance) -> OnnxFile:
    """The wanted part of the model in an ONNX file of opset 8 or newer.

    Raises MissingDependency without `onnx`, UnreadableFile if the file is damaged, InvalidNetwork or UnsupportedLayer
    if it does not hold a network with one input and one output.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise MissingDependency("ONNX files need the package onnx; install it with: pip install onnx") from error
    return OnnxFile(parse(path, wanted, entrance))


def _follow(
    model: Model, nodes: Iterable[Any], values: dict[str, Any], builder: Builder, readers: Mapping[str, Reader]
) -> None:
    """Read nodes in order, and add their results to `values`.  Raises UnsupportedLayer, naming the node."""
    for node in nodes:
        _check_inputs(node, values)
        check_node(node, model.proto, _place(node))
        try:
            if is_branch(node):
                results = _branched(model, node, values, builder, readers)
            else:
                results = _read(model, node, [values[name] for name in node.input], builder, readers)
        except UnsupportedLayer as error:
            raise UnsupportedLayer(f"{error}{_way_out(model, node, values)}") from error
        unread = Unread(f"a result of {_place(node)} that is not read")
        values.update((name, results[k] if k < len(results) else unread) for k, name in enumerate(node.output) if name)


def _branched(
    model: Model, node: Any, values: Mapping[str, Any], builder: Builder, readers: Mapping[str, Reader]
) -> Sequence[Any]:
    """The results of the branch that an If takes, whose condition must not depend on the network's input."""
    condition = values[node.input[0]] if len(node.input) == 1 else None
    if not isinstance(condition, Tensor) or condition.numel() != 1:
        raise UnsupportedLayer(
            f"{_place(node)} is not supported: which branch is taken depends on the network's input; export the branch "
            "that is meant"
        )
    try:
        branch = taken(node, bool(condition))
    except ValueError as error:
        raise UnsupportedLayer(f"{_place(node)} is not supported: {error}; export the model again") from error
    inner = {**values, **{name: torch.from_numpy(array) for name, array in stored(branch).items()}}
    _follow(model, branch.node, inner, builder, readers)
    missing = [v.name for v in branch.output if v.name not in inner]
    if missing:
        raise InvalidNetwork(f"no node computes {missing[0]!r} in a branch of {_place(node)}; export the model again")
    return [inner[v.name] for v in branch.output]


def _check_inputs(node: Any, values: dict[str, Any]) -> None:
    for name in node.input:
        if name not in values:
            raise InvalidNetwork(
                f"{_place(node)} reads {name!r}, which no earlier node computes: the graph has a cycle, or an "
                "initialiser is missing; export the model again"
            )


def _way_out(model: Model, node: Any, values: dict[str, Any]) -> str:
    """The option that cuts the network before a node that is not read; nothing if it reads the network's input."""
    compared = {n for n in node.input if isinstance(values[n], Above)}
    behind = [i for n in model.nodes if compared.intersection(n.output) for i in n.input]
    read = [n for n in (*node.input, *behind) if isinstance(values[n], Expression) and n != model.input_name]
    if not read:
        return ""
    made = next((n for n in model.nodes if read[0] in n.output[:1]), None)
    alone = made is not None and made.name and sum(n.name == made.name for n in model.nodes) == 1
    name = made.name if made is not None and alone else read[0]
    return f"; to bound what it reads: {option('cut-at', name)}"


def _read(
    model: Model, node: Any, inputs: Sequence[Any], builder: Builder, readers: Mapping[str, Reader]
) -> Sequence[Any]:
    """The results of a node: folded if they do not depend on the input, otherwise read by the operator's reader."""
    try:
        if node.domain and (node.domain, node.op_type) not in _OTHER_DOMAINS:
            raise UnsupportedLayer(f"{_place(node)} is not of ONNX's own domain; only ONNX's operators are read")
        for value in inputs:
            if isinstance(value, Unread):
                raise UnsupportedLayer(f"{_place(node)} needs {value.what}; export the network without it")
        check_read(node.op_type, _place(node), inputs)
        if not any(isinstance(i, Expression | Above) for i in inputs):
            if is_folded(node.op_type):
                return _folded(model, node, inputs, builder)
            inputs = _as_expressions(inputs, builder)
        if node.op_type in _CASTS:
            return [_cast(node, *inputs)]
        attributes = model.attributes(node)
        if node.op_type in _MOVES and attributes.get("mode") not in _MIXED:
            return _moved(model, node, inputs)
        reader = readers.get(node.op_type)
        if reader is None:
            raise UnsupportedLayer(f"{_place(node)} is not supported; {advice(node.op_type)}")
        result = reader(*inputs, **attributes)
    except UnsupportedLayer:
        raise
    except (ValueError, TypeError, RuntimeError, IndexError, KeyError, ArithmeticError) as error:
        raise UnsupportedLayer(f"{_place(node)} is not supported: {first_line(error)}") from error
    except AttributeError as error:  # an expression where a reader expects a tensor, or vice versa
        raise UnsupportedLayer(
            f"{_place(node)} is not supported: the wrong ones of its inputs depend on the network's input"
        ) from error
    return result if isinstance(result, list | tuple) else [result]


def _place(node: Any) -> str:
    """The name of a node in messages."""
    name = f" {node.name!r}" if node.name else f" that computes {node.output[0]!r}" if node.output else ""
    kind = f"{node.domain and node.domain + '.'}{node.op_type}"
    return f"the {kind if kind.isprintable() and len(kind) < _LONG else repr(kind[:_LONG])} node{name}"


_LONG = 100
"""The most letters of an operator's name in messages."""


def _as_expressions(inputs: Sequence[Any], builder: Builder) -> Sequence[Any]:
    """Constants of which the first, what an operator is applied to, is read like a tensor that depends on the input."""
    if not inputs or not isinstance(inputs[0], Tensor) or not inputs[0].is_floating_point():
        raise ValueError("it does not depend on the input, and is not among the operators that are folded")
    return [builder.constant(inputs[0]), *inputs[1:]]


def _folded(model: Model, node: Any, inputs: Sequence[Any], builder: Builder) -> Sequence[Any]:
    """The results of a node on constants, evaluated by `onnx.reference`."""
    arrays = [None if i is None else i.numpy() for i in inputs]
    attributes = {} if node.op_type == "Constant" else model.attributes(node)
    count = grown(node.op_type, arrays, attributes)
    if count > LARGEST:
        raise ValueError(f"it computes a constant of {count} entries; at most {LARGEST} are read")
    builder.spend(2 * count)  # the constant and its use
    results = model.run_node(node, arrays)
    if not _exact(node.op_type, arrays) and any(r.dtype.kind == "f" for r in results):
        builder.rounded = True
    return [torch.from_numpy(np.array(r)) for r in results]


def _exact(kind: str, arrays: Sequence[Any]) -> bool:
    """Whether an operator on constants does not round: and so DequantizeLinear of few bits by float32 scales."""
    if kind != "DequantizeLinear":
        return kind in _EXACT
    return bool(arrays[0].dtype.itemsize <= 2 and np.array_equal(arrays[1], arrays[1].astype(np.float32)))


def _cast(node: Any, x: Any, like: Any = None) -> Any:
    """The result of a conversion between floating-point types, which is the identity in real arithmetic."""
    from onnx import TensorProto

    to = {a.name: a.i for a in node.attribute}.get("to", TensorProto.DOUBLE)
    floating = not isinstance(like, Tensor) or like.is_floating_point()
    if to not in (TensorProto.FLOAT, TensorProto.DOUBLE) or not floating:
        raise ValueError("a conversion to a type other than float or double")
    return x.to(torch.float64) if isinstance(x, Tensor) else x


def _moved(model: Model, node: Any, inputs: Sequence[Any]) -> Sequence[Any]:
    """The results of a node that moves entries of its first input, found by applying it to their positions."""
    x, *rest = inputs
    if not isinstance(x, Expression) or any(isinstance(i, Expression) for i in rest):
        raise ValueError("only its first input may depend on the network's input; the others must be constants")
    shown = [positions(x.shape).numpy(), *(None if i is None else i.numpy() for i in rest)]
    count = grown(node.op_type, shown, model.attributes(node))
    if count > LARGEST:
        raise ValueError(f"it computes a tensor of {count} entries; at most {LARGEST} are read")
    return [
        x.apply(gather_positions(torch.from_numpy(np.array(r, dtype=np.float64)), x.shape))
        for r in model.run_node(node, shown)
    ]


def _output(model: Model, values: dict[str, Any], builder: Builder) -> Expression:
    if model.output_name not in values:
        raise InvalidNetwork(f"no node computes the output {model.output_name!r}; export the model again")
    value = values[model.output_name]
    if isinstance(value, Tensor) and value.is_floating_point():
        value = builder.constant(value)  # a network whose derivatives are all 0
    if not isinstance(value, Expression):
        raise UnsupportedLayer(f"the output {model.output_name!r} is not a tensor of floating-point numbers")
    if prod(value.shape) == 0:
        raise UnsupportedLayer(f"the output {model.output_name!r} has shape {value.shape}, which has no entries")
    if model.batched and value.shape[:1] != (1,):  # the file drops the axis of the batch, which has one entry
        return value.apply(Reshape(value.shape, (1, *value.shape)))
    return value
