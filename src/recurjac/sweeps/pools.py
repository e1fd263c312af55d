"""Who does the tasks of a sweep: this process, or several processes of this machine."""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar, final

import torch

from recurjac.machine import one_thread
from recurjac.sweeps.work import AbstractWork, Done, Row

T = TypeVar("T")


class AbstractPool(ABC):
    """Does tasks, in any order."""

    @abstractmethod
    def finished(self, work: AbstractWork[T], tasks: Mapping[str, T]) -> Iterator[tuple[str, Done]]:
        """Yield each task as soon as it is done.

        Raises what a task raises, and ChildProcessError if a task's processes end before it several times; other
        tasks are then abandoned.
        """


@final
@dataclass(frozen=True)
class LocalProcesses(AbstractPool):
    """So many processes of this machine with one thread each; with one, this process does the tasks.

    retries: how often a task whose process was killed (by the system, when memory runs out, or by a person) is begun
    anew, in a new process.
    """

    jobs: int = 1
    retries: int = 1

    def finished(self, work: AbstractWork[T], tasks: Mapping[str, T]) -> Iterator[tuple[str, Done]]:
        if self.jobs <= 1 or len(tasks) <= 1:
            yield from _here(work, tasks)
            return
        crew = _Processes(work, self.retries, deque(tasks.items()))
        try:
            yield from crew.finished(min(self.jobs, len(tasks)))
        finally:
            for process in crew.started:
                process.stop()


def _here(work: AbstractWork[T], tasks: Mapping[str, T]) -> Iterator[tuple[str, Done]]:
    """Done by this process, on one thread, one after the other."""
    with one_thread():
        worker = work.worker()
        for name, task in tasks.items():
            yield name, timed(worker, task)


def timed(worker: Callable[[T], list[Row]], task: T) -> Done:
    """The rows of a task, and the seconds that it took."""
    began = time.perf_counter()
    return Done(worker(task), time.perf_counter() - began)


@final
@dataclass(frozen=True)
class Lost:
    """A task went down with its worker, and why."""

    why: str


@dataclass(frozen=True)
class AbstractCrew(ABC):
    """Workers that get the next task as soon as they have finished one, and replace each other.

    waiting: the tasks that no worker has.  lost: how often each task was lost with its worker.  idle: the workers that
    have no task.  at_work: the others with the name of their task and the task, by what their answer is awaited on.
    """

    work: AbstractWork[Any]
    retries: int
    waiting: deque[tuple[str, Any]]
    lost: dict[str, int] = field(default_factory=dict)
    idle: list[Any] = field(default_factory=list)
    at_work: dict[Any, tuple[Any, str, Any]] = field(default_factory=dict)

    @abstractmethod
    def hire(self) -> Any:
        """A new worker."""

    @abstractmethod
    def begin(self, worker: Any, task: Any) -> Any:
        """Give a worker a task; returns what its answer is awaited on."""

    @abstractmethod
    def ready(self) -> Sequence[Any]:
        """Wait until some of those at work have an answer."""

    @abstractmethod
    def answer(self, awaited: Any, worker: Any) -> Done | Lost:
        """The answer of a worker that is ready.  Raises what its task raised."""

    @final
    def finished(self, count: int) -> Iterator[tuple[str, Done]]:
        """Yield each task as soon as one of so many workers has finished it; raises as `AbstractPool.finished`."""
        self.idle.extend(self.hire() for _ in range(count))
        while True:
            while self.idle and self.waiting:
                worker, (name, task) = self.idle.pop(), self.waiting.popleft()
                self.at_work[self.begin(worker, task)] = (worker, name, task)
            if not self.at_work:
                return
            for awaited in self.ready():
                worker, name, task = self.at_work.pop(awaited)
                answer = self.answer(awaited, worker)
                if isinstance(answer, Done):
                    self.idle.append(worker)
                    yield name, answer
                else:
                    self._again(name, task, answer)

    def _again(self, name: str, task: Any, loss: Lost) -> None:
        self.lost[name] = self.lost.get(name, 0) + 1
        if self.lost[name] > self.retries:
            times = f", {self.lost[name]} times" if self.lost[name] > 1 else ""
            raise ChildProcessError(f"the process of the task {name} {loss.why}{times}; was it killed?")
        self.waiting.appendleft((name, task))
        self.idle.append(self.hire())


@final
@dataclass(frozen=True)
class _Processes(AbstractCrew):
    """Processes of this machine, each awaited on its connection."""

    started: list[_Process] = field(default_factory=list)

    def hire(self) -> _Process:
        self.started.append(_Process.start(self.work))
        return self.started[-1]

    def begin(self, worker: _Process, task: Any) -> Connection:
        with suppress(OSError):  # it has ended; the connection says so when it is read
            worker.line.send(task)
        return worker.line

    def ready(self) -> Sequence[Any]:
        return wait(list(self.at_work))

    def answer(self, awaited: Connection, worker: _Process) -> Done | Lost:
        try:
            answer = awaited.recv()
        except (EOFError, OSError):
            worker.stop()
            return Lost(f"ended with code {worker.process.exitcode}")
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, Done)  # noqa: S101  # (narrows the type)
        return answer


@final
@dataclass(frozen=True)
class _Process:
    """A process and this side of the connection to it."""

    process: Any
    line: Connection

    @classmethod
    def start(cls, work: AbstractWork[Any]) -> _Process:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(work, theirs), daemon=True)
        process.start()
        theirs.close()  # so that the connection closes when the process ends
        return cls(process, ours)

    def stop(self) -> None:
        self.line.close()
        self.process.terminate()
        self.process.join()


def _serve(work: AbstractWork[Any], line: Connection) -> None:
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
            worker = work.worker() if worker is None else worker
            answer: Any = timed(worker, task)
        except Exception as error:  # every error is handled by the parent
            error.add_note("".join(traceback.format_exception(error)))
            answer = error
        try:
            line.send(answer)
        except OSError:  # the parent has ended
            return
