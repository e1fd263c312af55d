"""How much memory a question adds to a process for which `Rigorous(memory=…)` has a limit.

`python -m benchmarks.memory NETS` takes the folder of the ONNX files below.  Every row is a process of its own on one
thread: the largest resident memory (VmHWM), less what it was before the question, in MiB, and that over the limit.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import recurjac as rj
from benchmarks.boxes import policy
from benchmarks.measure import peak_mib
from recurjac.network import Network

LIMITS = (512, 1024, 2048)
"""In MiB."""
SECONDS = 5.0
NETWORKS = {
    "wide": ("mnist_3layer_relu_1024.onnx", 0.01), "cnn": ("cifar_base_kw.onnx", 0.01),
    "residual": ("resnet_2b.onnx", 0.004), "policy": ("", 0.05),
}  # fmt: skip
"""Files and radii; without a file, the policy of `benchmarks.boxes`."""
ROWS = (
    ("wide", "jacobian", 1), ("wide", "jacobian", 10), ("wide", "lipschitz", 1), ("wide", "lipschitz", 10),
    ("wide", "certify", 4), ("cnn", "jacobian", 1), ("cnn", "jacobian", 10), ("cnn", "lipschitz", 4),
    ("cnn", "certify", 4), ("residual", "jacobian", 1), ("residual", "lipschitz", 1), ("residual", "certify", 1),
    ("policy", "jacobian", 10_000), ("policy", "lipschitz", 300),
)  # fmt: skip
QUESTIONS: Mapping[str, Callable[[rj.Problem], Any]] = {
    "jacobian": rj.jacobian_bounds,
    "lipschitz": lambda problem: rj.lipschitz(problem, time_limit=SECONDS),
    "certify": lambda problem: rj.certified_radius(problem, time_limit=SECONDS),
}


def read(name: str, nets: Path) -> Network:
    file = NETWORKS[name][0]
    return rj.load(nets / file) if file else policy()


def row(name: str, question: str, samples: int, limit: int, nets: Path) -> str:
    network = read(name, nets)
    x = torch.rand(samples, *network.input_shape, generator=torch.Generator().manual_seed(0)).to(network.dtype)
    problem = rj.Problem(network, rj.LpBall(x, NETWORKS[name][1]), arithmetic=rj.Rigorous(memory=limit * 2**20))
    QUESTIONS["jacobian"](rj.Problem(network, rj.LpBall(x[:1], 0.0), arithmetic=rj.Rigorous(memory=2**20)))
    before = peak_mib()
    QUESTIONS[question](problem)
    after = peak_mib()
    if before is None or after is None:
        return "this system does not say how much memory a process takes"
    return f"{name:9} {question:10} {samples:6} {limit:6} {after - before:8.0f} {(after - before) / limit:6.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", type=Path, metavar="NETS")
    parser.add_argument("--limits", nargs="+", type=int, default=LIMITS, metavar="MIB")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--here", nargs=3, metavar=("NETWORK", "QUESTION", "SAMPLES"), help="one row, in this process")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if chosen.here:
        name, question, samples = chosen.here
        print(row(name, question, int(samples), chosen.limits[0], chosen.nets), flush=True)
        return
    print(f"{'network':9} {'question':10} {'inputs':>6} {'limit':>6} {'MiB':>8} {'share':>6}", flush=True)
    for name, question, samples in ROWS:
        for limit in chosen.limits if name in chosen.only else ():
            command = [sys.executable, "-m", "benchmarks.memory", str(chosen.nets), "--limits", str(limit)]
            subprocess.run([*command, "--here", name, question, str(samples)], check=True)  # noqa: S603  (this module)


if __name__ == "__main__":
    main()
