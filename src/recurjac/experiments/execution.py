"""Running an experiment: finished tasks are not repeated, and interruptions do not change the results."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import final

from recurjac.experiments.store import Store, write_atomically
from recurjac.experiments.study import AbstractExperiment, Row, Scalar, T
from recurjac.experiments.workers import finished


@final
@dataclass(frozen=True)
class Plan:
    """Where results are written, the number of processes, and whether existing results are discarded."""

    folder: Path
    jobs: int = 1
    fresh: bool = False


def run(experiment: AbstractExperiment[T], plan: Plan, step: Callable[[int], None]) -> list[Row]:
    """Do the unfinished tasks, then write NAME.csv, times.csv and the experiment's own report.

    step: called with the number of newly finished tasks.  Returns the rows in the order of the tasks.
    However the run ends, finished tasks are kept, and the next run with the same settings continues with the rest.
    Raises InvalidRequest, before any work, for a folder with other settings or another active run, and whatever tasks
    raise.
    """
    store = Store(plan.folder)
    with store.alone():
        return _run(experiment, plan, store, step)


def _run(experiment: AbstractExperiment[T], plan: Plan, store: Store, step: Callable[[int], None]) -> list[Row]:
    tasks = experiment.tasks()
    done = {name: d for name, d in store.resume(experiment.identity(), plan.fresh).items() if name in tasks}
    step(len(done))
    if not done:
        for name in (f"{experiment.name}.*", "times.csv", "panels.npz"):  # of results that no longer exist
            for path in plan.folder.glob(name):
                path.unlink()
    left = {name: task for name, task in tasks.items() if name not in done}
    for name, result in finished(experiment, left, plan.jobs):
        store.append(name, result)
        done[name] = result
        step(1)
    rows = [row for name in tasks for row in done[name].rows]
    write_csv(plan.folder / f"{experiment.name}.csv", experiment.columns, rows)
    write_csv(plan.folder / "times.csv", ("task", "seconds"), [{"task": n, "seconds": done[n].seconds} for n in tasks])
    experiment.report(rows, plan.folder)
    return rows


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """A table with a header; numbers are read back exactly, and a cell without a value is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[column]) for column in columns] for row in rows)
    write_atomically(path, text.getvalue())


def _cell(value: Scalar) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value) if isfinite(value) else ("inf" if value > 0 else "-inf")
    return str(value)
