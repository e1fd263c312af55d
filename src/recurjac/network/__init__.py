"""The normal form of a network: stages h_k = σ_k(b_k + Σ_{i<k} A_ki h_i); h_0 is the input, the last is the output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite, prod
from typing import Any, final

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.activations import AbstractActivation
from recurjac.activations import Identity as NoActivation
from recurjac.arithmetic import Fast, check_matmul
from recurjac.digest import digest
from recurjac.errors import InvalidNetwork, InvalidRequest
from recurjac.network.factors import check_factors, has_factors
from recurjac.network.input_side import embedding, fixed_features, placed, reading
from recurjac.network.numbers import exact_numbers, shaped
from recurjac.network.stage import (
    Closed,
    Constant,
    Edge,
    Extremes,
    MatrixProduct,
    Selection,
    Stage,
    count,
    stage_tensors,
)
from recurjac.network.watched import Watched
from recurjac.operators import AbstractOperator, Dense, Identity, Reshape, compose
from recurjac.tensors import without_gradients

__all__ = [
    "Closed", "Constant", "Edge", "Extremes", "MatrixProduct", "Network", "Selection", "Stage", "Watched", "chain",
]  # fmt: skip


def _after(stage: Stage, pre: Sequence[Tensor]) -> Tensor:
    """The output of the last stage with a pre-activation; the second factor of a product has all of the product."""
    if stage.factor is None:
        return stage.activation.value(pre[-1])
    return torch.zeros_like(pre[-1]) if stage.factor.first else pre[-1] * pre[-2]


def _all_finite(tensor: Tensor) -> bool:
    """Whether all entries are finite; a finite sum proves it."""
    return isfinite(tensor.sum().item()) or bool(tensor.isfinite().all())


@final
@dataclass(frozen=True)
class Network:
    """A directed acyclic network in normal form; node 0 is the input and node k is the output of `stages[k - 1]`.

    rounded: whether some weight was computed from stored numbers with rounding; bounds do not cover its exact value.
    copied: parameters and buffers of the module from which the network was read, to detect changes that it does not
    follow.
    otherwise: what a program in floating point computes from other numbers than those that it was read as, so that
    nothing is proved for it (`Deployed`).
    The tensors may be live parameters of a module; bounds are then differentiable with respect to them.
    `copy.deepcopy` and `pickle` create networks that hold their own tensors with the current values.  They do not
    follow a module, do not detect its changes, and have no gradients.
    Raises InvalidNetwork if a parameter is NaN or infinite, if a stage reads a later stage, or if there is no output.
    """

    input_shape: Shape
    stages: tuple[Stage, ...]
    dtype: torch.dtype = torch.float64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rounded: bool = False
    copied: tuple[Watched, ...] = ()
    otherwise: tuple[str, ...] = ()
    _digests: dict[tuple[int, ...], str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.stages or not self.stages[-1].linear:
            raise InvalidNetwork("the last stage of a network must have no activation (use activations.Identity())")
        if prod(self.output_shape) == 0:
            raise InvalidNetwork(f"the network's output of shape {self.output_shape} has no entries to bound")
        for k, stage in enumerate(self.stages, 1):
            if any(not 0 <= e.source < k for e in stage.edges):
                raise InvalidNetwork(f"stage {k} reads a stage that does not come before it")
            if stage.selection is not None and not (stage.linear and 0 <= stage.selection.source < k < self.depth):
                raise InvalidNetwork(f"stage {k} does not select among entries of node {stage.selection.source}")
            if stage.closed is not None and not (stage.linear and 0 <= stage.closed.source < k < self.depth):
                raise InvalidNetwork(f"stage {k} is no function of node {stage.closed.source}")
            if stage.extremes is not None and not 0 <= stage.extremes.source < k < self.depth:
                raise InvalidNetwork(f"stage {k} is no maximum of entries of node {stage.extremes.source}")
            product = stage.matrices
            sources = () if product is None else (product.first.source, product.second.source)
            if not all(stage.linear and 0 <= source < k < self.depth for source in sources):
                raise InvalidNetwork(f"stage {k} is no product of matrices from nodes {sources}")
        check_factors(self.stages)
        self.check_weights()

    def check_weights(self) -> None:
        """Raise InvalidNetwork if a weight is NaN or infinite, or if the module changed a weight that was copied."""
        dtypes = set()
        for k, stage in enumerate(self.stages, 1):
            held = [*stage_tensors(stage)]
            numbers = (v for v in vars(stage.activation).values() if isinstance(v, float))
            if not (all(map(_all_finite, held)) and all(map(isfinite, numbers))):
                raise InvalidNetwork(
                    f"stage {k} ({stage.activation.name}) has a weight that is NaN or infinite; "
                    "such a network has no bounds"
                )
            dtypes |= {t.dtype for t in held if t.is_floating_point()}
        if wrong := dtypes - {self.dtype}:
            raise InvalidNetwork(
                f"a weight has become {min(map(str, wrong))} since the network was read in {self.dtype}; "
                "read the module again"
            )
        if any(w.changed for w in self.copied):
            raise InvalidNetwork(
                f"the module's weights changed after its network was read in {self.dtype}; read it again, or read it "
                "in the module's own dtype (load(…, dtype=…)), in which the network follows all weights but those that "
                "the module computes, as with spectral_norm; rj.training.Bounds(module, example) follows these as well"
            )

    @property
    def output_shape(self) -> Shape:
        return self.stages[-1].shape

    @property
    def depth(self) -> int:
        """The number of the output node."""
        return len(self.stages)

    def shape(self, node: int) -> Shape:
        """The shape of a node; node 0 is the input."""
        return self.input_shape if node == 0 else self.stages[node - 1].shape

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The number of entries of each node; node 0 is the input."""
        return (prod(self.input_shape), *(prod(s.shape) for s in self.stages))

    @cached_property
    def uses(self) -> tuple[int, ...]:
        """The number of edges out of each node."""
        sources = [e.source for s in self.stages for e in s.edges]
        return tuple(sources.count(k) for k in range(len(self.sizes)))

    @cached_property
    def parameters(self) -> int:
        """The number of stored weights; each tensor is counted once."""
        return count(t for s in self.stages for t in stage_tensors(s))

    @cached_property
    def multiply_adds(self) -> int:
        """The number of multiplications of one evaluation of the network."""
        return sum(self.work)

    def tensors(self) -> Iterable[Tensor]:
        """Every tensor that the network holds."""
        return (t for s in self.stages for t in stage_tensors(s))

    def weights(self, stage: int) -> int:
        """The number of stored weights that a stage reads."""
        return count(stage_tensors(self.stages[stage - 1]))

    @cached_property
    def work(self) -> tuple[int, ...]:
        """The number of multiplications of one evaluation of each stage."""
        return tuple(sum(e.operator.multiply_adds() for e in s.edges) for s in self.stages)

    @cached_property
    def has_products(self) -> bool:
        """Whether some stages are factors of a product."""
        return has_factors(self.stages)

    @property
    def has_closed_forms(self) -> bool:
        """Whether some stage is known as a function of rows."""
        return any(s.closed is not None for s in self.stages)

    @cached_property
    def local(self) -> bool:
        """Whether some operator is local, such as a convolution."""
        return any(e.operator.local for s in self.stages for e in s.edges)

    @cached_property
    def cost(self) -> int:
        """The multiply-adds to bound the gradient of one output if every neuron is unstable.

        Forms of every neuron are pulled back to the input, and tangents of every neuron and input are pushed forward to
        the output, twice each (docs/mathematics.md, §5).  If only a share of the neurons is unstable, the cost is about
        that share of the neurons' part, plus the inputs' part.
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
        return self._evaluated(x)[0]

    def nodes(self, x: Tensor) -> list[Tensor]:
        """h_0, …, h_K for inputs h_0 = x (batch, *input), in plain floating point; the last is the output."""
        return self._evaluated(x)[1]

    def _evaluated(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        fast, nodes, pre = Fast(), [x], []
        for stage in self.stages:
            z = x.new_zeros(x.shape[0], *stage.shape)
            for edge in stage.edges:
                z = z + edge.operator.push(fast.exact(nodes[edge.source])).mid
            bias = stage.bias(fast)
            pre.append(z if bias is None else z + bias.mid)
            nodes.append(_after(stage, pre))
        return pre, nodes

    def __call__(self, x: Tensor) -> Tensor:
        """The outputs (batch, *output) for inputs (batch, *input), in plain floating point."""
        return self.preactivations(x)[-1]

    def to(self, *where: torch.dtype | torch.device | str | None, **named: Any) -> Network:
        """The same network in another dtype, on another device, or both: `to(dtype)`, `to(device, dtype)`.

        Tensors that already have this dtype and device stay live.  The others are copied without gradients, and do not
        follow changes.
        Raises InvalidNetwork if a weight would be rounded, because that would be another network; InvalidRequest for
        anything but one dtype and one device.
        """
        dtype, device = _destination(where, named, self)
        self.check_weights()
        for t in self.tensors():
            if t.dtype != dtype and not torch.equal(t.detach().to(dtype).to(t.dtype), t.detach()):
                raise InvalidNetwork(f"the weights are not {dtype} numbers; bounds would be of another network")
        stages = tuple(s.to(dtype, device) for s in self.stages)
        left = [t for t in self.tensors() if t.requires_grad and (t.dtype, t.device) != (dtype, device)]
        kept = Watched.as_copied(self.copied, left, dtype, device)
        return replace(self, stages=stages, dtype=dtype, device=device, copied=kept)

    def detached(self) -> Network:
        """The same network on the same memory; its bounds have no gradients."""
        return replace(self, stages=without_gradients(self.stages))

    def __copy__(self) -> Network:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        self.check_weights()  # do not copy a network whose weights are partly out of date
        stages = without_gradients(self.stages)
        return Network, (self.input_shape, stages, self.dtype, self.device, self.rounded, (), self.otherwise)

    def __repr__(self) -> str:
        kinds = Counter(s.activation.name for s in self.stages if not s.linear)
        n, weights = len(self.stages), f"{self.parameters:,}".replace(",", " ")
        made = f"{n} stage{'s' * (n != 1)}" + (":" if kinds else "")
        made += ",".join(f" {name} ×{count}" for name, count in kinds.items())
        where = "" if self.device.type == "cpu" else f" on {self.device}"
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"Network({self.input_shape} → {self.output_shape}, {made}, "
            f"{weights} weight{'s' * (self.parameters != 1)}, {dtype}{where})"
        )

    def output(self, *index: int) -> Network:
        """The network of only the outputs `index` (row-major).  Raises InvalidRequest if one does not exist."""
        size = prod(self.output_shape)
        for i in index:
            if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < size:
                raise InvalidRequest(f"class {i} does not exist; the network has outputs 0 to {size - 1}")
        return self.combine(torch.eye(size, dtype=self.dtype, device=self.device)[list(index)])

    def margin(self, a: int, b: int) -> Network:
        """The network of the single output f_a - f_b.  Raises InvalidRequest if a or b does not exist, or if a = b."""
        size = prod(self.output_shape)
        known = all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < size for i in (a, b))
        if a == b or not known:
            raise InvalidRequest(f"the margin of classes {a} and {b} needs two different outputs in 0 to {size - 1}")
        row = torch.zeros(1, size, dtype=self.dtype, device=self.device)
        row[0, a], row[0, b] = 1.0, -1.0
        return self.combine(row)

    def combine(self, rows: Any) -> Network:
        """The network of the outputs rows · f, folded into the last operators; rows: (new outputs, old outputs).

        Bounds are differentiable with respect to rows that have the network's dtype and device.
        Raises InvalidRequest if the rows do not fit, or are not finite numbers of the network's dtype.
        """
        matrix, size = self._own("the matrix of rows", rows), prod(self.output_shape)
        if matrix.dim() != 2 or matrix.shape[1] != size or len(matrix) == 0:
            raise InvalidRequest(
                f"the matrix of rows has shape {tuple(matrix.shape)}; the network needs (new outputs, {size})"
            )
        return self._follow(Dense(matrix, self.output_shape, (matrix.shape[0],)))

    def precompose(self, matrix: Any, shift: Any = None) -> Network:
        """The network x' ↦ f(matrix · x' + shift) of vectors x', folded into the operators that read the input.

        matrix: (inputs, new inputs); shift: (inputs,) or the input's shape.  No product of weights is rounded.
        Bounds are differentiable with respect to both if they have the network's dtype and device.
        Raises InvalidRequest if they do not fit, or are not finite numbers of the network's dtype.
        """
        factors, size = self._own("the matrix", matrix), prod(self.input_shape)
        if factors.dim() != 2 or factors.shape[0] != size or factors.shape[1] == 0:
            raise InvalidRequest(f"the matrix has shape {tuple(factors.shape)}; the network needs ({size}, new inputs)")
        moved = None if shift is None else self._input("the shift", shift)
        return self._reading(Dense(factors, (factors.shape[1],), self.input_shape), moved)

    def fix(self, features: Mapping[Any, Any]) -> Network:
        """The network of the remaining input features, as a vector in their order, with `features` fixed.

        features: a map from feature indices (row-major) to values.
        Raises InvalidRequest for a feature that does not exist, if no feature remains, and for a value that is not a
        finite number of the network's dtype.
        """
        fixed = fixed_features(features, self.input_shape, self.dtype, self.device)
        shift = placed(fixed, self.input_shape, self.dtype, self.device) if fixed else None
        return self._reading(embedding(fixed, self.input_shape, self.device), shift)

    def along(self, x: Any, direction: Any) -> Network:
        """The network t ↦ f(x + t · direction) of one number t, of shape (1,): f on a line.

        x: one input; direction: of the same shape; both may also be vectors.  Gradients and errors as in `precompose`.
        """
        way = self._input("the direction", direction)
        return self.precompose(way.reshape(-1, 1), self._input("x", x))

    def _own(self, what: str, value: Any) -> Tensor:
        return exact_numbers(what, value, self.dtype, self.device)

    def _input(self, what: str, value: Any) -> Tensor:
        """`value` as a tensor of the input's shape."""
        return shaped(what, self._own(what, value), (self.input_shape, (prod(self.input_shape),)))

    def _reading(self, operator: AbstractOperator, shift: Tensor | None) -> Network:
        stages = tuple(reading(s, operator, shift) for s in self.stages)
        return replace(self, input_shape=operator.in_shape, stages=stages)

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
        """Whether some weight requires a gradient."""
        return any(t.requires_grad for t in self.tensors())

    def unproved_rounding(self) -> list[str]:
        """The reasons why bounds of this network do not cover rounding; empty if they do."""
        names = sorted({s.activation.name for s in self.stages if not s.activation.rigorous})
        reasons = [f"no rounding error is proved for {', '.join(names)}"] if names else []
        if self.rounded:
            reasons.append("some weights were computed from others in floating point")
        operators = [e.operator for s in self.stages for e in s.edges]
        reduced = {check_matmul(self.dtype), *(o.unproved_rounding(self.dtype, self.device) for o in operators)}
        return reasons + sorted(r for r in reduced if r)


