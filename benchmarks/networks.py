"""Seconds and peak memory of bounding one output of network files: `python -m benchmarks.networks FILE …`.

Each file is measured in a separate process, on one thread, at radius 0.001 around a random input in [0, 1], with the
default method and arithmetic.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import torch
from rich.console import Console
from rich.table import Table

import recurjac as rj

RADIUS = 0.001


def measure(path: str) -> str:
    """The seconds to load and to bound, and the peak memory of this process."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    network = rj.load(path)
    loaded = time.perf_counter()
    x = torch.rand(1, *network.input_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bounds = rj.jacobian_bounds(network.output(0), rj.LpBall(x, RADIUS))
    seconds = time.perf_counter() - loaded
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return f"{loaded - began:.2f} {seconds:.2f} {memory:.2f} {bounds.rigorous}"


def main() -> None:
    """Measure every file named on the command line and print a table."""
    if sys.argv[1:2] == ["--one"]:
        print(measure(sys.argv[2]))
        return
    table = Table(title=f"One output, radius {RADIUS}, one thread", title_justify="left")
    for name in ("file", "load (s)", "bounds (s)", "peak (GiB)", "rigorous"):
        table.add_column(name, justify="left" if name == "file" else "right")
    for path in sys.argv[1:]:
        job = [sys.executable, "-m", "benchmarks.networks", "--one", path]
        found = subprocess.run(job, capture_output=True, text=True, check=True)  # noqa: S603  (our own command)
        table.add_row(path.rsplit("/", 1)[-1], *found.stdout.split())
    Console().print(table)


if __name__ == "__main__":
    main()
