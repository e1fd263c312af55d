"""`recurjac jacobian` and `recurjac lipschitz`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from recurjac.auto import Auto, Progress
from recurjac.cli import named, options
from recurjac.cli.checking import Certificates
from recurjac.cli.output import (
    AbstractBar,
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
from recurjac.cli.tasks import Keep, Prepared, answer, ignored
from recurjac.cli.writable import check_writable
from recurjac.deadline import Budget
from recurjac.errors import InvalidRequest
from recurjac.jacobian import AutoEntries, JacobianBounds, jacobian_bounds
from recurjac.lipschitz_constants import Lipschitz, lipschitz, nested
from recurjac.network import Network
from recurjac.propagation.planning import Planner
from recurjac.region import AbstractRegion


@final
@dataclass(frozen=True)
class Case:
    """One call of an application: some samples, one radius, one class."""

    network: Network
    target: int | str | None
    radius: float | None
    region: AbstractRegion
    index: tuple[int, ...]


def together(network: Network, alone: bool) -> int:
    """The number of samples in one call: one if they are bounded `alone`, or are taken apart in any case.

    Otherwise, they are enough for speed, and few enough for progress reports and interruptions.
    """
    return 1 if alone else Planner().inputs_together(network)


def cases(
    networks: Sequence[tuple[int | str | None, Network]], inputs: options.Inputs, together: int
) -> Iterator[Case]:
    """Every case, with so many samples in one call."""
    for radius in inputs.radii:
        for start in range(0, len(inputs.index), together):
            rows = slice(start, start + together)
            region = inputs.region(radius, rows)
            for target, network in networks:
                yield Case(network, target, radius, region, inputs.index[rows])


def run_lipschitz(args: argparse.Namespace) -> int:
    """Bound every requested constant; after an interruption, the finished results are reported."""
    certificates = Certificates.asked(args)
    rows, code = answer(args, "Lipschitz constants", partial(prepare_lipschitz, keep=certificates.add))
    in_order_of_radii(rows, args)
    if not args.quiet:
        _lipschitz_table(rows)
    certificates.write()
    write_json(args, args.model, rows)
    return code


def in_order_of_radii(rows: list[Row], args: argparse.Namespace) -> None:
    """Sort rows by the order in which the radii were given; rows of boxes stay as they are."""
    order = {radius: place for place, radius in enumerate(args.radius or ())}
    rows.sort(key=lambda row: order.get(row["radius"], 0))


def prepare_lipschitz(args: argparse.Namespace, keep: Keep = ignored) -> Prepared:
    """One task for all balls around the same inputs."""
    network = options.read_network(args)
    inputs = options.read_inputs_for(network, args)
    method = named.timed(args.method, args.time_limit)
    alone = isinstance(method, Auto) or args.time_limit is not None
    tasks = nests(list(cases(options.chosen_outputs(network, args), inputs, together(network, alone))))
    budget = Budget.of(args.time_limit or torch.inf, sum(len(balls) for balls in tasks))

    def found_on(task: Case, bar: AbstractBar) -> Timed:
        began = time.perf_counter()
        own = method if args.time_limit is None else named.timed(args.method, budget.share())
        how = named.reporting(own, lambda now: bar.say(_gap(now)))
        found = lipschitz(
            task.network, task.region, p=args.norm, q=args.output_norm, method=how, pre=named.rule(args.pre),
            arithmetic=options.chosen_arithmetic(args),
        )  # fmt: skip
        return Timed(task, found, (time.perf_counter() - began) / len(task.index))

    def rows_of(number: int, bar: AbstractBar) -> Iterator[Row]:
        balls, done = tasks[number], list[Timed]()
        with suppress(KeyboardInterrupt):
            for task in balls:
                done.append(found_on(task, bar))
                if "interrupted" in done[-1].found.status:
                    break
        for each, found in zip(done, nested([d.found for d in done]), strict=True):
            yield from _lipschitz_rows(each.case, found, each.seconds)
            keep(found)
        if len(done) < len(balls):
            raise KeyboardInterrupt

    return Prepared([name_of(balls) for balls in tasks], rows_of, network.digest())


def name_of(balls: Sequence[Case]) -> str:
    """A name for the balls around some inputs, for one class."""
    radii = " ".join("box" if case.radius is None else repr(case.radius) for case in balls)
    target = "" if balls[0].target is None else f" class {balls[0].target}"
    return f"{' '.join(map(str, balls[0].index))}{target} radius {radii}"


@final
@dataclass(frozen=True)
class Timed:
    """The result of a case, and the seconds for each of its samples."""

    case: Case
    found: Lipschitz
    seconds: float


def nests(tasks: Sequence[Case]) -> list[list[Case]]:
    """The cases on balls around the same samples together, from the largest ball to the smallest."""
    found: dict[tuple[tuple[int, ...], int | str | None], list[Case]] = {}
    for task in tasks:
        found.setdefault((task.index, task.target), []).append(task)
    return [sorted(balls, key=lambda case: -(case.radius or 0.0)) for balls in found.values()]


def _gap(now: Progress) -> str:
    """What is known so far."""
    lower, upper = show_lower(now.lower), show_upper(now.upper)
    return f"{lower} … {upper} after {now.seconds:.1f} s, {now.step}"


def _lipschitz_rows(task: Case, found: Lipschitz, seconds: float) -> list[Row]:
    return [
        {
            "index": index,
            "radius": task.radius,
            "norm": found.p,
            "output_norm": found.q,
            "class": task.target,
            "method": found.method,
            "upper": float(found.upper[i].detach()),
            "lower": float(found.lower[i]),
            "seconds": seconds,
            **origin(found),
            "status": found.status,
            "note": found.note,
            **({"steps": found.steps[i]} if found.steps else {}),
        }
        for i, index in enumerate(task.index)
    ]


def _lipschitz_table(rows: Sequence[Row]) -> None:
    if not rows:
        return
    first = rows[0]
    columns = ["index", "radius", "class", "attained", "certified", "seconds"]
    cells = [
        [
            str(r["index"]), "box" if r["radius"] is None else show(r["radius"]),
            "all" if r["class"] is None else str(r["class"]), show_lower(r["lower"]), show_upper(r["upper"]),
            f"{r['seconds']:.2f}",
        ]
        for r in rows
    ]  # fmt: skip
    table(f"Lipschitz constants l{first['norm']:g} → l{first['output_norm']:g} by {first['method']}", columns, cells)
    remarks(rows)


def run_jacobian(args: argparse.Namespace) -> int:
    """Bound the Jacobian's entries for every input."""
    if args.target == "each":
        raise InvalidRequest("--class each: leave it out; the bounds of all outputs are the default")
    check_writable("--output", args.output)
    certificates = Certificates.asked(args)
    network = options.read_network(args)
    inputs = options.read_inputs_for(network, args)
    networks = options.chosen_outputs(network, args)
    method = named.timed_entries(args.method, args.time_limit)
    alone = isinstance(method, AutoEntries) or args.time_limit is not None
    tasks = list(cases(networks, inputs, together(network, alone)))
    budget = Budget.of(args.time_limit or torch.inf, len(tasks))
    done: list[JacobianBounds] = []
    rows: list[Row] = []
    with progress(args.quiet, "Jacobian bounds", len(tasks)) as step:
        for task in tasks:
            began = time.perf_counter()
            how = method if args.time_limit is None else named.timed_entries(args.method, budget.share())
            found = jacobian_bounds(
                task.network,
                task.region,
                method=how,
                pre=named.rule(args.pre),
                arithmetic=options.chosen_arithmetic(args),
            )
            rows += _jacobian_rows(task, found, (time.perf_counter() - began) / len(task.index))
            done.append(found)
            certificates.add(found)
            step()
    if args.output is not None:
        points = [t.region.bind(network.input_shape, torch.float64, torch.device("cpu")).x for t in tasks]
        _save(Path(args.output), points, done)
    if not args.quiet:
        _jacobian_table(rows, args.output)
    certificates.write()
    write_json(args, args.model, rows)
    return 0


