"""The features that outputs rise and fall with: counts, and a table if they are few or have names, else maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recurjac.applications.monotonicity import Trend
from recurjac.errors import InvalidRequest
from recurjac.report import cells
from recurjac.report.markup import Markup, element, folded
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
        return [folded(f"{len(rows)} tables of features", *(_table(r).markup() for r in rows))]
    try:
        panels = [Panel(_title(r), None, _ends(r, "lower"), _ends(r, "upper")) for r in rows]
    except InvalidRequest as error:
        raise ValueError(str(error)) from error
    return [element("h3", "Signs and bounds of the derivatives"), markup(panels)]


def _table(row: Mapping[str, Any]) -> Table:
    columns = ("feature", "trend", "smallest derivative", "largest")
    lines = [(f["feature"], f["trend"], cells.lower(f["lower"]), cells.upper(f["upper"])) for f in row["features"]]
    return Table(_title(row), columns, (False, False, True, True), tuple(lines))


def _title(row: Mapping[str, Any]) -> str:
    return f"input {row['index']}, radius {cells.radius(row['radius'])}, class {cells.which(row['class'])}"


def _ends(row: Mapping[str, Any], end: str) -> np.ndarray[Any, Any]:
    return np.array([cells.number(f[end]) for f in row["features"]], dtype=np.float64)
