"""`recurjac doctor`: what is installed, and whether this machine rounds as the proofs assume."""

from __future__ import annotations

from typing import Any

from recurjac.cli.grammar import options
from recurjac.cli.grammar.runs import Runs


def add_commands(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        help="what is installed, and whether this machine rounds as assumed",
        description="Versions, extras with the commands that install them, devices, threads, and whether settings and "
        "samples of the arithmetic are as the proofs assume.  Exit code 1 if they are not.",
    )
    options.add_report(parser)
    parser.set_defaults(run=Runs("doctor", "run"))
