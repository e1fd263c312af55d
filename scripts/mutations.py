"""The small mistakes that `scripts/mutate.py` makes: each changes one expression of a module.

A mutant swaps an operation for its opposite, drops a term, a factor, an absolute value or a rounding, shifts a number,
or negates a condition.  Text, annotations, and what is raised, asserted or imported stay as they are.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

_BINARY: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,), ast.FloorDiv: (ast.Mult,),
    ast.Pow: (ast.Mult,), ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,),
}  # fmt: skip
_DROPPED = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.BitAnd, ast.BitOr)
_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_NEGATED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt,
}  # fmt: skip
_PAIRS = (
    ("maximum", "minimum"), ("max", "min"), ("amax", "amin"), ("fmax", "fmin"), ("argmax", "argmin"),
    ("lower", "upper"), ("all", "any"), ("ceil", "floor"), ("round_up", "round_down"), ("at_least", "at_most"),
    ("sum", "amax"), ("triu", "tril"), ("rows", "columns"), ("down", "up"), ("_up", "_down"),
)  # fmt: skip
_NAMES = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1]) if (a, b) != ("amax", "sum")}
_UNWRAPPED = {
    "abs",
    "grow",
    "nextafter",
    "round_up",
    "round_up_to",
    "nan_to_num",
    "nan_to_num_",
    "clamp",
    "square",
    "_up",
}
"""Functions and methods of which a mutant forgets the call."""
_OWNERS = {"torch", "self", "math"}
"""What has functions of these names; anything else has methods, and is itself what is left without the call."""


@final
@dataclass(frozen=True)
class Mutant:
    """A change of one expression: its place in the source, what is there, and what a mutant has instead."""

    path: str
    within: str
    line: int
    kind: str
    before: str
    after: str
    source: str

    @property
    def key(self) -> str:
        """A name that stays the same as long as the source of the module does."""
        return hashlib.sha256(f"{self.path}\n{self.source}".encode()).hexdigest()[:16]


def mutants(path: str, source: str) -> list[Mutant]:
    """All mutants of a module, which is at `path`, in the order of the source; two never have the same source."""
    tree = ast.parse(source)
    found: dict[str, Mutant] = {ast.unparse(tree): Mutant(path, "", 0, "", "", "", "")}
    for place in _places(tree, ()):
        for kind, changed in _changes(place.node):
            text = ast.unparse(_with(tree, place.node, changed))
            was, now = (ast.unparse(n) for n in (place.node, changed))
            found.setdefault(text, Mutant(path, place.within, place.node.lineno, kind, was, now, text))
    return list(found.values())[1:]


@final
@dataclass(frozen=True)
class _Place:
    """An expression, and the name of the outermost function that it is in; "" in a module or a class."""

    node: ast.expr
    within: str


def _places(node: ast.AST, names: tuple[str, ...], inside: str = "") -> Iterator[_Place]:
    """The expressions that are changed; `names` are those of the classes around, `inside` that of the function."""
    if isinstance(node, ast.Raise | ast.Assert | ast.Import | ast.ImportFrom | ast.JoinedStr):
        return
    if isinstance(node, ast.FunctionDef):
        inside = inside or ".".join((*names, node.name))
        for part in node.body:
            yield from _places(part, names, inside)
        return
    if isinstance(node, ast.ClassDef):
        for part in node.body:
            yield from _places(part, (*names, node.name), inside)
        return
    if isinstance(node, ast.AnnAssign):
        if node.value is not None:
            yield from _places(node.value, names, inside)
        return
    if isinstance(node, ast.expr):
        yield _Place(node, inside)
    if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
        return
    for part in ast.iter_child_nodes(node):
        yield from _places(part, names, inside)


def _with(tree: ast.Module, old: ast.expr, new: ast.expr) -> ast.Module:
    """A copy of the tree with another expression in one place."""

    class Exchange(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return new if node is old else self.generic_visit(_shallow(node))

    changed = Exchange().visit(tree)
    assert isinstance(changed, ast.Module)  # noqa: S101  # (narrows the type)
    return changed


def _shallow(node: ast.AST) -> ast.AST:
    """A copy of a node with the same children, in lists of its own."""
    fields = {name: list(v) if isinstance(v, list) else v for name, v in ast.iter_fields(node)}
    return ast.copy_location(type(node)(**fields), node)


def _changes(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """What a mutant has in the place of an expression, and what kind of mistake that is."""
    match node:
        case ast.BinOp():
            for other in _BINARY.get(type(node.op), ()):
                yield "operator", ast.BinOp(node.left, other(), node.right)
            if isinstance(node.op, _DROPPED):
                yield "dropped", node.left
                if not isinstance(node.op, ast.Sub | ast.Div):
                    yield "dropped", node.right
        case ast.Compare(ops=[op]) if type(op) in _COMPARED:
            yield "comparison", ast.Compare(node.left, [_COMPARED[type(op)]()], node.comparators)
            if type(op) in _NEGATED:
                yield "condition", ast.Compare(node.left, [_NEGATED[type(op)]()], node.comparators)
        case ast.BoolOp():
            yield "condition", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
            yield from (("dropped", v) for v in node.values)
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert()):
            yield "sign" if isinstance(node.op, ast.USub) else "condition", node.operand
        case ast.IfExp():
            yield "condition", ast.IfExp(node.test, node.orelse, node.body)
        case ast.Constant():
            yield from (("constant", ast.Constant(value)) for value in _other_values(node.value))
        case ast.Attribute(attr=name) if name in _NAMES:
            yield "name", ast.Attribute(node.value, _NAMES[name], node.ctx)
        case ast.Name(id=name) if name in _NAMES:
            yield "name", ast.Name(_NAMES[name], node.ctx)
        case ast.Call():
            yield from _changed_calls(node)


def _other_values(value: object) -> Iterator[object]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value - 1 if value else 1
    elif isinstance(value, float):
        yield from (1.0,) if value == 0 else (0.0, 2 * value)


def _changed_calls(node: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    if _name(node.func) in _UNWRAPPED:
        method = isinstance(node.func, ast.Attribute) and _name(node.func.value) not in _OWNERS
        if method and isinstance(node.func, ast.Attribute):
            yield "forgotten", node.func.value
        elif node.args:
            yield "forgotten", node.args[0]
    if _name(node.func) == "where" and len(node.args) == 3:
        test, first, second = node.args
        yield "condition", ast.Call(node.func, [test, second, first], node.keywords)
        yield "forgotten", first
        yield "forgotten", second
    for word in node.keywords:
        if word.arg in ("min", "max") and len(node.keywords) == 1:
            yield "name", ast.Call(node.func, node.args, [ast.keyword(_NAMES[word.arg], word.value)])


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
