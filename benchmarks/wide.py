"""Constants of architectures that are in use, by the default in a minute: `python -m benchmarks.wide`.

With `--method`, by another bound: `gradient-forms` takes as long as it does.  Seconds are those of the processor.

Each one is read and bounded in a process of its own, whose largest memory is reported.  See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from math import inf, prod

import torch

import recurjac as rj
from benchmarks.architectures import ARCHITECTURES
from recurjac.extend import AbstractNormMethod, AbstractPreactivation

RADII = (1e-5, 1e-4, 1e-3, 1e-2)
Method = tuple[AbstractNormMethod, AbstractPreactivation | None]
METHODS: dict[str, Callable[[float], Method]] = {
    "auto": lambda seconds: (rj.Auto(seconds), None),
    "gradient-forms": lambda _: (rj.JacobianNorm(rj.GradientForms()), rj.Forward(4096)),
    "linear-network": lambda seconds: (rj.LinearNetworkNorm(seconds), None),
}
"""Norm methods for so many seconds, with rules for the pre-activations."""


def row(name: str, radius: float, method: Method, large: bool) -> str:
    """One output of an architecture: the upper bound, what is attained, their ratio, CPU seconds, and memory."""
    module, x = ARCHITECTURES[name].made(large)
    began = time.process_time()
    network = rj.load(module, x)
    read = time.process_time() - began
    one = network.output(prod(network.output_shape) // 2)
    found = rj.lipschitz(one, rj.LpBall(x, radius, inf), method=method[0], pre=method[1])
    upper, lower, spent = float(found.upper), float(found.lower), time.process_time() - began - read
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return (
        f"{name:26} {sum(one.sizes):8} {radius:7g} {upper:12.6g} {lower:10.6g} {upper / lower:10.4g} "
        f"{read:6.1f} {spent:6.1f} {memory:6.1f}  {found.note}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--radius", nargs="+", type=float, default=RADII)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--method", choices=METHODS, default="auto")
    parser.add_argument("--quick", action="store_true", help="the small versions that the tests use")
    parser.add_argument("--here", action="store_true", help="in this process, without a header")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if not chosen.here:
        print(f"{'network':26} {'neurons':>8} {'radius':>7} {'upper':>12} {'attained':>10} {'ratio':>10} "
              f"{'read s':>6} {'s':>6} {'GiB':>6}  by", flush=True)  # fmt: skip
    for name in chosen.only:
        for radius in chosen.radius:
            if chosen.here:
                print(row(name, radius, METHODS[chosen.method](chosen.seconds), not chosen.quick), flush=True)
                continue
            command = [sys.executable, "-m", "benchmarks.wide", "--here", "--only", name, "--radius", str(radius)]
            command += ["--method", chosen.method, "--seconds", str(chosen.seconds)]
            command += ["--quick"] if chosen.quick else []
            subprocess.run(command, check=True)  # noqa: S603  (this module itself)


if __name__ == "__main__":
    main()
