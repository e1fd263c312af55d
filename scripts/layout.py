"""The layout of the library: its rooms by level, and which of them imports which, read from the code with `ast`.

A room is a module or a package directly below `recurjac`.  `tests/test_layering.py` checks the layout;
`scripts/draw_imports.py` draws it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "src" / "recurjac"

LEVELS = (
    ("errors", "_types", "version", "digest", "tensors", "deadline"),
    ("adam", "machine", "arithmetic", "relaxations", "quadratics", "registry"),
    ("operators", "activations", "region"),
    ("network",),
    ("loading",),
    ("propagation", "quadratic"),
    ("certificates", "rows", "provenance", "preactivation"),
    ("problem", "stage_bounds"),
    ("jacobian",),
    ("norms", "lipschitz_constants", "search", "branching", "auto"),
    ("applications", "training", "witness"),
    ("sweeps",),
    ("experiments", "report", "plot", "cli", "extend", "testing", "public", "__main__", "__init__"),
)
"""The rooms, lowest level first.  A module imports from its own level and from lower ones only."""


def modules() -> dict[str, Path]:
    """Every module of the library by its name without `recurjac`; a package by that of its `__init__`."""
    names = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts if len(parts) == 1 else [p for p in parts if p != "__init__"])] = path
    return names


MODULES = modules()


@cache
def tree(name: str) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imports(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported anywhere inside `node`: `from a import b` may mean a or a.b.

    Imports for type checkers only, which are never carried out, are left out.  Raises ValueError for a relative import.
    """
    for part in _carried_out(node):
        if isinstance(part, ast.Import):
            yield from ((part.lineno, alias.name) for alias in part.names)
        elif isinstance(part, ast.ImportFrom):
            if part.level:
                raise ValueError(f"line {part.lineno}: relative import")
            yield from ((part.lineno, f"{part.module}.{alias.name}") for alias in part.names)


def _carried_out(node: ast.AST) -> Iterator[ast.AST]:
    """The node and everything in it, except below `if TYPE_CHECKING`."""
    yield node
    if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
        for part in ast.iter_child_nodes(node):
            yield from _carried_out(part)


@cache
def ours(name: str) -> frozenset[str]:
    """The library's modules that module `name` imports."""
    found = set()
    for _, target in imports(tree(name)):
        parts = target.split(".")
        if parts[0] == "recurjac":
            inside = [".".join(parts[1:end]) for end in range(len(parts), 1, -1)]
            found.add(next((m for m in inside if m in MODULES), "__init__"))
    return frozenset(found - {name})


def room(name: str) -> str:
    """The room of a module."""
    return name.split(".")[0]


def level(name: str) -> int:
    """The level of a module or room."""
    return next(i for i, rooms in enumerate(LEVELS) if room(name) in rooms)


def room_imports() -> dict[str, set[str]]:
    """For every room, lowest level first, the other rooms that it imports."""
    found: dict[str, set[str]] = {name: set() for rooms in LEVELS for name in rooms}
    for name in MODULES:
        found[room(name)] |= {room(target) for target in ours(name)} - {room(name)}
    return found
