"""The command line starts at once, and names of the package are there in every order of imports."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import subprocess
import sys
import types
from collections.abc import Mapping

import pytest

import recurjac as rj
from recurjac.applications import targets
from recurjac.cli import certify, main, named
from recurjac.cli.grammar import names
from recurjac.cli.grammar.parser import parser
from recurjac.cli.grammar.runs import Runs

HEAVY = ("torch", "numpy", "rich", "matplotlib")


def run(code: str) -> str:
    """What a new process prints."""
    return subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True).stdout  # noqa: S603


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["lipschitz", "--help"]])
def test_help_needs_no_torch(arguments: list[str]) -> None:
    """The measured time is about that of Python itself; a test of it would depend on the machine."""
    code = f"""
import sys
from recurjac.cli import main
try:
    main({arguments})
except SystemExit:
    print("loaded:", *(m for m in {HEAVY} if m in sys.modules))
"""
    assert run(code).splitlines()[-1] == "loaded:"


def test_functions_are_functions_in_every_order_of_imports() -> None:
    """Modules first, then names, then more modules."""
    code = """
import recurjac.lipschitz_constants
from recurjac.stage_bounds import preactivation_bounds
import recurjac as rj
print(callable(rj.lipschitz), rj.preactivation_bounds is preactivation_bounds)
import recurjac.cli.bounds, recurjac.plot
from recurjac import Sweep, lipschitz
print(lipschitz is rj.lipschitz is recurjac.lipschitz_constants.lipschitz, callable(Sweep), rj.Sweep is Sweep)
print(rj.plot.__name__, rj.extend.__name__, rj.testing.__name__)
"""
    assert run(code).split() == [*["True"] * 5, "recurjac.plot", "recurjac.extend", "recurjac.testing"]


def test_every_public_name_is_there_and_no_other() -> None:
    assert set(rj.__all__) < set(dir(rj))
    for name in dir(rj):
        assert getattr(rj, name) is not None
    with pytest.raises(AttributeError, match="'recurjac' has no attribute 'lipshitz'"):
        rj.lipshitz  # type: ignore[attr-defined]  # noqa: B018  (the access is the test)


def test_no_public_name_is_that_of_a_module() -> None:
    """A module that is imported later would take the name's place."""
    for name in rj.__all__:
        assert importlib.util.find_spec(f"recurjac.{name}") is None, name


def test_parsers_list_the_names_that_the_library_has() -> None:
    """After adding a method, write its name into `recurjac/cli/grammar/names.py` too."""
    assert _listed(named.norm_methods()) == names.NORM_METHODS
    assert _listed(named.jacobian_methods()) == names.JACOBIAN_METHODS
    assert _listed(named.rules()) == names.RULES
    assert sorted(certify._PROOFS) == list(names.PROOFS)
    assert targets.NAMES == names.TARGETS


def _listed(found: Mapping[str, object]) -> tuple[str, ...]:
    """The names, without those of classes that other tests define."""
    return tuple(sorted(name for name, each in found.items() if type(each).__module__.startswith("recurjac.")))


def test_a_shell_is_answered_by_argcomplete_if_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[argparse.ArgumentParser] = []
    module = types.ModuleType("argcomplete")
    module.autocomplete = asked.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "argcomplete", module)
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    with pytest.raises(SystemExit):
        main(["--version"])
    assert [p.prog for p in asked] == ["recurjac"]
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    with pytest.raises(SystemExit):
        main(["--version"])


def below(top: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    subs = [s for a in top._actions if isinstance(a, argparse._SubParsersAction) for s in a.choices.values()]
    return [top, *(p for s in subs for p in below(s))]


def test_every_command_runs_a_function_that_exists() -> None:
    runs = [p.get_default("run") for p in below(parser())]
    found = [r for r in runs if r is not None]
    assert len(found) > 12
    for each in found:
        assert isinstance(each, Runs)
        assert callable(getattr(importlib.import_module(f"recurjac.cli.{each.module}"), each.function))
