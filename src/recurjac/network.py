"""The normal form of a network: stages h_k = σ_k(b_k + Σ_{i<k} A_ki h_i), h_0 the input, the last stage the output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite, prod
from typing import final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.activations import AbstractActivation
from recurjac.activations import Identity as NoActivation
from recurjac.arithmetic import AbstractArithmetic, Ball, Fast, check_matmul
from recurjac.digest import digest
from recurjac.errors import InvalidNetwork, InvalidRequest
from recurjac.operators import AbstractOperator, Dense, Identity, Reshape, compose


@final
@dataclass(frozen=True)
class Edge:
    """A term A h_source of a stage."""

    source: int
    operator: AbstractOperator


@final
@dataclass(frozen=True)
class Constant:
    """A term A c of a stage's bias, kept apart because adding it up beforehand would round."""

    operator: AbstractOperator
    tensor: Tensor


@final
@dataclass(frozen=True)
class Stage:
    """h = σ(Σ constants + Σ edges)."""

    edges: tuple[Edge, ...]
    constants: tuple[Constant, ...]
    activation: AbstractActivation
    shape: Shape

    @property
    def linear(self) -> bool:
        """Whether the stage has no activation."""
        return isinstance(self.activation, NoActivation)

    def bias(self, arithmetic: AbstractArithmetic) -> Ball | None:
        """b, with its rounding; None if there is none.  Shape: that of the stage."""
        total: Ball | None = None
        for c in self.constants:
            term = c.operator.push(arithmetic.exact(c.tensor))
            total = term if total is None else total + term
        return total


@final
@dataclass(frozen=True)
class Watched:
    """Where a parameter or buffer is found, and what was found when a network was read.

    follows: whether the network holds the tensor itself, whose values may change; else they may not.
    Values are compared, as PyTorch's own count of changes misses some (`.data`, batch statistics in training).
    """

    read: Callable[[], Tensor]
    found: Tensor
    follows: bool

    @classmethod
    def now(cls, tensor: Tensor) -> Watched:
        """A tensor whose present values are kept."""
        return cls.kept(lambda: tensor)

    @classmethod
    def kept(cls, read: Callable[[], Tensor]) -> Watched:
        return cls(read, read().detach().clone(), False)

    @classmethod
    def followed(cls, read: Callable[[], Tensor]) -> Watched:
        return cls(read, read(), True)

    @property
    def changed(self) -> bool:
        now = self.read()
        return now is not self.found if self.follows else not torch.equal(now.detach(), self.found)


def _all_finite(tensor: Tensor) -> bool:
    """Whether no entry is NaN or infinite; if their sum is neither, no entry is."""
    return isfinite(tensor.sum().item()) or bool(tensor.isfinite().all())


