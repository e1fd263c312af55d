"""Draw which room of the library imports which, for `docs/design.md`.

`python -m scripts.draw_imports` (or `make design`) reads the imports from the code and writes

* `docs/_static/imports.svg`: levels as bands, rooms as boxes, imports as arrows, all of which point down.  An arrow
  that follows from others is left out: where a imports b and c, and b imports c, only a → b → c is drawn;
* the table of all imports between the two markers of `docs/design.md`.

A test checks that both are what the code says now.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from pathlib import Path
from typing import final

from scripts.layout import LEVELS, level, room_imports

DOCS = Path(__file__).resolve().parents[1] / "docs"
PICTURE = DOCS / "_static" / "imports.svg"
PAGE = DOCS / "design.md"
BEGIN, END = "<!-- imports: written by `make design` -->", "<!-- end of imports -->"

BOX, GAP, ROW, CHAR, MARGIN, LABEL = 26, 18, 66, 7.4, 14, 62
"""Height of a box, space beside it, distance of rows, width of a letter, margin, and width of the levels' labels."""
SHOWN = {"__init__": "recurjac"}
"""The room of the package's own `__init__` is shown under the package's name."""
LINE = 'fill="none" stroke="#4a6785" stroke-width="1.2" marker-end="url(#head)"'


def reduced(graph: dict[str, set[str]]) -> dict[str, list[str]]:
    """The imports that do not follow from others."""

    def reached(name: str) -> set[str]:
        return graph[name].union(*(reached(n) for n in graph[name]))

    return {a: sorted(graph[a].difference(*(reached(b) for b in graph[a]))) for a in graph}


def rows_of(graph: dict[str, set[str]]) -> list[list[str]]:
    """The rooms in rows, the highest level first; a level whose rooms import each other has several rows."""
    rows: list[list[str]] = []
    for rooms in LEVELS:
        left, part = list(rooms), []
        while left:
            part.append([r for r in left if not graph[r] & set(left)])
            left = [r for r in left if r not in part[-1]]
        rows += part
    return rows[::-1]


@final
@dataclass
class Drawing:
    """Nodes in rows and lines between neighbouring rows; an arrow over several rows passes through unnamed nodes."""

    rows: list[list[str]]
    arrows: list[list[str]]
    x: dict[str, float] = field(default_factory=dict)
    above: dict[str, list[str]] = field(default_factory=dict)
    below: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: dict[str, set[str]]) -> Drawing:
        rows = rows_of(graph)
        row = {name: i for i, names in enumerate(rows) for name in names}
        arrows = []
        for a, targets in reduced(graph).items():
            for b in targets:
                between = [f"{a}>{b}>{i}" for i in range(row[a] + 1, row[b])]
                for i, node in enumerate(between, row[a] + 1):
                    rows[i].append(node)
                arrows.append([a, *between, b])
        found = cls(rows, arrows)
        for names in rows:
            found.above |= {n: [] for n in names}
            found.below |= {n: [] for n in names}
        for a, b in (pair for arrow in arrows for pair in pairwise(arrow)):
            found.below[a].append(b)
            found.above[b].append(a)
        found._order()
        found._place()
        return found

    def crossings(self) -> int:
        """How many pairs of lines cross."""
        count = 0
        for upper, lower in pairwise(self.rows):
            place = {n: i for i, n in enumerate(lower)}
            ends = [[place[b] for b in self.below[a]] for a in upper]
            count += sum(p > q for i, e in enumerate(ends) for f in ends[i + 1 :] for p, q in product(e, f))
        return count

    def _order(self) -> None:
        """Sort every row by the mean place of neighbours, down and up, then swap neighbours while that helps."""
        best, least = [list(r) for r in self.rows], self.crossings()
        for sweep in range(40):
            beside, order = (self.above, self.rows) if sweep % 2 == 0 else (self.below, self.rows[::-1])
            for before, names in pairwise(order):
                place = {n: float(i) for i, n in enumerate(before)}
                mean = {n: _mean([place[m] for m in beside[n]], i) for i, n in enumerate(names)}
                names.sort(key=mean.__getitem__)
            if (count := self.crossings()) < least:
                best, least = [list(r) for r in self.rows], count
        self.rows = best
        improved = True
        while improved:
            improved = False
            pairs = [(names, i) for names in self.rows for i in range(len(names) - 1)]
            for row, i in pairs:
                row[i], row[i + 1] = row[i + 1], row[i]
                if (count := self.crossings()) < least:
                    least, improved = count, True
                else:
                    row[i], row[i + 1] = row[i + 1], row[i]

    def _place(self) -> None:
        """Centres: near the mean of their neighbours, boxes and lines apart."""
        self.x = {}
        for names in self.rows:
            spread(names, dict.fromkeys(names, 0.0), self.x)
        for sweep in range(200):
            for names in self.rows if sweep % 2 == 0 else self.rows[::-1]:
                beside = {n: [self.x[m] for m in self.above[n] + self.below[n]] for n in names}
                spread(names, {n: _mean(beside[n], self.x[n]) for n in names}, self.x)
        left = min(x - width(n) / 2 for n, x in self.x.items())
        self.x = {n: x - left + MARGIN + LABEL for n, x in self.x.items()}


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def width(node: str) -> float:
    """Of the box of a room; a passing line has little width."""
    return 4 if ">" in node else CHAR * len(SHOWN.get(node, node)) + 18


