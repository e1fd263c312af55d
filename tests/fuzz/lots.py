"""Cases of `sandbox.py` in processes of their own: one that hangs or dies ends its process, and the next goes on."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.fuzz.sandbox import Outcome

_TOP = Path(__file__).resolve().parents[2]
_PATIENCE = 300.0
"""Wall seconds without an answer after which a process is ended; a case has far fewer CPU seconds."""


def outcomes(cases: Iterable[str]) -> Iterator[Outcome]:
    """The outcomes of the cases, in their order."""
    process: subprocess.Popen[str] | None = None
    try:
        for case in cases:
            process = process or _started()
            yield (found := _asked(process, case))
            if found.wrong.startswith("the process"):
                _end(process)
                process = None
    finally:
        if process is not None:
            _end(process)


def _started() -> subprocess.Popen[str]:
    import recurjac

    source = str(Path(recurjac.__file__).parents[1])
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([source, str(_TOP)]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.sandbox"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=here, cwd=_TOP,
        text=True, bufsize=1,
    )  # fmt: skip
    if _line(process) != "ready\n":
        _end(process)
        raise RuntimeError("a valid file is not read: python -m tests.fuzz.sandbox does not start")
    return process


def _asked(process: subprocess.Popen[str], case: str) -> Outcome:
    assert process.stdin is not None
    start = time.monotonic()
    try:
        process.stdin.write(case + "\n")
        process.stdin.flush()
        line = _line(process)
    except BrokenPipeError:
        line = ""
    if not line:
        return Outcome(case, "the process has died, or does not answer", "", time.monotonic() - start)
    return Outcome(**json.loads(line))


def _line(process: subprocess.Popen[str]) -> str:
    """The next line; "" if the process has ended, or says nothing for long.  It says one line at a time."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], _PATIENCE)
    return process.stdout.readline() if ready else ""


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    process.wait()
