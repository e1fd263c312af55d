"""Reading PyTorch modules through `torch.export`: a graph of ATen operations on live parameters."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.utils._pytree import tree_flatten

from recurjac import activations, operators
from recurjac._types import Shape
from recurjac.errors import InvalidNetwork, InvalidRequest, UnsupportedLayer
from recurjac.loading import readers, rewrites
from recurjac.loading.decompositions import changes_part, decomposed, state_eps
from recurjac.loading.exported import exported
from recurjac.loading.expression import Builder, Expression
from recurjac.loading.graph_ends import WRAP, end_of, evaluated, is_check, output_names, place_of
from recurjac.loading.messages import INSIDE, advice, first_line
from recurjac.loading.rewrites.threshold import Above, check_read
from recurjac.loading.unfolded import is_covector, named_tensors, places
from recurjac.loading.wanted import Wanted, option
from recurjac.loading.widening import InFloat64, WithEps, called
from recurjac.network import Network, Watched
from recurjac.registry import Unread, import_all, torch_ops
from recurjac.tensors import cast

import_all(operators)
import_all(activations)
import_all(readers)
import_all(rewrites)


@final
@dataclass(frozen=True)
class Traced:
    """A module and a graph of it in eval mode; it is applied `steps` times.

    exported: the module that PyTorch exported: `module`, or its operations if it differentiates inside (`unfolded`).
    """

    module: nn.Module
    exported: nn.Module
    program: ExportedProgram
    input_shape: Shape
    device: torch.device
    wanted: Wanted
    steps: int = 1

    @property
    def dtype(self) -> torch.dtype:
        """The widest dtype of the module's floating-point parameters, buffers, and captured constants that need it."""
        captured = [t for t in self.program.constants.values() if isinstance(t, Tensor) and not _narrow(t)]
        floats = [t.dtype for t in (*named_tensors(self.module).values(), *captured) if t.is_floating_point()]
        return reduce(torch.promote_types, floats, torch.float32)

    @property
    def cancelling(self) -> float:
        """1 if the original loses digits where its outputs are small, as 1 - tanh(z)² does for large z; otherwise 0."""
        return float(self.exported is not self.module)

    def network(self, dtype: torch.dtype) -> Network:
        """The normal form on the module's live parameters; parameters of another dtype are copied without gradients.

        Raises UnsupportedLayer, naming the operation and its place, if an operation has no normal form.
        """
        network = read_program(
            self.program, self.wanted, named_tensors(self.exported), self.input_shape, dtype, self.device, self.steps
        )
        return replace(network, copied=(*network.copied, *self._watched(network)))

    def _watched(self, network: Network) -> tuple[Watched, ...]:
        """Every parameter and buffer: followed if the network holds the tensor itself, otherwise kept as a copy."""
        held = {t.data_ptr() for t in network.tensors()}
        return tuple(
            (Watched.followed if t.data_ptr() in held else Watched.kept)(partial(_named, self.exported, name))
            for name, t in named_tensors(self.exported).items()
            if t.is_floating_point()
        )

    def evaluate(self, x: Tensor) -> Tensor:
        """The wanted output of the module in eval mode and float64 on x (batch, *input); its parameters do not change.

        A module that fails on several inputs, or that reads only the first of them, is evaluated input by input, and so
        is one that differentiates inside, so that its derivatives are those of one input.  Where the graph is cut, it
        is evaluated itself, also input by input.
        Raises InvalidNetwork if it fails, UnsupportedLayer if the output is not a tensor.
        """
        together = None
        try:
            together = self._evaluated(x)
        except InvalidNetwork:
            if len(x) == 1:
                raise
        if together is not None and together.shape[:1] == x.shape[:1]:
            return together
        rows = torch.cat([self._evaluated(row) for row in x.split(1)])
        first = rows[:1]
        if together is None or (together.shape == first.shape and torch.allclose(together, first, equal_nan=True)):
            return rows
        return together

    def _evaluated(self, x: Tensor) -> Tensor:
        if self.wanted.cut_at is not None:
            end, tensors = end_of(self.program, self.wanted), named_tensors(self.exported)
            return torch.cat([evaluated(self.program, tensors, row, end) for row in x.split(1)])
        inside = self.exported is not self.module
        return torch.cat([self._run(row, inside) for row in x.split(1 if inside else len(x))])

    def _run(self, x: Tensor, differentiated: bool) -> Tensor:
        """The wanted output of the module; differentiated: whether it needs PyTorch's gradients."""
        held = places(self.module)
        wide = {name: t.detach().double() if t.is_floating_point() else t for name, t in held.items()}
        y: Any = x
        try:
            with eval_mode(self.module), torch.set_grad_enabled(differentiated), WithEps(self.dtype), InFloat64():
                for _ in range(self.steps):
                    y = torch.func.functional_call(self.module, wide, (y.clone(),), tie_weights=False)
        except Exception as error:  # a module can raise any exception
            raise InvalidNetwork(
                f"the module fails on {len(x)} float64 inputs of shape {tuple(x.shape[1:])}: {first_line(error)}; "
                "it must take batches of any size, and compute in float32 or float64"
            ) from error
        values, spec = tree_flatten(y)
        value = values[self.wanted.output(output_names(spec), "the module")]
        if not isinstance(value, Tensor):
            raise UnsupportedLayer(f"the module returns a {type(value).__name__}; {WRAP}")
        return value.detach()