def spread(names: Sequence[str], wanted: dict[str, float], x: dict[str, float]) -> None:
    """Set x of a row, in its order and apart, as near to `wanted` as possible in least squares."""
    offset, blocks = 0.0, []
    offsets = []
    for i, n in enumerate(names):
        offset += (width(names[i - 1]) + width(n)) / 2 + GAP if i else 0.0
        offsets.append(offset)
        weight = 4.0 if ">" in n else 1.0
        blocks.append([wanted[n] - offset, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:  # pool blocks that are in the wrong order
            value, w, count = blocks.pop()
            u = blocks[-1]
            blocks[-1] = [(u[0] * u[1] + value * w) / (u[1] + w), u[1] + w, u[2] + count]
    values = [value for value, _, count in blocks for _ in range(int(count))]
    x.update({n: v + o for n, v, o in zip(names, values, offsets, strict=True)})


def svg(graph: dict[str, set[str]]) -> str:
    """The picture."""
    d = Drawing.of(graph)
    y = {n: MARGIN + ROW * i + ROW / 2 for i, names in enumerate(d.rows) for n in names}
    wide = max(x + width(n) / 2 for n, x in d.x.items()) + MARGIN
    high = ROW * len(d.rows) + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {high:.0f}" width="{wide:.0f}" '
        f'height="{high:.0f}" font-family="sans-serif" font-size="13">',
        "<title>The rooms of recurjac and what they import</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="#4a6785"/></marker></defs>',
        f'<rect width="{wide:.0f}" height="{high:.0f}" fill="#ffffff"/>',
    ]
    first = 0
    for i in reversed(range(len(LEVELS))):
        count = sum(any(level(n) == i for n in names if ">" not in n) for names in d.rows)
        top, tall = MARGIN + ROW * first, ROW * count
        parts.append(
            f'<rect x="{MARGIN}" y="{top}" width="{wide - 2 * MARGIN:.0f}" height="{tall}" '
            f'fill="{"#f3f6f9" if i % 2 else "#ffffff"}"/>'
        )
        parts.append(f'<text x="{MARGIN + 8}" y="{top + tall / 2 + 5:.0f}" fill="#6b7785">level {i}</text>')
        first += count
    parts += [f'<path d="{_path(d, y, a)}" {LINE}/>' for a in d.arrows]
    for n, x in d.x.items():
        if ">" not in n:
            w = width(n)
            parts.append(
                f'<rect x="{x - w / 2:.0f}" y="{y[n] - BOX / 2:.0f}" width="{w:.0f}" height="{BOX}" rx="5" '
                'fill="#e4edf6" stroke="#4a6785"/>'
            )
            parts.append(f'<text x="{x:.0f}" y="{y[n] + 4.5:.0f}" text-anchor="middle">{SHOWN.get(n, n)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _port(d: Drawing, node: str, other: str, beside: list[str]) -> float:
    """Where a line to `other` meets a box: the lines of one side stand apart, in the order of where they go."""
    order = sorted(beside, key=lambda n: d.x[n])
    step = min(14.0, (width(node) - 14) / max(1, len(order) - 1))
    return d.x[node] + step * (order.index(other) - (len(order) - 1) / 2)


def _path(d: Drawing, y: dict[str, float], arrow: list[str]) -> str:
    """A smooth line from the bottom of the first box to the top of the last, upright in every row that it passes."""
    x0, top = _port(d, arrow[0], arrow[1], d.below[arrow[0]]), y[arrow[0]] + BOX / 2
    path = f"M{x0:.0f} {top:.0f}"
    for a, b in pairwise(arrow):
        x1 = _port(d, b, a, d.above[b]) if b == arrow[-1] else d.x[b]
        end = y[b] - BOX / 2
        bend = (end - top) / 2
        path += f"C{x0:.0f} {top + bend:.0f} {x1:.0f} {end - bend:.0f} {x1:.0f} {end:.0f}"
        if b != arrow[-1]:
            path += f"V{end + BOX:.0f}"
        x0, top = x1, end + BOX
    return path


def table(graph: dict[str, set[str]]) -> str:
    """The table of all imports, between its markers."""
    lines = ["| level | room | imports |", "|---|---|---|"]
    for i in reversed(range(len(LEVELS))):
        for name in LEVELS[i]:
            targets = sorted(graph[name], key=lambda n: (level(n), n))
            lines.append(f"| {i} | `{SHOWN.get(name, name)}` | {', '.join(f'`{t}`' for t in targets) or 'nothing'} |")
    return "\n".join([BEGIN, *lines, END])


def with_table(page: str, graph: dict[str, set[str]]) -> str:
    """The text of the page with the table of now.  Raises ValueError unless it has both markers once."""
    parts = re.split(f"{re.escape(BEGIN)}.*?{re.escape(END)}", page, flags=re.DOTALL)
    if len(parts) != 2:
        raise ValueError(f"{PAGE} needs the markers {BEGIN} and {END} once")
    return table(graph).join(parts)


def main() -> None:
    graph = room_imports()
    PICTURE.write_text(svg(graph), encoding="utf-8")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), graph), encoding="utf-8")


if __name__ == "__main__":
    main()
