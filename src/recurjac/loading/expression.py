"""Building the normal form: expressions that are affine in the stages so far."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.activations import AbstractActivation, Linear
from recurjac.network import Constant, Edge, Network, Stage
from recurjac.operators import AbstractOperator, Identity, compose

_MOST_EDGES = 16
"""An expression with more terms becomes a stage of its own, lest sums of sums grow exponentially."""


@final
@dataclass
class Builder:
    """The stages found so far; node 0 is the input of shape `input_shape`.

    rounded: whether constants were computed in floating point, which the bounds then do not cover.
    """

    input_shape: Shape
    batch: int
    dtype: torch.dtype
    device: torch.device
    stages: list[Stage] = field(default_factory=list)
    rounded: bool = False

    def node(self, number: int) -> Expression:
        """The expression that is a node's output."""
        shape = self.input_shape if number == 0 else self.stages[number - 1].shape
        return Expression(self, (Edge(number, Identity(shape)),), (), shape)

    def add(self, expression: Expression, activation: AbstractActivation) -> Expression:
        """A new stage σ(expression), and the expression that is its output."""
        self.stages.append(Stage(expression.edges, expression.constants, activation, expression.shape))
        return self.node(len(self.stages))

    def finish(self, output: Expression) -> Network:
        """The network with this output."""
        self.stages.append(Stage(output.edges, output.constants, Linear(), output.shape))
        return Network(self.input_shape, tuple(self.stages), self.dtype, self.device, self.rounded)


@final
@dataclass(frozen=True)
class Expression:
    """Σ A_i h_i + Σ B_j c_j, a tensor of `shape` without its batch dimension."""

    builder: Builder
    edges: tuple[Edge, ...]
    constants: tuple[Constant, ...]
    shape: Shape

    @property
    def batch(self) -> int:
        """The batch size of the example that the foreign network was traced with."""
        return self.builder.batch

    @property
    def dtype(self) -> torch.dtype:
        return self.builder.dtype

    def apply(self, operator: AbstractOperator) -> Expression:
        """operator(self)."""
        if operator.in_shape != self.shape:
            raise ValueError(f"an operation on tensors of shape {operator.in_shape} got one of shape {self.shape}")
        edges = tuple(Edge(e.source, compose(operator, e.operator)) for e in self.edges)
        constants = tuple(Constant(compose(operator, c.operator), c.tensor) for c in self.constants)
        return Expression(self.builder, edges, constants, operator.out_shape)

    def plus(self, other: Expression) -> Expression:
        """self + other, of one shape."""
        if self.shape != other.shape:
            raise ValueError(f"a sum of branches of shapes {self.shape} and {other.shape}; they must be equal")
        a, b = self, other
        if len(a.edges) + len(b.edges) > _MOST_EDGES:
            a, b = a.as_node(), b.as_node()
        return replace(a, edges=a.edges + b.edges, constants=a.constants + b.constants)

    def as_node(self) -> Expression:
        """The same value as a stage of its own."""
        return self if len(self.edges) == 1 else self.builder.add(self, Linear())

    def shift(self, constant: Tensor) -> Expression:
        """self + constant, which may have a batch dimension of 1."""
        tensor = constant.to(self.dtype)
        if tensor.dim() > len(self.shape):
            if tensor.shape[0] != 1:
                raise ValueError("a constant that differs between the samples of a batch is added")
            tensor = tensor[0]
        if torch.broadcast_shapes(tensor.shape, self.shape) != torch.Size(self.shape):
            raise ValueError(f"a constant of shape {tuple(tensor.shape)} is added to a tensor of shape {self.shape}")
        term = Constant(Identity(self.shape), tensor.expand(self.shape))
        return replace(self, constants=(*self.constants, term))

    def activate(self, activation: AbstractActivation) -> Expression:
        """activation(self), a new stage."""
        return self.builder.add(self, activation)
