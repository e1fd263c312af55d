"""`recurjac report`: an HTML page of results."""

from __future__ import annotations

import argparse
from pathlib import Path

from recurjac.cli.output import stderr
from recurjac.cli.writable import check_writable
from recurjac.report import check_kept, read_source, render


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
