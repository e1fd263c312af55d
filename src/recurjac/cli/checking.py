"""The option `--certificate` of the commands, and `recurjac check`, which has a file checked by another program."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, final

from recurjac.certificates import Certificate, write_certificates
from recurjac.cli.output import stderr
from recurjac.cli.writable import check_writable
from recurjac.errors import InvalidRequest, MissingDependency
from recurjac.provenance import AbstractResult
from recurjac.witness.literal import literal

CHECKER = "recurjac_check"
"""The package that checks certificates; it has no code in common with this one."""
_SECONDS = 10.0
"""The time for the certificates of one result."""


def run(args: argparse.Namespace) -> int:
    """Run the checker in a process of its own; returns its exit code.  Raises MissingDependency without a checker."""
    if importlib.util.find_spec(CHECKER) is None:
        raise MissingDependency(
            "certificates are checked by the package recurjac-check, which is not installed; install it: "
            "pip install ./checker"
        )
    command = [sys.executable, "-m", CHECKER, args.certificate, args.model]
    return subprocess.run(command, check=False).returncode  # noqa: S603  (its own interpreter, and no shell)


@final
@dataclass(frozen=True)
class Certificates:
    """The certificates of a command's results, if they are asked for."""

    args: argparse.Namespace
    found: list[Certificate] = field(default_factory=list)

    @classmethod
    def asked(cls, args: argparse.Namespace) -> Self:
        """Raises InvalidRequest if certificates are asked for that there cannot be, before any work."""
        if args.certificate is not None:
            check_writable("--certificate", args.certificate)
            if Path(args.model).suffix != ".onnx":
                raise InvalidRequest(f"--certificate: {args.model} is not an .onnx file; the checker reads ONNX only")
            remedies = {
                "output_name": "leave --output-name out",
                "cut_at": "leave --cut-at out",
                "fix_inputs": "leave --fix-inputs out",
                "input_shape": "leave --input-shape out; the file must declare the sizes of its input",
                "fix": "in place of --fix, give a box (--box) whose lower and upper ends are the value",
            }
            for option, remedy in remedies.items():
                if getattr(args, option):
                    raise InvalidRequest(f"--certificate: certificates are about whole files; {remedy}")
            literal(Path(args.model))  # raises InvalidRequest for operations that the checker does not know
        return cls(args)

    def add(self, result: AbstractResult) -> None:
        """Make the certificates of a result."""
        if self.args.certificate is not None:
            self.found.extend(result.certificate(self.args.model, seconds=_SECONDS))

    def write(self) -> None:
        """Write the file, and say what it proves beside what the results say."""
        if self.args.certificate is None:
            return
        console, proved = stderr(), [c for c in self.found if c.proves]
        if not self.args.quiet:
            for c in self.found:
                console.print(c.statement if c.proves else f"not proved by the certificate: {c.claim}")
        if proved:
            write_certificates(Path(self.args.certificate), proved)
            console.print(
                f"certificates of {len(proved)} of {len(self.found)} results written to {self.args.certificate}"
            )
        else:
            console.print(f"no certificate is written to {self.args.certificate}: nothing was proved")
