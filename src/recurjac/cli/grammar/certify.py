"""`recurjac certify`: certified radii, and the nearest adversaries found."""

from __future__ import annotations

import argparse
from math import inf
from typing import Any

from recurjac.cli.grammar import options
from recurjac.cli.grammar.names import NORM_METHODS, PROOFS, TARGETS
from recurjac.cli.grammar.runs import Runs


def add_commands(commands: Any) -> None:
    parser = commands.add_parser(
        "certify",
        help="radii within which a class is proved to win",
        description="For each input, a certified radius within which its label keeps winning against the target, and "
        "the distance of the nearest adversarial input that an attack finds.",
    )
    options.add_model(parser)
    group = options.add_balls(parser)
    group.add_argument("--limit", type=options.number, default=inf, metavar="R", help="largest radius to try (inf)")
    group = parser.add_argument_group("classes")
    group.add_argument(
        "--labels",
        nargs="+",
        metavar="Y",
        help="classes, or a file in a format of --input (default: the predicted classes)",
    )
    group.add_argument(
        "--target", type=_target, default="runner-up", metavar="T", help=f"{', '.join(TARGETS)} or a class (runner-up)"
    )
    options.add_time_limit(
        options.add_method(parser, NORM_METHODS, "auto: chords, and the proofs that --proofs lists, in time"),
        "sample",
    )
    group = parser.add_argument_group("search")
    group.add_argument(
        "--proofs",
        nargs="+",
        choices=PROOFS,
        help="what is bounded on balls: margin, the integral of slopes, secants, which prove larger radii in more "
        "time, and branched, which divides balls until they are proved or refuted (margin, integral and branched in "
        "time; with another --method, margin and integral)",
    )
    group.add_argument("--intervals", type=int, default=30, metavar="M", help="intervals of the grid of radii (30)")
    group.add_argument("--seed", type=int, default=0, metavar="S", help="for random targets and attacks (0)")
    options.add_many(parser)
    options.add_report(parser)
    options.add_certificate(parser)
    parser.set_defaults(run=Runs("certify", "run"))


def _target(text: str) -> int | str:
    if text not in TARGETS and not text.isdigit():
        raise argparse.ArgumentTypeError(f"the target {text!r} is not known; use {', '.join(TARGETS)} or a class")
    return int(text) if text.isdigit() else text
