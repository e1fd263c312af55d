"""The option `--certificate` of the commands, and `recurjac check`, which has a file checked by another program."""

from __future__ import annotations

from typing import Any

from recurjac.cli.grammar.runs import Runs


def add_commands(commands: Any) -> None:
    parser = commands.add_parser(
        "check",
        help="check a certificate by an independent program",
        description="Check a certificate, which --certificate of other commands wrote, against the ONNX file of its "
        "network, by the package recurjac-check. Exit code 0: every claim is proved; 1: some claim is not; 2: a file "
        "cannot be read; 3: the network has a layer that the checker does not know.",
    )
    parser.add_argument("certificate", metavar="FILE", help="the certificate")
    parser.add_argument("model", metavar="MODEL", help="the .onnx file of the network")
    parser.set_defaults(run=Runs("checking", "run"), json=None)
