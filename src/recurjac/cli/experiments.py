"""`recurjac experiments`: the experiments of the RecurJac paper, from data to tables and figures."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, final

from recurjac.cli import options
from recurjac.cli.output import progress, stderr
from recurjac.errors import InvalidRequest
from recurjac.experiments.curves import BUDGET, RADII, Curves
from recurjac.experiments.data import Images, read_images
from recurjac.experiments.depths import Depths
from recurjac.experiments.execution import Plan, run
from recurjac.experiments.material import Choice, Files, Material, gather
from recurjac.experiments.radii import RadiiTable
from recurjac.experiments.recipes import EXPERIMENTS
from recurjac.experiments.study import AbstractExperiment
from recurjac.experiments.training import Recipe
from recurjac.plot import check_format

_FEW, _WIDE = 10_000, 100
"""Training is shortened for fewer training images than the first and layers of more neurons than the second."""
_CIFAR = 3072
"""The number of values in a CIFAR-10 image; the paper has a separate network for these."""


@final
@dataclass(frozen=True)
class _Kind:
    """An experiment as a command: the default number of images, their class, and how to make the experiment."""

    help: str
    images: int
    label: int | None
    make: Callable[[Material, argparse.Namespace], AbstractExperiment[Any]]


_KINDS = {
    "figure1": _Kind(
        "local Lipschitz constants of one network of 10 layers, against the radius", 1, None,
        lambda m, args: Curves("figure1", m, tuple(args.radius), args.budget),
    ),
    "figure2": _Kind(
        "radii without a stationary point around images of a 1, against the depth", 10, 1,
        lambda m, _: Depths(m, 1),
    ),
    "figure3": _Kind(
        "local Lipschitz constants of all networks, against the radius", 1, None,
        lambda m, args: Curves("figure3", m, tuple(args.radius), args.budget),
    ),
    "table1": _Kind(
        "certified radii of undefended and of adversarially trained networks", 2, None,
        lambda m, args: RadiiTable(m, args.intervals),
    ),
}  # fmt: skip


def add_commands(commands: Any) -> None:
    parser = commands.add_parser(
        "experiments",
        help="the experiments of the RecurJac paper",
        description="The experiments of Zhang, Zhang, Hsieh 2019 (arXiv:1810.11783): train their networks or use "
        "yours, compute the results, and write tables and figures next to the paper's numbers. After an interruption, "
        "the same command continues.",
    )
    kinds = parser.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")
    for name, kind in _KINDS.items():
        one = kinds.add_parser(name, help=kind.help, description=f"{name} of the paper: {kind.help}.")
        _add_options(one, name, kind)
        one.set_defaults(run=run_command, json=None)


def _add_options(parser: argparse.ArgumentParser, name: str, kind: _Kind) -> None:
    networks = ", ".join(r.name for r in _recipes(name, 0))
    parser.add_argument(
        "--data", default="digits", metavar="SOURCE",
        help="digits, mnist, cifar10, a .npz of x_train, y_train, x_test, y_test, or a folder of idx files (digits)",
    )  # fmt: skip
    parser.add_argument(
        "--images", type=int, default=kind.images, metavar="N",
        help=f"test images for each network ({kind.images}, which takes minutes on digits; the paper: "
        f"{'500' if name == 'figure2' else 'not stated'})",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="for the choice of images, attacks and searches (0)"
    )
    if name == "table1":
        parser.add_argument(
            "--intervals", type=int, default=30, metavar="M", help="intervals of the integral (30, as in the paper)"
        )
    if name in ("figure1", "figure3"):
        parser.add_argument("--radius", type=options.number, nargs="+", default=list(RADII), metavar="R",
                            help="the radii (12 from 1e-3 to 1)")  # fmt: skip
        parser.add_argument("--budget", type=options.number, default=BUDGET, metavar="C",
                            help="multiply-adds above which a bound by F0 or F1 is not computed "
                            f"({BUDGET:g})")  # fmt: skip
    group = parser.add_argument_group("networks", f"The networks of this experiment: {networks}.")
    group.add_argument("--networks", metavar="FOLDER", help="where they are, or are written after training "
                       "(results/networks/DATA)")  # fmt: skip
    group.add_argument("--network", action="append", default=[], metavar="NAME=FILE",
                       help="use this .onnx, .npz or .pt2 file for that network; can be repeated")  # fmt: skip
    group.add_argument("--epochs", type=int, metavar="N", help="training epochs of every network (by default those of "
                       "its recipe; 1 for wide networks on few images, such as digits)")  # fmt: skip
    group = parser.add_argument_group("run")
    group.add_argument("--out", metavar="FOLDER", help=f"where to write results (results/{name})")
    group.add_argument(
        "--jobs", type=int, default=1, metavar="J", help="number of processes (1); results do not depend on it"
    )
    group.add_argument("--fresh", action="store_true", help="discard existing results")
    group.add_argument("--quiet", action="store_true", help="no progress and no table")


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
    kind, name = _KINDS[args.experiment], args.experiment
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
    experiment, plan = kind.make(material, args), Plan(Path(args.out or Path("results", name)), args.jobs, args.fresh)
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
    choice = Choice(args.images, args.seed, _KINDS[args.experiment].label)
    epochs = sum(r.epochs for r in recipes if r.name not in files.given)
    with progress(args.quiet, "training", epochs) as tick:
        return gather(recipes, images, files, choice, tick)


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise InvalidRequest(f"--network {text}: write NAME=FILE")
    return name, Path(path)
