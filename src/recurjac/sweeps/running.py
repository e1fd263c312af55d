"""Doing what is left of a sweep: finished tasks are not repeated, and interruptions do not change the results."""

from __future__ import annotations

from collections.abc import Callable

from recurjac.sweeps.pools import AbstractPool
from recurjac.sweeps.store import AbstractStore
from recurjac.sweeps.work import AbstractWork, Done, T


def go_on(
    work: AbstractWork[T], store: AbstractStore, pool: AbstractPool, fresh: bool, step: Callable[[int], None]
) -> dict[str, Done]:
    """Do the tasks that the store does not hold, and keep each as soon as it is done; all of them, in order.

    step: called with the number of tasks that were finished before, and then with 1 for each one.
    However this ends, finished tasks are kept.  Raises InvalidRequest, before any work, for a store with another
    identity or another active run, and whatever tasks raise.
    """
    tasks = work.tasks()
    done = {name: d for name, d in store.resume(work.identity(), fresh).items() if name in tasks}
    step(len(done))
    left = {name: task for name, task in tasks.items() if name not in done}
    for name, result in pool.finished(work, left):
        store.append(name, result)
        done[name] = result
        step(1)
    return {name: done[name] for name in tasks}
