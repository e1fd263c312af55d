"""`recurjac COMMAND`: the parser, and the exit codes: 0 success, 1 a file or run failed, 2 an invalid request."""

from __future__ import annotations

import argparse
import io
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from recurjac.cli import (
    bounds,
    certify,
    checking,
    contraction,
    demo,
    experiments,
    hessian,
    inspection,
    landscape,
    monotone,
    page,
    sweeping,
    train,
)
from recurjac.cli.output import check_writable, stderr
from recurjac.errors import ConversionError, RecurJacError, TrainingFailed, UnsoundBounds
from recurjac.version import __version__

_FAILURES = (ConversionError, TrainingFailed, UnsoundBounds)
"""Failures of a run, as opposed to invalid requests."""


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="recurjac", description="Certified bounds on the Jacobian of a neural network over a region of inputs."
    )
    top.add_argument("--version", action="version", version=f"recurjac {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (
        demo,
        inspection,
        bounds,
        hessian,
        contraction,
        certify,
        landscape,
        monotone,
        checking,
        sweeping,
        train,
        experiments,
        page,
    ):
        module.add_commands(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every terminal can show ∞
    args = parser().parse_args(argv)
    console = stderr()
    try:
        check_writable("--json", None if args.json == "-" else args.json)
        with terminable():
            return int(args.run(args))
    except RecurJacError as error:
        console.print(f"recurjac {args.command}: {error}")
        return 1 if isinstance(error, _FAILURES) else 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        console.print(f"recurjac {args.command}: {where}{error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        console.print(f"recurjac {args.command}: interrupted")
        return 1


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end the work as Ctrl-C does, so that what is finished is reported and kept."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
