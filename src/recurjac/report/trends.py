"""The features that outputs rise and fall with: counts, and a table if they are few or have names, else maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recurjac.applications.monotonicity import Trend
from recurjac.errors import InvalidRequest
from recurjac.report import cells
from recurjac.report.markup import Markup, element, folded, joined
from recurjac.report.panels import Panel, markup
from recurjac.report.tables import Table

_FEW = 40
"""The number of features up to which each is listed; named features always are."""


def trend_words() -> tuple[str, ...]:
    return tuple(t.value for t in Trend)


def trend_count(word: str) -> cells.Cell:
    """How many features of a row have the trend `word`."""

    def count(features: Any) -> str:
        if not isinstance(features, list) or not features:
            raise ValueError("is not a list of features")
        for f in features:
            _check(f)
        return str(sum(f["trend"] == word for f in features))

    return count


def _check(feature: Any) -> None:
    if not isinstance(feature, dict) or not {"feature", "trend", "lower", "upper"} <= feature.keys():
        raise ValueError("holds a feature without name, trend and bounds")
    if feature["trend"] not in trend_words():
        raise ValueError(f"holds a trend that is not one of {', '.join(trend_words())}")
    cells.text(feature["feature"])
    for end in ("lower", "upper"):
        cells.number(feature[end])


def of_features(rows: Sequence[Mapping[str, Any]]) -> list[Markup | None]:
    """The content of each row about its features."""
    named = any(not f["feature"].isdecimal() for f in rows[0]["features"])
    if named or len(rows[0]["features"]) <= _FEW:
        shown = (joined([_table(r).markup(), *(t.markup() for t in _refuting(r))]) for r in rows)
        return [folded(f"{len(rows)} tables of features", *shown)]
    try:
        panels = [Panel(_title(r), None, _ends(r, "lower"), _ends(r, "upper")) for r in rows]
    except InvalidRequest as error:
        raise ValueError(str(error)) from error
    return [element("h3", "Signs and bounds of the derivatives"), markup(panels)]


def _table(row: Mapping[str, Any]) -> Table:
    """The region of each feature, if the file states it, with what is proved there."""
    stated = all("least" in f and "most" in f for f in row["features"])
    ends = ("from", "to") if stated else ()
    columns = ("feature", *ends, "trend", "smallest derivative", "largest")
    lines = [
        (
            f["feature"],
            *((cells.exact_number(f["least"]), cells.exact_number(f["most"])) if stated else ()),
            f["trend"],
            cells.lower(f["lower"]),
            cells.upper(f["upper"]),
        )
        for f in row["features"]
    ]
    return Table(_title(row), columns, (False, *(True for _ in ends), False, True, True), tuple(lines))


def _refuting(row: Mapping[str, Any]) -> list[Table]:
    """The two points that refute each violated feature: at one the output rises with it, at the other it falls."""
    points, found = row.get("points"), list[Table]()
    for f in row["features"]:
        if f["trend"] != Trend.VIOLATED.value or f.get("rising") is None or f.get("falling") is None:
            continue
        up, down = (_point(points, f[way], len(row["features"])) for way in ("rising", "falling"))
        lines = tuple(zip((str(g["feature"]) for g in row["features"]), up, down, strict=True))
        title = f"{_title(row)}: points that refute a trend with {f['feature']}"
        columns = ("feature", f"rises with {f['feature']}", f"falls with {f['feature']}")
        found.append(Table(title, columns, (False, True, True), lines))
    return found


def _point(points: Any, index: Any, count: int) -> list[str]:
    """The numbers of a point, with all their digits.  Raises ValueError if there is no such point."""
    at = int(cells.count(index))
    if not isinstance(points, list) or not 0 <= at < len(points) or not isinstance(points[at], list):
        raise ValueError("a violated feature names a point that the row does not have")
    if len(points[at]) != count:
        raise ValueError(f"a point has {len(points[at])} numbers for {count} features")
    return [cells.exact_number(v) for v in points[at]]


def _title(row: Mapping[str, Any]) -> str:
    return f"input {row['index']}, radius {cells.radius(row['radius'])}, class {cells.which(row['class'])}"


def _ends(row: Mapping[str, Any], end: str) -> np.ndarray[Any, Any]:
    return np.array([cells.number(f[end]) for f in row["features"]], dtype=np.float64)
