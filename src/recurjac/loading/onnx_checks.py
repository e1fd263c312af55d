"""Checks that an ONNX file conforms to the standard, which run before the file is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

from recurjac.errors import InvalidNetwork, UnreadableFile, UnsupportedLayer
from recurjac.loading.messages import first_line
from recurjac.loading.onnx_branches import is_branch, parts

OLDEST = 8
"""The oldest opset that is read."""
_MOST_BYTES = 2**31
"""The maximum size of a protobuf message."""
MOST_NODES = 10_000
"""The maximum number of nodes of a graph whose functions are inlined."""
_MOST_NUMBERS = 2**28
"""The maximum number of entries of all stored tensors: 2 GiB in float64."""


def check_length(path: Path) -> None:
    """Raise UnreadableFile if a file is longer than an ONNX file can be."""
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise UnreadableFile(
            f"{path} has {size} bytes, but an ONNX file has at most {_MOST_BYTES}; export it with its weights as "
            "external data"
        )


def check_functions(proto: Any) -> None:
    """Raise UnsupportedLayer if the graph is too long after its functions are inlined, or if a function calls itself.

    A function that calls another function twice doubles the nodes, and so on, so that a short file can represent any
    number of nodes.
    """
    bodies = {(f.domain, f.name): f.node for f in proto.functions}
    lengths: dict[tuple[str, str], int] = {}

    def length(nodes: Iterable[Any], within: frozenset[tuple[str, str]]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in within:
                raise UnsupportedLayer(f"the function {node.op_type!r} calls itself; export the network without it")
            if key in bodies and key not in lengths:
                lengths[key] = length(bodies[key], within | {key})
            total += lengths.get(key, 1) + sum(length(part.node, within) for part in parts(node))
        return total

    try:
        count = length(proto.graph.node, frozenset())
    except RecursionError as error:
        raise UnsupportedLayer("the file's functions are nested too deeply; export the network without them") from error
    if count > MOST_NODES:
        raise UnsupportedLayer(
            f"the network has {count} nodes after its functions are inlined; at most {MOST_NODES} are read"
        )


def check_opset(proto: Any) -> None:
    """Raise UnsupportedLayer unless the file has exactly one opset, of a version that is read.

    Raises UnreadableFile if the version of its own format is none.
    """
    from onnx import defs

    if not 0 <= proto.ir_version < 2**31:
        raise UnreadableFile(f"the file's format has the version {proto.ir_version}; export the network again")
    newest = defs.onnx_opset_version()
    versions = {o.version for o in proto.opset_import if not o.domain}
    if len(versions) != 1 or not OLDEST <= min(versions) <= newest:
        found = " and ".join(str(v) for v in sorted(versions)) or "none"
        raise UnsupportedLayer(
            f"the file's opset is {found}; {OLDEST} to {newest} are read: export it with one of them, or update onnx"
        )


def check_names(graph: Any) -> None:
    """Raise UnreadableFile or InvalidNetwork unless names are text and every tensor name is unique."""
    stored = [t.name for t in graph.initializer]
    made = [name for node in graph.node for name in node.output if name]
    used = [w for n in graph.node for w in (n.op_type, n.domain, n.name, *n.input, *n.output)]
    given = [v.name for v in (*graph.input, *graph.output)]
    if not all(isinstance(name, str) for name in (*stored, *used, *given)):
        raise UnreadableFile("the file has names that are not text; export the network again")
    again = [name for names in (stored, [v.name for v in graph.input]) for name, n in Counter(names).items() if n > 1]
    known = {*stored, *(v.name for v in graph.input)}
    again += [name for name, n in Counter(made).items() if n + (name in known) > 1]
    if again:
        raise InvalidNetwork(f"the tensor {again[0]!r} is defined twice; export the network again")


def check_stored(graph: Any) -> None:
    """Raise InvalidNetwork if the stored tensors declare too many entries or a negative size."""
    total = 0
    for tensor in graph.initializer:
        if any(n < 0 for n in tensor.dims):
            raise InvalidNetwork(f"the tensor {tensor.name!r} has shape {tuple(tensor.dims)}; export the network again")
        total += prod(tensor.dims)
        if total > _MOST_NUMBERS:
            raise InvalidNetwork(
                f"the stored tensors have {total} entries up to {tensor.name!r} of shape {tuple(tensor.dims)}; at most "
                f"{_MOST_NUMBERS} are read"
            )


def check_node(node: Any, proto: Any, place: str) -> None:
    """Raise UnsupportedLayer unless a node of ONNX's own domain has valid inputs and attributes."""
    from onnx import AttributeProto, checker, defs

    kinds = {a.type for a in node.attribute}
    if is_branch(node):
        return
    if kinds & {AttributeProto.GRAPH, AttributeProto.GRAPHS}:
        raise UnsupportedLayer(f"{place} is control flow; export the network without it")
    if kinds & {AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS}:
        raise UnsupportedLayer(f"{place} holds a sparse tensor; export dense tensors")
    names = Counter(a.name for a in node.attribute)
    if names and max(names.values()) > 1:
        raise UnsupportedLayer(f"{place} has the attribute {max(names, key=names.__getitem__)!r} twice")
    if node.domain or not defs.has(node.op_type) or node.op_type in _REPLACED:
        return
    context = checker.C.CheckerContext()
    context.ir_version = proto.ir_version
    context.opset_imports = {"": next(o.version for o in proto.opset_import if not o.domain)}
    try:
        checker.check_node(node, context)
    except Exception as error:  # a ValidationError, which has no public name
        raise UnsupportedLayer(f"{place} is not valid ONNX: {first_line(error)}; export the network again") from error


_REPLACED = {"GroupNormalization"}
"""Operators of which newer versions of onnx call an older version deprecated, in the opsets that define it."""


def check_external(tensor: Any, folder: Path) -> None:
    """Raise InvalidNetwork or UnreadableFile unless a file in or below `folder` has the data of a stored tensor."""
    from onnx.external_data_helper import ExternalDataInfo

    whose = f"the data of {tensor.name!r}"
    try:
        info = ExternalDataInfo(tensor)
        offset, length = int(info.offset or 0), None if info.length is None else int(info.length)
    except (ValueError, TypeError) as error:
        raise UnreadableFile(f"{whose} has an invalid place in a file: {first_line(error)}; export it again") from error
    file = (folder / info.location).resolve()
    if Path(info.location).is_absolute() or folder not in file.parents:
        raise InvalidNetwork(
            f"{whose} is stored in {info.location!r}, outside the model's folder; export it again with all files in it"
        )
    if not file.is_file():
        raise UnreadableFile(f"{whose} is stored in {info.location!r}, which is missing; put that file there")
    bits = _BITS.get(tensor.data_type)
    there = max(0, file.stat().st_size - offset)
    there = there if length is None else min(there, length)
    if bits is None or there * 8 != prod(tensor.dims) * bits:
        raise InvalidNetwork(
            f"{whose} in {info.location!r} has {there} bytes, which do not fit its shape {tuple(tensor.dims)}; export "
            "it again"
        )


_BITS = {1: 32, 11: 64, 7: 64, 6: 32, 5: 16, 3: 8, 2: 8, 9: 8}
"""The bits per entry of the types that are read, by their ONNX number: float, double, the integers, and bool."""
