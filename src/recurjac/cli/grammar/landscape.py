"""`recurjac landscape`: balls without a stationary point, and boxes that contain one."""

from __future__ import annotations

from typing import Any

from recurjac.cli.grammar import options
from recurjac.cli.grammar.names import JACOBIAN_METHODS
from recurjac.cli.grammar.runs import Runs


def add_commands(commands: Any) -> None:
    parser = commands.add_parser(
        "landscape",
        help="balls in which an output has no stationary point",
        description="For each input, the largest radius found within which some entry of the gradient of one output is "
        "proved to keep its sign, so that the output has no stationary point there (inf: nowhere at all).  With "
        "--existence, also stationary points that are proved to exist in a ball.",
    )
    options.add_model(parser)
    options.add_balls(parser).add_argument(
        "--existence",
        type=options.number,
        metavar="R",
        help="also look for stationary points within R of each input (smooth networks of few inputs)",
    )
    options.add_outputs(parser)
    options.add_time_limit(options.add_method(parser, JACOBIAN_METHODS, "auto"), "sample and class")
    options.add_many(parser)
    options.add_report(parser)
    options.add_certificate(parser)
    parser.set_defaults(run=Runs("landscape", "run"))
