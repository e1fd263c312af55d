"""Exact rewrites of products, quotients and powers.

They are affine if one operand is constant, and an activation if all operands depend on the same variable.  If one
factor is c σ(ρ a + δ) + s, where a is the other factor, it gates a: for each σ of a table, a σ(ρ a + δ) is an
activation of a multiple of a.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch

from recurjac.activations import (
    GELU,
    Abs,
    AbstractActivation,
    Cube,
    Erf,
    Exp,
    GELUTanh,
    HardSwish,
    HardTanh,
    Log,
    LogSigmoid,
    Mish,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softplus,
    Softsign,
    Square,
    SquaredReLU,
    Tanh,
)
from recurjac.loading.expression import Expression
from recurjac.loading.rewrites.domain import constant_exponent, power
from recurjac.loading.rewrites.forms import Form, Node, close, form, node_of
from recurjac.loading.rewrites.norms import known_quotient, shrunk
from recurjac.loading.rewrites.positive import inverse
from recurjac.loading.rewrites.sizes import inverse_size_of, size_of
from recurjac.loading.rewrites.threshold import Above
from recurjac.operators.gather import gather
from recurjac.operators.scale import divided, is_constant, scaled
from recurjac.registry import onnx_ops, torch_ops


@final
@dataclass(frozen=True)
class Gated:
    """multiple · σ(inner · a) + rest · a."""

    activation: AbstractActivation
    multiple: float
    inner: float = 1.0
    rest: float = 0.0

    def of(self, a: Expression) -> Expression:
        inner, rest = _exact(self.inner), _exact(self.rest)
        total: Expression = scaled(scaled(a, inner).activate(self.activation), _exact(self.multiple))
        return total if rest == 0 else total.plus(scaled(a, rest))


def _exact(number: float) -> float:
    """`number`, or exactly 1 or -1 if it differs from it only by rounding."""
    return math.copysign(1.0, number) if close(abs(number), 1.0) else number


Gate = Callable[[Form, Node], Gated | None]
"""A function of a and a node σ(before), which returns a σ(before) as an activation of a, or None if it is unknown."""


def _sigmoid(a: Form, gate: Node) -> Gated | None:
    """a / (1 + exp(-ρ a))."""
    rho = _multiple(gate.before, a)
    return None if rho is None else Gated(SiLU(), 1 / rho, rho)


def _erf(a: Form, gate: Node) -> Gated | None:
    """erf(ρ a) = 2 Φ(√2 ρ a) - 1."""
    rho = _multiple(gate.before, a)
    return None if rho is None else Gated(GELU(), math.sqrt(2) / rho, math.sqrt(2) * rho, -1.0)


def _tanh(a: Form, gate: Node) -> Gated | None:
    """tanh(ρ a) = 2 / (1 + exp(-2 ρ a)) - 1, or tanh of a softplus (Mish), or tanh of a cubic polynomial (GELU)."""
    rho = _multiple(gate.before, a)
    if rho is not None:
        return Gated(SiLU(), 1 / rho, 2 * rho, -1.0)
    soft = node_of(gate.before, gate.builder)
    if soft is not None and isinstance(soft.stage.activation, Softplus):
        beta, rho = soft.stage.activation.beta, _multiple(soft.before, a)
        plain = rho is not None and soft.shift == 0 and close(soft.factor, beta)
        return Gated(Mish(), 1 / (beta * rho), beta * rho) if plain and rho is not None else None
    before = gate.before
    for term in before.terms:
        cube, linear = node_of(Form((term,), 0.0), gate.builder), _multiple(before.without(term), a)
        if cube is None or not isinstance(cube.stage.activation, Cube) or linear is None:
            continue
        rho = _multiple(cube.before, a)
        if rho is not None:
            scale = linear / GELUTanh().c  # the unit of a in which c has the value of GELU
            return Gated(GELUTanh(k=cube.factor * (rho / scale) ** 3 / GELUTanh().c), 2 / scale, scale, -1.0)
    return None


def _clip(a: Form, gate: Node) -> Gated | None:
    """With w = high - low, min(max(ρ a + δ, low), high) = w min(max(ρ/w a + (δ - low)/w, 0), 1) + low."""
    activation, found = gate.stage.activation, gate.before.multiple_of(a)
    low, high = (0.0, 6.0) if not isinstance(activation, HardTanh) else (activation.low, activation.high)
    if found is None:
        return None
    width, (rho, delta) = high - low, found
    alpha, beta = rho / width, (delta - low) / width
    if alpha < 0:  # min(max(t, 0), 1) = 1 - min(max(1 - t, 0), 1)
        return Gated(HardSwish(-alpha, 1 - beta), -width, 1.0, width + low)
    return Gated(HardSwish(alpha, beta), width, 1.0, low)


def _square(a: Form, gate: Node) -> Gated | None:
    rho = _multiple(gate.before, a)
    return None if rho is None else Gated(Cube(), 1 / rho, rho)


def _squared_relu(a: Form, gate: Node) -> Gated | None:
    """a max(t, 0)² where a = f max(ρ t, 0), ρ > 0: the cube of a over (f ρ)²."""
    relu = node_of(a, gate.builder)
    if relu is None or not isinstance(relu.stage.activation, ReLU) or relu.shift != 0:
        return None
    rho = _multiple(relu.before, gate.before)
    return Gated(Cube(), 1 / (relu.factor * rho) ** 2) if rho is not None and rho > 0 else None


_GATES: dict[type[AbstractActivation], Gate] = {
    Sigmoid: _sigmoid, Erf: _erf, Tanh: _tanh, HardTanh: _clip, ReLU6: _clip, Square: _square,
    SquaredReLU: _squared_relu,
}  # fmt: skip


def _under_abs(a: Form, gate: Node) -> Gated | None:
    """a / (f |ρ a| + s), where f/s is positive."""
    rho = _multiple(gate.before, a)
    kappa = 0.0 if rho is None or gate.shift == 0 else gate.factor * abs(rho) / gate.shift
    return Gated(Softsign(), 1 / (gate.shift * kappa), kappa) if kappa > 0 else None


def _under_exp(a: Form, gate: Node) -> Gated | None:
    """a / (s exp(ρ a) + s)."""
    rho = _multiple(gate.before, a)
    return Gated(SiLU(), -1 / (gate.shift * rho), -rho) if rho is not None and gate.factor == gate.shift else None


_DIVISORS: dict[type[AbstractActivation], Gate] = {Abs: _under_abs, Exp: _under_exp}


def _multiple(x: Form, a: Form) -> float | None:
    """The nonzero ρ such that x = ρ a; None if there is none."""
    found = x.multiple_of(a)
    return found[0] if found is not None and found[1] == 0 else None


def _gated(a: Expression, b: Expression, table: dict[type[AbstractActivation], Gate]) -> tuple[Node, Gated] | None:
    """The activation node that b is, and the gated activation that the table gives for a and b; None if none."""
    node = node_of(form(b), a.builder)
    gate = None if node is None else table.get(type(node.stage.activation))
    if node is None or gate is None:
        return None
    try:
        found = gate(form(a), node)
    except ValueError:  # an activation of a shape that is not proved; a product remains
        return None
    return None if found is None else (node, found)


def squared(x: Expression) -> Expression:
    """x², entry by entry; the square of a multiple of a ReLU is a multiple of one activation, which is tighter."""
    node = node_of(form(x), x.builder)
    if node is None or not isinstance(node.stage.activation, ReLU) or node.shift != 0:
        return x.activate(Square())
    found: Expression = scaled(node.argument(x).activate(SquaredReLU()), _exact(node.factor**2))
    return found


def product(x: Expression, y: Expression) -> Expression:
    """x y, entry by entry: an activation if it is a known one of one variable, and otherwise a product of stages."""
    if x.shape == y.shape:
        a, b = form(x), form(y)
        found = b.multiple_of(a)
        if found is not None:
            total: Expression = scaled(squared(x), _exact(found[0]))
            return total if found[1] == 0 else total.plus(scaled(x, _exact(found[1])))
        for one, other in ((x, y), (y, x)):
            gate = _gated(one, other, _GATES)
            if gate is not None:
                node, what = gate
                f = node.factor
                rest = 0.0 if close(f * what.rest, -node.shift) else f * what.rest + node.shift
                return Gated(what.activation, f * what.multiple, what.inner, rest).of(one)
    return _normalised(x, y) or _normalised(y, x) or x.times(y)


def _normalised(x: Expression, y: Expression) -> Expression | None:
    """x y, if y is the inverse of a size of each row of x."""
    size = inverse_size_of(y.broadcast(x.shape)) if _may_be_size(y, x) else None
    return None if size is None else known_quotient(x, size)


def _may_be_size(y: Expression, x: Expression) -> bool:
    """Whether there are sizes of rows, and y is broadcast to x, but x is not to y."""
    lead = len(x.shape) - len(y.shape)
    fits = lead >= 0 and all(m in (1, n) for m, n in zip(y.shape, x.shape[lead:], strict=True))
    return fits and bool(y.builder.sizes)


@torch_ops.reads("aten.mul.Tensor", "aten.mul_.Tensor", "aten.multiply.Tensor", "aten.mul.Scalar")
@onnx_ops.reads("Mul")
def _mul(x: Any, y: Any) -> Any:
    if isinstance(x, Above) or isinstance(y, Above):
        return x.times(y) if isinstance(x, Above) else y.times(x)
    if is_constant(x):
        x, y = y, x
    return scaled(x, y) if is_constant(y) else product(x, y)


@torch_ops.reads("aten.glu.default")
def _glu(x: Expression, dim: int = -1) -> Any:
    """The first half times the sigmoid of the second half."""
    size = x.shape[dim] // 2
    value, gate = (x.apply(gather(lambda t, at=at: t.narrow(dim, at, size), x.shape)) for at in (0, size))
    return product(value, gate.activate(Sigmoid()))


@torch_ops.reads("aten.div.Tensor", "aten.div_.Tensor", "aten.divide.Tensor", "aten.true_divide.Tensor")
@onnx_ops.reads("Div")
def _div(x: Any, y: Any) -> Any:
    if is_constant(y):
        return divided(x, y)
    if is_constant(x):
        return scaled(_reciprocal(y), x)
    found = _gated(x, y, _DIVISORS) if x.shape == y.shape else None
    if found is not None:
        return found[1].of(x)
    size = size_of(y.broadcast(x.shape)) if _may_be_size(y, x) else None
    known = None if size is None else known_quotient(x, size) or shrunk(x, y, size)
    return x.times(inverse(y)) if known is None else known


@torch_ops.reads("aten.reciprocal.default")
@onnx_ops.reads("Reciprocal")
def _reciprocal(x: Expression) -> Any:
    """1 / x; of s exp(z) + s, it is a sigmoid."""
    node = node_of(form(x), x.builder)
    if node is None or not isinstance(node.stage.activation, Exp) or not node.factor == node.shift != 0:
        return inverse(x)
    return divided(scaled(node.argument(x), -1.0).activate(Sigmoid()), node.shift)


@torch_ops.reads("aten.pow.Tensor_Scalar", "aten.pow.Tensor_Tensor")
@onnx_ops.reads("Pow")
def _power(x: Any, exponent: Any) -> Any:
    if is_constant(x):
        raise ValueError("a power of a constant; write it with exp")
    number = constant_exponent(exponent)
    if number == 0:  # such as the second derivative of a square
        return torch.ones(x.shape, dtype=x.dtype, device=x.device)
    return squared(x) if number == 2 else power(x, number)


@torch_ops.reads("aten.square.default", "aten.square_.default")
def _square_of(x: Expression) -> Any:
    return squared(x)


@torch_ops.reads("aten.log.default")
@onnx_ops.reads("Log")
def _log(x: Expression) -> Any:
    """log x; of a sigmoid it is an activation, and of 1 + exp(z) a softplus."""
    node = node_of(form(x), x.builder)
    found = None if node is None else (type(node.stage.activation), node.factor, node.shift)
    if node is not None and found == (Sigmoid, 1.0, 0.0):
        return node.argument(x).activate(LogSigmoid())
    if node is not None and found == (Exp, 1.0, 1.0):
        return node.argument(x).activate(Softplus())
    return x.activate(Log())
