"""A sweep: networks × inputs × radii × questions, each question a command with its options."""

from __future__ import annotations

import argparse
import hashlib
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, final

from recurjac.cli import bounds, certify, contraction, landscape, monotone
from recurjac.cli.grammar.parser import add_questions
from recurjac.cli.output import Row, Silent
from recurjac.cli.tasks import Prepare, Prepared, digests, json_row, settings
from recurjac.errors import InvalidRequest, RecurJacError, UnreadableFile, UnsoundBounds
from recurjac.sweeps.pools import AbstractPool, LocalProcesses
from recurjac.sweeps.running import go_on
from recurjac.sweeps.store import AbstractStore, JsonLines, ParquetParts
from recurjac.sweeps.tables import check_suffix, flat, write_rows
from recurjac.sweeps.work import AbstractWork, Done

ASKED: Mapping[str, Prepare] = {
    "lipschitz": bounds.prepare_lipschitz, "certify": certify.prepare, "landscape": landscape.prepare,
    "monotone": monotone.prepare, "contraction": contraction.prepare,
}  # fmt: skip
"""The questions of a sweep: the commands whose rows are flat."""
_BALLS_OF_THEIR_OWN = ("certify", "landscape")
"""The commands that look for a radius, and so take none."""
_KEYS = {"networks", "inputs", "radii", "questions", "out"}

Options = Mapping[str, Any]
"""Options of a command by their names without dashes; True stands for an option without a value."""


@final
@dataclass(frozen=True)
class Cell:
    """A task: its network and question, and its number among the tasks of that command."""

    network: str
    question: str
    arguments: tuple[str, ...]
    number: int


