"""The library's docstrings as reStructuredText.

They are plain text: `name` is code, (batch, *input) a shape, |J| a magnitude, and "x, y: what they are" describes
arguments or fields, which become the list of parameters.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

_CODE = re.compile(r"(`[^`]+`)")
_MARKUP = re.compile(r"[*|\\]|(?<=\w)_(?!\w)")
_PAGE = "docs/mathematics.md"
_HEADS = ("Raises ", "Source: ")
_NAMES = re.compile(r"(?:^|(?<=[.,;] )|(?<=\.  ))([A-Za-z_]\w*(?:, [A-Za-z_]\w*)*)(?: (?=\()|: )")


def text(line: str) -> str:
    """`line` with code as code and nothing else as markup."""
    pieces = _CODE.split(line)
    escaped = (f"`{p}`" if _CODE.fullmatch(p) else _MARKUP.sub(r"\\\g<0>", p) for p in pieces)
    return "".join(escaped).replace(_PAGE, ":doc:`/mathematics`")


def parameters(obj: object) -> set[str]:
    """The names that a docstring may describe: arguments, or the fields of a dataclass."""
    try:
        return set(inspect.signature(obj).parameters) if callable(obj) else set()
    except (TypeError, ValueError):
        return set()


def described(paragraph: str, known: set[str]) -> tuple[str, list[tuple[str, str]]]:
    """The text before the first description of known names, and each of them with its description."""
    heads = [m for m in _NAMES.finditer(paragraph) if known.issuperset(m[1].split(", "))]
    if not heads:
        return paragraph, []
    ends = [m.start() for m in heads[1:]] + [len(paragraph)]
    pairs = [(m[1], paragraph[m.end() : end].rstrip(" ,;")) for m, end in zip(heads, ends, strict=True)]
    return paragraph[: heads[0].start()].strip(), pairs


def paragraphs(lines: list[str]) -> list[str]:
    """The paragraphs of a docstring, one line each; a line that begins a sentence of its own kind begins one."""
    found = [""]
    for line in "\n".join(lines).replace("  Raises ", "\nRaises ").replace("  Source: ", "\nSource: ").splitlines():
        if not line.strip():
            found.append("")
        elif line.startswith(_HEADS) or (found[-1].endswith(".") and line[0].isupper()):
            found.append(line)
        else:
            found[-1] = f"{found[-1]} {line}".strip()
    return [p for p in found if p]


def converted(lines: list[str], known: set[str]) -> list[str]:
    """A docstring as reStructuredText, its parameters at the end."""
    if any(line.startswith("    ") for line in lines):  # a formula of its own: leave its lines
        return [text(line) for line in lines]
    body: list[str] = []
    fields: list[str] = []
    for paragraph in paragraphs(lines):
        rest, pairs = described(paragraph, known)
        body += [text(rest), ""] if rest else []
        fields += [f":param {name}: {text(what)}" for names, what in pairs for name in names.split(", ")]
    return [*body, *fields, ""]


def _process(_app: Sphinx, _what: str, _name: str, obj: object, _options: Any, lines: list[str]) -> None:
    lines[:] = converted(lines, parameters(obj))


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