def trace(module: nn.Module, example: Tensor, wanted: Wanted) -> Traced:
    """The graph of `module` in eval mode for one input; `example` (batch, *input).

    Raises InvalidNetwork if PyTorch cannot export the module.
    """
    some = next((t for t in named_tensors(module).values() if t.is_floating_point()), None)
    example = (example if some is None else example.to(some))[:1]
    dtypes = [torch.get_default_dtype(), torch.float64, torch.float32] if some is None else [some.dtype]
    with eval_mode(module):
        found, program = exported(module, [example.to(d) for d in dict.fromkeys(dtypes)])
    return Traced(module, found, state_eps(program), tuple(example.shape[1:]), example.device, wanted)


def _narrow(tensor: Tensor) -> bool:
    """Whether float32 holds every entry."""
    return not tensor.is_floating_point() or torch.equal(tensor.float().to(tensor.dtype), tensor)


def _named(module: nn.Module, name: str) -> Tensor:
    """A parameter or buffer by its full name, or an empty tensor if it no longer exists."""
    found: Any = module
    for step in name.split("."):
        found = getattr(found, step, None)
    return found if isinstance(found, Tensor) else torch.empty(0)


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Set the module and all of its parts to eval mode, and restore their modes afterwards.

    Raises InvalidNetwork for a module that has no such mode, as that of an exported program.
    """
    training = [(m, m.training) for m in module.modules()]
    try:
        module.eval()
    except NotImplementedError as error:
        raise InvalidNetwork(
            f"the module cannot be put into eval mode: {first_line(error)}; give the module that was exported, or a "
            "file of torch.export.save"
        ) from error
    try:
        yield
    finally:
        for part, mode in training:
            part.training = mode


def read_program(
    program: ExportedProgram, wanted: Wanted, tensors: Mapping[str, Tensor], input_shape: Shape, dtype: torch.dtype,
    device: torch.device,
    steps: int = 1,
) -> Network:  # fmt: skip
    """The wanted part of a graph in normal form, for one input; `tensors` has the graph's tensors by their names in it.

    It is applied `steps` times.

    If it has operations without a reader, or some that change a part of a tensor, it is read in the simpler operations
    into which PyTorch decomposes them.  Raises UnsupportedLayer, naming the operation and its place, if that fails too.
    """
    try:
        return _read_graph(program, wanted, tensors, input_shape, dtype, device, steps)
    except UnsupportedLayer as error:
        simpler = decomposed(program)
        if simpler is None:
            raise
        try:
            return _read_graph(simpler, wanted, tensors, input_shape, dtype, device, steps)
        except (UnsupportedLayer, InvalidNetwork, InvalidRequest):
            raise error from None


def _read_graph(
    program: ExportedProgram, wanted: Wanted, tensors: Mapping[str, Tensor], input_shape: Shape, dtype: torch.dtype,
    device: torch.device, steps: int,
) -> Network:  # fmt: skip
    builder = Builder(input_shape, True, dtype, device)
    value = builder.input()
    for _ in range(steps):
        if value.shape != (1, *input_shape):
            raise InvalidNetwork(
                f"a step takes a state of shape {tuple(input_shape)} to one of shape {value.shape[1:]}; both must agree"
            )
        value = _step(program, wanted, _inputs(program, tensors, builder, value.settled()), builder)
    return builder.finish(value)


def _step(program: ExportedProgram, wanted: Wanted, values: dict[str, Any], builder: Builder) -> Expression:
    """The wanted output of a graph, given the values of its placeholders."""
    end = end_of(program, wanted)
    for node in end.nodes:
        if node.op == "call_function":
            try:
                values[node.name] = _read(node, values, builder)
            except UnsupportedLayer as error:
                raise UnsupportedLayer(f"{error}{_way_out(node, values)}") from error
        elif node.op != "placeholder":
            raise UnsupportedLayer(
                f"{node.name}: a graph node of kind {node.op}, which comes from torch.no_grad() or a branch, is not "
                "read; leave it out of the module"
            )
    return _output(values[end.node.name], builder)


def _way_out(node: Node, values: Mapping[str, Any]) -> str:
    """The option that cuts the network before a node that is not read; nothing if it reads the network's input."""
    read = [n for n in _compared(node, values) if isinstance(values.get(n.name), Expression)]
    made = [n.name for n in read if n.op == "call_function"]
    return f"; to bound what it reads: {option('cut-at', made[0])}" if made else ""


