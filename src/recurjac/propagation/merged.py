"""Networks whose terms of one node are merged: many small operators become one matrix, up to rounding.

Layers that scale, slice and join few numbers, as the dynamics of a closed loop does, leave a stage with many terms that
read the same node, each a chain of operators.  A product with their sum takes as long as one with a single operator.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from recurjac.arithmetic import AbstractArithmetic, Ball, Rigorous, summed
from recurjac.network import Constant, Edge, Network, Stage
from recurjac.operators import AbstractOperator, Compose
from recurjac.operators.interval_matrix import IntervalMatrix
from recurjac.propagation.planning import AbstractPlanner

_PROVED: AbstractArithmetic = Rigorous()


def with_merged_terms(network: Network, planner: AbstractPlanner) -> Network:
    """A network of intervals of weights that contain those of `network`; the network itself if no merging is worth it.

    All terms of a stage that read the same node are one matrix, known up to the rounding of its computation; constants
    are another one.  Stages keep their numbers and shapes, and bounds stay differentiable.  Weights are read now: later
    changes of live ones are not followed.
    """
    stages = tuple(_merged(stage, network, planner) for stage in network.stages)
    same = all(new is old for new, old in zip(stages, network.stages, strict=True))
    return network if same else replace(network, stages=stages)


def _merged(stage: Stage, network: Network, planner: AbstractPlanner) -> Stage:
    edges = _merged_edges(stage, network, planner)
    constants = _merged_constants(stage, network, planner)
    if edges is stage.edges and constants is stage.constants:
        return stage
    return replace(stage, edges=edges, constants=constants)


def _merged_edges(stage: Stage, network: Network, planner: AbstractPlanner) -> tuple[Edge, ...]:
    """One edge from each node whose terms are worth merging, and all edges from the others."""
    groups: dict[int, list[Edge]] = {}
    for e in stage.edges:
        groups.setdefault(e.source, []).append(e)
    edges, changed = list[Edge](), False
    for source, group in groups.items():
        shape = network.shape(source)
        operators = [e.operator for e in group]
        matrix = None
        if _worth(operators, prod(shape) * prod(stage.shape), network, planner):
            index = torch.arange(prod(shape), device=network.device)
            matrix = _sum_of(o.columns(index, network.dtype, _PROVED) for o in operators)
        edges += group if matrix is None else [Edge(source, IntervalMatrix(matrix, shape, stage.shape))]
        changed = changed or matrix is not None
    return tuple(edges) if changed else stage.edges


def _merged_constants(stage: Stage, network: Network, planner: AbstractPlanner) -> tuple[Constant, ...]:
    """The constants as one, a matrix of one column, if that is worth it."""
    operators, size = [c.operator for c in stage.constants], prod(stage.shape)
    if not _worth(operators, size, network, planner):
        return stage.constants
    column = _sum_of(c.operator.push(_PROVED.exact(c.tensor)).map(lambda t: t.unsqueeze(0)) for c in stage.constants)
    if column is None:
        return stage.constants
    one = torch.ones(1, dtype=network.dtype, device=network.device)
    return (Constant(IntervalMatrix(column, (1,), stage.shape), one),)


def _worth(operators: Sequence[AbstractOperator], entries: int, network: Network, planner: AbstractPlanner) -> bool:
    """Whether a matrix of so many entries is to replace these operators.

    Local operators stay as they are, and so do those that only move entries, whose structure other code reads.
    """
    work = sum(o.multiply_adds() for o in operators)
    if work == 0 or not planner.merges(sum(map(_count, operators)), work, entries):
        return False
    return not any(o.local or o.unproved_rounding(network.dtype, network.device) for o in operators)


def _count(operator: AbstractOperator) -> int:
    """The number of operators in a composition."""
    return _count(operator.outer) + _count(operator.inner) if isinstance(operator, Compose) else 1


def _sum_of(columns: Iterable[Ball]) -> Ball | None:
    """The sum of values (n, *out) as a matrix (out, n); None if it is not finite."""
    total = summed([c.map(_as_matrix) for c in columns])
    ends = (total.mid, total.mid if total.rad is None else total.rad)
    return total if all(bool(t.isfinite().all()) for t in ends) else None


def _as_matrix(columns: Tensor) -> Tensor:
    return columns.reshape(len(columns), prod(columns.shape[1:])).mT
