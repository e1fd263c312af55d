"""`recurjac train`: the networks of the paper's experiments."""

from __future__ import annotations

from typing import Any

from recurjac.cli.grammar import options
from recurjac.cli.grammar.runs import Runs


def add_commands(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="the networks of the paper's experiments",
        description="Train networks of the paper's experiments, given by their names or by an experiment.  Networks "
        "that the folder already contains are not trained again, and interrupted training continues after its last "
        "epoch.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="name of a network or an experiment; --list shows them"
    )
    parser.add_argument("--list", action="store_true", help="list the networks, without training")
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help="training data: digits, mnist or cifar10 (both are fetched from OpenML), a .npz file of x_train, "
        "y_train, x_test, y_test, or a folder of MNIST's idx files",
    )
    parser.add_argument("--out", metavar="FOLDER", help="where to write the networks; use one folder for each data set")
    parser.add_argument("--seed", type=int, metavar="N", help="seed for all random numbers (0)")
    parser.add_argument("--epochs", type=int, metavar="N", help="number of epochs, instead of that of each recipe")
    options.add_report(parser)
    parser.set_defaults(run=Runs("train", "run"))
