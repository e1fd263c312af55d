"""`recurjac contraction`: matrix measures of the Jacobian of a vector field."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from functools import partial
from math import inf
from typing import Any

from torch import Tensor

from recurjac.applications.contraction import MatrixMeasure
from recurjac.applications.contraction_rates import measure_over
from recurjac.applications.limits import Limits
from recurjac.branching import Limit
from recurjac.cli import named, options
from recurjac.cli.bounds import Case, cases, name_of
from recurjac.cli.checking import Certificates
from recurjac.cli.output import AbstractBar, Row, origin, remarks, show, show_lower, show_upper, table, write_json
from recurjac.cli.tasks import Keep, Prepared, answer, ignored
from recurjac.deadline import Budget, Deadline
from recurjac.errors import InvalidRequest
from recurjac.jacobian import AutoEntries, jacobian_bounds
from recurjac.loading.inputs import Points, read_inputs
from recurjac.problem import Problem

_SECONDS = 5.0
"""The time for parts of the region of a sample, if none is given."""


def run(args: argparse.Namespace) -> int:
    """Bound the measures for every input."""
    certificates = Certificates.asked(args)
    rows, code = answer(args, "contraction rates", partial(prepare, keep=certificates.add))
    if not args.quiet and rows:
        _show(rows)
    certificates.write()
    write_json(args, args.model, rows)
    return code


def prepare(args: argparse.Namespace, keep: Keep = ignored) -> Prepared:
    """One task for each input and radius."""
    network = options.read_network(args)
    inputs = options.read_inputs_for(network, args)
    if len(network.input_shape) != 1 or network.input_shape != network.output_shape:
        raise InvalidRequest(
            f"the network takes {network.input_shape} to {network.output_shape}; x' = f(x) needs vectors of one size"
        )
    weights = None if args.weights is None else _weights(args.weights)
    method = named.timed_entries(args.method, args.time_limit)
    tasks = list(cases([(None, network)], inputs, 1))
    budget = Budget.of(args.time_limit or inf, len(tasks))

    def rows_of(number: int, _: AbstractBar) -> Iterator[Row]:
        task, began = tasks[number], time.perf_counter()
        share = None if args.time_limit is None else budget.share()
        how = method if share is None else named.timed_entries(args.method, share / 2)
        deadline = Deadline.after(inf if share is None else share)
        problem = Problem(
            task.network, task.region, pre=named.rule(args.pre), arithmetic=options.chosen_arithmetic(args)
        )
        bounds = jacobian_bounds(problem, method=how)
        parts = Budget(Deadline.after(_SECONDS) if share is None else deadline, len(args.measure))
        divides = share is not None or isinstance(how, AutoEntries)
        found = []
        for p in args.measure:
            limits = Limits(Limit(seconds=parts.share()) if divides else None, None)
            found.append(measure_over(problem, bounds, p, weights, limits))
        seconds = (time.perf_counter() - began) / len(found)
        for measure in found:
            keep(measure)
        yield from (_row(task, m, seconds) for m in found)

    return Prepared([name_of([task]) for task in tasks], rows_of, network.digest())


def _weights(given: Sequence[str]) -> Any:
    """The weights that `--weights` gives: numbers, or the vector or matrix of a file."""
    try:
        return [float(text) for text in given]
    except ValueError:
        if len(given) > 1:
            raise InvalidRequest(f"--weights {' '.join(given)}: give numbers, or one .npy or .csv file") from None
    data = read_inputs(given[0])
    if not isinstance(data, Points):
        raise InvalidRequest(f"--weights {given[0]}: give numbers, or one .npy or .csv file")
    values: Tensor = data.values
    return values.flatten() if 1 in values.shape else values


def _row(task: Case, found: MatrixMeasure, seconds: float) -> Row:
    return {
        "index": task.index[0],
        "radius": task.radius,
        "measure": found.p,
        "method": found.method,
        "upper": float(found.upper[0]),
        "lower": float(found.lower[0]),
        "contracting": bool(found.contracting[0]),
        "parts": found.parts[0],
        "status": found.status[0],
        "seconds": seconds,
        **origin(found),
    }


def _show(rows: Sequence[Row]) -> None:
    columns = ["index", "radius", "measure", "attained", "at most", "contracting", "parts", "seconds"]
    cells = [
        [
            str(r["index"]), "box" if r["radius"] is None else show(r["radius"]), f"{r['measure']:g}",
            show_lower(r["lower"]), show_upper(r["upper"]), "yes" if r["contracting"] else "not proved",
            str(r["parts"]), f"{r['seconds']:.2f}",
        ]
        for r in rows
    ]  # fmt: skip
    table("Matrix measures of the Jacobian", columns, cells)
    remarks(rows)
