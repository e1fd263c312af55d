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
"""One unit of time is one product of two float64 matrices of this side."""


@final
@dataclass(frozen=True)
class Effort:
    """How often to repeat: at least `least` times, then until `seconds` are spent, at most `most` times."""

    least: int
    most: int
    seconds: float


THOROUGH = Effort(5, 60, 1.0)
QUICK = Effort(2, 2, 0.0)


@final
@dataclass(frozen=True)
class Timing:
    """Medians and least values, in seconds, of a job and of the unit measured in turns with it."""

    seconds: float
    best_seconds: float
    unit_seconds: float
    best_unit_seconds: float

    @property
    def units(self) -> float:
        """The median job in median units."""
        return self.seconds / self.unit_seconds

    @property
    def best_units(self) -> float:
        """The least job in least units: what is left when nothing else disturbs either."""
        return self.best_seconds / self.best_unit_seconds

    def floor(self, multiply_adds: int) -> float:
        """Seconds that so many multiply-adds take at the rate of the unit."""
        return multiply_adds / SIDE**3 * self.unit_seconds


def timed(job: Callable[[], Any], effort: Effort, device: str = "cpu") -> Timing:
    """Time `job` and the unit in turns, after one run of each that is not counted, on the threads that torch uses.

    device: where both compute; what it still has to do when a call returns is waited for.
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
    """The median seconds of the unit in NumPy, whose matrix products may be another library's."""
    square = np.ones((SIDE, SIDE))
    return statistics.median(seconds_of(lambda: square @ square) for _ in range(effort.least + 1))


@final
@dataclass(frozen=True)
class Work:
    """What one run does: multiply-adds in its matrix products, and calls of torch's operations (None without torch)."""

    multiply_adds: int
    calls: int | None


def counted(job: Callable[[], Any]) -> Work:
    """The work in one run of torch code; products with vectors count, views are calls."""
    with _Counter() as counter:
        job()
    return Work(counter.flops // 2, counter.calls)


@final
class _Counter(TorchDispatchMode):
    """Counts as `torch.utils.flop_counter.FlopCounterMode` does, in a tenth of its time, and the calls as well."""

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
        elif packet in (torch.ops.aten.mv, torch.ops.aten.dot):  # of two factors the first is the larger
            self.flops += 2 * int(args[0].numel())
        return result


@final
@dataclass(frozen=True)
class Memory:
    """Resident memory of a process in MiB: `before` the job, with the network read, and the `peak` within it."""

    before: float
    peak: float


def memory_of(prepare: Callable[[], Callable[[], Any]]) -> Memory | None:
    """The memory of the job that `prepare` gives, in a process of its own on one thread; None where it is not told.

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
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak so far is forgotten
    before = peak_mib()
    job()
    peak = peak_mib()
    return None if before is None or peak is None else Memory(before, peak)


def peak_mib() -> float | None:
    """The peak resident memory of this process so far, in MiB; None where the system does not say (Linux does).

    `getrusage` would also count the parent's, which a process that it starts takes over.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="ascii", errors="replace"))
    return None if found is None else int(found[1]) / 1024
