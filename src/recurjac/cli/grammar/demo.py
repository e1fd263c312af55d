"""`recurjac demo`: local Lipschitz constants of the bundled digits network."""

from __future__ import annotations

from typing import Any

from recurjac.cli.grammar import options
from recurjac.cli.grammar.runs import Runs

RADII = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def add_commands(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="local Lipschitz constants of the bundled digits network",
        description="The local l∞ Lipschitz constant of a bundled classifier of 8×8 digits around one image, for "
        "several radii and methods, as a table and a plot.",
    )
    parser.add_argument("--digit", type=int, default=3, metavar="K", help="number of the image, 0 to 9 (3)")
    parser.add_argument("--radius", type=options.number, nargs="+", default=list(RADII), metavar="R", help="the radii")
    parser.add_argument(
        "--plot", default="recurjac-demo.png", metavar="FILE", help="where to write the plot (recurjac-demo.png)"
    )
    options.add_report(parser)
    parser.set_defaults(run=Runs("demo", "run"))
