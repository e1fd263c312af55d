"""Settings of the machine: memory and threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

_T = TypeVar("_T")
_R = TypeVar("_R")


def keep_freed_memory() -> None:
    """Let the C library keep the memory of temporary tensors for reuse, instead of requesting it from the system again.

    glibc serves blocks up to the size of the largest one freed so far, at most 32 MiB, from memory that it keeps; up to
    twice that size may stay unused (see mallopt(3), M_MMAP_THRESHOLD).  So one such block is allocated and freed,
    untouched.  Bounds of medium-sized networks then take about two thirds of the time.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch on one thread; the previous setting is restored afterwards.

    Sums over several threads depend on their number, and for small tensors threads only wait for each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_threads(work: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    """What `work` gives for each item, in order, without derivatives.

    As many items are worked on together as PyTorch has threads; it uses one thread for each, so that results do not
    depend on their number.  After an exception, which may be an interruption, no further item is begun.
    """
    count = torch.get_num_threads()
    one = partial(_on_one_thread, work)
    if count == 1 or len(items) < 2:
        with one_thread():
            return [one(item) for item in items]
    pool = ThreadPoolExecutor(min(count, len(items)))
    try:
        return list(pool.map(one, items))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(count)  # new threads take over the last setting of any thread


def _on_one_thread(work: Callable[[_T], _R], item: _T) -> _R:
    torch.set_num_threads(1)
    with torch.no_grad():
        return work(item)