def _destination(
    where: Sequence[torch.dtype | torch.device | str | None], named: Mapping[str, Any], network: Network
) -> tuple[torch.dtype, torch.device]:
    """The dtype and the device given to `to`; by default those of the network."""
    if unknown := named.keys() - {"dtype", "device"}:
        raise InvalidRequest(f"to() has no argument {min(unknown)!r}; give a dtype, a device or both")
    told = [w for w in (*where, *named.values()) if w is not None]
    dtypes = [w for w in told if isinstance(w, torch.dtype)]
    devices = [w for w in told if not isinstance(w, torch.dtype)]
    if len(dtypes) > 1 or len(devices) > 1:
        raise InvalidRequest(f"to() was given {', '.join(map(str, told))}; give at most one dtype and one device")
    try:
        device = torch.empty(0, device=devices[0]).device if devices else network.device  # "cuda" gets its index
    except (RuntimeError, TypeError, AssertionError) as error:  # AssertionError without CUDA
        raise InvalidRequest(
            f"{devices[0]!r} is neither a dtype nor a device that can be used; give torch.float64 or 'cpu'"
        ) from error
    return (*dtypes, network.dtype)[0], device


def chain(weights: Sequence[tuple[Tensor, Tensor | None]], activations: Sequence[AbstractActivation]) -> Network:
    """The chain W_L σ_{L-1}(… σ_1(W_1 x + b_1) …) + b_L of L weights (out x in) and biases and L - 1 activations."""
    stages = []
    for k, (weight, bias) in enumerate(weights):
        shape = (weight.shape[0],)
        constants = () if bias is None else (Constant(Identity(shape), bias),)
        stages.append(Stage((Edge(k, Dense.matrix(weight)),), constants, (*activations, NoActivation())[k], shape))
    first = weights[0][0]
    return Network((first.shape[1],), tuple(stages), first.dtype, first.device)
