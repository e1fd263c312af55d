"""Train the small digits classifier that ships with recurjac.

A fully connected ReLU network, 64-48-48-48-48-48-10, is fitted to the 8x8 digits bundled with scikit-learn
(``sklearn.datasets.load_digits``; nothing is downloaded).  Pixels are divided by 16, a power of two, so that the
inputs lie exactly in [0, 1].  Seeds, split and thread count are fixed: on one machine, with the same versions of the
libraries, running the script twice writes the same bytes.

Run it from anywhere with::

    python scripts/train_digits.py

It writes ``src/recurjac/data/digits.npz``, which holds

* ``W0``, ``b0``, ..., ``W5``, ``b5``: float32 weights (out x in) and biases;
* ``activation``: the string ``relu``;
* ``x``: float32 (10, 64), the first correctly classified test image of each class 0, ..., 9;
* ``labels``: int64 (10,), the classes of those images;
* ``test_accuracy``: float64, the fraction of the test set that is classified correctly.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

SIZES = (64, 48, 48, 48, 48, 48, 10)
SEED = 0
TEST_FRACTION = 0.25
EPOCHS = 300
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.1
NOISE = 0.2  # standard deviation of the noise added to the pixels in training

DEFAULT_OUTPUT = Path(__file__).resolve().parents[1] / "src" / "recurjac" / "data" / "digits.npz"


class Split(NamedTuple):
    """Images (float32, n x 64) and classes (int64, n) of the training set and of the test set."""

    x_train: torch.Tensor
    y_train: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor


def load_split() -> Split:
    """Load the digits with pixels in [0, 1] and split them, stratified by class."""
    images, classes = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        images / 16.0, classes, test_size=TEST_FRACTION, stratify=classes, random_state=SEED
    )
    return Split(
        x_train=torch.tensor(x_train, dtype=torch.float32),
        y_train=torch.tensor(y_train, dtype=torch.int64),
        x_test=torch.tensor(x_test, dtype=torch.float32),
        y_test=torch.tensor(y_test, dtype=torch.int64),
    )


def build_model(sizes: Sequence[int]) -> nn.Sequential:
    """Build a fully connected network with a ReLU after every layer but the last."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(model: nn.Sequential, x: torch.Tensor, y: torch.Tensor, console: Console) -> None:
    """Fit the model in place: cross-entropy on noisy mini-batches, with a learning rate that decays to zero.

    The weight decay is decoupled, as in AdamW.  Added to the gradient, as in ``torch.optim.Adam``, it would leave
    hundreds of weights (those of dead units and blank pixels) in the subnormal range of float32.
    """
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)
    for _ in track(range(EPOCHS), description="Training", console=console):
        order = torch.randperm(len(x), generator=generator)
        for first in range(0, len(x), BATCH_SIZE):
            batch = order[first : first + BATCH_SIZE]
            noise = NOISE * torch.randn(len(batch), x.shape[1], generator=generator)
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(model(x[batch] + noise), y[batch]))
            optimizer.step()
        schedule.step()


def collect_arrays(model: nn.Sequential, x: torch.Tensor, y: torch.Tensor) -> dict[str, np.ndarray[Any, Any]]:
    """Evaluate the model on the test set and gather the arrays to save."""
    with torch.no_grad():
        correct = model(x).argmax(dim=1) == y
    chosen = [int(torch.nonzero(correct & (y == label))[0, 0]) for label in range(SIZES[-1])]

    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for index, layer in enumerate(layer for layer in model if isinstance(layer, nn.Linear)):
        arrays[f"W{index}"] = layer.weight.detach().numpy()
        arrays[f"b{index}"] = layer.bias.detach().numpy()
    arrays["activation"] = np.array("relu")
    arrays["x"] = x[chosen].numpy()
    arrays["labels"] = y[chosen].numpy()
    arrays["test_accuracy"] = np.array(int(correct.sum()) / len(correct), dtype=np.float64)
    return arrays


def main(argv: Sequence[str] | None = None) -> None:
    """Train, evaluate and save."""
    parser = argparse.ArgumentParser(description="Train the small digits classifier that ships with recurjac.")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="file to write (default: %(default)s)")
    output: Path = parser.parse_args(argv).output

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)

    split = load_split()
    model = build_model(SIZES)
    start = time.perf_counter()
    train(model, split.x_train, split.y_train, Console(stderr=True))
    seconds = time.perf_counter() - start
    arrays = collect_arrays(model, split.x_test, split.y_test)

    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as file:  # a file object, because a path would get ".npz" appended
        np.savez_compressed(file, allow_pickle=False, **arrays)

    data = output.read_bytes()
    accuracy = float(arrays["test_accuracy"])
    print(f"test accuracy {accuracy:.4f} on {len(split.y_test)} images, trained in {seconds:.1f} s")
    print(f"wrote {output}: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