def _compared(node: Node, values: Mapping[str, Any]) -> Iterator[Node]:
    """The nodes that a node reads; in place of a comparison, those that it compares."""
    for source in node.all_input_nodes:
        yield from _compared(source, values) if isinstance(values.get(source.name), Above) else (source,)


def _inputs(
    program: ExportedProgram, live: Mapping[str, Tensor], builder: Builder, given: Expression
) -> dict[str, Any]:
    """The values of the graph's placeholders: the input as an expression, live parameters, constants."""
    values: dict[str, Any] = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            values[spec.arg.name] = given
        elif spec.kind == InputKind.TOKEN:
            values[spec.arg.name] = Unread("the order of effects")
        else:
            tensor = live[spec.target] if spec.target in live else program.constants[spec.target]
            values[spec.arg.name] = cast(tensor, builder.dtype, tensor.device) if tensor.is_floating_point() else tensor
    return values


def _read(node: Node, values: dict[str, Any], builder: Builder) -> Any:
    """The value of a call: folded if it does not depend on the input, otherwise read by the operator's reader."""
    args: Any = torch.fx.node.map_arg(node.args, lambda n: values[n.name])
    kwargs: Any = torch.fx.node.map_arg(node.kwargs, lambda n: values[n.name])
    flat, _ = torch.utils._pytree.tree_flatten((args, kwargs))
    if is_check(node.target):
        return None
    if node.target is operator.getitem:
        return args[0][args[1]]
    if "_functorch" in str(getattr(node.target, "__module__", "")):  # executing it would change PyTorch's state
        raise UnsupportedLayer(f"the module cannot be read: {INSIDE}")
    for unread in (a for a in flat if isinstance(a, Unread)):
        raise UnsupportedLayer(f"{node.target} at {place_of(node)} is not supported: it reads {unread.what}")
    check_read(str(node.target), f"{node.target} at {place_of(node)}", flat)
    if not any(isinstance(a, Expression | Above) for a in flat):
        if not is_covector(node):
            return _folded(node, args, kwargs, builder)
        args = (builder.constant(args[0]), *args[1:])  # a covector times weights, which stay live
    reader = torch_ops.readers.get(str(node.target))
    if changes_part(node):
        raise UnsupportedLayer(
            f"{node.target} at {place_of(node)} is not supported: it changes a tensor of which a part or another "
            "view is used; leave out the in-place operation"
        )
    if reader is None:
        what = advice(str(node.target).split(".")[1])
        raise UnsupportedLayer(f"{node.target} at {place_of(node)} is not supported; {what}")
    try:
        result = reader(*args, **kwargs)
    except UnsupportedLayer:
        raise
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        raise UnsupportedLayer(f"{node.target} at {place_of(node)} is not supported: {first_line(error)}") from error
    except AttributeError as error:  # an expression where a reader expects a tensor, or vice versa
        raise UnsupportedLayer(
            f"{node.target} at {place_of(node)} is not supported: the wrong ones of its inputs depend on the network's "
            "input"
        ) from error
    if str(node.target).split(".")[1].endswith("_") and isinstance(node.args[0], Node):
        values[node.args[0].name] = result  # an in-place operation changes its argument
    return result