@final
@dataclass(frozen=True)
class Network:
    """A directed acyclic network in normal form; node 0 is the input and node k the output of `stages[k - 1]`.

    rounded: whether some weight is itself the rounded result of stored numbers, whose exact value bounds do not cover.
    copied: parameters and buffers of the module that it was read from, to notice changes that it does not follow.
    Its tensors may be live parameters of a module: bounds are then differentiable with respect to them.
    Raises InvalidNetwork if a parameter is NaN or infinite, if a stage reads a later one, or if there is no output.
    """

    input_shape: Shape
    stages: tuple[Stage, ...]
    dtype: torch.dtype = torch.float64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rounded: bool = False
    copied: tuple[Watched, ...] = ()
    _digests: dict[tuple[int, ...], str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.stages or not self.stages[-1].linear:
            raise InvalidNetwork("a network needs a last stage without an activation (use activations.Identity())")
        if prod(self.output_shape) == 0:
            raise InvalidNetwork(f"the network's output of shape {self.output_shape} has no entries to bound")
        for k, stage in enumerate(self.stages, 1):
            if any(not 0 <= e.source < k for e in stage.edges):
                raise InvalidNetwork(f"stage {k} reads a stage that does not come before it")
        self.check_weights()

    def check_weights(self) -> None:
        """Raise InvalidNetwork if a weight is NaN or infinite, or changed in the module while this network kept it."""
        for k, stage in enumerate(self.stages, 1):
            numbers = (v for v in vars(stage.activation).values() if isinstance(v, float))
            if not (all(map(_all_finite, _stage_tensors(stage))) and all(map(isfinite, numbers))):
                raise InvalidNetwork(
                    f"stage {k} ({stage.activation.name}) has a weight that is NaN or infinite; "
                    "no bound of such a network exists"
                )
        if any(w.changed for w in self.copied):
            raise InvalidNetwork(
                f"the module's weights changed after its network was read in {self.dtype}; read it again, or in the "
                "module's own dtype (load(…, dtype=…)), in which the network follows its weights"
            )

    @property
    def output_shape(self) -> Shape:
        return self.stages[-1].shape

    @property
    def depth(self) -> int:
        """The number of the output node."""
        return len(self.stages)

    def shape(self, node: int) -> Shape:
        """The shape of a node, 0 being the input."""
        return self.input_shape if node == 0 else self.stages[node - 1].shape

    @cached_property
    def parameters(self) -> int:
        """The number of stored weights, each tensor counted once."""
        return _count(t for s in self.stages for t in _stage_tensors(s))

    @cached_property
    def multiply_adds(self) -> int:
        """Multiplications of one evaluation of the network."""
        return sum(self.work)

    def tensors(self) -> Iterable[Tensor]:
        """Every tensor that the network holds."""
        return (t for s in self.stages for t in _stage_tensors(s))

    def weights(self, stage: int) -> int:
        """The number of stored weights that a stage reads."""
        return _count(_stage_tensors(self.stages[stage - 1]))

    @cached_property
    def work(self) -> tuple[int, ...]:
        """Multiplications of one evaluation of each stage."""
        return tuple(sum(e.operator.multiply_adds() for e in s.edges) for s in self.stages)

    @cached_property
    def local(self) -> bool:
        """Whether some operator is, as a convolution is."""
        return any(e.operator.local for s in self.stages for e in s.edges)

    @cached_property
    def cost(self) -> int:
        """Multiply-adds of bounding the gradient of one output where every neuron is unstable.

        Forms of every neuron are pulled back to the input, tangents of every neuron and input pushed on to the output,
        twice each (docs/mathematics.md, §5); with a share of unstable neurons it is about that share, and the inputs'
        part.
        """
        each = self.work
        total, before = 0, 0
        for stage, cost in zip(self.stages, each, strict=True):
            total += 2 * prod(stage.shape) * (before + cost) * (not stage.linear)
            before += cost
            total += 2 * prod(stage.shape) * (sum(each) - before) * (not stage.linear)
        return total + 2 * prod(self.input_shape) * sum(each)

    def preactivations(self, x: Tensor) -> list[Tensor]:
        """z_1, …, z_K for inputs (batch, *input), in plain floating point; the last is the output."""
        fast, nodes, pre = Fast(), [x], []
        for stage in self.stages:
            z = x.new_zeros(x.shape[0], *stage.shape)
            for edge in stage.edges:
                z = z + edge.operator.push(fast.exact(nodes[edge.source])).mid
            bias = stage.bias(fast)
            pre.append(z if bias is None else z + bias.mid)
            nodes.append(stage.activation.value(pre[-1]))
        return pre

    def __call__(self, x: Tensor) -> Tensor:
        """The outputs (batch, *output) for inputs (batch, *input), in plain floating point."""
        return self.preactivations(x)[-1]

    def to(self, dtype: torch.dtype, device: torch.device | str | None = None) -> Network:
        """The same network in `dtype` on `device`.

        Raises InvalidNetwork if a weight would be rounded: that would be another network.
        """
        where = self.device if device is None else torch.device(device)
        for stage in self.stages:
            for t in _stage_tensors(stage):
                if not torch.equal(t.detach().to(dtype).to(t.dtype), t.detach()):
                    raise InvalidNetwork(f"the weights are not {dtype} numbers; bounds would be of another network")
        stages = tuple(
            replace(
                s,
                edges=tuple(Edge(e.source, e.operator.to(dtype, where)) for e in s.edges),
                constants=tuple(Constant(c.operator.to(dtype, where), c.tensor.to(where, dtype)) for c in s.constants),
                activation=s.activation.to(dtype, where),
            )
            for s in self.stages
        )
        moved = (
            Watched.now(t)
            for s in self.stages
            for t in _stage_tensors(s)
            if t.is_leaf and t.requires_grad and (t.dtype, t.device) != (dtype, where)
        )
        return replace(self, stages=stages, dtype=dtype, device=where, copied=(*self.copied, *moved))

    def output(self, *index: int) -> Network:
        """The network of the outputs numbered `index` (row-major) alone.  Raises InvalidRequest if one is missing."""
        size = prod(self.output_shape)
        for i in index:
            if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < size:
                raise InvalidRequest(f"class {i} does not exist; the network has outputs 0 to {size - 1}")
        return self.combine(torch.eye(size, dtype=self.dtype, device=self.device)[list(index)])

    def margin(self, a: int, b: int) -> Network:
        """The network of the one output f_a - f_b.  Raises InvalidRequest if a or b is missing or a = b."""
        size = prod(self.output_shape)
        if a == b or not (0 <= a < size and 0 <= b < size):
            raise InvalidRequest(f"the margin of classes {a} and {b} needs two different outputs of 0 to {size - 1}")
        row = torch.zeros(1, size, dtype=self.dtype, device=self.device)
        row[0, a], row[0, b] = 1.0, -1.0
        return self.combine(row)

    def combine(self, rows: Tensor) -> Network:
        """The network of the outputs rows · f, folded into the last operators: rows (new outputs, old outputs)."""
        return self._follow(Dense(rows.to(self.device, self.dtype), self.output_shape, (rows.shape[0],)))

    def flattened_output(self) -> Network:
        """The same network with its output as a vector."""
        if len(self.output_shape) == 1:
            return self
        return self._follow(Reshape(self.output_shape, (prod(self.output_shape),)))

    def _follow(self, operator: AbstractOperator) -> Network:
        last = self.stages[-1]
        edges = tuple(Edge(e.source, compose(operator, e.operator)) for e in last.edges)
        constants = tuple(Constant(compose(operator, c.operator), c.tensor) for c in last.constants)
        return replace(self, stages=(*self.stages[:-1], Stage(edges, constants, last.activation, operator.out_shape)))

    def digest(self) -> str:
        """The SHA-256 digest of the normal form: shapes, operators, activations and every weight's bytes."""
        versions = tuple(t._version for t in self.tensors())
        if versions not in self._digests:
            self._digests.clear()
            self._digests[versions] = digest((self.input_shape, self.stages))
        return self._digests[versions]

    @property
    def live(self) -> bool:
        """Whether some weight asks for a gradient."""
        return any(t.requires_grad for t in self.tensors())

    def unproved_rounding(self) -> list[str]:
        """Why bounds of this network do not cover rounding yet; empty if they do."""
        names = sorted({s.activation.name for s in self.stages if not s.activation.rigorous})
        reasons = [f"no rounding error is proved for {', '.join(names)}"] if names else []
        if self.rounded:
            reasons.append("some weights were computed from others in floating point")
        operators = [e.operator for s in self.stages for e in s.edges]
        reduced = {check_matmul(self.dtype), *(o.unproved_rounding(self.dtype, self.device) for o in operators)}
        return reasons + sorted(r for r in reduced if r)


def _count(tensors: Iterable[Tensor]) -> int:
    """The number of entries of some tensors, each counted once."""
    return sum(count for _, count in {(t.data_ptr(), _stored(t)) for t in tensors})


def _stored(tensor: Tensor) -> int:
    """The number of entries in memory: those of an expanded axis are one."""
    return prod(n for n, step in zip(tensor.shape, tensor.stride(), strict=True) if step or n == 0)


def _stage_tensors(stage: Stage) -> Iterable[Tensor]:
    for edge in stage.edges:
        yield from edge.operator.tensors()
    for constant in stage.constants:
        yield constant.tensor
        yield from constant.operator.tensors()
    yield from (v for v in vars(stage.activation).values() if isinstance(v, Tensor))


def chain(weights: Sequence[tuple[Tensor, Tensor | None]], activations: Sequence[AbstractActivation]) -> Network:
    """The chain W_L σ_{L-1}(… σ_1(W_1 x + b_1) …) + b_L: L weights (out x in) and biases, L - 1 activations."""
    stages = []
    for k, (weight, bias) in enumerate(weights):
        shape = (weight.shape[0],)
        constants = () if bias is None else (Constant(Identity(shape), bias),)
        stages.append(Stage((Edge(k, Dense.matrix(weight)),), constants, (*activations, NoActivation())[k], shape))
    first = weights[0][0]
    return Network((first.shape[1],), tuple(stages), first.dtype, first.device)
