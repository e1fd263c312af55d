"""The gradient of a smooth network with one output as a network, and its derivative along a vector field.

Back-propagation is written out: σ' is a stage, and its product with a covector is a product of two stages.
Source: docs/mathematics.md, §9.3.
"""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch
from math import prod
from typing import Any

import torch

from recurjac.activations import (
    AbstractActivation,
    Cos,
    Cube,
    Derivative,
    Exp,
    FlooredPower,
    IntegerPower,
    Log,
    LogCosh,
    LogSigmoid,
    Power,
    Reciprocal,
    Sigmoid,
    Sin,
    Softplus,
    Square,
    Tanh,
)
from recurjac.errors import InvalidRequest, expect
from recurjac.loading.expression import Builder, Expression, renumbered
from recurjac.loading.rewrites.domain import power
from recurjac.loading.rewrites.products import product
from recurjac.network import Edge, Network
from recurjac.operators import Dense, Reshape
from recurjac.operators.scale import scaled


def gradient_network(value: Network) -> Network:
    """The network x ↦ ∂V/∂x of a network V with one output; its output has the shape of V's input.

    Its Jacobian is V's Hessian.  It shares V's weights.
    Raises InvalidRequest if V has several outputs, or an activation whose derivative jumps.

    Source: docs/mathematics.md, §9.3.
    """
    _expect_network("the value", value)
    builder = _builder(value)
    found = _gradient(builder, value)
    return _finished(builder, found, value)


def lie_derivative(value: Network, dynamics: Network) -> Network:
    """The network x ↦ ∂V/∂x · f(x) with one output, of a network V with one output and a vector field f.

    value, dynamics: V and f, for example by `load`; f's output has as many entries as x.  It shares their weights.
    It is the derivative of V along solutions of x' = f(x): bounds of its values are in
    `preactivation_bounds(lie_derivative(V, f), region)`, those of its last stage.
    Raises InvalidRequest if the networks do not fit together, or as `gradient_network`.

    Source: docs/mathematics.md, §9.3.
    """
    _expect_network("the value", value)
    _expect_network("the dynamics", dynamics)
    ours = value.input_shape, value.dtype, value.device
    if ours != (dynamics.input_shape, dynamics.dtype, dynamics.device):
        raise InvalidRequest(
            f"the value {value!r} and the dynamics {dynamics!r} differ in the shape, dtype or device of their inputs"
        )
    if prod(dynamics.output_shape) != prod(value.input_shape):
        raise InvalidRequest(
            f"the dynamics have {prod(dynamics.output_shape)} outputs for a state of {prod(value.input_shape)} entries"
        )
    builder = _builder(value)
    slope, shape = _gradient(builder, value), value.input_shape
    field = _last(builder, dynamics, _placed(builder, dynamics))
    whole = product(slope, field.apply(Reshape(field.shape, shape)))
    ones = torch.ones(1, prod(shape), dtype=value.dtype, device=value.device)
    return _finished(builder, whole.apply(Dense(ones, shape, (1,))), value, dynamics)


def _expect_network(what: str, network: Any) -> None:
    expect(network, Network, what, "read it first: rj.load(module, example)")


def _builder(network: Network) -> Builder:
    return Builder(network.input_shape, False, network.dtype, network.device)


def _finished(builder: Builder, output: Expression, *networks: Network) -> Network:
    """The network of an expression; it watches what the networks that it was made of watch."""
    found = builder.finish(output)
    copied = (*found.copied, *(w for n in networks for w in n.copied))
    otherwise = tuple(dict.fromkeys([*found.otherwise, *(w for n in networks for w in n.otherwise), "a derivative"]))
    rounded = found.rounded or any(n.rounded for n in networks)
    return replace(found, rounded=rounded, copied=copied, otherwise=otherwise)


def _placed(builder: Builder, network: Network) -> dict[int, int]:
    """Add the stages of a network; the number of each of its nodes among the builder's."""
    number = {0: 0}
    for k, stage in enumerate(network.stages, 1):
        builder.stages.append(renumbered(stage, number))
        builder.spend(4 * prod(stage.shape))
        number[k] = len(builder.stages)
    return number


def _before(builder: Builder, network: Network, k: int, number: dict[int, int]) -> Expression:
    """The pre-activation of stage k."""
    stage = network.stages[k - 1]
    edges = tuple(Edge(number[e.source], e.operator) for e in stage.edges)
    return Expression(builder, edges, stage.constants, stage.shape)


