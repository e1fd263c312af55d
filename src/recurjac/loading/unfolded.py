"""Modules that differentiate a part of themselves, as graphs of plain operations."""

from __future__ import annotations

import warnings
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from recurjac.loading.messages import quiet_failure


@final
class Unfolded(nn.Module):
    """A module as the operations of ATen that it calls for one input, those of its derivatives among them."""

    def __init__(self, inner: nn.Module, graph: GraphModule, names: list[str]) -> None:
        super().__init__()
        self.inner, self.graph, self.names = inner, graph, names

    def forward(self, x: Tensor) -> Any:
        held = named_tensors(self.inner)
        return self.graph([held[name] for name in self.names], x)


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by all of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def places(module: nn.Module) -> dict[str, Tensor]:
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


def differentiates(program: ExportedProgram) -> bool:
    """Whether a graph enters and leaves levels of torch.func, between which operations mean something else."""
    return any("_functorch" in str(getattr(n.target, "__module__", "")) for n in program.graph.nodes)


def is_covector(node: Node) -> bool:
    """Whether a product of constant matrices is a covector at the output of a network that the graph differentiates."""
    return node.target in _PRODUCTS and any("_backward" in str(n.target) for n in node.graph.nodes)


_PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.bmm.default, torch.ops.aten.matmul.default)


def unfolded(module: nn.Module, example: Tensor) -> nn.Module:
    """The module in the operations that it calls, of which autograd's are ordinary ones.

    It is run without numbers, so that control flow that depends on data raises an exception, as it does in
    `torch.export`.  example: one input, with its batch axis.
    """
    held = places(module)
    names = list(held)

    def called(tensors: list[Tensor], x: Tensor) -> Any:
        return torch.func.functional_call(module, dict(zip(names, tensors, strict=True)), (x,), tie_weights=False)

    with quiet_failure(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of its own use of TorchScript
        trace = make_fx(called, tracing_mode="fake", _allow_non_fake_inputs=True)
        graph: GraphModule = trace(list(held.values()), example.detach().clone())
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return Unfolded(module, graph, names)
