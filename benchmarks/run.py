"""`make bench`: seconds of the main job against the width, the depth and the radius, in units of a matrix product.

One unit is one 800×800 float64 matrix product, measured in the same run, so that figures compare between machines.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import recurjac as rj
from recurjac.activations import ReLU
from recurjac.network import Network, chain

REPEATS = 3


def median_seconds(job: Callable[[], Any]) -> float:
    """The median of a few runs, after one that is not counted."""
    job()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        job()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def network(width: int, depth: int) -> Network:
    """A ReLU network of 784 inputs, `depth` weight layers of `width` neurons and 10 outputs."""
    g = torch.Generator().manual_seed(0)
    sizes = (784, *[width] * (depth - 1), 10)
    layers = [
        (torch.randn(b, a, generator=g, dtype=torch.float64) * (2 / a) ** 0.5, torch.zeros(b, dtype=torch.float64))
        for a, b in pairwise(sizes)
    ]
    return chain(layers, [ReLU()] * (depth - 1))


def rows() -> Iterator[dict[str, Any]]:
    """One row for each network, radius and arithmetic."""
    x = torch.rand(784, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    square = torch.randn(800, 800, dtype=torch.float64)
    for width, depth in ((100, 3), (100, 6), (200, 6), (200, 9)):
        net = network(width, depth)
        for radius in (0.001, 0.02):
            for arithmetic in (rj.Fast(), rj.Rigorous()):
                unit = median_seconds(lambda: square @ square)
                one, ten = (_seconds(n, rj.LpBall(x, radius), arithmetic) for n in (net.output(0), net))
                yield {
                    "width": width, "depth": depth, "radius": radius, "arithmetic": type(arithmetic).__name__,
                    "one_output": one / unit, "ten_outputs": ten / unit, "seconds": ten,
                }  # fmt: skip


def _seconds(net: Network, region: rj.LpBall, arithmetic: rj.Fast | rj.Rigorous) -> float:
    centre = rj.Search(work=0)
    return median_seconds(lambda: rj.lipschitz(net, region, method=rj.Chords(), arithmetic=arithmetic, search=centre))


def main() -> None:
    """Measure on one thread, print a table, and write JSON to the file named on the command line, if one is."""
    torch.set_num_threads(1)
    found = []
    table = Table(title="Chords, units of one 800×800 product", title_justify="left")
    for name in ("width", "depth", "radius", "arithmetic", "one_output", "ten_outputs", "seconds"):
        table.add_column(name, justify="right")
    for row in rows():
        found.append(row)
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console().print(table)
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w", encoding="utf-8") as file:
            json.dump({"recurjac": rj.__version__, "torch": torch.__version__, "rows": found}, file, indent=2)


if __name__ == "__main__":
    main()
