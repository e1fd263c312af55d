"""The jobs of one checkout, for `benchmarks.turns`: run by path, so that it works with checkouts that do not have it.

Reads requests from standard input.  `name K` answers with the name of job K, `run K N` with the median of N runs, in
seconds, after one that is not measured.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch

from benchmarks.tables import TABLES, Plan


def main(reference: Path, onnx: Path, tables: list[str]) -> None:
    """Print the number of jobs, then answer requests until the input ends."""
    torch.set_num_threads(1)
    plan = Plan(reference if reference.is_file() else None, onnx if onnx.is_file() else None, True)
    cases = [c for t in tables for c in TABLES[t](plan) if c.threads == 1 and c.opponent.titles[0] != "textbook"]
    jobs = [case.job() for case in cases]
    print(len(jobs), flush=True)
    for line in sys.stdin:
        order, *numbers = line.split()
        k, *rest = (int(n) for n in numbers)
        if order == "name":
            case = cases[k]
            print(case.table, f"{case.variable} {case.value:g}", case.source.title, *case.opponent.titles,
                  sep=", ", flush=True)  # fmt: skip
            continue
        jobs[k]()
        seconds = []
        for _ in range(rest[0]):
            began = time.perf_counter()
            jobs[k]()
            seconds.append(time.perf_counter() - began)
        print(statistics.median(seconds), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
