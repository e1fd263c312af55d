"""The Markdown subset of remarks on results: headings, tables, lists, paragraphs, code, bold; the rest is text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from recurjac.report.markup import Content, Markup, element, joined
from recurjac.report.tables import Table

_HEADING = re.compile(r"#{1,6}\s+(.*?)\s*#*")
_ITEM = re.compile(r"\s*[-*+]\s+(.*)")
_RULE = re.compile(r":?-+:?")
_INLINE = re.compile(r"`([^`]+)`|\*\*(.+?)\*\*|!?\[([^\]]*)\]\([^)\s]*\)")
_BARS = re.compile(r"(?<!\\)\|")
_NUMBER = re.compile(r"[-+]?[\d.,]+(?:e[-+]?\d+)?\s*%?|[-–]?|inf|∞", re.IGNORECASE)


def convert(text: str, caption: str) -> Markup:
    """The text as HTML; `caption` is used for tables without a heading.  Link addresses are omitted."""
    parts: list[Markup] = []
    title = caption
    for kind, lines in _blocks(text):
        if kind == "heading":
            title = _plain(_heading(lines[0]))
            parts.append(element("h3", *_inline(_heading(lines[0]))))
        elif kind == "code":
            parts.append(element("pre", element("code", "\n".join(lines)), tabindex="0"))
        elif kind == "table":
            parts.append(_table(lines, title))
        elif kind == "list":
            parts.append(element("ul", *(element("li", *_inline(item)) for item in _items(lines))))
        else:
            parts.append(element("p", *_inline(" ".join(line.strip() for line in lines))))
    return joined(parts)


def _blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """The blocks of the text, each as its kind and its lines."""
    fences = re.split(r"^```.*$", text, flags=re.MULTILINE)
    for i, part in enumerate(fences):
        if i % 2:
            yield "code", part.strip("\n").splitlines()
            continue
        kind = "blank"
        kinds = []
        for line in part.splitlines():
            kind = _kind(line, kind)
            kinds.append((kind, line))
        for (kind, _), group in groupby(enumerate(kinds), lambda k: (k[1][0], k[0] if k[1][0] == "heading" else -1)):
            if kind != "blank":
                yield kind, [line for _, (_, line) in group]


def _kind(line: str, before: str) -> str:
    if not line.strip():
        return "blank"
    if _HEADING.fullmatch(line.strip()):
        return "heading"
    if line.lstrip().startswith("|"):
        return "table"
    if _ITEM.fullmatch(line) or (before == "list" and line.startswith(" ")):
        return "list"
    return "paragraph"


def _heading(line: str) -> str:
    found = _HEADING.fullmatch(line.strip())
    return line if found is None else found[1]


def _items(lines: Sequence[str]) -> list[str]:
    items: list[str] = []
    for line in lines:
        found = _ITEM.fullmatch(line)
        if found is not None:
            items.append(found[1])
        elif items:
            items[-1] += " " + line.strip()
    return items


def _table(lines: Sequence[str], caption: str) -> Markup:
    """A table: the first line is the header, the line of dashes below it is dropped, missing cells are empty."""
    rows = [[_plain(c.strip().replace(r"\|", "|")) for c in _BARS.split(line.strip())[1:]] for line in lines]
    rows = [row[:-1] if row and not row[-1] else row for row in rows]
    head, body = rows[0], [r for r in rows[1:] if not (r and all(_RULE.fullmatch(c) for c in r))]
    width = max(len(r) for r in rows)
    filled = [tuple(row + [""] * (width - len(row))) for row in (head, *body)]
    numeric = tuple(bool(filled[1:]) and all(_NUMBER.fullmatch(r[i]) for r in filled[1:]) for i in range(width))
    return Table(caption, filled[0], numeric, tuple(filled[1:])).markup()


def _plain(text: str) -> str:
    """The text without its markup."""
    return _INLINE.sub(lambda m: m[1] or m[2] or m[3] or "", text)


def _inline(text: str) -> list[Content]:
    parts: list[Content] = []
    end = 0
    for m in _INLINE.finditer(text):
        parts.append(text[end : m.start()])
        parts.append(element("code", m[1]) if m[1] else element("strong", m[2]) if m[2] else m[3] or "")
        end = m.end()
    return [*parts, text[end:]]
