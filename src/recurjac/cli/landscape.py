"""`recurjac landscape`: balls without a stationary point."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import product
from math import inf, prod
from typing import Any

from recurjac.applications.landscape import StationaryFree, stationary_free_radius
from recurjac.cli import options
from recurjac.cli.bounds import TOGETHER
from recurjac.cli.output import Row, gather, remarks, show, show_lower, show_upper, stderr, table, write_json
from recurjac.errors import InvalidRequest
from recurjac.network import Network


def add_commands(commands: Any) -> None:
    parser = commands.add_parser(
        "landscape",
        help="balls in which an output has no stationary point",
        description="For each input, the largest radius found within which some entry of the gradient of one output "
        "certainly keeps its sign, so that the output has no stationary point there; inf: nowhere at all.",
    )
    options.add_model(parser)
    options.add_balls(parser)
    options.add_outputs(parser)
    options.add_method(parser, options.jacobian_methods())
    options.add_report(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Find every radius that was asked for; what is done when interrupted is reported."""
    network = options.read_network(args)
    inputs = options.read_points_for(network, args)
    outputs = _outputs(network, args)
    method = None if args.method is None else options.jacobian_methods()[args.method]
    parts = [slice(start, start + TOGETHER) for start in range(0, len(inputs.index), TOGETHER)]

    def rows_of(task: tuple[slice, tuple[int | str, Network, int]]) -> list[Row]:
        part, (target, one, output) = task
        ball, began = inputs.points(part), time.perf_counter()
        found = stationary_free_radius(
            one, ball.x, output, ball.p, ball.clip, method, options.rules()[args.pre], options.chosen_arithmetic(args)
        )
        return _rows(inputs.index[part], target, found, (time.perf_counter() - began) / len(found.radius))

    rows, code = gather(args, "radii without stationary points", list(product(parts, outputs)), rows_of)
    if not args.quiet:
        _table(rows, args.clip is not None)
    write_json(args, args.model, rows)
    return code


def _outputs(network: Network, args: argparse.Namespace) -> list[tuple[int | str, Network, int]]:
    """What the report calls each output, the network that has it, and its number there."""
    chosen = options.chosen_outputs(network, args)
    if prod(chosen[0][1].output_shape) != 1:
        raise InvalidRequest(
            f"--class is missing: {args.model} has {prod(network.output_shape)} outputs, and each has stationary "
            "points of its own; give --class K, --class each or --margin A B"
        )
    if args.margin is not None:
        return [(str(target), one, 0) for target, one in chosen]
    return [(k, network, k) for k in (int(target or 0) for target, _ in chosen)]


def _rows(index: Sequence[int], target: int | str, found: StationaryFree, seconds: float) -> list[Row]:
    return [
        {
            "index": number,
            "class": target,
            "radius": float(found.radius[i]),
            "witness": int(found.witness[i]) if found.witness[i] >= 0 else None,
            "seconds": seconds,
            "norm": found.p,
            "lower": float(found.lower[i]),
            "upper": float(found.upper[i]),
            "method": found.method.title,
            "rigorous": found.rigorous,
            "reason": found.reason,
            "note": found.notes[i],
        }
        for i, number in enumerate(index)
    ]


def _table(rows: Sequence[Row], clipped: bool) -> None:
    if not rows:
        return
    columns = ["index", "class", "radius", "witness", "its least derivative", "its largest", "seconds"]
    cells = [
        [
            str(r["index"]), str(r["class"]), show_lower(r["radius"]),
            show(None) if r["witness"] is None else str(r["witness"]), show_lower(r["lower"]), show_upper(r["upper"]),
            f"{r['seconds']:.2f}",
        ]
        for r in rows
    ]  # fmt: skip
    table(f"l{rows[0]['norm']:g} balls without a stationary point by {rows[0]['method']}", columns, cells)
    if any(r["radius"] == inf for r in rows):
        stderr().print(f"radius inf: no stationary point anywhere{' in the clip box' if clipped else ''}")
    remarks(rows)
