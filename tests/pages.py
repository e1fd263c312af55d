"""Results for pages: the folder of an experiment as one writes it, and a reader of pages that finds what is amiss."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, final

import numpy as np

from recurjac.report.pixels import png

VOID = {"img", "meta", "link", "br"}
LOADING = {"src", "srcset", "data", "poster", "action", "background", "xlink:href"}
"""Attributes that make a browser load something."""
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 3" width="400" height="300"><path d="M0 0L4 3"/></svg>'
HOSTILE = "<script>alert('a')</script>&\"'"


@final
@dataclass
class Page(HTMLParser):
    """A page: its elements in order, the text of each kind of element, and every fault of its form."""

    faults: list[str] = field(default_factory=list)
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if len(given) < len(attrs):
            self.faults.append(f"<{tag}> has an attribute twice")
        self.elements.append((tag, given))
        self.faults += [f"<{tag}> loads {given[a]}" for a in LOADING & given.keys() if not given[a].startswith("data:")]
        self.faults += [f"<{tag}> has {a}" for a in given if a.startswith("on") or a == "style"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes what is not open")

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [given for name, given in self.elements if name == tag]

    def text(self, *tags: str) -> list[str]:
        """The texts directly inside elements of these kinds."""
        return [text for tag, text in self.texts if tag in tags]


def read(text: str) -> Page:
    """The page, which has no fault: closed elements, links that lead somewhere, nothing from outside, alt texts."""
    page = Page()
    page.feed(text)
    page.close()
    ids = [given["id"] for _, given in page.elements if "id" in given]
    hrefs = [given["href"] for given in page.all("a")]
    assert (page.faults, page.open) == ([], [])
    assert len(ids) == len(set(ids))
    assert {h.removeprefix("#") for h in hrefs} == set(ids)
    assert all(given.get("alt") for given in page.all("img"))
    assert all(given.get("scope") in ("col", "row") for given in page.all("th"))
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(given["href"].startswith("data:") for given in page.all("link"))
    assert all(given.get("aria-label") or given.get("aria-hidden") for given in page.all("svg"))
    assert len(page.all("script")) == 1
    assert page.all("html") == [{"lang": "en"}]
    for way_out in ("@import", "url(", "fetch(", "XMLHttpRequest", "import("):
        assert way_out not in "".join(page.text("style", "script"))
    return page


def experiment(folder: Path) -> Path:
    """A folder with everything that an experiment writes, of which some is hostile."""
    folder.mkdir()
    name = folder.name
    manifest: dict[str, Any] = {
        "name": name,
        "started": "2018-10-28T12:00:00Z",
        "versions": {"recurjac": "0.1.0", "torch": "2.6.0"},
        "settings": {"radii": [0.01, 0.1], "note": HOSTILE},
        "seeds": [0, 1],
        "sha256": {"data": "ab" * 32, "networks": {"a.npz": "cd" * 32}},
    }
    rows = [f"{HOSTILE if i == 1 else f'row {i}'},{i}.00000000001,{i}.00000000009,True" for i in range(1, 61)]
    quoted = ['"' + r.split(",")[0].replace('"', '""') + '",' + r.split(",", 1)[1] for r in rows]
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (folder / f"{name}.csv").write_text("\n".join(["network,upper,lower,rigorous", *quoted]) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(
        f"# The paper's {name}\n\nBeside **ours**, in `bold`:\n\n| method | paper | ours |\n|:---|---:|---:|\n"
        f"| RecurJac-B | 12.5 | 12.25 |\n| {HOSTILE} | 1e3 | - |\n\n* a remark\n  that goes on\n* [text](http://a.b/c)\n"
        "\n```\n| code |\n```\n",
        encoding="utf-8",
    )
    (folder / "times.csv").write_text("what,seconds\nbounds,1.23456789012\n", encoding="utf-8")
    (folder / f"{name}.png").write_bytes(png(np.zeros((3, 4, 3), np.uint8)))
    (folder / f"{name}.svg").write_text(SVG, encoding="utf-8")
    g = np.random.default_rng(0)
    centre, radius = g.normal(size=(2, 70, 3, 6, 5))
    title = np.array([f"{HOSTILE} {i}" for i in range(70)])
    np.savez(folder / "panels.npz", image=g.random((70, 3, 6, 5)), lower=centre - abs(radius),
             upper=centre + abs(radius), title=title)  # fmt: skip
    return folder
