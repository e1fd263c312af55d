"""`recurjac inspect`: the stages of a network."""

from __future__ import annotations

from typing import Any

from recurjac.cli.grammar import options
from recurjac.cli.grammar.runs import Runs


def add_commands(commands: Any) -> None:
    parser = commands.add_parser(
        "inspect",
        help="stages, shapes, activations and costs of a network",
        description="The normal form of a network: its stages, the cost of bounds, and whether bounds cover rounding.",
    )
    options.add_model(parser)
    options.add_report(parser)
    parser.set_defaults(run=Runs("inspection", "run"))
