"""`recurjac experiments`: the experiments of the RecurJac paper, from data to tables and figures."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any, final

from recurjac.cli.grammar import options
from recurjac.cli.grammar.runs import Runs
from recurjac.experiments.defaults import BUDGET, RADII


@final
@dataclass(frozen=True)
class _Kind:
    """What an experiment is about, its number of images, that of the paper, and the names of its networks."""

    help: str
    images: int
    published: str
    networks: str


_KINDS = {
    "figure1": _Kind(
        "local Lipschitz constants of one network of 10 layers, against the radius", 1, "not stated",
        "10layer_leaky0.3_20",
    ),
    "figure2": _Kind(
        "radii without a stationary point around images of a 1, against the depth", 10, "500",
        "2layer_leaky0.3_20 to 10layer_leaky0.3_20",
    ),
    "figure3": _Kind(
        "local Lipschitz constants of all networks, against the radius", 1, "not stated",
        "10layer_leaky0.3_20, 5layer_relu_50, 7layer_relu_1024-32",
    ),
    "table1": _Kind(
        "certified radii of undefended and of adversarially trained networks", 2, "not stated",
        "4layer_relu_1024, 4layer_relu_1024_adv0.3, 3layer_relu_1024, 3layer_relu_1024_adv0.3",
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
        one.set_defaults(run=Runs("experiments", "run_command"), json=None)


def _add_options(parser: argparse.ArgumentParser, name: str, kind: _Kind) -> None:
    parser.add_argument(
        "--data", default="digits", metavar="SOURCE",
        help="digits, mnist, cifar10, a .npz of x_train, y_train, x_test, y_test, or a folder of idx files (digits)",
    )  # fmt: skip
    parser.add_argument(
        "--images", type=int, default=kind.images, metavar="N",
        help=f"test images for each network ({kind.images}, which takes minutes on digits; the paper: "
        f"{kind.published})",
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
    group = parser.add_argument_group("networks", f"The networks of this experiment: {kind.networks}.")
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
