"""The networks of the paper's experiments (Zhang, Zhang, Hsieh 2019, §5): names, sizes, and training settings.

Names do not mention a data set, because a recipe can train on any: keep the networks of each data set in a separate
folder.  A name states the number of layers including the last one, the activation, the neurons of each hidden layer (of
the first and the last if they differ), and the radius of the adversary.  If the paper does not state the activation, it
is ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence

from recurjac.errors import InvalidRequest
from recurjac.experiments.training import Recipe


def _narrow(depth: int) -> Recipe:
    """`depth` layers with 20 neurons in each hidden layer, leaky-ReLU of slope 0.3."""
    return Recipe(
        f"{depth}layer_leaky0.3_20", (20,) * (depth - 1), "leaky_relu", slope=0.3, epochs=40, learning_rate=4e-3
    )


def _wide(depth: int) -> Recipe:
    """`depth` layers with 1024 neurons in each hidden layer, ReLU."""
    return Recipe(f"{depth}layer_relu_1024", (1024,) * (depth - 1), "relu", epochs=12, learning_rate=1e-3)


def _defended(depth: int) -> Recipe:
    """The same, trained on adversarial images within 0.3."""
    return Recipe(
        f"{depth}layer_relu_1024_adv0.3", (1024,) * (depth - 1), "relu",
        adversarial=0.3, epochs=20, steps=600, batch=100, learning_rate=1e-3, attack_steps=5,
    )  # fmt: skip


_FIVE = Recipe("5layer_relu_50", (50,) * 4, "relu", epochs=20)
_SEVEN = Recipe("7layer_relu_1024-32", (1024, 512, 256, 128, 64, 32), "relu", epochs=12, learning_rate=1e-3)
_CIFAR = Recipe(
    "10layer_relu_2048-128", (2048, 2048, 1024, 1024, 512, 512, 256, 256, 128), "relu", epochs=12, learning_rate=5e-4
)

EXPERIMENTS: dict[str, tuple[Recipe, ...]] = {
    "figure1": (_narrow(10), _FIVE, _SEVEN),
    "figure1-cifar": (_CIFAR,),
    "figure2": tuple(_narrow(depth) for depth in range(2, 11)),
    "figure3": (_narrow(10), _FIVE, _SEVEN),
    "table1": tuple(make(depth) for depth in (4, 3) for make in (_wide, _defended)),
}
"""The networks of each experiment, with those on CIFAR-10 listed separately; a network may be in several."""
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipes in EXPERIMENTS.values() for recipe in recipes}
"""Every recipe by its name."""


def recipes(names: Sequence[str]) -> tuple[Recipe, ...]:
    """The recipes with these names (networks or whole experiments), each once.  Raises InvalidRequest for others."""
    found: dict[str, Recipe] = {}
    for name in names:
        if name not in RECIPES and name not in EXPERIMENTS:
            raise InvalidRequest(
                f"no network and no experiment is called {name!r}; there are {', '.join([*EXPERIMENTS, *RECIPES])}"
            )
        chosen = EXPERIMENTS.get(name) or (RECIPES[name],)
        found.update({recipe.name: recipe for recipe in chosen})
    return tuple(found.values())
