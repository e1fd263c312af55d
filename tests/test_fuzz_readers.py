"""Hostile files of every kind that is read: one sentence, and no traceback, hang, memory bomb, code or escape."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("PIL")

from tests.fuzz.changes import changed
from tests.fuzz.corpus import FOUND
from tests.fuzz.lots import outcomes
from tests.fuzz.readers import cases
from tests.fuzz.sandbox import Outcome, Watch
from tests.fuzz.valid import subjects

EACH = 3
SLOW = 40


@pytest.fixture(scope="module")
def found() -> dict[str, Outcome]:
    """What came of the corpus and of some random files, all read in one process."""
    every = [*FOUND, *cases(1, EACH, sorted(subjects()))]
    return {o.case: o for o in outcomes(every)}


@pytest.mark.parametrize("name", FOUND)
def test_hostile_files_that_were_found_once(name: str, found: dict[str, Outcome]) -> None:
    outcome = found[name]
    assert outcome.wrong == ""
    assert not [w for w in FOUND[name].words if w not in outcome.said], outcome.said
    assert (outcome.said == "read") == (not FOUND[name].words)


@pytest.mark.parametrize("name", subjects())
def test_random_changes_of_valid_files(name: str, found: dict[str, Outcome]) -> None:
    assert {o.case: o.wrong for o in found.values() if o.case.startswith(f"{name} ") and o.wrong} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", subjects())
def test_many_random_changes(name: str) -> None:
    assert {o.case: o.wrong for o in outcomes(cases(1000, SLOW, [name])) if o.wrong} == {}


def test_changes_are_reproducible_and_change_something() -> None:
    for name, subject in subjects().items():
        for target in subject.targets:
            content = subject.files[target]
            made = [changed(target, content, random.Random(f"{name} {k}")) for k in range(8)]  # noqa: S311
            assert made == [changed(target, content, random.Random(f"{name} {k}")) for k in range(8)]  # noqa: S311
            assert sum(m != content for m in made) >= 4


def test_what_must_not_happen_is_noticed(tmp_path: Path) -> None:
    """The hook itself, without being installed."""
    inside, beside = tmp_path / "inner" / "a", tmp_path / "canary"
    watch = Watch(tmp_path / "inner", readable=("/usr/",))
    watch("open", (str(inside), "w", 0))
    watch("open", ("/usr/lib/x.py", "r", 0))
    for event, arguments in (
        ("open", (str(beside), "r", 0)), ("open", ("/usr/x", "w", 0)), ("open", ("/usr/x", None, os.O_WRONLY)),
        ("os.system", ("id",)), ("subprocess.Popen", ("id", [], None, None)), ("socket.connect", (None, "a")),
    ):  # fmt: skip
        with pytest.raises(PermissionError):
            watch(event, arguments)
    assert len(watch.seen) == 6
