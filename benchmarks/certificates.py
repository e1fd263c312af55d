"""Certificates of every command on small networks: `python -m benchmarks.certificates [NETWORK.onnx …]`.

For each network and command: whether the checker accepts what is written, the number that the certificate proves
over that of the result, the seconds to write and to check it, and the size of the file.  Times are of the processor.
Files that are given come after them.  It needs the package recurjac-check.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.network import Network
from recurjac.provenance import AbstractResult

RADIUS = 0.02
SECONDS = 2.0
OPSET = 17


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.inner(x)
        return found


class Gated(nn.Module):
    """The product of a linear layer and a sigmoid of another one."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(inputs, width), nn.Linear(inputs, width)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.value(x) * torch.sigmoid(self.gate(x))
        return found


class Attention(nn.Module):
    """One head of attention on tokens of some channels, by products of matrices and a softmax."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        shares = (self.query(x) @ self.key(x).transpose(-2, -1) / 2).softmax(-1)
        found: Tensor = x + shares @ self.value(x)
        return found


def dense(sizes: Sequence[int], activation: Callable[[], nn.Module]) -> nn.Module:
    """A chain of dense layers."""
    layers: list[nn.Module] = []
    for n, m in pairwise(sizes):
        layers += [nn.Linear(n, m), activation()]
    return nn.Sequential(*layers[:-1])


def normalised() -> nn.BatchNorm2d:
    """A batch normalisation with numbers other than 0 and 1."""
    norm = nn.BatchNorm2d(4)
    norm.running_mean, norm.running_var = torch.randn(4), torch.rand(4) + 0.5
    return norm


IMAGE, LINE, TOKENS = (1, 6, 6), (6,), (3, 4)
MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "relu 6-20-20-3": (lambda: dense((6, 20, 20, 3), nn.ReLU), LINE),
    "leaky 40-30-30-5": (lambda: dense((40, 30, 30, 5), lambda: nn.LeakyReLU(0.3)), (40,)),
    "relu 9x200": (lambda: dense((784, *[200] * 8, 10), nn.ReLU), (784,)),
    "tanh 6-20-20-3": (lambda: dense((6, 20, 20, 3), nn.Tanh), LINE),
    "gelu 6-20-20-3": (lambda: dense((6, 20, 20, 3), nn.GELU), LINE),
    "softmax 6-20-3": (lambda: nn.Sequential(dense((6, 20, 3), nn.ReLU), nn.Softmax(1)), LINE),
    "conv": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(4, 3)),
        IMAGE,
    ),
    "conv, batch norm": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), normalised(), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)), IMAGE
    ),
    "conv, max pool": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)), IMAGE
    ),
    "conv, softmax": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, (2, 4)), nn.Softmax(1), nn.Flatten(), nn.Linear(45, 3)), IMAGE
    ),
    "residual": (
        lambda: nn.Sequential(
            nn.Linear(6, 12), Residual(nn.ReLU(), nn.Linear(12, 12)), nn.ReLU(), nn.Linear(12, 3)
        ), LINE
    ),
    "tanh, square": (lambda: dense((6, 20, 6), nn.Tanh), LINE),
    "gated": (lambda: nn.Sequential(Gated(6, 10), nn.Linear(10, 3)), LINE),
    "attention": (lambda: nn.Sequential(Attention(4), nn.Flatten(), nn.Linear(12, 3)), TOKENS),
}  # fmt: skip


def lipschitz(network: Network, x: Tensor, p: float, q: float) -> rj.Lipschitz:
    return rj.lipschitz(network, rj.LpBall(x, RADIUS, p), p=p, q=q, method=rj.Auto(SECONDS))


COMMANDS: dict[str, Callable[[Network, Tensor], AbstractResult]] = {
    "lipschitz inf": lambda n, x: lipschitz(n, x, inf, inf),
    "lipschitz 2": lambda n, x: lipschitz(n, x, 2, 2),
    "lipschitz 2 of 1": lambda n, x: lipschitz(n.output(0), x, 2, inf),
    "jacobian": lambda n, x: rj.jacobian_bounds(n, rj.LpBall(x, RADIUS)),
    "contraction": lambda n, x: rj.matrix_measure(rj.jacobian_bounds(n, rj.LpBall(x, RADIUS))),
    "bounds": lambda n, x: rj.preactivation_bounds(n, rj.LpBall(x, RADIUS)),
    "certify": lambda n, x: rj.certified_radius(n, x, time_limit=SECONDS),
    "certify all": lambda n, x: rj.certified_radius(n, x, p=2, target="all", time_limit=SECONDS),
    "landscape": lambda n, x: rj.stationary_free_radius(n, x, output=1, time_limit=SECONDS),
    "monotone": lambda n, x: rj.monotone(n, rj.LpBall(x, RADIUS), limit=rj.Limit(seconds=SECONDS)),
}


@final
@dataclass(frozen=True)
class Outcome:
    """One network and command.  share: the proved number over the result's; times in seconds, size in bytes."""

    said: str
    share: float = float("nan")
    writing: float = float("nan")
    checking: float = float("nan")
    size: int = 0

    def __str__(self) -> str:
        return f"{self.share:9.5g} {self.writing:8.2f} {self.checking:8.2f} {self.size / 2**20:8.3f}  {self.said}"


def outcome(path: Path, x: Tensor, ask: Callable[[Network, Tensor], AbstractResult]) -> Outcome:
    """A command's result of a network, its certificate, and what the checker says."""
    from recurjac_check import check_bytes  # the checker is no part of recurjac

    try:
        found = ask(rj.load(path), x)
        began = time.process_time()
        (certificate,) = found.certificate(path, seconds=SECONDS)
        writing = time.process_time() - began
    except rj.RecurJacError as error:
        return Outcome(f"refused: {error}")
    share = certificate.value / certificate.result if certificate.result else float("nan")
    if not certificate.proves:
        return Outcome("nothing is claimed", share, writing)
    text = json.dumps(certificate.document).encode()
    began = time.process_time()
    verdict = check_bytes(text, path.read_bytes())
    return Outcome(verdict.text, share, writing, time.process_time() - began, len(text))


def written(name: str, folder: Path) -> tuple[Path, Tensor]:
    """One of the networks as a file in float64, and an input."""
    make, shape = MODULES[name]
    torch.manual_seed(len(name))
    module, x = make().double().eval(), torch.rand(1, *shape, dtype=torch.float64)
    path = folder / f"{list(MODULES).index(name)}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), path, dynamo=False, opset_version=OPSET)
    return path, x


def given(file: str) -> tuple[Path, Tensor]:
    """A file, and the input whose entries are 1/2."""
    return Path(file), torch.full((1, *rj.load(file).input_shape), 0.5, dtype=torch.float64)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    files = sys.argv[1:] if arguments is None else arguments
    print(f"{'network':24} {'command':16} {'share':>9} {'write s':>8} {'check s':>8} {'MiB':>8}")
    with tempfile.TemporaryDirectory() as folder:
        cases = [(name, partial(written, name, Path(folder))) for name in MODULES]
        for name, make in [*cases, *((Path(f).stem, partial(given, f)) for f in files)]:
            path, x = make()
            for command, ask in COMMANDS.items():
                print(f"{name:24} {command:16} {outcome(path, x, ask)}", flush=True)


if __name__ == "__main__":
    main()
