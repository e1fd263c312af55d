"""The tasks of a command: in this process or in several, kept as they end, and continued after an interruption."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, final

from recurjac.cli.output import AbstractBar, Row, Silent, progress, stderr
from recurjac.cli.writable import check_writable
from recurjac.errors import InvalidRequest
from recurjac.provenance import AbstractResult, plain
from recurjac.sweeps.pools import AbstractPool, LocalProcesses, timed
from recurjac.sweeps.store import AbstractStore, JsonLines
from recurjac.sweeps.tables import Growing, check_suffix, flat
from recurjac.sweeps.work import AbstractWork, Done


@final
@dataclass(frozen=True)
class Prepared:
    """The tasks of a command by stable names, and how to do one; what they share has been read and checked.

    network: the digest of the network that was read, some of whose weights may be in files that no option names.
    """

    names: Sequence[str]
    rows_of: Callable[[int, AbstractBar], Iterable[Row]]
    network: str


Keep = Callable[[AbstractResult], None]
"""What is done with each result of Python, beside its rows."""


def ignored(_: AbstractResult) -> None:
    """Do nothing with a result."""


Prepare = Callable[[argparse.Namespace], Prepared]
"""How a command reads its files and lists its tasks.  A function of a module, so that other processes find it."""

_NOT_SETTINGS = ("run", "command", "json", "quiet", "jobs", "output", "fresh", "certificate")
"""The options that rows do not depend on."""


def check_many(args: argparse.Namespace) -> None:
    """Raise InvalidRequest before any work for options of `add_many` that cannot be followed."""
    if args.jobs < 1:
        raise InvalidRequest(f"--jobs {args.jobs}: give at least 1 process")
    if getattr(args, "certificate", None) is not None and (args.jobs > 1 or args.output is not None):
        raise InvalidRequest("--certificate is for one process and one run; leave out --jobs and --output")
    if args.output is not None:
        check_suffix("--output", Path(args.output))
        check_writable("--output", args.output)


def answer(args: argparse.Namespace, what: str, prepare: Prepare) -> tuple[list[Row], int]:
    """The rows of every task, in order, with progress, and the exit code; an interrupted run returns what it has.

    A task that returns what it had when it was interrupted ends the run too.
    """
    check_many(args)
    prepared = prepare(args)
    tasks = {name: i for i, name in enumerate(prepared.names)}
    with _kept(args, CommandWork(prepare, args, prepared.network).identity()) as kept:
        done = {name: d for name, d in kept.before.items() if name in tasks}
        left = {name: i for name, i in tasks.items() if name not in done}
        if done:
            stderr().print(f"{len(done)} of {len(tasks)} parts were finished before, and are not repeated")
        kept.begin([row for name in tasks if name in done for row in done[name].rows])
        code = _finish(args, what, _work(args, prepare, prepared), left, kept, done)
        rows: list[Row] = [row for name in tasks if name in done for row in done[name].rows]
        kept.end(rows, complete=code == 0)
    return rows, code


def _finish(
    args: argparse.Namespace, what: str, work: _Work, left: Mapping[str, int], kept: _Kept, done: dict[str, Done]
) -> int:
    """Do the tasks that are left, keep each one in `done` and on the disk; the exit code."""
    with progress(args.quiet, what, len(left)) as bar:
        try:
            for name, found in work.finished(left, bar):
                done[name] = found
                if any("interrupted" in str(row.get("status", "")) for row in found.rows):
                    raise KeyboardInterrupt
                kept.add(name, found)
                bar()
        except KeyboardInterrupt as end:
            if isinstance(end, _Interrupted):
                done[end.name] = Done(end.rows, 0.0)
            count = sum(len(d.rows) for d in done.values())
            stderr().print(f"interrupted; the {count} finished results are reported{kept.remark}")
            return 1
    return 0


@final
@dataclass(frozen=True)
class CommandWork(AbstractWork[int]):
    """The tasks of one command as work for other processes: they read the files themselves.

    network: the digest of the network.
    """

    prepare: Prepare
    args: argparse.Namespace
    network: str

    def identity(self) -> dict[str, Any]:
        return {"settings": settings(self.args), "files": digests(self.args), "network": self.network}

    def tasks(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.prepare(self.args).names)}

    def worker(self) -> Callable[[int], list[Row]]:
        prepared = self.prepare(self.args)
        return lambda i: list(prepared.rows_of(i, Silent()))


@final
@dataclass(frozen=True)
class _Work:
    """What a run does with the tasks that are left, in this process, with a bar, or in several."""

    jobs: int
    work: CommandWork
    prepared: Prepared

    def finished(self, left: Mapping[str, int], bar: AbstractBar) -> Iterator[tuple[str, Done]]:
        if self.jobs > 1 and len(left) > 1:
            pool: AbstractPool = LocalProcesses(self.jobs)
            yield from pool.finished(self.work, left)
            return
        for name, i in left.items():
            yield name, timed(partial(self._here, name, bar), i)

    def _here(self, name: str, bar: AbstractBar, i: int) -> list[Row]:
        return _all(name, self.prepared.rows_of(i, bar))


class _Interrupted(KeyboardInterrupt):
    """A task was interrupted, and this is what it had."""

    def __init__(self, name: str, rows: list[Row]) -> None:
        super().__init__()
        self.name, self.rows = name, rows


def _all(name: str, rows: Iterable[Row]) -> list[Row]:
    """The rows.  Raises _Interrupted with those that were made before an interruption."""
    found: list[Row] = []
    try:
        for row in rows:
            found.append(row)  # noqa: PERF402  (one by one, since the next may be an interruption)
    except KeyboardInterrupt:
        raise _Interrupted(name, found) from None
    return found


def _work(args: argparse.Namespace, prepare: Prepare, prepared: Prepared) -> _Work:
    """With several processes at once, each task has as many times its share of the time limit."""
    limit = getattr(args, "time_limit", None)
    own = args if limit is None else argparse.Namespace(**{**vars(args), "time_limit": limit * args.jobs})
    return _Work(args.jobs, CommandWork(prepare, own, prepared.network), prepared)


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """The options that rows depend on, as JSON."""
    made: dict[str, Any] = plain({k: v for k, v in vars(args).items() if k not in _NOT_SETTINGS})
    return made


def digests(args: argparse.Namespace) -> dict[str, str]:
    """The SHA-256 of every file that the options name."""
    given = [
        args.model,
        *(getattr(args, key, None) for key in ("input", "box")),
        *(name for key in ("labels", "weights") for name in getattr(args, key, None) or ()),
    ]
    found = {}
    for name in given:
        for path in () if name is None else (Path(name), Path(name.rpartition(":")[0])):
            if path.is_file():
                found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@final
@dataclass
class _Kept:
    """Finished tasks on the disk, beside the file of `--output`; nothing without it."""

    store: AbstractStore | None
    output: Path | None
    before: dict[str, Done]
    _file: Growing | None = field(default=None)

    @property
    def remark(self) -> str:
        return "" if self.output is None else f", and kept in {self.output}; the same command continues"

    def begin(self, rows: Sequence[Row]) -> None:
        if self.output is not None:
            self._file = Growing(self.output, [flat(row) for row in rows])

    def add(self, name: str, done: Done) -> None:
        if self.store is not None and self._file is not None:
            self.store.append(name, Done([json_row(row) for row in done.rows], done.seconds))
            self._file.add([flat(row) for row in done.rows])

    def end(self, rows: Sequence[Row], complete: bool) -> None:
        if self.store is None or self._file is None:
            return
        self._file.end([flat(row) for row in rows])
        if complete:
            shutil.rmtree(self.store.folder)


def json_row(row: Row) -> Row:
    """The row as JSON data, as it is after it was read back."""
    made: Row = json.loads(json.dumps(plain(row), allow_nan=False))
    return made


@contextmanager
def _kept(args: argparse.Namespace, identity: Mapping[str, Any]) -> Iterator[_Kept]:
    """What earlier runs of the same command left unfinished."""
    if args.output is None:
        yield _Kept(None, None, {})
        return
    output = Path(args.output)
    store = JsonLines(output.with_name(f"{output.name}.unfinished"))
    with store.alone():
        before = store.resume(identity, fresh=False)
        yield _Kept(store, output, before)
