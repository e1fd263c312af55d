"""Graphs in simpler operations, for those with operations that have no reader or that change parts of tensors."""

from __future__ import annotations

import warnings

import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram, default_decompositions
from torch.fx import Node

from recurjac.loading.messages import quiet_failure
from recurjac.registry import torch_ops


def decomposed(program: ExportedProgram) -> ExportedProgram | None:
    """The same graph without operations in place, and with PyTorch's decompositions of those that have no reader.

    None if PyTorch cannot decompose it, or it normalises by the statistics of a batch: for a batch of one, PyTorch's
    decomposition of that is the one of an instance normalisation.
    """
    if any(_of_the_batch(node) for node in program.graph.nodes):
        return None
    try:
        with warnings.catch_warnings(), quiet_failure():
            warnings.simplefilter("ignore")
            table = default_decompositions()
            for operation in list(table.keys()):
                if str(operation) in torch_ops.readers:
                    table.pop(operation)
            simpler: ExportedProgram = program.run_decompositions(table)
    except Exception:  # PyTorch can raise any exception; the operations of `program` then name what is not read
        return None
    return simpler


def state_eps(program: ExportedProgram) -> ExportedProgram:
    """The program, in which RMS normalisations without an eps get the one that their own dtype gives them."""
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.rms_norm.default and (*node.args, None, None)[3] is None:
            own = torch.finfo(torch.promote_types(node.meta["val"].dtype, torch.float32)).eps
            node.args = (*(*node.args, None)[:3], own)
    return program


def _of_the_batch(node: Node) -> bool:
    """Whether an operation is a batch normalisation without running statistics."""
    if node.target is not torch.ops.aten.batch_norm.default:
        return False
    _, _, _, mean, variance, training = node.args[:6]
    return mean is None or variance is None or bool(training)


def changes_part(node: Node) -> bool:
    """Whether an operation changes a tensor in place that shares memory with another one that may be used."""
    if not mutates(node) or not node.args or not isinstance(node.args[0], Node):
        return False
    changed = node.args[0]
    if any(user is not node and shares(user) for user in changed.users):
        return True
    while shares(changed) and isinstance(changed.args[0], Node):
        changed = changed.args[0]
        if len(changed.users) > 1:
            return True
    return False


def mutates(node: Node) -> bool:
    """Whether an operation changes an argument."""
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def shares(node: Node) -> bool:
    """Whether the result may share memory with the first argument."""
    target = node.target
    if not isinstance(target, OpOverload) or not node.args:
        return False
    return any(r.alias_info is not None for r in target._schema.returns) or target._schema.name in _MAYBE


_MAYBE = {
    f"aten::{name}"
    for name in ("reshape", "flatten", "ravel", "contiguous", "to", "type_as", "reshape_as", "unflatten", "movedim",
                 "moveaxis", "swapaxes", "swapdims", "narrow", "numpy_T", "mT", "mH", "adjoint", "tensor_split",
                 "chunk", "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "broadcast_to",
                 "expand_as", "atleast_1d", "atleast_2d", "atleast_3d", "positive", "clone_preserve_strides")
}  # fmt: skip
"""Operations whose result may share memory with their argument, although their schema does not say so."""
