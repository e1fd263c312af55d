"""`python -m tests.fuzz` bounds random networks, and prints each contradiction, and what was refused."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

import torch

from tests.fuzz.run import Report, answered


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--networks", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first network")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="when to stop, in CPU seconds")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    total, start = Report(), time.process_time()
    try:
        for seed in range(asked.first, asked.first + asked.networks):
            if time.process_time() - start > asked.seconds:
                break
            found = answered(seed)
            total = total.plus(found)
            for line in found.wrong:
                print(f"WRONG {line}", flush=True)
            if (seed + 1) % 50 == 0:
                print(f"{total.networks} networks", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    print(f"{total.networks} networks, {total.smooth} with Hessians, {len(total.wrong)} contradictions")
    for reason, count in Counter(total.refused).most_common():
        print(f"{count:5} {reason}")
    return 1 if total.wrong else 0


sys.exit(main())
