"""`python -m tests.fuzz.sandbox` reads cases of stdin, one a line, and prints a line of JSON about each.

A case is the name of a subject of `valid.py` and a number, or the name of a file of `corpus.py`.  Each runs in a folder
of its own, with little memory and time, and every file that is opened, process that is started and connection that is
made meanwhile is watched: nothing outside of the folder may be written, and nothing but the code of this machine read.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import signal
import sys
import sysconfig
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

SECONDS = 10
"""CPU seconds after which a case is a hang."""
MEGABYTES = 1024
"""What a case may allocate."""
_FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen", "socket.connect",
    "socket.bind", "socket.getaddrinfo", "pty.spawn", "os.kill", "os.symlink", "os.link", "os.chmod", "os.putenv",
    "shutil.", "ftplib.", "urllib.", "smtplib.", "winreg.",
)  # fmt: skip
_WRITES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.listdir", "os.scandir", "open")
CANARY = "canary"
"""A file beside the folder of each case, which no case may open."""


class TooSlow(BaseException):
    """A case did not end in time; no code that catches `Exception` catches this."""


@final
@dataclass
class Watch:
    """An audit hook: what happened in `folder` that must not; nothing is noted while `folder` is None."""

    folder: Path | None = None
    seen: list[str] = field(default_factory=list)
    readable: tuple[str, ...] = ()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event.startswith(_FORBIDDEN):
            self.seen.append(f"{event} {arguments!r:.100}")
            raise PermissionError(event)
        if event in _WRITES and arguments and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            reads = event in ("os.listdir", "os.scandir") or (event == "open" and not _writes(arguments))
            inside = path == str(self.folder) or path.startswith(f"{self.folder}{os.sep}")
            if not inside and not (reads and path.startswith(self.readable)):
                self.seen.append(f"{event} {path}")
                raise PermissionError(event)


def _writes(arguments: tuple[Any, ...]) -> bool:
    mode, flags = arguments[1], arguments[2] or 0
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if mode is None else any(c in mode for c in "wax+")


@final
@dataclass(frozen=True)
class Outcome:
    """What came of a case: what is wrong ("" if nothing), the refusal (or "read"), and the seconds."""

    case: str
    wrong: str
    said: str
    seconds: float


def run(case: str, watch: Watch) -> Outcome:
    """The outcome of a case."""
    from tests.fuzz import corpus

    with tempfile.TemporaryDirectory() as outer:
        Path(outer, CANARY).write_text("secret")
        folder = Path(outer).resolve() / "inner"
        files, reader = corpus.FOUND[case].made() if case in corpus.FOUND else _drawn(case)
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        before = Path.cwd()
        folder.mkdir(exist_ok=True)
        os.chdir(folder)
        watch.folder, watch.seen = folder, []
        start = time.process_time()
        try:
            with _in_time():
                wrong, said = _judged(reader)
        except TooSlow:
            wrong, said = f"it took more than {SECONDS} s", ""
        finally:
            watch.folder = None
            os.chdir(before)
    return Outcome(case, wrong or "; ".join(watch.seen), said, time.process_time() - start)


def _drawn(case: str) -> tuple[dict[str, bytes], Any]:
    from tests.fuzz.changes import changed, changed_words
    from tests.fuzz.valid import subjects

    name, _, number = case.rpartition(" ")
    subject, draw = subjects()[name], random.Random(case)  # noqa: S311  (reproducible test data)
    files = dict(subject.files)
    if number == "0":  # unchanged
        return files, subject.reader
    if not subject.targets:
        assert isinstance(subject.reader, list)
        return files, changed_words(subject.reader, draw)
    target = draw.choice(subject.targets)
    files[target] = changed(target, files[target], draw)
    return files, subject.reader


@contextmanager
def _in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TooSlow

    signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _judged(reader: list[str] | Callable[[], Any]) -> tuple[str, str]:
    """What is wrong, and what was said."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = _called(reader)
    except TooSlow:
        raise
    except BaseException:
        return f"a traceback: {traceback.format_exc(limit=-4)}", ""
    said = err.getvalue()
    if isinstance(code, str):
        return _bad_message(code), code
    if code == 0:
        return _bad_output(out.getvalue(), said), "read"
    if code != 2:
        return f"exit code {code}: {said}", said
    lines = said.splitlines()
    if lines and lines[0].startswith("usage: "):
        return "" if ": error: " in lines[-1] else "no reason is given", lines[-1]
    if len(lines) != 1 or out.getvalue():
        return f"{len(lines)} lines instead of one: {said[:500]} {out.getvalue()[:200]}", said
    return _bad_message(said.rstrip("\n")), said


def _called(reader: list[str] | Callable[[], Any]) -> int | str:
    """The exit code of a command; or of a function 0, or the message of its documented error."""
    import recurjac as rj
    from recurjac.cli import main

    if isinstance(reader, list):
        try:
            return main(reader)
        except SystemExit as leaving:
            return leaving.code if isinstance(leaving.code, int) else 0
    try:
        reader()
    except rj.RecurJacError as error:
        return str(error)
    return 0


def _bad_message(said: str) -> str:
    if "\n" in said or not said or len(said) > 12000:
        return f"a message of {len(said)} characters: {said[:300]!r}"
    return ""


def _bad_output(out: str, err: str) -> str:
    if "Warning" in err or "Traceback" in err:
        return f"it prints {err[:300]}"
    if not out.startswith("{"):
        return ""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        rows = json.loads(out, parse_constant=refuse)["results"]
    except ValueError as error:
        return f"its JSON is none: {error}"
    return next((f"upside down: {r}" for r in rows if "upper" in r and not float(r["lower"]) <= float(r["upper"])), "")


def main() -> int:
    import torch

    torch.set_num_threads(1)
    watch = Watch(readable=_readable())
    sys.addaudithook(watch)
    from tests.fuzz.valid import subjects

    for name in subjects():  # so that what is imported and compiled late is there
        run(f"{name} 0", watch)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = pages + MEGABYTES * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(vars(run(line.rstrip("\n"), watch))), flush=True)
    return 0


def _readable() -> tuple[str, ...]:
    top = str(Path(__file__).resolve().parents[2])
    places = {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix}
    places |= {os.path.join(top, "src"), os.path.join(top, "tests")}
    return (*places, *(os.path.realpath(p) for p in places), "/proc/", "/sys/", "/dev/", "/etc/localtime", "/usr/")


if __name__ == "__main__":
    sys.exit(main())
