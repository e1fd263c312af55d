"""Running an experiment: finished tasks are not repeated, and interruptions do not change the results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from recurjac.experiments.study import AbstractExperiment, Row, T
from recurjac.sweeps.pools import LocalProcesses
from recurjac.sweeps.running import go_on
from recurjac.sweeps.store import AbstractStore, JsonLines
from recurjac.sweeps.tables import write_csv


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
    store = JsonLines(plan.folder)
    with store.alone():
        return _run(experiment, plan, store, step)


def _run(experiment: AbstractExperiment[T], plan: Plan, store: AbstractStore, step: Callable[[int], None]) -> list[Row]:
    if plan.fresh or not store.rows.exists():
        for name in (f"{experiment.name}.*", "times.csv", "panels.npz"):  # of results that no longer exist
            for path in plan.folder.glob(name):
                path.unlink()
    done = go_on(experiment, store, LocalProcesses(plan.jobs), plan.fresh, step)
    rows = [row for result in done.values() for row in result.rows]
    write_csv(plan.folder / f"{experiment.name}.csv", experiment.columns, rows)
    times: list[Row] = [{"task": name, "seconds": result.seconds} for name, result in done.items()]
    write_csv(plan.folder / "times.csv", ("task", "seconds"), times)
    experiment.report(rows, plan.folder)
    return rows
