"""`recurjac contraction`: matrix measures of the Jacobian of a vector field."""

from __future__ import annotations

from typing import Any

from recurjac.cli.grammar import options
from recurjac.cli.grammar.names import JACOBIAN_METHODS
from recurjac.cli.grammar.runs import Runs


def add_commands(commands: Any) -> None:
    parser = commands.add_parser(
        "contraction",
        help="contraction rates of x' = f(x)",
        description="For each input and radius, upper bounds of matrix measures of the Jacobian of a network f over "
        "the ball around it. Where one is negative, solutions of x' = f(x) approach each other at that rate while "
        "there. Half of the time is for bounds of the whole ball, the rest for its parts.",
    )
    options.add_model(parser)
    options.add_region(parser, many=True)
    group = parser.add_argument_group("measure")
    group.add_argument(
        "--measure", type=options.norm, nargs="+", default=[2.0], metavar="inf|2|1", help="norms of the measures (2)"
    )
    group.add_argument(
        "--weights",
        nargs="+",
        metavar="W",
        help="positive numbers d, for the norm of d·x; or a .npy or .csv file of them, or of a matrix P for √(xᵀPx)",
    )
    options.add_time_limit(options.add_method(parser, JACOBIAN_METHODS, "auto"), "sample")
    options.add_many(parser)
    options.add_report(parser)
    options.add_certificate(parser)
    parser.set_defaults(run=Runs("contraction", "run"))
