"""Constants of many images by the command line, beside CROWN of the gradient graph.

`python -m benchmarks.images DATA.npz`, where DATA has x_train, y_train and x_test as MNIST, trains a convolutional
network of 17 315 parameters, from a fixed seed.  `recurjac lipschitz` bounds the l∞ constant of all of its outputs
around each image.  The opponent of `benchmarks.smooth`, with lines of the steps of the slopes of ReLUs, bounds that of
one output, the one with the largest bound in one pass, which is at most its bound of all of them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import recurjac as rj
from benchmarks.smooth import GradientGraph, fit
from recurjac.network import Network

RADIUS = 0.01


def trained(images: Tensor, labels: Tensor, epochs: int = 2) -> nn.Sequential:
    """A classifier of images (N, 1, 28, 28) with two convolutions and two dense layers."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(784, 19), nn.ReLU(), nn.Linear(19, 10),
    )  # fmt: skip
    fit(module, images, labels, epochs)
    return module.double().requires_grad_(False)


def bounded(folder: Path, count: int, seconds: float, jobs: int) -> tuple[list[float], float, float]:
    """The upper bounds that the command line finds, its seconds, and the seconds of the processor in them."""
    command = [
        sys.executable, "-m", "recurjac", "lipschitz", str(folder / "net.pt2"), "--input", str(folder / "x.npy"),
        "--radius", str(RADIUS), "--time-limit", str(count * seconds), "--jobs", str(jobs), "--quiet",
        "--json", str(folder / "found.json"),
    ]  # fmt: skip
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True)  # noqa: S603  (this library)
    after, took = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    rows = json.loads((folder / "found.json").read_text())["results"]
    return [r["upper"] for r in sorted(rows, key=lambda r: r["index"])], took, spent


def opponent(network: Network, x: Tensor) -> float:
    """At most the opponent's bound of the constant of all outputs."""
    rows = rj.jacobian_bounds(network, rj.LpBall(x, RADIUS), method=rj.Chords())
    largest = int(torch.maximum(rows.upper.abs(), rows.lower.abs()).flatten(2).sum(2).argmax())
    return GradientGraph.of(network.output(largest), x, RADIUS).constant()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", metavar="DATA.npz")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each image")
    parser.add_argument("--compared", type=int, default=100, help="with how many images the opponent is asked")
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    arrays = np.load(chosen.data)
    images, tests = (torch.from_numpy(arrays[k]).float()[:, None] / 255 for k in ("x_train", "x_test"))
    tests = tests[: chosen.images].double()
    module = trained(images, torch.from_numpy(arrays["y_train"]).long())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.export.save(torch.export.export(module, (tests[:1],)), folder / "net.pt2")
        np.save(folder / "x.npy", tests.numpy())
        found, took, spent = bounded(folder, len(tests), chosen.seconds, chosen.jobs)
    print(
        f"{len(found)} images in {took:.1f} s with {chosen.jobs} processes, {spent:.1f} s of the processor", flush=True
    )
    network = rj.load(module, tests[:1])
    ratios = []
    for x, upper in zip(tests, found, strict=True):
        opponent = max(GradientGraph.of(network.output(k), x[None], RADIUS).constant() for k in range(10))
        ratios.append(upper / opponent)
    middle = sorted(ratios)[len(ratios) // 2]
    print(f"upper / gradient graph: median {middle:.4f}, from {min(ratios):.4f} to {max(ratios):.4f}")


if __name__ == "__main__":
    main()
