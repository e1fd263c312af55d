"""The page: a summary of all results and a section for each, in one self-contained file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files

from recurjac.report.markup import Markup, element
from recurjac.report.section import Section
from recurjac.report.tables import Table

TITLE = "Results of recurjac"


def render(sections: Sequence[Section]) -> str:
    """The page with these sections; the same sections give the same page."""
    anchors = [f"result-{i}" for i in range(1, len(sections) + 1)]
    body = element(
        "body",
        element("header", element("h1", TITLE), _summary(sections)),
        element("nav", element("h2", "Contents"), element("ol", *map(_link, sections, anchors)), aria_label="contents"),
        element("main", *(s.markup(a) for s, a in zip(sections, anchors, strict=True))),
        element("script", Markup(_script())),
    )
    return f"<!DOCTYPE html>\n{element('html', _head(), body, lang='en').text}\n"


def _head() -> Markup:
    style = _own("page.css")
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(_script())}"
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("link", rel="icon", href="data:,"),
        element("title", TITLE),
        element("style", Markup(style)),
    )


def _summary(sections: Sequence[Section]) -> Markup:
    columns = ("result", "file", "network", "SHA-256", "recurjac", "when", "seconds", "rounding")
    rows = [
        (s.title, s.source, s.network, s.digest[:12], s.version, s.when, s.seconds,
         "" if s.rounding is None else s.rounding.short)
        for s in sections
    ]  # fmt: skip
    kept = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    return Table(
        f"{len(sections)} results" if len(sections) > 1 else "1 result", tuple(columns[i] for i in kept),
        tuple(columns[i] == "seconds" for i in kept), tuple(tuple(row[i] for i in kept) for row in rows),
    ).markup()  # fmt: skip


def _link(section: Section, anchor: str) -> Markup:
    return element("li", element("a", section.title, href=f"#{anchor}"), f" ({section.source})")


def _own(name: str) -> str:
    return (files("recurjac") / "report" / name).read_text(encoding="utf-8")


def _script() -> str:
    return _own("page.js")


def _hash(text: str) -> str:
    """The hash of this style or script for the content security policy: no other one is applied or run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"
