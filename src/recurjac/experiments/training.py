"""Training the networks of the experiments: seeded, resumable, bit-identical whether interrupted or not."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from recurjac.activations import AbstractActivation
from recurjac.errors import InvalidNetwork, InvalidRequest, TrainingFailed
from recurjac.experiments.adversary import adversarial
from recurjac.experiments.data import Images
from recurjac.experiments.perceptron import Perceptron, initial
from recurjac.experiments.records import Checkpoint, Description, Outcome, Place
from recurjac.loading.weights import activation_names
from recurjac.machine import keep_freed_memory, one_thread

TEST_STEPS = 40
"""The number of steps of the adversary used for measuring."""
TESTED = 1000
"""The adversary used for measuring attacks this many of the first test images."""
ENTRY = 0.1
"""The factor for the random weights of the first layer before adversarial training.  Within a radius of 0.3, an
adversary moves the neurons of an ordinary first layer many times as far as one image is from another."""
RAMP = 1 / 3
"""The share of adversarial training in which the radius grows from 0."""
WARM_UP = 1 / 20
"""The share of training in which the learning rate grows from 0."""


@final
@dataclass(frozen=True)
class Recipe:
    """A perceptron and its training: AdamW on the cross-entropy.

    hidden: neurons of each hidden layer; slope: of leaky-ReLU; adversarial: the radius of the l∞ adversary that
    produces the training images in `attack_steps` steps, or 0 to train on the images themselves.  An epoch is `steps`
    batches for any number of images, so that a recipe trains as long on few images as on many.  Raises InvalidRequest
    for an invalid recipe.
    """

    name: str
    hidden: tuple[int, ...]
    activation: str
    slope: float = 0.0
    adversarial: float = 0.0
    epochs: int = 20
    seed: int = 0
    steps: int = 240
    batch: int = 250
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    attack_steps: int = 7

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.+-]*", self.name):
            raise InvalidRequest(f"the recipe's name {self.name!r} is not a plain file name; use letters and digits")
        for what in ("epochs", "steps", "batch", "attack_steps"):
            if getattr(self, what) < 1:
                raise InvalidRequest(f"{self.name} has {what} = {getattr(self, what)}; there must be at least 1")
        if any(n < 1 for n in self.hidden):
            raise InvalidRequest(f"{self.name} has hidden layers of {self.hidden} neurons; each needs at least 1")
        if not 0 <= self.seed < 2**63:
            raise InvalidRequest(f"{self.name} has the seed {self.seed}; give one from 0 to 2^63 - 1")
        for what in ("adversarial", "learning_rate", "weight_decay"):
            if not 0 <= getattr(self, what) < math.inf:
                raise InvalidRequest(f"{self.name} has {what} = {getattr(self, what)}; it must be at least 0")
        self.made_activation()

    @property
    def layers(self) -> int:
        """The number of weight matrices of the network."""
        return len(self.hidden) + 1

    def made_activation(self) -> AbstractActivation:
        """The activation in float32.  Raises InvalidRequest if there is none with that name and slope."""
        names = activation_names()
        if self.activation not in names:
            known = ", ".join(sorted(names))
            raise InvalidRequest(f"{self.name} has the unknown activation {self.activation!r}; known are {known}")
        if not math.isfinite(self.slope):
            raise InvalidRequest(f"{self.name} has the slope {self.slope}; it must be finite")
        try:
            made = names[self.activation].named({"slope": self.slope})
        except InvalidNetwork as error:
            raise InvalidRequest(f"{self.name}: {error}") from error
        return made.to(torch.float32, torch.device("cpu"))


@final
@dataclass(frozen=True)
class Trained:
    """A trained network: its .npz file, the SHA-256 of that file, and its accuracy on the test images.

    robust: the accuracy on the first `TESTED` test images after the adversary of its training has moved them, or None
    without an adversary; seconds: of training, over all runs.
    """

    recipe: Recipe
    path: Path
    accuracy: float
    sha256: str
    robust: float | None = None
    seconds: float = field(default=0.0, compare=False)


def trained(recipe: Recipe, images: Images, folder: Path, tick: Callable[[], None] = lambda: None) -> Trained:
    """The network with this recipe and data in `folder`; if there is none, it is trained from the last saved epoch on.

    `tick` is called `recipe.epochs` times, once per epoch.  Each epoch is saved in NAME.checkpoint until NAME.npz and
    NAME.json are complete, so that a killed run loses at most one epoch; the weights are bit-identical to those of an
    uninterrupted run.  Raises InvalidRequest if the folder contains a network of this name with another recipe or
    data, UnreadableFile if the network is damaged, TrainingFailed if the weights do not stay finite.
    """
    place = Place(folder, recipe.name)
    wanted = _description(recipe, images)
    outcome = place.outcome(wanted)
    if outcome is not None:
        for _ in range(recipe.epochs):
            tick()
    else:
        place.make()
        keep_freed_memory()
        with one_thread():
            outcome = _train(recipe, images, place, wanted, tick)
    return Trained(recipe, place.network, outcome.accuracy, outcome.sha256, outcome.robust, outcome.seconds)


def check(recipe: Recipe, images: Images, folder: Path) -> None:
    """Raise what `trained` would raise about the content of the folder, without training."""
    place, wanted = Place(folder, recipe.name), _description(recipe, images)
    if place.outcome(wanted) is None:
        place.checkpoint(wanted)


def _description(recipe: Recipe, images: Images) -> Description:
    data = {"name": images.name, "sha256": images.sha256}
    made: Description = json.loads(json.dumps({"recipe": asdict(recipe), "data": data}))
    return made


def _train(recipe: Recipe, images: Images, place: Place, wanted: Description, tick: Callable[[], None]) -> Outcome:
    course = _Course.start(recipe, images)
    kept = place.checkpoint(wanted)
    if kept is not None:
        course.restore(kept)
    done = 0 if kept is None else kept.epochs
    seconds = 0.0 if kept is None else kept.seconds
    for _ in range(done):
        tick()
    for epoch in range(done, recipe.epochs):
        began = time.perf_counter()
        course.epoch(images, epoch)
        if not all(bool(t.isfinite().all()) for t in course.network.parameters()):
            raise TrainingFailed(
                f"{recipe.name} has weights that are not finite after epoch {epoch + 1}; lower its learning rate"
            )
        seconds += time.perf_counter() - began
        place.keep(course.checkpoint(epoch + 1, seconds), wanted)
        tick()
    network = course.network.detached()
    arrays = {**network.arrays(), "activation": np.array(recipe.activation), "slope": np.array(recipe.slope)}
    return place.finish(arrays, wanted, accuracy(network, images.x_test, images.y_test),
                        _robust(network, recipe, images), seconds)  # fmt: skip


@final
@dataclass(frozen=True)
class _Course:
    """A training in progress: all changing state is in the network's tensors, the optimizer and the generator."""

    recipe: Recipe
    network: Perceptron
    optimizer: torch.optim.Optimizer
    generator: torch.Generator

    @staticmethod
    def start(recipe: Recipe, images: Images) -> _Course:
        generator = torch.Generator().manual_seed(recipe.seed)
        sizes = (images.x_train.shape[1], *recipe.hidden, images.classes)
        network = initial(sizes, recipe.made_activation(), generator, ENTRY if recipe.adversarial else 1.0)
        # AdamW's decay is decoupled: added to the gradient, it would drive weights that see only blank pixels
        # into the subnormal range of float32
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        return _Course(recipe, network, optimizer, generator)

    def restore(self, kept: Checkpoint) -> None:
        with torch.no_grad():
            for mine, theirs in zip(self.network.parameters(), kept.weights, strict=True):
                mine.copy_(theirs)
        self.optimizer.load_state_dict(kept.optimizer)
        self.generator.set_state(kept.generator)

    def checkpoint(self, epochs: int, seconds: float) -> Checkpoint:
        weights = self.network.detached().parameters()
        return Checkpoint(epochs, weights, self.optimizer.state_dict(), self.generator.get_state(), seconds)

    def epoch(self, images: Images, epoch: int) -> None:
        """`steps` batches: all images in random order, then again in another random order until there are enough."""
        recipe, count = self.recipe, len(images.x_train)
        wanted = recipe.steps * recipe.batch
        orders = [torch.randperm(count, generator=self.generator) for _ in range(-(-wanted // count))]
        for step, batch in enumerate(torch.cat(orders)[:wanted].split(recipe.batch)):
            part = (epoch * recipe.steps + step) / (recipe.epochs * recipe.steps)
            self._step(images.x_train[batch], images.y_train[batch], part)

    def _step(self, x: Tensor, y: Tensor, part: float) -> None:
        """One descent step after the share `part` of the training."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * min(1.0, part / WARM_UP) * (1 + math.cos(math.pi * part)) / 2
        radius = self.recipe.adversarial * min(1.0, part / RAMP)
        if radius > 0:
            x = adversarial(self.network, x, y, radius, self.recipe.attack_steps, self.generator)
        self.optimizer.zero_grad()
        torch.autograd.backward(torch.nn.functional.cross_entropy(self.network.logits(x), y))
        self.optimizer.step()


def accuracy(network: Perceptron, x: Tensor, y: Tensor) -> float:
    """The share of the images x (n, d) that the network assigns to their classes y (n,)."""
    parts = zip(x.split(TESTED), y.split(TESTED), strict=True)
    with torch.no_grad():
        right = sum(int((network.logits(a).argmax(dim=1) == b).sum()) for a, b in parts)
    return right / len(y)


def _robust(network: Perceptron, recipe: Recipe, images: Images) -> float | None:
    if recipe.adversarial == 0:
        return None
    x, y = images.x_test[:TESTED], images.y_test[:TESTED]
    generator = torch.Generator().manual_seed(recipe.seed)
    return accuracy(network, adversarial(network, x, y, recipe.adversarial, TEST_STEPS, generator), y)
