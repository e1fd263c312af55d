"""The input of an experiment: networks, trained or given, and test images that they classify correctly."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from recurjac.applications.targets import predicted
from recurjac.errors import InvalidRequest, UnreadableFile
from recurjac.experiments.data import Images
from recurjac.experiments.training import Recipe, check, trained
from recurjac.loading import load
from recurjac.network import Network

_TOGETHER = 1000
"""The number of images that are evaluated at once."""


@final
@dataclass(frozen=True)
class Subject:
    """The network of `recipe`, or a given one in its place: its file, the SHA-256 of that file, and its accuracy.

    accuracy: the share of all test images that the network classifies correctly, computed by the library in float64.
    """

    recipe: Recipe
    path: Path
    sha256: str
    accuracy: float
    given: bool

    @property
    def name(self) -> str:
        return self.recipe.name

    def opened(self) -> Network:
        """The network with a vector of outputs."""
        return load(self.path).flattened_output()

    def identity(self) -> dict[str, Any]:
        made = None if self.given else asdict(self.recipe)
        return {"file": self.path.name, "sha256": self.sha256, "accuracy": self.accuracy, "recipe": made}


@final
@dataclass(frozen=True)
class Sample:
    """A test image: its index among the test images, its pixels (d,) float64, and its label."""

    index: int
    pixels: np.ndarray[Any, Any]
    label: int

    def centre(self, network: Network) -> Tensor:
        """The image as an input of `network`."""
        return torch.from_numpy(self.pixels).reshape(network.input_shape)


@final
@dataclass(frozen=True)
class Material:
    """Networks, and images that all of them classify correctly; shape: of an image; classes: the number of labels."""

    data: str
    sha256: str
    shape: tuple[int, ...]
    classes: int
    subjects: tuple[Subject, ...]
    samples: tuple[Sample, ...]
    seed: int

    def identity(self) -> dict[str, Any]:
        return {
            "data": {"name": self.data, "sha256": self.sha256},
            "seed": self.seed,
            "images": [s.index for s in self.samples],
            "networks": {s.name: s.identity() for s in self.subjects},
        }


@final
@dataclass(frozen=True)
class Choice:
    """Which images to use: `count` images of class `label` (None: any class), drawn with `seed`."""

    count: int
    seed: int
    label: int | None = None


@final
@dataclass(frozen=True)
class Files:
    """Where networks are: `folder` contains the trained ones, `given` names files to use instead."""

    folder: Path
    given: Mapping[str, Path]

    def check(self, recipes: Sequence[Recipe]) -> None:
        """Raise InvalidRequest for a given file that belongs to none of the recipes or does not exist."""
        names = [r.name for r in recipes]
        for name, path in self.given.items():
            if name not in names:
                raise InvalidRequest(f"this experiment has no network {name!r}; it has {', '.join(names)}")
            if not path.is_file():
                raise UnreadableFile(f"there is no file {path} for the network {name}; give another")


def gather(
    recipes: Sequence[Recipe], images: Images, files: Files, choice: Choice, tick: Callable[[], None]
) -> Material:
    """The networks of the recipes, trained if they do not exist yet, and images that all of them classify correctly.

    tick: called once for each epoch of every recipe that is trained or found.
    Raises InvalidRequest if too few images are classified correctly, and for networks that do not fit the images.
    """
    files.check(recipes)
    for recipe in recipes:
        if recipe.name not in files.given:
            check(recipe, images, files.folder)
    right = torch.ones(len(images.y_test), dtype=torch.bool)
    subjects = []
    for recipe in recipes:
        given = files.given.get(recipe.name)
        path = trained(recipe, images, files.folder, tick).path if given is None else given
        correct = classified(_fitting(load(path), recipe.name, images), images)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        subjects.append(Subject(recipe, path.resolve(), digest, float(correct.double().mean()), given is not None))
        right &= correct
    samples = _chosen(images, right, choice)
    return Material(images.name, images.sha256, images.shape, images.classes, tuple(subjects), samples, choice.seed)


def classified(network: Network, images: Images) -> Tensor:
    """Whether the largest output on each of the test images is that of its label: (n,)."""
    with torch.no_grad():
        parts = [x.to(network.dtype).reshape(-1, *network.input_shape) for x in images.x_test.split(_TOGETHER)]
        return torch.cat([predicted(network(x)) for x in parts]) == images.y_test


def _fitting(network: Network, name: str, images: Images) -> Network:
    size, flat = prod(images.shape), network.flattened_output()
    if prod(network.input_shape) != size:
        raise InvalidRequest(
            f"the network {name} takes inputs of shape {network.input_shape}, but {images.name} has images of {size} "
            "pixels; give another file or other data"
        )
    if flat.output_shape[0] < images.classes:
        raise InvalidRequest(
            f"the network {name} has {flat.output_shape[0]} outputs for {images.classes} classes of {images.name}; "
            "give another file or other data"
        )
    return flat


def _chosen(images: Images, right: Tensor, choice: Choice) -> tuple[Sample, ...]:
    kind = "" if choice.label is None else f" of class {choice.label}"
    fit = right if choice.label is None else right & (images.y_test == choice.label)
    if choice.count < 1 or int(fit.sum()) < choice.count:
        raise InvalidRequest(
            f"{choice.count} images were requested, but all networks classify only {int(fit.sum())} of the test "
            f"images{kind} of {images.name} correctly; give --images from 1 to that number"
        )
    order = torch.randperm(len(fit), generator=torch.Generator().manual_seed(choice.seed))
    index = order[fit[order]][: choice.count].sort().values
    pixels = images.x_test.double().numpy()
    return tuple(Sample(int(i), pixels[int(i)], int(images.y_test[i])) for i in index)
