"""Branches of ONNX graphs: an If whose condition is known is the branch that it takes.

Exports of recurrent modules have them, to ask for the number of axes of an input.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def is_branch(node: Any) -> bool:
    """Whether a node is an If."""
    return bool(node.op_type == "If" and not node.domain)


def parts(node: Any) -> Iterator[Any]:
    """The graphs inside a node."""
    from onnx import AttributeProto

    for a in node.attribute:
        if a.type == AttributeProto.GRAPH:
            yield a.g
        elif a.type == AttributeProto.GRAPHS:
            yield from a.graphs


def graphs(graph: Any) -> Iterator[Any]:
    """A graph, and all graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for part in parts(node):
            yield from graphs(part)


def read_by(node: Any) -> set[str]:
    """The names of the tensors that a node reads, also inside its branches."""
    return {*node.input, *(name for part in parts(node) for inner in part.node for name in read_by(inner)),
            *(v.name for part in parts(node) for v in part.output)}  # fmt: skip


def taken(node: Any, condition: bool) -> Any:
    """The graph that an If evaluates.  Raises ValueError if it has none."""
    name = "then_branch" if condition else "else_branch"
    found = [a.g for a in node.attribute if a.name == name]
    if len(found) != 1:
        raise ValueError(f"it has {len(found)} attributes {name}")
    return found[0]


def stored(graph: Any) -> dict[str, Array]:
    """The stored tensors of a branch by their names, in the types in which the file was widened."""
    from onnx import numpy_helper

    return {t.name: np.array(numpy_helper.to_array(t)) for t in graph.initializer}
