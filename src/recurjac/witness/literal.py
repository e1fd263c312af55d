"""ONNX files read as the checker reads them: every operation is the stages that docs/certificates.md names for it.

`load` rewrites operations to others that have tighter bounds; here, a softmax, a product or a quotient is what it says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import torch

from recurjac.activations import Exp, HardTanh, Log, Power, Reciprocal, ReLU, Square
from recurjac.errors import InvalidRequest, UnsupportedLayer
from recurjac.loading.entrance import Entrance
from recurjac.loading.expression import Expression
from recurjac.loading.onnx_file import read_onnx
from recurjac.loading.readers.sums import sum_over
from recurjac.loading.rewrites.domain import constant_exponent
from recurjac.loading.wanted import Wanted
from recurjac.network import Network
from recurjac.operators.gather import gather
from recurjac.operators.scale import divided, is_constant, scaled
from recurjac.registry import Reader, Registry, onnx_ops

_LINEAR = {
    "Gemm", "Conv", "BatchNormalization", "Add", "Sub", "Neg", "Sum", "AveragePool", "GlobalAveragePool", "ReduceMean",
    "ReduceSum", "Pad", "Concat", "Split", "Slice", "Gather", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose",
    "Expand", "Cast", "CastLike", "Identity", "Dropout", "Constant", "ConstantOfShape", "Shape",
}  # fmt: skip
"""Operations that the checker composes."""
_PRODUCT = ("Factor", "Factor")
_STAGES: dict[str, set[tuple[str, ...]]] = {
    "Relu": {("ReLU",)}, "LeakyRelu": {("LeakyReLU",)}, "PRelu": {("PReLU",)}, "Abs": {("Abs",)},
    "HardSigmoid": {("HardTanh",)}, "Clip": {("ReLU",), ("HardTanh",)}, "Sigmoid": {("Sigmoid",)},
    "Tanh": {("Tanh",)}, "Erf": {("Erf",)}, "Gelu": {("GELU",)}, "Softplus": {("Softplus",)}, "Exp": {("Exp",)},
    "Log": {("Log",)}, "Sqrt": {("Power",)}, "Reciprocal": {("Reciprocal",)}, "Sin": {("Sin",)}, "Cos": {("Cos",)},
    "Atan": {("Arctan",)}, "Pow": {("Square",), ("Power",)}, "Mul": {(), ("Square",), _PRODUCT},
    "Div": {(), ("Reciprocal",), ("Reciprocal", *_PRODUCT)}, "MatMul": {(), _PRODUCT},
    "Softmax": {("Exp", "Reciprocal")},
}  # fmt: skip
"""The stages of each operation that is not linear, by the classes of their activations."""
_MAXIMA = {"Max", "Min", "MaxPool"}
"""Operations that are stages of ReLU, as many as they need."""
_literal = Registry("ONNX as the checker reads it", {})


def literal(path: Path) -> Network:
    """The network in an ONNX file, in float64, with the stages that the checker sees.

    Raises as `load` does, and InvalidRequest for operations that the checker does not know.
    """
    file = read_onnx(path, Wanted.all(), Entrance())
    for node in file.model.nodes:
        if node.domain or node.op_type not in {*_LINEAR, *_STAGES, *_MAXIMA}:
            raise InvalidRequest(
                f"{path} has a node {node.op_type}, which the checker does not know; there are no certificates of such "
                "networks"
            )
    try:
        network = file.network(
            {kind: _counted(kind, r) for kind, r in {**onnx_ops.readers, **_literal.readers}.items()}
        )
    except UnsupportedLayer as error:
        raise InvalidRequest(f"there are no certificates of {path}: {error}") from error
    # the checker composes what is linear, and knows no ranges of it
    return replace(network, stages=tuple(replace(s, extremes=None) if s.linear else s for s in network.stages))


def _counted(kind: str, reader: Reader) -> Reader:
    """The reader, which raises ValueError if it adds other stages than the checker does."""

    def read(*inputs: Any, **attributes: Any) -> Any:
        builder = next(i.builder for i in inputs if isinstance(i, Expression))
        before = len(builder.stages)
        result = reader(*inputs, **attributes)
        made = tuple(type(s.activation).__name__ for s in builder.stages[before:] if not s.linear)
        known = set(made) <= {"ReLU"} if kind in _MAXIMA else made in _STAGES.get(kind, {()})
        if not known:
            raise ValueError(f"it is read as {', '.join(made) or 'a linear operation'}, which the checker does not do")
        return result

    return read


@_literal.reads("Mul")
def _mul(x: Any, y: Any) -> Any:
    if x is y:
        return x.activate(Square())
    if is_constant(x):
        x, y = y, x
    return scaled(x, y) if is_constant(y) else x.times(y)


@_literal.reads("Div")
def _div(x: Any, y: Any) -> Any:
    if is_constant(y):
        return divided(x, y)
    inverse = y.activate(Reciprocal())
    return scaled(inverse, x) if is_constant(x) else x.times(inverse)


@_literal.reads("Pow")
def _pow(x: Any, exponent: Any) -> Any:
    return x.activate(Square() if constant_exponent(exponent) == 2 else Power(constant_exponent(exponent)))


def _plain(activation: Callable[[], Any]) -> Reader:
    return lambda x: x.activate(activation())


_literal.reads("Log")(_plain(Log))
_literal.reads("Sqrt")(_plain(lambda: Power(0.5)))
_literal.reads("Reciprocal")(_plain(Reciprocal))


@_literal.reads("HardSigmoid")
def _hard_sigmoid(x: Expression, *, alpha: float = 0.2, beta: float = 0.5) -> Any:
    shifted = scaled(x, alpha).shift(torch.tensor(beta, dtype=torch.float64))
    return shifted.activate(HardTanh(0.0, 1.0))


@_literal.reads("Clip")
def _clip(x: Expression, low: Any = None, high: Any = None, **ends: Any) -> Any:
    given = [ends.get(name) if end is None else end for name, end in (("min", low), ("max", high))]
    bottom, top = (d if e is None else float(e) for e, d in zip(given, (-inf, inf), strict=True))
    if (bottom, top) == (0.0, inf):
        return x.activate(ReLU())
    return x.activate(HardTanh(bottom, top))  # raises ValueError if an end is infinite


@_literal.reads("Softmax")
def _softmax(x: Expression, *, axis: int) -> Any:
    """1 / (1 + the sum of exp(z_j - z_i) over all others j of the same group)."""
    shape = x.shape
    size, last = shape[axis], (*shape[: axis % len(shape)], *shape[axis % len(shape) + 1 :])
    rows = x.apply(gather(lambda t: t.movedim(axis, -1), shape)).settled()
    other = torch.tensor([[j for j in range(size) if j != i] for i in range(size)])
    wide = (*last, size, size - 1)
    theirs = rows.apply(gather(lambda t: t[..., other], rows.shape))
    own = rows.apply(gather(lambda t: t.unsqueeze(-1).expand(wide), rows.shape))
    total = sum_over(theirs.plus(scaled(own, -1.0)).activate(Exp()), [-1], False)
    found = total.shift(torch.ones((), dtype=torch.float64)).activate(Reciprocal())
    return found.apply(gather(lambda t: t.movedim(-1, axis), found.shape))
