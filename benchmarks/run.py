"""`make bench`: speed, memory and growth of the main job, in units of a matrix product: `python -m benchmarks.run`.

The job is CROWN bounds of the pre-activations, bounds of the Jacobian, and the l∞ constant that follows.  One unit is
one 800×800 float64 matrix product, measured alternately with the job, so that units are comparable between machines.
See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from math import prod
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.cases import Case, unstable
from benchmarks.measure import QUICK, THOROUGH, Effort, memory_of, numpy_unit_seconds, timed
from benchmarks.plot import check, draw
from benchmarks.report import ROOT, Row, read_rows, report, show, show_comparison, show_growth, write
from benchmarks.tables import TABLES, Plan
from recurjac.errors import RecurJacError

SHARED = ROOT.parent / "shared"
REFERENCE = SHARED / "reference" / "mnist_9x200_relu.npz"
ONNX = SHARED / "nets" / "mnist_3layer_relu_1024.onnx"


def measure(case: Case, effort: Effort) -> Row:
    """Measure one case."""
    torch.set_num_threads(case.threads)
    net, timing = case.network(), timed(case.job(), effort, case.device)
    work = case.opponent.work(case)
    floor = timing.floor(work.multiply_adds)
    memory = memory_of(case.job) if case.memory else None
    method, arithmetic = case.opponent.titles
    return Row(
        case.table, case.variable, case.value, case.source.title, prod(net.output_shape), case.radius, case.batch,
        case.threads, method, arithmetic, unstable(net, case.region()),
        sum(prod(s.shape) for s in net.stages if not s.linear), timing.seconds, timing.best_seconds,
        timing.unit_seconds, timing.units, timing.best_units, work.multiply_adds, work.calls, floor,
        timing.seconds / floor, None if memory is None else memory.before, None if memory is None else memory.peak,
    )  # fmt: skip


def measured(names: Iterable[str], plan: Plan, console: Console) -> list[Row]:
    """Measure these tables and print each one when it is done."""
    effort, rows = QUICK if plan.quick else THOROUGH, []
    for name in names:
        found = []
        with console.status(name) as status:
            for case in TABLES[name](plan):
                status.update(f"{case.table}: {case.variable} {case.value:g}")
                found.append(measure(case, effort))
        for _, part in groupby(found, lambda r: (r.table, r.variable)):
            show(console, list(part))
        rows += found
    return rows


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description="Measure pre-activation bounds, Jacobian bounds and the l∞ constant, in units of one 800×800 "
        "float64 matrix product, on one thread unless a table states two.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer cases and repetitions: well under a minute")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), metavar="TABLE",
                        help=f"measure only these tables: {', '.join(TABLES)}")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the run as JSON, for comparison with another")
    parser.add_argument(
        "--compare", type=Path, metavar="OLD.json", help="print new / old for each row of an earlier run"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw growth curves and bars of units")
    parser.add_argument("--reference", type=Path, default=REFERENCE, metavar="NPZ",
                        help="the reference network (W0, b0, …, x), by default next to the project; "
                        "without it, a generated network of the same shape is measured")  # fmt: skip
    parser.add_argument("--onnx", type=Path, default=ONNX, metavar="FILE",
                        help="the wide network, by default next to the project; else none is measured")  # fmt: skip
    return parser.parse_args(argv)


def _there(path: Path) -> Path | None:
    return path if path.is_file() else None


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write the requested files."""
    asked = options(argv)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    try:
        if asked.plot is not None:
            check(asked.plot)
        old = None if asked.compare is None else read_rows(asked.compare)
    except (RecurJacError, OSError) as error:
        sys.exit(str(error))
    plan = Plan(_there(asked.reference), _there(asked.onnx), asked.quick)
    if plan.reference is None:
        console.print(f"{asked.reference.name} was not found: a generated network of the same shape replaces it.")
    if plan.onnx is None:
        console.print(f"{asked.onnx.name} was not found: the table `wide` is omitted.")
    torch.set_num_threads(1)
    unit = numpy_unit_seconds(QUICK)
    rows = measured(asked.only, plan, console)
    if not rows:
        console.print("Nothing was measured.")
        return
    run = report(rows, asked.quick, 1, unit)
    if run.growth:
        show_growth(console, run.growth)
    console.print(f"One unit: {1000 * run.unit_seconds:.2f} ms on one thread; in NumPy {1000 * unit:.2f} ms.")
    if asked.json is not None:
        write(asked.json, run)
    if asked.plot is not None:
        draw(asked.plot, run)
    if old is not None:
        show_comparison(console, rows, old)


if __name__ == "__main__":
    main()
