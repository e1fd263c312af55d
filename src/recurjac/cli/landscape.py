"""`recurjac landscape`: balls without a stationary point, and boxes that contain one."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from math import inf, prod

from recurjac.applications.landscape import StationaryFree, stationary_free_radius
from recurjac.applications.stationary import StationaryPoint, StationaryPoints, check_inputs, stationary_points
from recurjac.cli import named, options
from recurjac.cli.bounds import together
from recurjac.cli.checking import Certificates
from recurjac.cli.output import (
    AbstractBar,
    Row,
    origin,
    remarks,
    show,
    show_lower,
    show_upper,
    stderr,
    table,
    write_json,
)
from recurjac.cli.tasks import Keep, Prepared, answer, ignored
from recurjac.deadline import Budget
from recurjac.errors import InvalidRequest
from recurjac.jacobian import AutoEntries
from recurjac.jacobian.hessian import check_smooth
from recurjac.network import Network
from recurjac.problem import Problem
from recurjac.region import LpBall

_TOGETHER = 16
"""So many inputs are done for one output before the next output."""


def run(args: argparse.Namespace) -> int:
    """Find every requested radius; after an interruption, the finished results are reported."""
    certificates = Certificates.asked(args)
    rows, code = answer(args, "radii without stationary points", partial(prepare, keep=certificates.add))
    if not args.quiet:
        _table(rows, args.clip is not None)
        if args.existence is not None:
            _existence_table(rows)
    certificates.write()
    write_json(args, args.model, rows)
    return code


def prepare(args: argparse.Namespace, keep: Keep = ignored) -> Prepared:
    """One task for each call: some inputs and one output."""
    network = options.read_network(args)
    inputs = options.read_points_for(network, args)
    outputs = _outputs(network, args)
    if args.existence is not None:
        _check_existence(network, args.existence)
    method = named.timed_entries(args.method, args.time_limit)
    size = together(network, isinstance(method, AutoEntries) or args.time_limit is not None)
    tasks = [
        (slice(begin, min(begin + size, start + _TOGETHER)), output)
        for start in range(0, len(inputs.index), _TOGETHER)
        for output in outputs
        for begin in range(start, min(start + _TOGETHER, len(inputs.index)), size)
    ]
    budget = Budget.of(args.time_limit or inf, len(tasks))

    def rows_of(number: int, _bar: AbstractBar) -> list[Row]:
        part, (target, one, output) = tasks[number]
        ball, began = inputs.points(part), time.perf_counter()
        problem = Problem(one, ball, pre=named.rule_for_ball(args.pre), arithmetic=options.chosen_arithmetic(args))
        how = method if args.time_limit is None else named.timed_entries(args.method, budget.share())
        found = stationary_free_radius(problem, output=output, method=how)
        rows = _rows(inputs.index[part], target, found, (time.perf_counter() - began) / len(found.radius))
        keep(found)
        if args.existence is None:
            return rows
        around = problem.over(LpBall(ball.x, args.existence, ball.p, ball.clip))
        began = time.perf_counter()
        once = how.first if isinstance(how, AutoEntries) else how
        points = stationary_points(around, output=output, method=once)
        seconds = (time.perf_counter() - began) / len(rows)
        return [{**row, **_existence(points, i, args.existence, seconds)} for i, row in enumerate(rows)]

    names = [f"{' '.join(map(str, inputs.index[part]))} class {target}" for part, (target, *_) in tasks]
    return Prepared(names, rows_of, network.digest())


def _outputs(network: Network, args: argparse.Namespace) -> list[tuple[int | str, Network, int]]:
    """For each output: its name in the report, a network that has it, and its number in that network."""
    chosen = options.chosen_outputs(network, args)
    if prod(chosen[0][1].output_shape) != 1:
        raise InvalidRequest(
            f"--class is missing: {args.model} has {prod(network.output_shape)} outputs, each with its own stationary "
            "points; give --class K, --class each or --margin A B"
        )
    if args.margin is not None:
        return [(str(target), one, 0) for target, one in chosen]
    return [(k, network, k) for k in (int(target or 0) for target, _ in chosen)]


def _check_existence(network: Network, radius: float) -> None:
    """Raise InvalidRequest for an invalid request before any work."""
    if not radius > 0:
        raise InvalidRequest(f"--existence {radius:g}: the radius of the search must be positive")
    check_inputs(network.input_shape)
    check_smooth(network)


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
            "parts": int(found.parts[i]),
            "method": found.method,
            **origin(found),
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
    divided = sum(r["parts"] > 1 for r in rows)
    if divided:
        stderr().print(
            f"{divided} of {len(rows)} balls are proved in parts, each with a derivative that keeps its sign; without "
            "a witness, it is not the same in all parts"
        )
    if any(r["radius"] == inf for r in rows):
        stderr().print(f"radius inf: no stationary point anywhere{' in the clip box' if clipped else ''}")
    remarks(rows)


def _existence(found: StationaryPoints, sample: int, radius: float, seconds: float) -> Row:
    """What `--existence` adds to a row."""
    return {
        "existence_radius": radius,
        "stationary_points": [_point(point) for point in found.points[sample]],
        "existence_note": found.notes[sample],
        "existence_rigorous": found.rigorous,
        "existence_reason": found.reason,
        "existence_seconds": seconds,
    }


def _point(found: StationaryPoint) -> Row:
    """Row-major lists; it is the only point between `lower` and `upper`, and lies between `least` and `most`."""
    return {
        "kind": found.kind.value,
        "point": found.point.flatten().tolist(),
        "lower": found.box.lower.flatten().tolist(),
        "upper": found.box.upper.flatten().tolist(),
        "least": found.enclosure.lower.flatten().tolist(),
        "most": found.enclosure.upper.flatten().tolist(),
    }


def _existence_table(rows: Sequence[Row]) -> None:
    if not rows:
        return
    columns = ["index", "class", "stationary point", "known up to", "alone within", "where"]
    cells = []
    for r in rows:
        for p in r["stationary_points"]:
            error = max(most - least for least, most in zip(p["least"], p["most"], strict=True))
            alone = min(high - low for low, high in zip(p["lower"], p["upper"], strict=True)) / 2
            where = ", ".join(f"{v:.4g}" for v in p["point"][:_SHOWN]) + (", …" if len(p["point"]) > _SHOWN else "")
            cells.append([str(r["index"]), str(r["class"]), p["kind"], f"{error:.1g}", f"±{alone:.3g}", where])
    if cells:
        table(
            f"stationary points that exist within l{rows[0]['norm']:g} {rows[0]['existence_radius']:g}", columns, cells
        )
    none = [r for r in rows if not r["stationary_points"]]
    free = sum(r["radius"] >= r["existence_radius"] for r in none)
    if free:
        stderr().print(f"it is proved for {free} of {len(rows)} results that there is no stationary point in the ball")
    if len(none) > free:
        stderr().print(
            f"no stationary point was proved to exist for {len(none) - free} of {len(rows)} results; there may be some"
        )


_SHOWN = 6
"""The number of coordinates of a point that the table shows."""
