"""`recurjac monotone`: which outputs rise and fall with which inputs."""

from __future__ import annotations

from typing import Any

from recurjac.cli.grammar import options
from recurjac.cli.grammar.names import JACOBIAN_METHODS
from recurjac.cli.grammar.runs import Runs


def add_commands(commands: Any) -> None:
    parser = commands.add_parser(
        "monotone",
        help="which outputs rise and fall with which inputs",
        description="For each input, output and feature, whether the output is proved to rise or to fall with the "
        "feature on the ball around the input, not to depend on it, or to do both (two points prove this).",
    )
    options.add_model(parser)
    options.add_region(parser, many=True)
    options.add_outputs(parser)
    options.add_time_limit(options.add_method(parser, JACOBIAN_METHODS, "auto"), "sample and radius")
    options.add_many(parser)
    options.add_report(parser)
    options.add_certificate(parser)
    parser.set_defaults(run=Runs("monotone", "run"))
