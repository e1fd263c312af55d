"""Imports point to the same or lower levels only, without cycles; classes are abstract or final."""

from __future__ import annotations

import ast
import inspect
import sys
from abc import ABC
from dataclasses import is_dataclass

import pytest
import torch
from beartype.roar import BeartypeCallHintParamViolation

from recurjac.preactivation import CrownLines
from scripts.layout import LEVELS, MODULES, imports, level, ours, tree
from tests.helpers import concrete_classes, import_all

WITHIN = (("errors", "_types"), ("arithmetic", "relaxations"), ("arithmetic", "quadratics"))
"""Of these pairs on one level the second may import the first, never the reverse."""
EXTRAS = {"matplotlib", "onnx", "google", "PIL", "sklearn", "pyarrow", "ray", "argcomplete", "pandas"}
"""Optional dependencies, which functions may import when they need them."""
IN_PLACE = {name for name in dir(torch.Tensor) if name.endswith("_") and not name.startswith("_")}
"""The operations of a tensor that overwrite it."""


def test_every_module_has_a_level() -> None:
    placed = [name for names in LEVELS for name in names]
    assert len(placed) == len(set(placed))
    assert {name.split(".")[0] for name in MODULES} <= set(placed)


def test_imports_point_to_the_same_or_lower_levels() -> None:
    assert not {(name, target) for name in MODULES for target in ours(name) if level(target) > level(name)}


@pytest.mark.parametrize(("lower", "upper"), WITHIN)
def test_order_within_a_level(lower: str, upper: str) -> None:
    assert upper not in ours(lower)


def test_there_are_no_import_cycles() -> None:
    remaining = {name: ours(name) for name in MODULES}
    while remaining:
        done = {name for name, needs in remaining.items() if not needs & remaining.keys()}
        assert done, f"a cycle among {sorted(remaining)}"
        remaining = {name: needs for name, needs in remaining.items() if name not in done}


def test_there_are_no_star_imports() -> None:
    assert not [(name, line) for name in MODULES for line, target in imports(tree(name)) if target.endswith(".*")]


def test_functions_import_optional_extras_only() -> None:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    functions = [(name, n) for name in MODULES for n in ast.walk(tree(name)) if isinstance(n, kinds)]
    inner = {(name, target) for name, function in functions for _, target in imports(function)}
    assert not {(name, target) for name, target in inner if target.split(".")[0] not in EXTRAS}


def test_modules_do_not_import_optional_extras_at_their_top() -> None:
    statements = [(name, n) for name in MODULES for n in tree(name).body if isinstance(n, ast.Import | ast.ImportFrom)]
    top = {(name, target) for name, statement in statements for _, target in imports(statement)}
    assert not {(name, target) for name, target in top if target.split(".")[0] in EXTRAS}


def overwritten(function: ast.FunctionDef) -> set[str]:
    """The arguments of a function that it overwrites, or parts of them, by an operation of a tensor."""
    found = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and node.attr in IN_PLACE:
            changed = node.value
            while isinstance(changed, ast.Attribute | ast.Subscript):
                changed = changed.value
            if isinstance(changed, ast.Name):
                found.add(changed.id)
    signature = function.args
    return found & {a.arg for a in (*signature.posonlyargs, *signature.args, *signature.kwonlyargs)}


def test_arguments_are_overwritten_in_one_file_only() -> None:
    """Other functions whose names end in an underscore pass on what they were given."""
    functions = [(m, f) for m in MODULES for f in ast.walk(tree(m)) if isinstance(f, ast.FunctionDef)]
    assert ("arithmetic.in_place", "plus_and_minus_") in {(m, f.name) for m, f in functions if overwritten(f)}
    elsewhere = [(m, f) for m, f in functions if m != "arithmetic.in_place"]
    assert {f.name for _, f in elsewhere if overwritten(f)} == {"over_underflow_"}
    named = {f.name for _, f in elsewhere if f.name.endswith("_") and not f.name.endswith("__")} - {"_repr_html_"}
    assert named == {"maximise_", "over_underflow_", "plus_onto_", "relax_", "support_function_"}


def test_the_mathematics_needs_no_command_line() -> None:
    """`import recurjac` leaves out what only some users need."""
    assert not [m for m in ("recurjac.cli", "recurjac.plot") if m[9:] in ours("__init__") | ours("public")]


def library_classes() -> list[type]:
    import_all()
    found = []
    for module in [m for n, m in sys.modules.items() if n.split(".")[0] == "recurjac"]:
        found += [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
    return found


def test_classes_are_abstract_or_final() -> None:
    """A class with abstract methods is built upon and never made; any other is final and a frozen dataclass."""
    abstract = [c for c in library_classes() if issubclass(c, ABC) and inspect.isabstract(c)]
    assert len(abstract) > 5
    for base in abstract:
        assert base.__name__.lstrip("_").startswith(("Abstract", "Bound", "LineRule")), base
        for concrete in concrete_classes(base):
            assert getattr(concrete, "__final__", False), concrete
            assert is_dataclass(concrete), concrete
            assert concrete.__dataclass_params__.frozen, concrete  # type: ignore[attr-defined]


def test_annotations_are_checked_here() -> None:
    """What `conftest` asks for, so that every test is one of the annotations, too."""
    with pytest.raises(BeartypeCallHintParamViolation, match="violates type hint"):
        CrownLines().lines("relu", None, None)  # type: ignore[arg-type]
