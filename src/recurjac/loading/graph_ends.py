"""Where a graph of `torch.export` ends, what it needs up to there, and its evaluation in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node
from torch.utils._pytree import tree_flatten_with_path, tree_unflatten

from recurjac.errors import UnsupportedLayer
from recurjac.loading.decompositions import mutates, shares
from recurjac.loading.wanted import Wanted
from recurjac.loading.widening import called

WRAP = "wrap it so that it returns one tensor"


@final
@dataclass(frozen=True)
class End:
    """The node whose value is the output, its place among all that the graph returns, and the nodes that it needs.

    place: None where the graph is cut.  nodes: the needed nodes in order, up to the node itself where it is cut.
    """

    node: Node
    place: int | None
    nodes: tuple[Node, ...]


def end_of(program: ExportedProgram, wanted: Wanted) -> End:
    """The wanted end of a graph.  Raises InvalidRequest if there is none, UnsupportedLayer if it is no tensor."""
    nodes = list(program.graph.nodes)
    if wanted.cut_at is not None:
        calls = [n for n in nodes if n.op == "call_function"]
        node = next((n for n in calls if n.name == wanted.cut_at), None)
        if node is None:
            raise wanted.unknown([n.name for n in calls])
        return End(node, None, _needed(nodes[: nodes.index(node) + 1]))
    (returned,) = nodes[-1].args
    specs = program.graph_signature.output_specs
    users = [k for k, s in enumerate(specs) if s.kind == OutputKind.USER_OUTPUT]
    place = users[wanted.output(output_names(program.call_spec.out_spec), "the module")]
    node = returned[place]
    if not isinstance(node, Node):
        raise UnsupportedLayer(f"the module returns a value that is not a tensor; {WRAP}")
    if not wanted.anything:
        return End(node, place, tuple(nodes[:-1]))
    return End(node, place, _needed([*(n for n in nodes[:-1] if n is not node), node]))


def _needed(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Those of `nodes` on whose values the last one depends, in the graph's order."""
    found: set[Node] = set()
    todo, known = [nodes[-1]], set(nodes)
    while todo:
        node = todo.pop()
        if node not in found and node in known:
            found.add(node)
            todo += node.all_input_nodes
            todo += [user for user in node.users if shares(user) or mutates(user)]
    return tuple(n for n in nodes[-1].graph.nodes if n in found or n.op == "placeholder")


def output_names(spec: Any) -> list[str]:
    """Names of what a module returns: positions in tuples and keys of dicts, joined by dots where they are nested."""
    whole = tree_unflatten(range(spec.num_leaves), spec)
    paths = [path for path, _ in tree_flatten_with_path(whole)[0]]
    return [".".join(str(getattr(step, "key", getattr(step, "idx", step))) for step in p) or "0" for p in paths]


def evaluated(program: ExportedProgram, tensors: dict[str, Tensor], x: Tensor, end: End) -> Tensor:
    """The value of the graph at its end in float64, for a batch x that the graph accepts."""
    given = [
        x.clone() if spec.kind == InputKind.USER_INPUT else _wide(_stored(program, tensors, spec.target).clone())
        for spec in program.graph_signature.input_specs
    ]
    run = _Evaluation(program.graph_module, end)
    results = run.run(*given, enable_io_processing=False)
    value: Tensor = run.found if end.place is None else results[end.place]
    return value


def _stored(program: ExportedProgram, tensors: dict[str, Tensor], name: Any) -> Tensor:
    found: Tensor = tensors[name] if name in tensors else program.constants[name]
    return found.detach()


@final
class _Evaluation(torch.fx.Interpreter):
    """An interpreter of a graph in float64, which skips checks of dtypes and sizes and ends where the graph is cut."""

    def __init__(self, module: torch.fx.GraphModule, end: End) -> None:
        super().__init__(module)
        self._end = end
        self.found: Any = None

    def run_node(self, n: Node) -> Any:
        if self._end.place is None and (self.found is not None or n not in self._end.nodes):
            return None
        result = super().run_node(n)
        if self._end.place is None and n is self._end.node:
            self.found = result
        return result

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if is_check(target):
            return None
        if isinstance(target, OpOverload):
            return called(target, args, kwargs, torch.float64)
        return super().call_function(target, args, kwargs)


def _wide(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def is_check(target: Any) -> bool:
    """Whether an operation only checks its arguments, such as a dtype or a size."""
    return "_assert" in str(target) or "sym_constrain" in str(target)


def place_of(node: Node) -> str:
    """The place of a node in messages: its name, the module that called it, and its line of the user's source."""
    stack = node.meta.get("nn_module_stack") or {}
    path = [entry[0] for entry in stack.values() if entry[0]]
    line = _line(str(node.meta.get("stack_trace") or ""))
    return f"node {node.name}" + (f" of module {path[-1]}" if path else "") + (f" ({line})" if line else "")


_OTHERS = ("/torch/", "unfolded.py", "loop_step")
"""Parts of the names of files that are not the user's."""


def _line(trace: str) -> str:
    """The innermost call of a traceback that is the user's: file, line and code."""
    lines = [line.strip() for line in trace.splitlines()]
    calls = [(a, b) for a, b in pairwise(lines) if a.startswith("File ") and not any(t in a for t in _OTHERS)]
    if not calls:
        return ""
    file, number = calls[-1][0].split('"')[1], calls[-1][0].split(", line ")[1].split(",")[0]
    return f"{file.replace(chr(92), '/').rsplit('/', 1)[-1]}, line {number}: {calls[-1][1]}"
