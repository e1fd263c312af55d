"""`python -m tests.fuzz.readers` reads files of all kinds with random changes, and prints whatever goes wrong."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator

from tests.fuzz.corpus import FOUND
from tests.fuzz.lots import outcomes
from tests.fuzz.valid import subjects


def cases(first: int, count: int, names: list[str]) -> Iterator[str]:
    """Cases of every kind in turn, of these numbers."""
    return (f"{name} {number}" for number in range(first, first + count) for name in names)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.readers", description=__doc__)
    parser.add_argument("--files", type=int, default=300, help="how many of each kind")
    parser.add_argument("--first", type=int, default=1, help="the number of the first file; unchanged files have 0")
    parser.add_argument("--only", nargs="+", default=sorted(subjects()), metavar="KIND", help="which kinds (all)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="when to stop")
    asked = parser.parse_args()
    start, read, wrong, count = time.monotonic(), Counter[bool](), 0, 0
    try:
        for found in outcomes([*FOUND, *cases(asked.first, asked.files, asked.only)]):
            count, wrong = count + 1, wrong + bool(found.wrong)
            read[found.said == "read"] += 1
            if found.wrong:
                print(f"WRONG {found.case}: {found.wrong}", flush=True)
            if time.monotonic() - start > asked.seconds:
                break
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    print(f"{count} files, {read[True]} read, {read[False]} refused, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
