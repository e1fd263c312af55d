"""Many boxes of a small network in one call: `python -m benchmarks.boxes`.  Every row is a process of its own.

CPU seconds of one thread, the least of several calls, and the memory that the calls add to the process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

import recurjac as rj
from benchmarks.measure import peak_mib
from recurjac.network import Network

QUESTIONS: Mapping[str, Callable[[Network, rj.LpBall], Any]] = {
    "jacobian": rj.jacobian_bounds,
    "lipschitz": rj.lipschitz,
}
ROWS = (("jacobian", 1), ("jacobian", 100), ("jacobian", 1000), ("jacobian", 10_000), ("lipschitz", 100))
RADIUS = 0.05


def policy() -> Network:
    """A tanh network 8-64-64-2 with the first weights of PyTorch, as policies of control have."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2)]
    module = nn.Sequential(*layers).double().requires_grad_(False)
    return rj.load(module, torch.zeros(1, 8, dtype=torch.float64))


def row(question: str, count: int, calls: int) -> str:
    network = policy()
    centres = torch.rand(count, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1
    region, before, spent = rj.LpBall(centres, RADIUS), peak_mib(), list[float]()
    for _ in range(calls):
        began = time.process_time()
        QUESTIONS[question](network, region)
        spent.append(time.process_time() - began)
    after = peak_mib()
    memory = "-" if before is None or after is None else f"{after - before:.0f}"
    return f"{question:10} {count:7} {min(spent):8.3f} {1e6 * min(spent) / count:10.1f} {memory:>6}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--here", nargs=2, metavar=("QUESTION", "COUNT"), help="one row, in this process")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if chosen.here:
        question, count = chosen.here
        print(row(question, int(count), chosen.calls), flush=True)
        return
    print(f"{'question':10} {'boxes':>7} {'s':>8} {'µs a box':>10} {'MiB':>6}", flush=True)
    for question, count in ROWS:
        command = [sys.executable, "-m", "benchmarks.boxes", "--here", question, str(count)]
        subprocess.run([*command, "--calls", str(chosen.calls)], check=True)  # noqa: S603  (this module itself)


if __name__ == "__main__":
    main()