def _folded(node: Node, args: Any, kwargs: Any, builder: Builder) -> Any:
    """The result of a call on constants; records whether it was rounded, and the tensors whose values were copied."""
    if node.target is torch.ops.aten.mul.Scalar and args[1] == 1:
        return args[0]  # of which torch.func.vmap makes many
    result = _called(node.target, args, kwargs, builder.dtype)
    moves = str(node.target).split(".")[1:2]
    if str(node.target).startswith("aten.empty") and result.is_floating_point():
        return result.fill_(torch.inf)  # no number of it may count
    if isinstance(result, Tensor) and result.is_floating_point() and not _MOVES.issuperset(moves):
        builder.rounded = True
    given = [t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    made = [t for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, Tensor)]
    if {t.untyped_storage().data_ptr() for t in made} - {t.untyped_storage().data_ptr() for t in given}:
        builder.taken.extend(t for t in given if t.is_floating_point())  # the network will not follow these
    return result


def _called(target: Any, args: Any, kwargs: Any, dtype: torch.dtype) -> Any:
    """The result of a call on constants, of which the operations of ATen do not narrow below `dtype`."""
    return called(target, args, kwargs, dtype) if isinstance(target, OpOverload) else target(*args, **kwargs)


_MOVES = {
    "t", "transpose", "permute", "view", "reshape", "flatten", "unsqueeze", "squeeze", "expand", "slice", "select",
    "relu", "contiguous", "clone", "detach", "detach_", "alias", "numpy_T", "neg", "zeros", "ones",
    "lift_fresh_copy", "_to_copy", "to", "cat", "stack", "flip", "roll", "index", "split", "chunk", "unbind", "mT",
    "full", "ones_like", "zeros_like", "new_zeros", "new_ones", "fill", "fill_", "diagonal", "diagonal_scatter",
    "select_backward", "slice_backward", "_unsafe_view", "split_with_sizes", "_efficientzerotensor",
}  # fmt: skip
"""Operations that do not round, so that folding them on constants is exact."""


def _output(value: Any, builder: Builder) -> Expression:
    if not isinstance(value, Expression | Tensor):
        what = value.what if isinstance(value, Unread | Above) else f"a {type(value).__name__}"
        raise UnsupportedLayer(f"the module returns {what}; {WRAP}")
    what = "tensor" if isinstance(value, Expression) else "constant"
    if not len(value.shape) or value.shape[0] != 1:
        raise UnsupportedLayer(
            f"for one input the module returns a {what} of shape {tuple(value.shape)}, which lacks the batch dimension"
        )
    # if the output is a constant, all derivatives of the network are 0
    return value if isinstance(value, Expression) else builder.constant(value)
