"""The tasks of a sweep on a Ray cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, final

import torch

from recurjac.errors import InvalidRequest, MissingDependency
from recurjac.sweeps.pools import AbstractPool, timed
from recurjac.sweeps.work import AbstractWork, Done, Row

T = TypeVar("T")


@final
@dataclass(frozen=True)
class RayCluster(AbstractPool):
    """Actors of a Ray cluster, one task at a time on each.  Needs the extra `[ray]`.

    address: of the head, such as "ray://host:10001" or "auto" for one that runs on this machine; "local" starts one in
    this process, with `workers` CPUs, which ends with it.
    workers: the number of actors; None for as many as the cluster has CPUs, or GPUs where gpus > 0.
    gpus: the share of a GPU that each actor needs, such as 0.25.
    retries: how often a task is begun anew after its node or its actor was lost.
    """

    address: str = "auto"
    workers: int | None = None
    gpus: float = 0.0
    retries: int = 3

    def finished(self, work: AbstractWork[T], tasks: Mapping[str, T]) -> Iterator[tuple[str, Done]]:
        """As the base class says; raises MissingDependency without Ray, InvalidRequest if no cluster answers."""
        ray = self._connected()
        try:
            team = _Team(ray, self, work, deque(tasks.items()))
            team.start(min(self._count(ray), len(tasks)))
            yield from team.finished()
        finally:
            ray.shutdown()

    def _connected(self) -> Any:
        try:
            import ray
        except ImportError as error:
            raise MissingDependency("a Ray cluster needs Ray; pip install 'recurjac[ray]'") from error
        own = {"num_cpus": self.workers, "include_dashboard": False} if self.address == "local" else {}
        where = "local" if self.address == "local" else self.address
        settings: dict[str, Any] = {"address": where, "log_to_driver": False, "configure_logging": False, **own}
        try:
            ray.init(**settings)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InvalidRequest(
                f"no Ray cluster answers at {self.address!r}: {str(error).splitlines()[0]}; "
                "start one with `ray start --head`, or give `local`"
            ) from error
        return ray

    def _count(self, ray: Any) -> int:
        if self.workers is not None:
            return self.workers
        there = ray.cluster_resources()
        return max(1, int(there.get("GPU", 0) / self.gpus if self.gpus > 0 else there.get("CPU", 1)))


class _Worker:
    """In an actor: does tasks, on one thread."""

    def __init__(self, work: AbstractWork[Any]) -> None:
        torch.set_num_threads(1)
        self._work = work
        self._worker: Callable[[Any], list[Row]] | None = None

    def do(self, task: Any) -> Done:
        self._worker = self._work.worker() if self._worker is None else self._worker
        return timed(self._worker, task)


@final
@dataclass
class _Team:
    """The actors, the tasks that wait, and how often each was lost with its actor."""

    ray: Any
    pool: RayCluster
    work: AbstractWork[Any]
    waiting: deque[tuple[str, Any]]
    lost: dict[str, int] = field(default_factory=dict)
    idle: list[Any] = field(default_factory=list)
    at_work: dict[Any, tuple[Any, str, Any]] = field(default_factory=dict)

    def start(self, count: int) -> None:
        kind = self.ray.remote(_Worker).options(num_cpus=1, num_gpus=self.pool.gpus)
        self.idle += [kind.remote(self.work) for _ in range(count)]

    def finished(self) -> Iterator[tuple[str, Done]]:
        while True:
            while self.idle and self.waiting:
                actor, (name, task) = self.idle.pop(), self.waiting.popleft()
                self.at_work[actor.do.remote(task)] = (actor, name, task)
            if not self.at_work:
                return
            ready, _ = self.ray.wait(list(self.at_work), num_returns=1)
            for answer in ready:
                actor, name, task = self.at_work.pop(answer)
                done = self._received(actor, answer, name, task)
                if done is not None:
                    yield name, done

    def _received(self, actor: Any, answer: Any, name: str, task: Any) -> Done | None:
        try:
            done = self.ray.get(answer)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, BaseException) else error from error
        except self.ray.exceptions.RayError as error:
            self._replace(name, task, error)
            return None
        self.idle.append(actor)
        assert isinstance(done, Done)  # noqa: S101  # (narrows the type)
        return done

    def _replace(self, name: str, task: Any, error: Exception) -> None:
        self.lost[name] = self.lost.get(name, 0) + 1
        if self.lost[name] > self.pool.retries:
            why = str(error).splitlines()[0]
            raise ChildProcessError(f"the actor of the task {name} was lost {self.lost[name]} times: {why}") from error
        self.waiting.appendleft((name, task))
        self.start(1)
