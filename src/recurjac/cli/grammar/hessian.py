"""`recurjac hessian`: second derivatives of one output."""

from __future__ import annotations

from typing import Any

from recurjac.cli.grammar import options
from recurjac.cli.grammar.names import JACOBIAN_METHODS
from recurjac.cli.grammar.runs import Runs


def add_commands(commands: Any) -> None:
    parser = commands.add_parser(
        "hessian",
        help="bounds of second derivatives of one output",
        description="For each input, bounds of every entry of the Hessian of one output of a smooth network over the "
        "ball around it, or of its Laplacian or its curvature.",
    )
    options.add_model(parser)
    options.add_region(parser, many=False)
    options.add_outputs(parser)
    group = options.add_method(parser, JACOBIAN_METHODS, "one-pass")
    group.add_argument(
        "--time-limit",
        type=options.seconds,
        metavar="S",
        help="divide the regions (of up to 64 inputs) for S seconds, which all questions share (default: do not)",
    )
    what = parser.add_argument_group("quantity").add_mutually_exclusive_group()
    what.add_argument("--laplacian", action="store_true", help="the sum of the diagonal in place of every entry")
    what.add_argument("--curvature", action="store_true", help="the largest spectral norm in place of every entry")
    parser.add_argument(
        "--output", metavar="FILE", help="write `lower`, `upper` and a point `x` of each region as .npz"
    )
    options.add_report(parser)
    parser.set_defaults(run=Runs("hessian", "run"))
