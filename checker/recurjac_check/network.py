"""The normal form of the network in an ONNX file: stages, whose pre-activations are affine functions of sources.

Source 0 is the input, and source k + 1 the outputs of stage k.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import onnx
from flint import arb

from recurjac_check import moves, operations, rules  # noqa: F401  (they fill the table of readers)
from recurjac_check.affine import Affine, Entries, Matrix
from recurjac_check.calls import READERS, Call
from recurjac_check.errors import OutOfScope, Unreadable
from recurjac_check.functions import Elementwise, Product
from recurjac_check.region import ZERO
from recurjac_check.tensors import MOST, Form, array, coefficients, fits, stored, tensor

_SHIFT = 32


Windows = Sequence[tuple[Sequence[int], Sequence[int]] | None]
"""For each pre-activation, the entries that it is a maximum of, and those whose maximum is taken away from it."""


@dataclass(frozen=True, eq=False)
class Stage:
    """h = function(pre); windows, if there are any, are of `source`."""

    name: str
    pre: Affine
    function: Elementwise | Product
    outputs: int
    source: Affine
    windows: Windows


@dataclass(frozen=True, eq=False)
class Network:
    """Stages, and outputs that are affine functions of sources."""

    inputs: int
    stages: list[Stage]
    outputs: Affine


@dataclass
class Graph:
    """What is known while the nodes are read one by one."""

    opset: int
    values: dict[str, Any]
    stages: list[tuple[str, list[Any], Any, list[Any], Windows]] = field(default_factory=list)
    coefficients: int = 0

    def activate(
        self, name: str, entries: list[Any], function: Any, known: list[Any] | None = None, windows: Windows = ()
    ) -> list[Form]:
        """The outputs of a new stage with these pre-activations; known: what windows are of."""
        self.count(array(entries, (len(entries),)))
        self.stages.append((name, entries, function, known or [], windows))
        source = len(self.stages) << _SHIFT
        return [Form({source + i: arb(1)}, ZERO) for i in range(len(entries) // function.arguments)]

    def count(self, x: Any) -> None:
        """Raise OutOfScope where more coefficients than are allowed are stored."""
        self.coefficients += coefficients(x)
        fits(self.coefficients)

    def read(self, node: Any, number: int) -> None:
        """Add what a node computes."""
        label = f"{ascii(node.op_type)[1:-1][:40]} (node {number})"
        if any(name and name not in self.values for name in node.input):
            raise Unreadable(f"{label} reads what no node before it computes")
        names = [name for name in node.output if name]
        if node.op_type not in READERS or node.domain not in ("", "ai.onnx"):
            raise OutOfScope(label)
        if len(set(names)) < len(names) or any(name in self.values for name in names):
            raise Unreadable(f"{label} has an output that is computed before")
        inputs = [self.values[name] if name else None for name in node.input]
        same = len(node.input) > 1 and node.input[0] == node.input[1]
        try:
            attributes = rules.attributes(node, self.opset)
            rules.check_types(node.op_type, inputs)
            call = Call(self, node.op_type, inputs, attributes, same, len(node.output))
            outputs = READERS[node.op_type](call)
            for name, value in zip(node.output, outputs if isinstance(outputs, list) else [outputs], strict=False):
                rules.check_sizes(node.op_type, tensor(value))
                self.values[name] = tensor(value)
                self.count(self.values[name])
        except OutOfScope as error:
            raise OutOfScope(f"{label}: {error}") from None
        except Exception as error:  # whatever a hostile file leads to
            raise OutOfScope(f"{label}: not in a form that is known ({type(error).__name__})") from None


def _split(entries: Sequence[Any], sizes: Sequence[int]) -> Affine:
    """Forms as blocks by source."""
    blocks: dict[int, list[Entries]] = {}
    for i, e in enumerate(entries):
        for k, c in e.terms.items() if isinstance(e, Form) else ():
            if k >> _SHIFT not in blocks:
                blocks[k >> _SHIFT] = [{} for _ in entries]
            blocks[k >> _SHIFT][i][k & ((1 << _SHIFT) - 1)] = c
    constant = [e.constant if isinstance(e, Form) else arb(e) for e in entries]
    return Affine({s: Matrix(rows, sizes[s]) for s, rows in blocks.items()}, constant)


def _input_shape(value: Any) -> tuple[int, ...]:
    if not value.type.tensor_type.HasField("shape"):
        raise OutOfScope("an input of an unknown shape")
    dims = enumerate(value.type.tensor_type.shape.dim)
    shape = tuple(d.dim_value if d.HasField("dim_value") else int(i == 0) for i, d in dims)
    if value.type.tensor_type.elem_type not in (1, 11) or min(shape, default=1) < 1 or prod(shape) > MOST:
        raise OutOfScope("an input that is not a tensor of floats with known sizes")
    return shape


def load(data: bytes) -> Network:
    """The network in the bytes of an ONNX file. Raises OutOfScope, Unreadable."""
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own errors have no common class
        raise Unreadable(f"not an ONNX file: {str(error)[:100]}") from None
    try:
        weights = {t.name: stored(t) for t in model.graph.initializer}
    except OutOfScope:
        raise
    except Exception as error:  # whatever onnx makes of a hostile tensor
        raise Unreadable(f"a weight cannot be read: {str(error)[:100]}") from None
    inputs = [v for v in model.graph.input if v.name not in weights]
    if len(weights) < len(model.graph.initializer):
        raise OutOfScope("two weights of the same name")
    if len(inputs) != 1 or len(model.graph.output) != 1 or model.functions or model.graph.sparse_initializer:
        raise OutOfScope("a graph without one input and one output, or with functions")
    shape = _input_shape(inputs[0])
    opsets = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if len(opsets) != 1 or not 7 <= opsets[0] <= 30:
        raise OutOfScope(f"versions {opsets[:9]} of the operations")
    graph = Graph(opsets[0], weights)
    graph.values[inputs[0].name] = array([Form({i: arb(1)}, ZERO) for i in range(prod(shape))], shape)
    for number, node in enumerate(model.graph.node):
        graph.read(node, number)
    if model.graph.output[0].name not in graph.values:
        raise Unreadable("no node computes the output")
    sizes, stages, sources = [prod(shape)], [], dict[int, Affine]()
    for name, entries, function, source, windows in graph.stages:
        if id(source) not in sources:  # several stages may have windows of the same entries
            sources[id(source)] = _split(source, sizes)
        pre = _split(entries, sizes)
        sizes.append(len(entries) // function.arguments)
        stages.append(Stage(name, pre, function, sizes[-1], sources[id(source)], windows))
    return Network(sizes[0], stages, _split(list(graph.values[model.graph.output[0].name].flat), sizes))
