"""`python -m scripts.mutate MODULE… --tests FILE…` makes small mistakes in the code and says which no test notices.

One session of pytest collects the tests.  They run once on the code as it is, which shows how long each takes and which
functions of the modules it calls.  Then each mutant gets a process of its own, forked from that session, in which the
functions have the changed code, and the tests that call them run, the fastest first, until one fails.  A mutant is

    killed     if a test fails,
    timeout    if the tests take many times as long as before,
    survived   if all of them pass,
    uncovered  if no test calls the function.

Results are lines of JSON, appended to `--out`; mutants that are there already are left out.  `--sample` takes as many
of all mutants at random, the same for each `--seed`.  Needs `fork`.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import IO, Any, final

import pytest
from _pytest.runner import runtestprotocol

from scripts.mutations import Mutant, mutants

_ROOTS = [Path(__file__).resolve().parents[1] / name for name in ("src", "checker")]
_SLOWER, _MORE = 4.0, 20.0
"""The CPU seconds of a mutant: this many times those of its tests without a change, and this many more."""


@final
@dataclass(frozen=True)
class Known:
    """What a test did on the code as it is: its seconds, and the functions that it called, by module and name."""

    seconds: float
    calls: frozenset[tuple[str, str]]


@final
@dataclass
class Runner:
    """A plugin of pytest that runs mutants in the place of the tests; `chosen` are those to run."""

    paths: tuple[str, ...]
    chosen: Sequence[Mutant]
    out: Path
    most: float
    tests: dict[str, Known] = field(default_factory=dict)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            return False  # not all were collected
        self._learn(session)
        for k, mutant in enumerate(self.chosen, 1):
            items = self._items(session, mutant)
            start = time.monotonic()
            status, by = ("uncovered", "") if not items else self._run(mutant, items)
            record = {k: v for k, v in asdict(mutant).items() if k != "source"}
            record |= {"key": mutant.key, "status": status, "by": by, "tests": len(items)}
            record |= {"seconds": round(time.monotonic() - start, 2)}
            with self.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            print(f"{k}/{len(self.chosen)} {status:9} {mutant.path}:{mutant.line} {mutant.before} -> {mutant.after}")
            sys.stdout.flush()
        return True

    def _learn(self, session: pytest.Session) -> None:
        """Run every test once on the code as it is.  Raises SystemExit if one fails."""
        for line in _forked(lambda say: self._learn_all(session, say), float("inf")):
            name, seconds, calls, failed = json.loads(line)
            if failed:
                raise SystemExit(f"without a change {name} fails")
            self.tests[name] = Known(seconds, frozenset((p, w) for p, w in calls))
        if len(self.tests) != len(session.items):
            raise SystemExit("the tests end before all of them have run")
        total = sum(t.seconds for t in self.tests.values())
        print(f"{len(self.tests)} tests, {total:.0f} s, {len(self.chosen)} mutants", flush=True)

    def _learn_all(self, session: pytest.Session, say: Any) -> None:
        calls: set[tuple[str, str]] = set()
        for path in self.paths:
            _patch(path, _counted(_file(path).read_text(encoding="utf-8")), "")
            vars(_module(path))["_called"] = lambda name, path=path: calls.add((path, name))
        for item in session.items:
            calls.clear()
            start = time.process_time()
            failed = _fails(item)
            say(json.dumps([item.nodeid, time.process_time() - start, sorted(calls), failed]))

    def _items(self, session: pytest.Session, mutant: Mutant) -> list[pytest.Item]:
        """The tests of a mutant, the fastest first; at most those of `most` seconds."""
        kept, total = list[pytest.Item](), 0.0
        for item in sorted(session.items, key=lambda i: self.tests[i.nodeid].seconds):
            known = self.tests[item.nodeid]
            called = any(p == mutant.path and mutant.within in ("", w) for p, w in known.calls)
            if called and total + known.seconds <= self.most:
                kept.append(item)
                total += known.seconds
        return kept

    def _run(self, mutant: Mutant, items: Sequence[pytest.Item]) -> tuple[str, str]:
        def run(say: Any) -> None:
            _patch(mutant.path, mutant.source, mutant.within)
            for item in items:
                if _fails(item):
                    say(f"killed\t{item.nodeid}")
                    return
            say("survived\t")

        seconds = _SLOWER * sum(self.tests[i.nodeid].seconds for i in items) + _MORE
        last = [line for line in _forked(run, seconds) if "\t" in line]
        status, _, by = last[-1].partition("\t") if last else ("timeout", "", "")
        return status, by


def _fails(item: pytest.Item) -> bool:
    return any(report.failed for report in runtestprotocol(item, log=False, nextitem=None))


def _forked(run: Any, seconds: float) -> Iterator[str]:
    """The lines that `run(say)` says in a process of its own, which ends after so many CPU seconds."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.setpgid(0, 0)
        err = os.dup(2)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        if seconds < float("inf"):
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
        try:
            with os.fdopen(write, "w") as pipe:
                run(lambda line: print(line, file=pipe, flush=True))
        except BaseException:
            os.write(err, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        yield from _lines(pipe, child, 20 * seconds)
    os.waitpid(child, 0)


def _lines(pipe: IO[str], child: int, seconds: float) -> Iterator[str]:
    """The lines of a pipe until its end; a process that does not end in time (it may wait) is killed."""
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        ready = left > 0 and bool(select.select([pipe], [], [], min(left, 1e6))[0])
        line = pipe.readline() if ready else ""
        if not ready:
            os.killpg(child, signal.SIGKILL)
        if not line:
            return
        yield line.rstrip("\n")


# code


def _file(path: str) -> Path:
    """The file of a module below one of the roots.  Raises StopIteration if there is none."""
    return next(root / path for root in _ROOTS if (root / path).exists())


def _module(path: str) -> ModuleType:
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    __import__(name)
    return sys.modules[name]


def _patch(path: str, source: str, within: str) -> None:
    """Give the functions of a module the code of `source`, all or those of one name; and its constants, if "" is asked.

    Functions keep their identity, so that those that others have imported are changed as well.
    """
    import gc

    module, filename = _module(path), str(_file(path))
    codes = _functions(compile(source, filename, "exec"))
    for function in [o for o in gc.get_objects() if type(o) is FunctionType]:
        code = function.__code__
        if code.co_filename == filename and (new := codes.get(code.co_qualname)) and within in ("", code.co_qualname):
            function.__code__ = new
    if not within:
        _patch_constants(module, source)


def _functions(code: CodeType) -> dict[str, CodeType]:
    """The code of functions and methods by their names, without that of functions inside of them."""
    found: dict[str, CodeType] = {}
    for part in code.co_consts:
        if isinstance(part, CodeType):
            inner = _functions(part) if not part.co_flags & 0x2 else {part.co_qualname: part}  # CO_NEWLOCALS
            found |= inner
    return found


def _patch_constants(module: ModuleType, source: str) -> None:
    """Give the numbers and tables of a module, `NAME = …`, the values of `source`, where others import them too."""
    old, new = (
        {n.targets[0].id: ast.unparse(n.value) for n in ast.parse(text).body
         if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)}
        for text in (Path(str(module.__file__)).read_text(encoding="utf-8"), source)
    )  # fmt: skip
    for name, text in new.items():
        if old.get(name) != text:
            before, after = vars(module)[name], eval(text, vars(module))  # noqa: S307  (the code of this repository)
            for other in list(sys.modules.values()):
                if getattr(other, "__name__", "").startswith("recurjac") and vars(other).get(name) is before:
                    setattr(other, name, after)


