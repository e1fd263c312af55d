"""Reading PyTorch modules through `torch.export`: a graph of ATen operations on live parameters."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from recurjac import activations, operators
from recurjac._types import Shape
from recurjac.errors import InvalidNetwork, UnsupportedLayer
from recurjac.loading import readers, rewrites
from recurjac.loading.expression import Builder, Expression
from recurjac.loading.messages import INSIDE, advice, first_line, quiet_failure, untraced
from recurjac.loading.rewrites.threshold import Above, check_read
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
    """A module and the graph that PyTorch exported from it in eval mode; it is applied `steps` times."""

    module: nn.Module
    program: ExportedProgram
    input_shape: Shape
    device: torch.device
    steps: int = 1

    @property
    def dtype(self) -> torch.dtype:
        """The widest dtype of the module's floating-point parameters and buffers."""
        floats = [t.dtype for t in _tensors(self.module).values() if t.is_floating_point()]
        return reduce(torch.promote_types, floats, torch.float32)

    def network(self, dtype: torch.dtype) -> Network:
        """The normal form on the module's live parameters; parameters of another dtype are copied without gradients.

        Raises UnsupportedLayer, naming the operation and its place, if an operation has no normal form.
        """
        network = read_graph(self.program, _tensors(self.module), self.input_shape, dtype, self.device, self.steps)
        return replace(network, copied=(*network.copied, *self._watched(network)))

    def _watched(self, network: Network) -> tuple[Watched, ...]:
        """Every parameter and buffer: followed if the network holds the tensor itself, otherwise kept as a copy."""
        held = {t.data_ptr() for t in network.tensors()}
        return tuple(
            (Watched.followed if t.data_ptr() in held else Watched.kept)(partial(_named, self.module, name))
            for name, t in _tensors(self.module).items()
            if t.is_floating_point()
        )

    def evaluate(self, x: Tensor) -> Tensor:
        """The output of the module in eval mode and float64 on x (batch, *input); its own parameters do not change.

        Raises InvalidNetwork if it fails, UnsupportedLayer if it returns anything but a tensor.
        """
        places = _places(self.module)
        wide = {name: t.detach().double() if t.is_floating_point() else t for name, t in places.items()}
        y: Any = x
        try:
            with eval_mode(self.module), torch.no_grad():
                for _ in range(self.steps):
                    y = torch.func.functional_call(self.module, wide, (y,), tie_weights=False)
        except Exception as error:  # a module can raise any exception
            raise InvalidNetwork(
                f"the module fails on {len(x)} float64 inputs of shape {tuple(x.shape[1:])}: {first_line(error)}; "
                "it must take batches of any size, and compute in the dtype of its input and parameters"
            ) from error
        if not isinstance(y, Tensor):
            raise UnsupportedLayer(f"the module returns a {type(y).__name__}; wrap it so that it returns one tensor")
        return y


