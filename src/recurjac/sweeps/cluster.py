"""The tasks of a sweep on a Ray cluster."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, final

import torch

from recurjac.errors import InvalidRequest, MissingDependency
from recurjac.sweeps.pools import AbstractCrew, AbstractPool, Lost, timed
from recurjac.sweeps.work import AbstractWork, Done, Row

T = TypeVar("T")
_PATIENCE = 10.0
"""How many seconds the head of a cluster has to accept a connection."""


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
            crew = _Actors(work, self.retries, deque(tasks.items()), ray=ray, gpus=self.gpus)
            yield from crew.finished(min(self._count(ray), len(tasks)))
        finally:
            ray.shutdown()

    def _connected(self) -> Any:
        try:
            import ray
        except ImportError as error:
            raise MissingDependency("a Ray cluster needs Ray; pip install '.[ray]' in a clone") from error
        self._reach()
        own = {"num_cpus": self.workers, "include_dashboard": False} if self.address == "local" else {}
        where = "local" if self.address == "local" else self.address
        settings: dict[str, Any] = {"address": where, "log_to_driver": False, "configure_logging": False, **own}
        try:
            ray.init(**settings)
        except (ConnectionError, ValueError, RuntimeError, SystemExit) as error:
            raise self._silent(error) from error
        return ray

    def _reach(self) -> None:
        """Raise InvalidRequest unless something listens at `address`; Ray itself would try for minutes."""
        host, _, port = self.address.removeprefix("ray://").rpartition(":")
        if not host or not port.isdecimal():
            return
        try:
            socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
        except (OSError, OverflowError) as error:
            raise self._silent(error) from error

    def _silent(self, error: BaseException) -> InvalidRequest:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        return InvalidRequest(
            f"no Ray cluster answers at {self.address!r}: {why}; start one with `ray start --head`, or give `local`"
        )

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
@dataclass(frozen=True)
class _Actors(AbstractCrew):
    """Actors of a cluster, each awaited on the reference to its answer."""

    ray: Any = field(kw_only=True)
    gpus: float = field(kw_only=True)

    def hire(self) -> Any:
        return self.ray.remote(_Worker).options(num_cpus=1, num_gpus=self.gpus).remote(self.work)

    def begin(self, worker: Any, task: Any) -> Any:
        return worker.do.remote(task)

    def ready(self) -> Sequence[Any]:
        found: Sequence[Any] = self.ray.wait(list(self.at_work), num_returns=1)[0]
        return found

    def answer(self, awaited: Any, worker: Any) -> Done | Lost:
        try:
            done = self.ray.get(awaited)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, BaseException) else error from error
        except self.ray.exceptions.RayError as error:
            return Lost(f"was lost ({str(error).splitlines()[0]})")
        assert isinstance(done, Done)  # noqa: S101  # (narrows the type)
        return done