def _counted(source: str) -> str:
    """The source, in which every function first says that it was called."""
    tree = ast.parse(source)

    def count(body: Sequence[ast.stmt], names: tuple[str, ...]) -> None:
        for part in body:
            if isinstance(part, ast.ClassDef):
                count(part.body, (*names, part.name))
            elif isinstance(part, ast.FunctionDef):
                part.body.insert(0, ast.parse(f"_called({'.'.join((*names, part.name))!r})").body[0])

    count(tree.body, ())
    return ast.unparse(ast.fix_missing_locations(tree))


# the command


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.mutate", description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="+", help="files below src/ or checker/, such as recurjac/rows.py")
    parser.add_argument("--tests", nargs="+", required=True, help="files of tests, or any arguments of pytest")
    parser.add_argument("--out", type=Path, default=Path("results/mutants.jsonl"))
    parser.add_argument("--sample", type=int, help="how many mutants of each module (all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=float, default=60.0, help="the most CPU seconds of tests for a mutant")
    asked = parser.parse_args()
    os.nice(19 - os.nice(0))
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    known = {json.loads(line)["key"] for line in asked.out.open(encoding="utf-8")} if asked.out.exists() else set()
    chosen: list[Mutant] = []
    for path in asked.modules:
        every = mutants(path, _file(path).read_text(encoding="utf-8"))
        some = random.Random(asked.seed).sample(every, min(len(every), asked.sample or len(every)))  # noqa: S311
        chosen += [m for m in some if m.key not in known]
    plugin = Runner(tuple(asked.modules), chosen, asked.out, asked.most)
    options = ["-q", "-s", "-p", "no:cacheprovider", "-m", "not slow"]
    return int(pytest.main([*options, *asked.tests], [plugin]))


if __name__ == "__main__":
    sys.exit(main())
