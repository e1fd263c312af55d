"""`recurjac COMMAND`, and its exit codes: 0 success, 1 a file or run failed, 2 an invalid request."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from recurjac.cli.grammar.parser import parser
from recurjac.cli.writable import check_writable
from recurjac.errors import ConversionError, RecurJacError, TrainingFailed, UnsoundBounds

_FAILURES = (ConversionError, TrainingFailed, UnsoundBounds)
"""Failures of a run, as opposed to invalid requests."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every terminal can show ∞
    words = parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may come next
        complete(words)
    args = words.parse_args(argv)
    try:
        check_writable("--json", None if args.json == "-" else args.json)
        with terminable():
            return int(args.run(args))
    except RecurJacError as error:
        _say(f"recurjac {args.command}: {error}")
        return 1 if isinstance(error, _FAILURES) else 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _say(f"recurjac {args.command}: {where}{error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        _say(f"recurjac {args.command}: interrupted")
        return 1


def complete(words: argparse.ArgumentParser) -> None:
    """Answer a shell, and end the process; nothing without the package argcomplete, or if no shell asks."""
    with suppress(ImportError):
        import argcomplete

        argcomplete.autocomplete(words)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


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