def _jacobian_rows(task: Case, found: JacobianBounds, seconds: float) -> list[Row]:
    lower, upper = found.lower.detach().flatten(1), found.upper.detach().flatten(1)
    known = ((lower > 0) | (upper < 0)).double().mean(1)
    return [
        {
            "index": index,
            "radius": task.radius,
            "class": task.target,
            "method": found.method,
            "smallest": float(lower[i].min()),
            "largest": float(upper[i].max()),
            "widest": float((upper[i] - lower[i]).max()),
            "sign_known": float(known[i]),
            "seconds": seconds,
            **origin(found),
        }
        for i, index in enumerate(task.index)
    ]


def _jacobian_table(rows: Sequence[Row], output: str | None) -> None:
    columns = ["index", "radius", "smallest", "largest", "widest", "sign known", "seconds"]
    cells = [
        [
            str(r["index"]), "box" if r["radius"] is None else show(r["radius"]), show_lower(r["smallest"]),
            show_upper(r["largest"]), show_upper(r["widest"]), f"{100 * r['sign_known']:.1f} %", f"{r['seconds']:.2f}",
        ]
        for r in rows
    ]  # fmt: skip
    table(f"Jacobian bounds by {rows[0]['method']}", columns, cells)
    remarks(rows)
    if output is not None:
        stderr().print(f"bounds written to {output}")


def _save(path: Path, points: Sequence[Tensor], done: Sequence[JacobianBounds]) -> None:
    x = torch.cat(list(points)).numpy()
    lower = torch.cat([b.lower.detach() for b in done]).cpu().numpy()
    upper = torch.cat([b.upper.detach() for b in done]).cpu().numpy()
    with path.open("wb") as file:  # a file object: NumPy would append a suffix to a name
        np.savez_compressed(file, x=x, lower=lower, upper=upper)
