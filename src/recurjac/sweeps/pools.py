"""Who does the tasks of a sweep: this process, or several processes of this machine."""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
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
        queue = _Queue(work, self.retries, deque(tasks.items()))
        try:
            queue.start(min(self.jobs, len(tasks)))
            yield from queue.finished()
        finally:
            queue.stop()


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
@dataclass
class _Queue:
    """The processes, the tasks that wait, and how often each was lost with its process."""

    work: AbstractWork[Any]
    retries: int
    waiting: deque[tuple[str, Any]]
    lost: dict[str, int] = field(default_factory=dict)
    idle: list[_Process] = field(default_factory=list)
    at_work: dict[Connection, tuple[_Process, str, Any]] = field(default_factory=dict)

    def start(self, count: int) -> None:
        self.idle += [_Process.start(self.work) for _ in range(count)]

    def finished(self) -> Iterator[tuple[str, Done]]:
        """Give every process the next task as soon as it has finished one."""
        while True:
            while self.idle and self.waiting:
                self._give(self.idle.pop(), *self.waiting.popleft())
            if not self.at_work:
                return
            for ready in wait(list(self.at_work)):
                process, name, task = self.at_work.pop(ready)  # type: ignore[call-overload]
                done = self._received(process, name, task)
                if done is not None:
                    yield name, done

    def _give(self, process: _Process, name: str, task: Any) -> None:
        self.at_work[process.line] = (process, name, task)
        with suppress(OSError):  # it has ended; the connection says so when it is read
            process.line.send(task)

    def _received(self, process: _Process, name: str, task: Any) -> Done | None:
        """The answer of a process; None if it was lost with its task, which then waits again."""
        try:
            answer = process.line.recv()
        except (EOFError, OSError):
            self._replace(process, name, task)
            return None
        self.idle.append(process)
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, Done)  # noqa: S101  # (narrows the type)
        return answer

    def _replace(self, process: _Process, name: str, task: Any) -> None:
        process.stop()
        self.lost[name] = self.lost.get(name, 0) + 1
        if self.lost[name] > self.retries:
            code, times = process.process.exitcode, self.lost[name]
            again = f", {times} times" if times > 1 else ""
            raise ChildProcessError(f"the process of the task {name} ended with code {code}{again}; was it killed?")
        self.waiting.appendleft((name, task))
        self.start(1)

    def stop(self) -> None:
        for process in [*self.idle, *(p for p, _, _ in self.at_work.values())]:
            process.stop()


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
