"""`recurjac report`: an HTML page of results."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from recurjac.cli.output import check_writable, stderr
from recurjac.report import check_kept, read_source, render


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
        help="a file that --json wrote, a .npz that `jacobian --output` wrote, or the folder of an experiment",
    )
    parser.add_argument(
        "-o", "--output", default="report.html", metavar="FILE", help="where to write the page (report.html)"
    )
    parser.add_argument("--quiet", action="store_true", help="no message about where the page is")
    parser.set_defaults(run=run, json=None)


def run(args: argparse.Namespace) -> int:
    """Read all results, then write the page."""
    check_writable("--output", args.output)
    output, sources = Path(args.output), [Path(r) for r in args.results]
    check_kept(output, sources)
    page = render([read_source(path) for path in sources])
    output.write_text(page, encoding="utf-8", newline="\n")
    if not args.quiet:
        stderr().print(f"page written to {output}")
    return 0
