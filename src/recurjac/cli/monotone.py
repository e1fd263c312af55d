"""`recurjac monotone`: which outputs rise and fall with which inputs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from math import inf, prod

from recurjac.applications.monotonicity import Monotonicity, Trend, monotone, nested_trends
from recurjac.arithmetic import Fast, Interval
from recurjac.branching import Limit
from recurjac.cli import named, options
from recurjac.cli.bounds import Case, cases, in_order_of_radii, name_of, nests, together
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
from recurjac.jacobian import AutoEntries

_SHOWN = 40
"""The largest number of features that a table lists one by one; the JSON report always lists all."""
_REFUTED = 3
"""The largest number of violated features whose points are printed."""
_SECONDS = 5.0
"""The time for parts of the region of a sample and radius, if none is given."""
_WIDE = 10
"""The largest number of outputs for which it does."""


def run(args: argparse.Namespace) -> int:
    """Decide every requested entry; after an interruption, the finished results are reported."""
    certificates = Certificates.asked(args)
    rows, code = answer(args, "monotonicity", partial(prepare, keep=certificates.add))
    in_order_of_radii(rows, args)
    if not args.quiet and rows:
        _tables(rows)
    certificates.write()
    write_json(args, args.model, rows)
    return code


def prepare(args: argparse.Namespace, keep: Keep = ignored) -> Prepared:
    """One task for all balls around the same inputs."""
    network = options.read_network(args)
    inputs = options.read_inputs_for(network, args)
    method = named.timed_entries(args.method, args.time_limit)
    alone = isinstance(method, AutoEntries) or args.time_limit is not None
    tasks = nests(list(cases(options.chosen_outputs(network, args), inputs, together(network, alone))))
    budget = Budget.of(args.time_limit or inf, sum(len(balls) for balls in tasks))

    def found_on(task: Case) -> Monotonicity:
        rule, arithmetic = named.rule(args.pre), options.chosen_arithmetic(args)
        share = None if args.time_limit is None else budget.share()
        if share is not None and isinstance(method, AutoEntries):
            return monotone(task.network, task.region, time_limit=share, pre=rule, arithmetic=arithmetic)
        how = method if share is None else named.timed_entries(args.method, share / 2)
        limit = Limit(seconds=_SECONDS if share is None else share / 2)
        return monotone(task.network, task.region, method=how, pre=rule, arithmetic=arithmetic, limit=limit)

    def rows_of(number: int, _bar: AbstractBar) -> Iterator[Row]:
        balls, done, seconds = tasks[number], list[Monotonicity](), list[float]()
        with suppress(KeyboardInterrupt):
            for task in balls:
                began = time.perf_counter()
                done.append(found_on(task))
                seconds.append((time.perf_counter() - began) / len(task.index))
        for task, found, each in zip(balls, nested_trends(done), seconds, strict=False):
            yield from _rows(task, found, inputs.names, each)
            keep(found)
        if len(done) < len(balls):
            raise KeyboardInterrupt

    return Prepared([name_of(balls) for balls in tasks], rows_of, network.digest())


def _rows(task: Case, found: Monotonicity, names: Sequence[str], seconds: float) -> list[Row]:
    """One row for each sample and output."""
    outputs, ends = prod(task.network.output_shape), _ends(task)
    return [
        {
            "index": index,
            "radius": task.radius,
            "class": k if task.target is None else task.target,
            "method": found.method,
            "features": _features(found, i, outputs, k, names, ends[i]),
            "points": found.points[i].flatten(1).tolist(),
            "seconds": seconds,
            **origin(found),
        }
        for i, index in enumerate(task.index)
        for k in range(outputs)
    ]


def _ends(task: Case) -> list[Interval]:
    """The ends of each feature over the region of each sample, to the nearest numbers: (features,) each."""
    network = task.network
    box = task.region.bind(network.input_shape, network.dtype, network.device).box(Fast())
    return [Interval(low.flatten(), high.flatten()) for low, high in zip(box.lower, box.upper, strict=True)]


def _features(found: Monotonicity, i: int, outputs: int, k: int, names: Sequence[str], ends: Interval) -> list[Row]:
    """The trend and bounds of every feature; if violated, also the points at which the output rises and falls.

    least, most: the ends of the feature over the region.
    """
    every = (found.trends, found.lower, found.upper, found.rising, found.falling)
    columns = (tensor[i].reshape(outputs, -1)[k].tolist() for tensor in every)
    rows = []
    over = (ends.lower.tolist(), ends.upper.tolist())
    for name, place, lower, upper, rising, falling, least, most in zip(names, *columns, *over, strict=True):
        trend = list(Trend)[place]
        both = trend is Trend.VIOLATED
        rows.append(
            {
                "feature": name,
                "trend": trend.value,
                "lower": lower,
                "upper": upper,
                "rising": rising if both else None,
                "falling": falling if both else None,
                "least": least,
                "most": most,
            }
        )
    return rows


def _tables(rows: Sequence[Row]) -> None:
    """The number of features with each trend and, if they are few, the trend of each."""
    words = [trend.value for trend in Trend]
    cells = []
    for r in rows:
        trends = [f["trend"] for f in r["features"]]
        counts = [str(trends.count(word)) for word in words]
        cells.append([str(r["index"]), _radius(r), str(r["class"]), *counts, f"{r['seconds']:.2f}"])
    title = f"Features by what each output does as they grow, by {rows[0]['method']}"
    table(title, ["index", "radius", "class", *words, "seconds"], cells)
    groups: dict[tuple[int, str], list[Row]] = {}
    for r in rows:
        groups.setdefault((r["index"], _radius(r)), []).append(r)
    for (index, radius), group in groups.items():
        if len(group[0]["features"]) <= _SHOWN and len(group) <= _WIDE:
            columns = ["feature", *(f"class {r['class']}" for r in group)]
            lines = zip(*(r["features"] for r in group), strict=True)
            table(f"input {index}, radius {radius}", columns,
                  [[line[0]["feature"], *map(_trend, line)] for line in lines])  # fmt: skip
            for r in group:
                _refuting(r)
    remarks(rows)


def _trend(feature: Row) -> str:
    """The trend of a feature, and if it is undecided the bounds, which may miss a sign by a rounding only."""
    if feature["trend"] != Trend.UNDECIDED.value:
        return str(feature["trend"])
    return f"{feature['trend']}: {show_lower(feature['lower'])} … {show_upper(feature['upper'])}"


def _refuting(row: Row) -> None:
    """The two points for each of a few features with which the output both rises and falls."""
    violated = [f for f in row["features"] if f["rising"] is not None]
    if len(violated) > _REFUTED:
        stderr().print(f"class {row['class']}: --json, and the page of `recurjac report`, have the points that refute")
    if not violated or len(violated) > _REFUTED:
        return
    columns = ["feature", *(f"{f['feature']} {way}" for f in violated for way in ("rises", "falls"))]
    points = [row["points"][f[way]] for f in violated for way in ("rising", "falling")]
    lines = [[f["feature"], *(show(p[i]) for p in points)] for i, f in enumerate(row["features"])]
    table(f"points at which class {row['class']} rises and falls with these features", columns, lines)


def _radius(row: Row) -> str:
    return "box" if row["radius"] is None else show(row["radius"])
