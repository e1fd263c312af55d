"""`recurjac report`: an HTML page of results."""

from __future__ import annotations

from typing import Any

from recurjac.cli.grammar.runs import Runs


def add_commands(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="one HTML page of results",
        description="One self-contained HTML page with the results of other commands: tables, figures, and maps of "
        "where the sign of a gradient is proved.",
    )
    parser.add_argument(
        "results",
        nargs="+",
        metavar="RESULT",
        help="a file that --json wrote (of any command but check, doctor, sweep and train), a .npz that "
        "`jacobian --output` or `hessian --output` wrote, or the folder of an experiment",
    )
    parser.add_argument(
        "-o", "--output", default="report.html", metavar="FILE", help="where to write the page (report.html)"
    )
    parser.add_argument("--quiet", action="store_true", help="no message about where the page is")
    parser.set_defaults(run=Runs("page", "run"), json=None)
