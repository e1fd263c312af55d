"""`recurjac experiments`: the experiments of the RecurJac paper, from data to tables and figures."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from recurjac.cli.output import progress, stderr
from recurjac.errors import InvalidRequest
from recurjac.experiments.curves import Curves
from recurjac.experiments.data import Images, read_images
from recurjac.experiments.depths import Depths
from recurjac.experiments.execution import Plan, run
from recurjac.experiments.material import Choice, Files, Material, gather
from recurjac.experiments.radii import RadiiTable
from recurjac.experiments.recipes import EXPERIMENTS
from recurjac.experiments.study import AbstractExperiment
from recurjac.experiments.training import Recipe
from recurjac.plot.figures import check_format

_FEW, _WIDE = 10_000, 100
"""Training is shortened for fewer training images than the first and layers of more neurons than the second."""
_CIFAR = 3072
"""The number of values in a CIFAR-10 image; the paper has a separate network for these."""


_Make = Callable[[Material, argparse.Namespace], AbstractExperiment[Any]]
_MAKE: dict[str, _Make] = {
    "figure1": lambda m, args: Curves("figure1", m, tuple(args.radius), args.budget),
    "figure2": lambda m, _: Depths(m, _ONES),
    "figure3": lambda m, args: Curves("figure3", m, tuple(args.radius), args.budget),
    "table1": lambda m, args: RadiiTable(m, args.intervals),
}
"""How each experiment is made."""
_ONES = 1
"""The class of the images of figure 2."""


def _recipes(name: str, pixels: int) -> Sequence[Recipe]:
    """The networks of an experiment; for images of CIFAR's size, figure 3 uses the paper's network for them."""
    if name == "figure1":
        return EXPERIMENTS["figure1"][:1]
    return EXPERIMENTS["figure1-cifar" if name == "figure3" and pixels == _CIFAR else name]


def _shortened(recipe: Recipe, images: Images, epochs: int | None) -> Recipe:
    """The recipe with these epochs; by default 1 for wide networks on few images, since an epoch uses each often."""
    brief = len(images.x_train) < _FEW and max(recipe.hidden, default=0) > _WIDE
    return replace(recipe, epochs=epochs or (1 if brief else recipe.epochs))


def run_command(args: argparse.Namespace) -> int:
    """Train the missing networks, run the unfinished tasks, and report."""
    name = args.experiment
    if args.jobs < 1:
        raise InvalidRequest(f"--jobs {args.jobs}: give at least 1 process")
    if args.epochs is not None and args.epochs < 1:
        raise InvalidRequest(f"--epochs {args.epochs}: give at least 1")
    check_format(Path("figure.png"))
    images = read_images(args.data)
    recipes = [_shortened(r, images, args.epochs) for r in _recipes(name, prod(images.shape))]
    folder = Path(args.networks) if args.networks else Path("results", "networks", images.name)
    files = Files(folder, dict(_named(text) for text in args.network))
    files.check(recipes)
    material = _material(args, images, recipes, files)
    experiment, plan = _MAKE[name](material, args), Plan(Path(args.out or Path("results", name)), args.jobs, args.fresh)
    total = len(experiment.tasks())
    done = 0
    try:
        with progress(args.quiet, name, total) as step:

            def count(more: int) -> None:
                nonlocal done
                done += more
                for _ in range(more):
                    step()

            run(experiment, plan, count)
    except KeyboardInterrupt:
        stderr().print(f"interrupted; {done} of {total} tasks are kept in {plan.folder}; the same command continues")
        return 1
    if not args.quiet:
        print((plan.folder / f"{name}.md").read_text(encoding="utf-8"))  # noqa: T201  # (the table, to stdout)
        stderr().print(f"written to {plan.folder}")
    return 0


def _material(args: argparse.Namespace, images: Images, recipes: Sequence[Recipe], files: Files) -> Material:
    choice = Choice(args.images, args.seed, _ONES if args.experiment == "figure2" else None)
    epochs = sum(r.epochs for r in recipes if r.name not in files.given)
    with progress(args.quiet, "training", epochs) as tick:
        return gather(recipes, images, files, choice, tick)


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise InvalidRequest(f"--network {text}: write NAME=FILE")
    return name, Path(path)