@final
@dataclass(frozen=True)
class Sweep(AbstractWork[Cell]):
    """Every question about every network, for every input and radius.

    networks: the files (.onnx, .npz, .pt2) by name, or options of the command line with the key `model`.
    inputs: the options of the region, such as {"input": "x.npz:x", "index": [0, 1], "clip": [0, 1], "norm": 2}.
    questions: by name, the options of one command each, with the key `ask`: lipschitz, certify, landscape, monotone or
    contraction.  The key `radius` replaces `radii` for that question.
    radii: of the balls; `certify` and `landscape` find their own.
    """

    networks: Mapping[str, str | Path | Options]
    inputs: Options
    questions: Mapping[str, Options]
    radii: Sequence[float] = field(default=())

    @classmethod
    def read(cls, path: Path) -> tuple[Sweep, Path | None]:
        """The sweep of a TOML file, and its folder `out` if it states one; paths are relative to the working directory.

        Raises UnreadableFile or InvalidRequest for another content.
        """
        try:
            text = path.read_text(encoding="utf-8")
            found = tomllib.loads(text)
        except (OSError, ValueError) as error:
            raise UnreadableFile(f"{path} is not a TOML file: {str(error).splitlines()[0]}; see docs/cli.md") from error
        unknown = sorted(found.keys() - _KEYS)
        if unknown:
            raise InvalidRequest(f"{path}: the key {unknown[0]!r} is not known; use {', '.join(sorted(_KEYS))}")
        for key in ("networks", "inputs", "questions"):
            if not isinstance(found.get(key), dict) or not found[key]:
                raise InvalidRequest(f"{path}: the table [{key}] is missing; see docs/cli.md for an example")
        out = found.get("out")
        radii = found.get("radii", [])
        if not isinstance(radii, list):
            raise InvalidRequest(f"{path}: radii = {radii!r} is not a list of numbers")
        return cls(found["networks"], found["inputs"], found["questions"], radii), None if out is None else Path(out)

    def run(
        self,
        folder: str | Path,
        jobs: int = 1,
        pool: AbstractPool | None = None,
        fresh: bool = False,
        step: Callable[[int], None] = lambda _: None,
    ) -> list[Row]:
        """Do what is not done yet, keep it in `folder`, and return all rows in order.

        pool: who does the tasks; by default `jobs` processes.  step: called with numbers of finished tasks.
        However this ends, finished tasks are kept, and the next run continues.  Raises InvalidRequest and errors of
        files before any work; what a single task raises is in the column `error` of its row.
        """
        store = store_in(Path(folder))
        with store.alone():
            done = go_on(self, store, pool or LocalProcesses(jobs), fresh, step)
        rows = rows_of(done)
        write_rows(Path(folder) / "rows.csv", rows)
        return rows

    def identity(self) -> dict[str, Any]:
        return {"sweep": "rows are named by the digest of what they depend on"}

    def tasks(self) -> dict[str, Cell]:
        _prepared.cache_clear()  # networks and inputs are as they are now
        found = {}
        for network, question, arguments in self._commands():
            args = parsed(arguments)
            prepared = _prepared(arguments)
            key = _key(args, prepared)
            for number, name in enumerate(prepared.names):
                found[f"{network}/{question}/{name} #{key}"] = Cell(network, question, arguments, number)
        return found

    def worker(self) -> Callable[[Cell], list[Row]]:
        _prepared.cache_clear()  # so that the time of a question begins with its first task
        return _rows

    def _commands(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        for network, model in self.networks.items():
            given = dict(model) if isinstance(model, Mapping) else {"model": str(model)}
            file = given.pop("model", None)
            if not isinstance(file, str):
                raise InvalidRequest(f"the network {network!r} has no file; give `model`")
            for question, asked in self.questions.items():
                if not isinstance(asked, Mapping) or asked.get("ask") not in ASKED:
                    raise InvalidRequest(f"the question {question!r} needs `ask`: {', '.join(ASKED)}")
                command = str(asked["ask"])
                radii = {} if command in _BALLS_OF_THEIR_OWN or not self.radii else {"radius": list(self.radii)}
                options = {**self.inputs, **radii, **given, **{k: v for k, v in asked.items() if k != "ask"}}
                yield network, question, (command, file, *_words(options))


def store_in(folder: Path) -> AbstractStore:
    """The store of a folder: Parquet parts if pyarrow is installed, unless the folder has JSON lines already."""
    lines = JsonLines(folder)
    if lines.rows.exists():
        return lines
    try:
        check_suffix("rows", Path("rows.parquet"))
    except RecurJacError:
        return lines
    return ParquetParts(folder)


def rows_of(done: Mapping[str, Done]) -> list[Row]:
    """The rows of finished tasks, in order."""
    return [row for each in done.values() for row in each.rows]


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of one command.  Raises InvalidRequest for what the command line would refuse."""
    top = _Parser(prog="sweep", add_help=False)
    commands = top.add_subparsers(dest="command", required=True, parser_class=_Parser)
    add_questions(commands)
    return top.parse_args(list(arguments))


class _Parser(argparse.ArgumentParser):
    """A parser that raises instead of ending the process."""

    def error(self, message: str) -> Any:
        raise InvalidRequest(f"{self.prog}: {message}")


def _words(options: Options) -> Iterator[str]:
    """The options as they are typed."""
    for name, value in options.items():
        if value is False or value is None:
            continue
        yield f"--{name.replace('_', '-')}"
        if value is not True:
            yield from (str(v) for v in (value if isinstance(value, list | tuple) else [value]))


def _key(args: argparse.Namespace, prepared: Prepared) -> str:
    """A digest of everything that the rows of a command depend on, except the numbers of inputs and the radii."""
    given = {k: v for k, v in settings(args).items() if k not in ("index", "radius")}
    files = {"files": sorted(digests(args).values()), "network": prepared.network}
    text = json.dumps({"command": args.command, **given, **files}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@lru_cache(maxsize=4)
def _prepared(arguments: tuple[str, ...]) -> Prepared:
    """The tasks of a command; the last few are kept, with their networks."""
    args = parsed(arguments)
    args.quiet = True
    return ASKED[args.command](args)


def _rows(cell: Cell) -> list[Row]:
    """The rows of a task; an error of the library becomes a row, so that others go on."""
    where: Row = {"network": cell.network, "question": cell.question}
    prepared = _prepared(cell.arguments)
    try:
        found = list(prepared.rows_of(cell.number, Silent()))
    except UnsoundBounds:
        raise
    except RecurJacError as error:
        return [{**where, "error": f"{prepared.names[cell.number]}: {error}"}]
    return [{**where, **flat(json_row(row))} for row in found]
