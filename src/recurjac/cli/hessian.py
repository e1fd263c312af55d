"""`recurjac hessian`: second derivatives of one output."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from recurjac.applications.second_derivatives import curvature, hessian_bounds, residual_bounds
from recurjac.branching import Limit
from recurjac.cli import named, options
from recurjac.cli.bounds import Case, cases
from recurjac.cli.output import (
    Row,
    origin,
    progress,
    remarks,
    show,
    show_lower,
    show_upper,
    stderr,
    table,
    write_json,
)
from recurjac.cli.writable import check_writable
from recurjac.deadline import Budget
from recurjac.errors import InvalidRequest
from recurjac.jacobian.differential import laplacian
from recurjac.provenance import AbstractResult


@final
@dataclass(frozen=True)
class _Bounds:
    """lower <= quantity <= upper, (batch, …), from a result; status: how the division of each region ended."""

    lower: Tensor
    upper: Tensor
    result: AbstractResult
    status: tuple[str, ...]


def run(args: argparse.Namespace) -> int:
    """Bound what is asked for, for every input."""
    check_writable("--output", args.output)
    network = options.read_network(args)
    inputs = options.read_inputs_for(network, args)
    networks = options.chosen_outputs(network, args)
    if args.target == "each" and args.output is not None:
        raise InvalidRequest("--output: the file holds one output; give its number by --class K")
    if args.target is None and args.margin is None and network.sizes[-1] > 1:
        raise InvalidRequest(f"the network has {network.sizes[-1]} outputs; choose one by --class K or --margin A B")
    if args.method is not None and (args.laplacian or args.curvature):
        raise InvalidRequest("--method: Laplacians and curvatures have their own method; leave the option out")
    what, ask = _question(args)
    tasks = list(cases(networks, inputs, 1))
    budget = Budget.of(args.time_limit or torch.inf, len(tasks))
    done: list[_Bounds] = []
    rows: list[Row] = []
    with progress(args.quiet, "second derivatives", len(tasks)) as step:
        for task in tasks:
            began = time.perf_counter()
            found = ask(args, task, None if args.time_limit is None else Limit(seconds=budget.share()))
            rows.append(_row(task, what, found, time.perf_counter() - began))
            done.append(found)
            step()
    if args.output is not None:
        points = [t.region.bind(network.input_shape, torch.float64, torch.device("cpu")).x for t in tasks]
        _save(Path(args.output), points, done)
    if not args.quiet:
        _show(rows, args.output)
    write_json(args, args.model, rows)
    return 0


_Ask = Callable[[argparse.Namespace, Case, Limit | None], _Bounds]


def _question(args: argparse.Namespace) -> tuple[str, _Ask]:
    """The name of what is asked for, and how it is bounded."""
    if args.laplacian:
        return "laplacian", _laplacian
    return ("curvature", _curvature) if args.curvature else ("hessian", _entries)


def _laplacian(args: argparse.Namespace, task: Case, limit: Limit | None) -> _Bounds:
    found = residual_bounds(
        task.network, task.region, residuals=laplacian(*range(task.network.sizes[0])), pre=named.rule(args.pre),
        arithmetic=options.chosen_arithmetic(args), limit=limit,
    )  # fmt: skip
    return _Bounds(found.lower[:, 0], found.upper[:, 0], found, found.status)


def _curvature(args: argparse.Namespace, task: Case, limit: Limit | None) -> _Bounds:
    """`lower` is attained."""
    found = curvature(
        task.network, task.region, pre=named.rule(args.pre), arithmetic=options.chosen_arithmetic(args), limit=limit
    )
    return _Bounds(found.lower, found.upper, found, found.status)


def _entries(args: argparse.Namespace, task: Case, limit: Limit | None) -> _Bounds:
    how = None if args.method is None else named.jacobian_method(args.method)
    rule, arithmetic = named.rule(args.pre), options.chosen_arithmetic(args)
    seconds = None if limit is None else limit.seconds
    found = hessian_bounds(task.network, task.region, method=how, pre=rule, arithmetic=arithmetic, time_limit=seconds)
    return _Bounds(found.lower.detach(), found.upper.detach(), found, found.status)


def _row(task: Case, what: str, found: _Bounds, seconds: float) -> Row:
    return {
        "index": task.index[0],
        "radius": task.radius,
        "class": task.target,
        "quantity": what,
        "method": found.result.method,
        "lower": float(found.lower.min()),
        "upper": float(found.upper.max()),
        "widest": float((found.upper - found.lower).max()),
        "status": found.status[0],
        "seconds": seconds,
        **origin(found.result),
    }


def _show(rows: Sequence[Row], output: str | None) -> None:
    columns = ["index", "radius", "class", "least", "largest", "widest", "seconds"]
    cells = [
        [
            str(r["index"]), "box" if r["radius"] is None else show(r["radius"]),
            "0" if r["class"] is None else str(r["class"]), show_lower(r["lower"]), show_upper(r["upper"]),
            show_upper(r["widest"]), f"{r['seconds']:.2f}",
        ]
        for r in rows
    ]  # fmt: skip
    table(f"Bounds of the {rows[0]['quantity']} by {rows[0]['method']}", columns, cells)
    remarks(rows)
    if output is not None:
        stderr().print(f"bounds written to {output}")


def _save(path: Path, points: Sequence[Tensor], done: Sequence[_Bounds]) -> None:
    lower, upper = (
        torch.cat(list(ends)).cpu().numpy() for ends in zip(*((b.lower, b.upper) for b in done), strict=True)
    )
    with path.open("wb") as file:  # a file object: NumPy would append a suffix to a name
        np.savez_compressed(file, x=torch.cat(list(points)).numpy(), lower=lower, upper=upper)