@final
class Step(nn.Module):
    """One step of a closed loop: x ↦ dynamics(x, policy(x))."""

    def __init__(self, dynamics: Callable[[Tensor, Tensor], Tensor], policy: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.dynamics, self.policy = dynamics, policy

    def forward(self, x: Tensor) -> Tensor:
        return self.dynamics(x, self.policy(x))


def trace(module: nn.Module, example: Tensor) -> Traced:
    """The graph of `module` in eval mode for one input; `example` (batch, *input).

    Raises InvalidNetwork if PyTorch cannot export the module.
    """
    some = next((t for t in _tensors(module).values() if t.is_floating_point()), None)
    example = (example.to(torch.get_default_dtype()) if some is None else example.to(some))[:1]
    with eval_mode(module):
        try:
            with quiet_failure(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The tensor attributes? .*_flat_weights")  # a habit of nn.LSTM
                program = torch.export.export(module, (example,))
        except Exception as error:
            raise InvalidNetwork(
                f"torch.export cannot trace the module on a batch of one input of shape {tuple(example.shape[1:])} "
                f"(the first dimension of the example is the batch): {untraced(error)}"
            ) from error
    return Traced(module, program, tuple(example.shape[1:]), example.device)


def _named(module: nn.Module, name: str) -> Tensor:
    """A parameter or buffer by its full name, or an empty tensor if it no longer exists."""
    found: Any = module
    for step in name.split("."):
        found = getattr(found, step, None)
    return found if isinstance(found, Tensor) else torch.empty(0)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by all of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Set the module and all of its parts to eval mode, and restore their modes afterwards."""
    training = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in training:
            part.training = mode


def _places(module: nn.Module) -> dict[str, Tensor]:
    """Every attribute that holds a parameter or buffer, by one name each.

    `functional_call` does not restore an attribute that it is given twice, for example under two names of one module.
    """
    return {
        name: tensor
        for prefix, part in module.named_modules()
        for name, tensor in (
            *part.named_parameters(prefix, recurse=False, remove_duplicate=False),
            *part.named_buffers(prefix, recurse=False, remove_duplicate=False),
        )
    }


def read_graph(
    program: ExportedProgram,
    tensors: Mapping[str, Tensor],
    input_shape: Shape,
    dtype: torch.dtype,
    device: torch.device,
    steps: int = 1,
) -> Network:
    """The normal form of a graph for one input, applied `steps` times; `tensors` has its tensors by their names in it.

    Raises UnsupportedLayer, naming the operation and its place, if an operation has no normal form.
    """
    builder = Builder(input_shape, True, dtype, device)
    value = builder.input()
    for _ in range(steps):
        if value.shape != (1, *input_shape):
            raise InvalidNetwork(
                f"a step takes a state of shape {tuple(input_shape)} to one of shape {value.shape[1:]}; both must agree"
            )
        value = _step(program, _inputs(program, tensors, builder, value), builder)
    return builder.finish(value)


def _step(program: ExportedProgram, values: dict[str, Any], builder: Builder) -> Expression:
    """The output of a graph, given the values of its placeholders."""
    for node in program.graph.nodes:
        if node.op == "call_function":
            values[node.name] = _read(node, values, builder)
        elif node.op == "output":
            return _output(node, values, builder)
        elif node.op != "placeholder":
            raise UnsupportedLayer(
                f"{node.name}: a graph node of kind {node.op}, which comes from torch.no_grad() or a branch, is not "
                "read; leave it out of the module"
            )
    raise InvalidNetwork("the exported graph has no output")


def _inputs(
    program: ExportedProgram, live: Mapping[str, Tensor], builder: Builder, given: Expression
) -> dict[str, Any]:
    """The values of the graph's placeholders: the input as an expression, live parameters, constants."""
    values: dict[str, Any] = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            values[spec.arg.name] = given
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
        raise UnsupportedLayer(f"{node.target} at {_place(node)} is not supported: it reads {unread.what}")
    check_read(f"{node.target} at {_place(node)}", flat)
    if not any(isinstance(a, Expression | Above) for a in flat):
        return _folded(node, args, kwargs, builder)
    reader = torch_ops.readers.get(str(node.target))
    if reader is None:
        what = advice(str(node.target).split(".")[1])
        raise UnsupportedLayer(f"{node.target} at {_place(node)} is not supported; {what}")
    try:
        result = reader(*args, **kwargs)
    except UnsupportedLayer:
        raise
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        raise UnsupportedLayer(f"{node.target} at {_place(node)} is not supported: {first_line(error)}") from error
    if str(node.target).split(".")[1].endswith("_") and isinstance(node.args[0], Node):
        values[node.args[0].name] = result  # an in-place operation changes its argument
    return result


def _folded(node: Node, args: Any, kwargs: Any, builder: Builder) -> Any:
    """The result of a call on constants; records whether it was rounded, and the tensors whose values were copied."""
    result = node.target(*args, **kwargs)  # type: ignore[operator]  # (a call_function's target is callable)
    moves = str(node.target).split(".")[1:2]
    if isinstance(result, Tensor) and result.is_floating_point() and not _MOVES.issuperset(moves):
        builder.rounded = True
    given = [t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    made = [t for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, Tensor)]
    if {t.untyped_storage().data_ptr() for t in made} - {t.untyped_storage().data_ptr() for t in given}:
        builder.taken.extend(t for t in given if t.is_floating_point())  # the network will not follow these
    return result


def is_check(target: Any) -> bool:
    """Whether an operation only checks its arguments, such as a dtype or a size."""
    return "_assert" in str(target) or "sym_constrain" in str(target)


_MOVES = {
    "t", "transpose", "permute", "view", "reshape", "flatten", "unsqueeze", "squeeze", "expand", "slice", "select",
    "relu", "contiguous", "clone", "detach", "detach_", "alias", "numpy_T", "neg", "zeros", "ones",
    "lift_fresh_copy", "_to_copy", "to", "cat", "stack", "flip", "roll", "index", "split", "chunk", "unbind", "mT",
    "full",
}  # fmt: skip
"""Operations that do not round, so that folding them on constants is exact."""


def _place(node: Node) -> str:
    """The place of a node in messages: its name and the module that called it."""
    stack = node.meta.get("nn_module_stack") or {}
    path = [entry[0] for entry in stack.values() if entry[0]]
    return f"node {node.name}" + (f" of module {path[-1]}" if path else "")


def _output(node: Node, values: dict[str, Any], builder: Builder) -> Expression:
    returned = node.args[0]
    outputs = list(returned) if isinstance(returned, tuple | list) else [returned]
    if len(outputs) != 1 or not isinstance(outputs[0], Node):
        what = f"{len(outputs)} values" if len(outputs) != 1 else "a value that is not a tensor"
        raise UnsupportedLayer(f"the module returns {what}; wrap it so that it returns one tensor")
    value = values[outputs[0].name]
    if not isinstance(value, Expression | Tensor):
        what = value.what if isinstance(value, Unread) else f"a {type(value).__name__}"
        raise UnsupportedLayer(f"the module returns {what}; wrap it so that it returns one tensor")
    what = "tensor" if isinstance(value, Expression) else "constant"
    if not len(value.shape) or value.shape[0] != 1:
        raise UnsupportedLayer(
            f"for one input the module returns a {what} of shape {tuple(value.shape)}, which lacks the batch dimension"
        )
    # if the output is a constant, all derivatives of the network are 0
    return value if isinstance(value, Expression) else builder.constant(value)
