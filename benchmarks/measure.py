"""Units, repetitions, counted work and peak memory."""

from __future__ import annotations

import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

SIDE = 800
"""One unit of time is one product of two square float64 matrices of this size."""


@final
@dataclass(frozen=True)
class Effort:
    """The number of repetitions: at least `least`, then until `seconds` have passed, at most `most`."""

    least: int
    most: int
    seconds: float


THOROUGH = Effort(5, 60, 1.0)
QUICK = Effort(2, 2, 0.0)


@final
@dataclass(frozen=True)
class Timing:
    """Medians and minima, in seconds, of a job and of the unit measured alternately with it."""

    seconds: float
    best_seconds: float
    unit_seconds: float
    best_unit_seconds: float

    @property
    def units(self) -> float:
        """The median time of the job in median units."""
        return self.seconds / self.unit_seconds

    @property
    def best_units(self) -> float:
        """The minimum of the job in minimum units: the ratio without disturbances."""
        return self.best_seconds / self.best_unit_seconds

    def floor(self, multiply_adds: int) -> float:
        """The seconds that this many multiply-adds take at the rate of the unit."""
        return multiply_adds / SIDE**3 * self.unit_seconds


def timed(job: Callable[[], Any], effort: Effort, device: str = "cpu") -> Timing:
    """Time `job` and the unit alternately, after one uncounted run of each, on the threads that torch uses.

    device: where both compute; each timing waits for work that is still pending when a call returns.
    """
    square = torch.ones(SIDE, SIDE, dtype=torch.float64, device=device)
    wait = (lambda: torch.accelerator.synchronize(device)) if square.device.type != "cpu" else (lambda: None)
    jobs: list[float] = []
    units: list[float] = []
    seconds_of(job, wait)
    seconds_of(lambda: square @ square, wait)
    began = time.perf_counter()
    while len(jobs) < effort.least or (len(jobs) < effort.most and time.perf_counter() - began < effort.seconds):
        units.append(seconds_of(lambda: square @ square, wait))
        jobs.append(seconds_of(job, wait))
    return Timing(statistics.median(jobs), min(jobs), statistics.median(units), min(units))


def seconds_of(job: Callable[[], Any], wait: Callable[[], None] = lambda: None) -> float:
    """The seconds of one run, until `wait` returns."""
    began = time.perf_counter()
    job()
    wait()
    return time.perf_counter() - began


def numpy_unit_seconds(effort: Effort) -> float:
    """The median seconds of the unit in NumPy, which may use another library for matrix products."""
    square = np.ones((SIDE, SIDE))
    return statistics.median(seconds_of(lambda: square @ square) for _ in range(effort.least + 1))


@final
@dataclass(frozen=True)
class Work:
    """The work of one run: multiply-adds in its matrix products, and calls of torch operations (None without torch)."""

    multiply_adds: int
    calls: int | None


def counted(job: Callable[[], Any]) -> Work:
    """The work in one run of torch code; products with vectors are counted, and views count as calls."""
    with _Counter() as counter:
        job()
    return Work(counter.flops // 2, counter.calls)


@final
class _Counter(TorchDispatchMode):
    """Counts like `torch.utils.flop_counter.FlopCounterMode`, in a tenth of its time, and also counts calls."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls += 1
        packet = func._overloadpacket
        if packet in flop_registry:
            self.flops += int(flop_registry[packet](*args, **(kwargs or {}), out_val=result))
        elif packet in (torch.ops.aten.mv, torch.ops.aten.dot):  # the first of two factors is the larger
            self.flops += 2 * int(args[0].numel())
        return result


@final
@dataclass(frozen=True)
class Memory:
    """Resident memory of a process in MiB: `before` the job, with the network read, and the `peak` within it."""

    before: float
    peak: float


def memory_of(prepare: Callable[[], Callable[[], Any]]) -> Memory | None:
    """The memory of the job from `prepare`, in a separate process on one thread; None if the system does not report it.

    `prepare` must be picklable.
    """
    if peak_mib() is None:
        return None
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(_run_once, prepare).result()


def _run_once(prepare: Callable[[], Callable[[], Any]]) -> Memory | None:
    torch.set_num_threads(1)
    job = prepare()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # reset the peak so far
    before = peak_mib()
    job()
    peak = peak_mib()
    return None if before is None or peak is None else Memory(before, peak)


def peak_mib() -> float | None:
    """The peak resident memory of this process so far, in MiB; None if the system does not report it (Linux does).

    `getrusage` would also count the peak of the parent, which a child process inherits.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="ascii", errors="replace"))
    return None if found is None else int(found[1]) / 1024
