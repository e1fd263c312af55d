"""Tables that work with screen readers and scroll on narrow screens; the end of a long table is folded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from recurjac.report.markup import Markup, element, folded, joined

SHOWN = 50
"""The number of rows of a table that are not folded."""


@final
@dataclass(frozen=True)
class Table:
    """Cells under column titles; the first cell of a row is its name.

    numeric: whether each column contains numbers, which are right-aligned.
    """

    caption: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]

    def markup(self) -> Markup:
        """The table; rows after the first `SHOWN` are in a second table with the same header."""
        rest = self.rows[SHOWN:]
        first = self._grid(self.caption, self.rows[:SHOWN])
        if not rest:
            return first
        last = SHOWN + len(rest)
        more = folded(f"{len(rest)} more rows", self._grid(f"{self.caption}, rows {SHOWN + 1} to {last}", rest))
        return joined([first, more])

    def _grid(self, caption: str, rows: Sequence[Sequence[str]]) -> Markup:
        head = [_cell("th", c, n, scope="col") for c, n in zip(self.columns, self.numeric, strict=True)]
        body = [element("tr", *self._row(row)) for row in rows]
        table = element("table", element("caption", caption), element("thead", element("tr", *head)),
                        element("tbody", *body))  # fmt: skip
        return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=caption)

    def _row(self, row: Sequence[str]) -> list[Markup]:
        cells = zip(row, self.numeric, strict=True)
        return [_cell("td", cell, n) if i else _cell("th", cell, n, scope="row") for i, (cell, n) in enumerate(cells)]


def _cell(name: str, text: str, numeric: bool, **attributes: str) -> Markup:
    look = {"class_": "number"} if numeric else {}
    return element(name, text, **look, **attributes)


def facts(pairs: Sequence[tuple[str, str]]) -> Markup:
    """A list of names, each with its values."""
    return element("dl", *(m for name, value in pairs for m in (element("dt", name), element("dd", value))))
