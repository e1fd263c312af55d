"""`recurjac sweep`: many networks, inputs, radii and questions, in many processes."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from recurjac.cli.output import progress, stderr, table
from recurjac.cli.sweep_plan import Sweep, rows_of, store_in
from recurjac.errors import InvalidRequest
from recurjac.sweeps.cluster import RayCluster
from recurjac.sweeps.pools import AbstractPool, LocalProcesses
from recurjac.sweeps.tables import check_suffix, write_rows
from recurjac.sweeps.work import Done


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
