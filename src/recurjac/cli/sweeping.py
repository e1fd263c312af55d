"""`recurjac sweep`: many networks, inputs, radii and questions, in many processes."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from recurjac.cli.output import progress, stderr, table
from recurjac.cli.sweep_plan import Sweep, rows_of, store_in
from recurjac.errors import InvalidRequest
from recurjac.sweeps.cluster import RayCluster
from recurjac.sweeps.pools import AbstractPool, LocalProcesses
from recurjac.sweeps.tables import check_suffix, write_rows
from recurjac.sweeps.work import Done


def add_commands(commands: Any) -> None:
    parser = commands.add_parser(
        "sweep",
        help="many networks, inputs, radii and questions",
        description="Every question of a .toml file about every network and input. Each finished task is kept at "
        "once, so that the same command continues after an interruption, and questions can be added.",
    )
    parser.add_argument("config", metavar="CONFIG.toml", help="networks, inputs, radii and questions")
    parser.add_argument("--out", metavar="FOLDER", help="where results are kept (`out` of the file, or results/NAME)")
    group = parser.add_argument_group("run")
    group.add_argument("--jobs", type=int, default=1, metavar="J", help="number of processes, each with one thread (1)")
    group.add_argument("--ray", metavar="ADDRESS",
                       help="do the tasks on this Ray cluster: auto for one on this machine, or local to start one "
                       "with --jobs workers")  # fmt: skip
    group.add_argument("--gpus", type=float, default=0.0, metavar="G", help="share of a GPU for each worker of Ray (0)")
    group.add_argument("--fresh", action="store_true", help="discard existing results")
    group = parser.add_argument_group("results")
    group.add_argument("--status", action="store_true", help="only say how much is done")
    group.add_argument(
        "--export", metavar="FILE", help="only write the finished rows to a .csv, .jsonl or .parquet file"
    )
    group.add_argument("--quiet", action="store_true", help="no progress and no table")
    parser.set_defaults(run=run, json=None)


def run(args: argparse.Namespace) -> int:
    """Do what is left of the sweep, or say or write what is done."""
    if args.jobs < 1:
        raise InvalidRequest(f"--jobs {args.jobs}: give at least 1 process")
    if args.export is not None:
        check_suffix("--export", Path(args.export))
    sweep, out = Sweep.read(Path(args.config))
    folder = Path(args.out or out or Path("results", Path(args.config).stem))
    if args.status or args.export is not None:
        return _say(sweep, folder, args)
    total, done = len(sweep.tasks()), 0
    try:
        with progress(args.quiet, "sweep", total) as bar:

            def step(count: int) -> None:
                nonlocal done
                done += count
                for _ in range(count):
                    bar()

            rows = sweep.run(folder, pool=_pool(args), fresh=args.fresh, step=step)
    except KeyboardInterrupt:
        stderr().print(f"interrupted; {done} of {total} tasks are kept in {folder}; the same command continues")
        return 1
    failed = [str(row["error"]) for row in rows if row.get("error")]
    for text in failed[:3]:
        stderr().print(text)
    if not args.quiet:
        stderr().print(f"{total} tasks, {len(rows)} rows, {len(failed)} failed; written to {folder / 'rows.csv'}")
    return 1 if failed else 0


def _pool(args: argparse.Namespace) -> AbstractPool:
    if args.ray is None:
        return LocalProcesses(args.jobs)
    return RayCluster(args.ray, args.jobs if args.ray == "local" or args.jobs > 1 else None, args.gpus)


def _say(sweep: Sweep, folder: Path, args: argparse.Namespace) -> int:
    """How much of each question is done, or the rows that are."""
    tasks, store = sweep.tasks(), store_in(folder)
    there = dict(store.finished()) if store.rows.exists() else {}
    done: dict[str, Done] = {name: there[name] for name in tasks if name in there}
    if args.export is not None:
        rows = rows_of(done)
        write_rows(Path(args.export), rows)
        stderr().print(f"{len(rows)} rows of {len(done)} of {len(tasks)} tasks written to {args.export}")
        return 0
    total = Counter((cell.network, cell.question) for cell in tasks.values())
    ready = Counter((tasks[name].network, tasks[name].question) for name in done)
    lines = [
        [network, question, str(ready[network, question]), str(count)] for (network, question), count in total.items()
    ]
    table(f"{len(done)} of {len(tasks)} tasks are done in {folder}", ["network", "question", "done", "of"], lines)
    return 0