def _last(builder: Builder, network: Network, number: dict[int, int]) -> Expression:
    return _before(builder, network, network.depth, number)


def _gradient(builder: Builder, network: Network) -> Expression:
    """∂f/∂x as an expression of the input's shape, by back-propagation from the output."""
    if prod(network.output_shape) != 1:
        raise InvalidRequest(
            f"the value has outputs of shape {tuple(network.output_shape)}; take one of them with .output(k)"
        )
    number = _placed(builder, network)
    one = torch.ones(network.output_shape, dtype=network.dtype, device=network.device)
    reached: dict[int, Expression] = {network.depth: builder.constant(one)}
    for k in range(network.depth, 0, -1):
        after = reached.pop(k, None)
        if after is None:
            continue
        if after.terms > 1:
            after = after.as_node()
        before = _through(builder, network, k, number, after)
        for edge in network.stages[k - 1].edges:
            part = before.apply(edge.operator.transpose())
            reached[edge.source] = reached[edge.source].plus(part) if edge.source in reached else part
    nothing = torch.zeros(network.input_shape, dtype=network.dtype, device=network.device)
    return reached.get(0, builder.constant(nothing))


def _through(builder: Builder, network: Network, k: int, number: dict[int, int], after: Expression) -> Expression:
    """The covector at the pre-activation of stage k, from that at its output."""
    stage = network.stages[k - 1]
    if stage.linear:
        return after
    if stage.factor is not None:  # d(u v) = u dv + v du: the other factor
        return product(after, _before(builder, network, k + stage.factor.other, number))
    return product(after, slope_of(stage.activation, _before(builder, network, k, number)))


@singledispatch
def slope_of(activation: AbstractActivation, z: Expression) -> Any:
    """σ'(z).  Raises InvalidRequest if it jumps, or if its shape is not known."""
    like = torch.zeros((), dtype=z.dtype, device=z.device)
    if not Derivative.known_for(activation, like):
        raise InvalidRequest(
            f"the derivative of {activation.name} is not continuous, or lines for it are not known; use tanh, sigmoid, "
            "softplus, sin, square or another smooth activation"
        )
    return z.activate(Derivative(activation))  # type: ignore[arg-type]  # (known_for says that it is smooth)


@slope_of.register
def _of_square(_: Square, z: Expression) -> Any:
    return scaled(z, 2.0)


@slope_of.register
def _of_cube(_: Cube, z: Expression) -> Any:
    return scaled(z.activate(Square()), 3.0)


@slope_of.register
def _of_integer_power(activation: IntegerPower, z: Expression) -> Any:
    return scaled(power(z, activation.exponent - 1), float(activation.exponent))


@slope_of.register
def _of_power(activation: Power, z: Expression) -> Any:
    return scaled(power(z, activation.exponent - 1), activation.exponent)


@slope_of.register
def _of_floored_power(activation: FlooredPower, z: Expression) -> Any:
    """For all arguments that occur, which are not below the floor."""
    lower = activation.exponent - 1
    return scaled(z.activate(FlooredPower(lower, activation.least)), activation.exponent)


@slope_of.register
def _of_reciprocal(_: Reciprocal, z: Expression) -> Any:
    return scaled(z.activate(Square()).activate(Reciprocal()), -1.0)


@slope_of.register
def _of_log(_: Log, z: Expression) -> Any:
    return z.activate(Reciprocal())


@slope_of.register
def _of_exp(activation: Exp, z: Expression) -> Any:
    return z.activate(activation)


@slope_of.register
def _of_softplus(activation: Softplus, z: Expression) -> Any:
    return scaled(z, activation.beta).activate(Sigmoid())


@slope_of.register
def _of_log_cosh(_: LogCosh, z: Expression) -> Any:
    return scaled(scaled(z, 0.5).activate(Tanh()), 0.5)


@slope_of.register
def _of_log_sigmoid(_: LogSigmoid, z: Expression) -> Any:
    return scaled(z, -1.0).activate(Sigmoid())


@slope_of.register
def _of_sin(_: Sin, z: Expression) -> Any:
    return z.activate(Cos())


@slope_of.register
def _of_cos(_: Cos, z: Expression) -> Any:
    return scaled(z.activate(Sin()), -1.0)
