"""Doing the tasks of an experiment, one after the other or in parallel processes."""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar, final

import torch

from recurjac.experiments.store import Done
from recurjac.experiments.study import AbstractExperiment
from recurjac.machine import one_thread

T = TypeVar("T")


def finished(experiment: AbstractExperiment[T], tasks: Mapping[str, T], jobs: int) -> Iterator[tuple[str, Done]]:
    """Yield each task as soon as it is done by one of `jobs` processes with one thread each; 1: by this process.

    Raises what a task raises, and ChildProcessError if a process ends before its task; other tasks are then abandoned.
    """
    if jobs <= 1 or len(tasks) <= 1:
        with one_thread():
            worker = experiment.worker()
            for name, task in tasks.items():
                began = time.perf_counter()
                yield name, Done(worker(task), time.perf_counter() - began)
        return
    started: list[_Process] = []
    try:
        started.extend(_Process.start(experiment) for _ in range(min(jobs, len(tasks))))
        yield from _shared(started, tasks)
    finally:
        for process in started:
            process.stop()


@final
@dataclass(frozen=True)
class _Process:
    """A process and this side of the connection to it."""

    process: Any
    line: Connection

    @classmethod
    def start(cls, experiment: AbstractExperiment[T]) -> _Process:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(experiment, theirs), daemon=True)
        process.start()
        theirs.close()  # so that the connection closes when the process ends
        return cls(process, ours)

    def received(self, task: str) -> Done:
        try:
            answer = self.line.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            raise ChildProcessError(f"the process of the task {task} ended with code {code}; was it killed?") from None
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, Done)  # noqa: S101  # (narrows the type)
        return answer

    def stop(self) -> None:
        self.line.close()
        self.process.terminate()
        self.process.join()


def _shared(processes: list[_Process], tasks: Mapping[str, T]) -> Iterator[tuple[str, Done]]:
    """Give every process the next task as soon as it has finished one."""
    waiting, at_work = iter(tasks.items()), {}
    idle = {p.line: p for p in processes}
    while True:
        while idle and (following := next(waiting, None)) is not None:
            line, process = idle.popitem()
            name, task = following
            at_work[line] = (process, name)
            line.send(task)
        if not at_work:
            return
        for ready in wait(list(at_work)):
            process, name = at_work.pop(ready)  # type: ignore[call-overload]
            done = process.received(name)
            idle[process.line] = process
            yield name, done


def _serve(experiment: AbstractExperiment[T], line: Connection) -> None:
    """In another process: do tasks as they arrive, until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets the signal, too, and closes the connection
    torch.set_num_threads(1)
    worker = None
    while True:
        try:
            task = line.recv()
        except (EOFError, OSError):
            return
        try:
            began = time.perf_counter()
            worker = experiment.worker() if worker is None else worker
            answer: Any = Done(worker(task), time.perf_counter() - began)
        except Exception as error:  # every error is handled by the parent
            error.add_note("".join(traceback.format_exception(error)))
            answer = error
        try:
            line.send(answer)
        except OSError:  # the parent has ended
            return
