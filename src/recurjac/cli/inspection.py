"""`recurjac inspect`: the stages of a network."""

from __future__ import annotations

import argparse
from math import prod

from recurjac.cli import options
from recurjac.cli.output import Row, stderr, table, write_json
from recurjac.network import Network, Stage
from recurjac.operators import AbstractOperator, Compose, Negate


def run(args: argparse.Namespace) -> int:
    """Print the stages of the network."""
    network = options.read_network(args)
    rows = [_row(network, k, stage) for k, stage in enumerate(network.stages, 1)]
    if not args.quiet:
        columns = ["stage", "reads", "operators", "activation", "shape", "parameters", "multiply-adds"]
        cells = [[str(r[c.replace("-", "_")]) for c in columns] for r in rows]
        table(
            f"{args.model}: input {_shape(network.input_shape)}, output {_shape(network.output_shape)}", columns, cells
        )
        _remarks(network)
    write_json(args, args.model, rows)
    return 0


def _remarks(network: Network) -> None:
    console = stderr()
    neurons = sum(prod(s.shape) for s in network.stages if not s.linear)
    console.print(f"{network.parameters} parameters, {neurons} neurons, {network.dtype} on {network.device}")
    console.print(
        f"{network.multiply_adds:.3g} multiply-adds per evaluation; bounds of one output over one region: about "
        f"{network.cost:.2g} if every neuron is unstable, {0.1 * network.cost:.2g} if one in ten is"
    )
    reasons = network.unproved_rounding()
    console.print(
        f"floating-point rounding is not covered: {'; '.join(reasons)}" if reasons else "bounds cover rounding"
    )


def _row(network: Network, k: int, stage: Stage) -> Row:
    return {
        "stage": k,
        "reads": ", ".join("input" if e.source == 0 else str(e.source) for e in stage.edges) or "nothing",
        "operators": ", ".join(_name(e.operator) for e in stage.edges) or "constant",
        "activation": "-" if stage.linear else stage.activation.name,
        "shape": _shape(stage.shape),
        "parameters": network.weights(k),
        "multiply_adds": sum(e.operator.multiply_adds() for e in stage.edges),
    }


def _name(operator: AbstractOperator) -> str:
    if isinstance(operator, Compose) and isinstance(operator.outer, Negate):
        return f"-{_name(operator.inner)}"
    if isinstance(operator, Compose):
        return f"{_name(operator.outer)} ∘ {_name(operator.inner)}"
    return type(operator).__name__


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"
