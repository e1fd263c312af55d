"""`python -m tests.truth` judges bounds of random networks by exact truth, and prints each that is wrong."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

import torch

import recurjac as rj
from tests.truth.run import Report, answered


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.truth", description=__doc__)
    parser.add_argument("--networks", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first network")
    parser.add_argument("--every", type=int, default=1, help="take every N-th number, to share the work")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="when to stop, in CPU seconds")
    parser.add_argument("--fast", action="store_true", help="judge Fast arithmetic, which covers no rounding")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    total, start = Report(), time.process_time()
    try:
        for seed in range(asked.first, asked.first + asked.networks, asked.every):
            if time.process_time() - start > asked.seconds:
                break
            found = answered(seed, rj.Fast() if asked.fast else None)
            total = total.plus(found)
            for line in () if asked.fast else found.verdict.wrong:
                print(f"WRONG {line}", flush=True)
            if total.networks % 100 == 0:
                print(_said(total, time.process_time() - start), file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    print(_said(total, time.process_time() - start))
    for reason, count in Counter(total.refused).most_common(20):
        print(f"{count:5} {reason}")
    return 1 if total.verdict.wrong and not asked.fast else 0


def _said(total: Report, seconds: float) -> str:
    v = total.verdict
    return (
        f"{total.networks} networks in {seconds:.0f} CPU seconds: {total.answers} answers judged, {total.unclaimed} "
        f"that cover no rounding; {v.compared} bounds compared, {len(v.wrong)} wrong in {len(total.caught)} networks, "
        f"{v.undecided} undecided, {v.skipped} points skipped"
    )


sys.exit(main())
