"""`recurjac jacobian` and `recurjac lipschitz`."""

from __future__ import annotations

from math import inf
from typing import Any

from recurjac.cli.grammar import options
from recurjac.cli.grammar.names import JACOBIAN_METHODS, NORM_METHODS
from recurjac.cli.grammar.runs import Runs


def add_commands(commands: Any) -> None:
    _add_lipschitz(commands)
    _add_jacobian(commands)


def _add_lipschitz(commands: Any) -> None:
    parser = commands.add_parser(
        "lipschitz",
        help="local or global Lipschitz constants",
        description="For each input and radius, a certified upper bound of the Lipschitz constant on the ball around "
        "the input, and a lower bound that is attained in the ball.",
    )
    options.add_model(parser)
    options.add_region(parser, many=True)
    options.add_outputs(parser)
    parser.add_argument(
        "--output-norm",
        type=options.norm,
        default=inf,
        metavar="inf|2|1",
        help="norm of the vector of outputs (inf)",
    )
    options.add_time_limit(options.add_method(parser, NORM_METHODS, "auto"), "sample, radius and class")
    options.add_many(parser)
    options.add_report(parser)
    options.add_certificate(parser)
    parser.set_defaults(run=Runs("bounds", "run_lipschitz"))


def _add_jacobian(commands: Any) -> None:
    parser = commands.add_parser(
        "jacobian",
        help="bounds of every entry of the Jacobian",
        description="For each input, bounds of every entry of the Jacobian over the ball around it.",
    )
    options.add_model(parser)
    options.add_region(parser, many=False)
    options.add_outputs(parser)
    options.add_time_limit(options.add_method(parser, JACOBIAN_METHODS, "auto"), "sample and class")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write `lower` and `upper` (samples, outputs…, inputs…) and a point `x` of each region as .npz",
    )
    options.add_report(parser)
    options.add_certificate(parser)
    parser.set_defaults(run=Runs("bounds", "run_jacobian"))
