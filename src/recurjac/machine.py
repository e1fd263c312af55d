"""What is asked of the machine: memory and threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def keep_freed_memory() -> None:
    """Let the C library keep the memory of temporary tensors for the next ones, instead of asking for it anew.

    Where that library is glibc, blocks of the size of the largest one freed so far, up to 32 MiB, come from memory that
    it keeps, of which up to twice as much may lie idle (its mallopt(3), M_MMAP_THRESHOLD): so one is asked for and
    freed, untouched.  Bounds of middling networks then take about two thirds of the time.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread, as before afterwards.

    Sums over several threads depend on their number, and on small tensors threads only wait for each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
