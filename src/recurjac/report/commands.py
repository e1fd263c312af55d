"""The results of each command, as a table and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, TypeAlias, final

from recurjac.report import cells
from recurjac.report.charts import Series, Span, bars, curves
from recurjac.report.markup import Markup
from recurjac.report.trends import of_features, trend_count, trend_words

Row: TypeAlias = Mapping[str, Any]
"""One result, with the keys of the JSON format."""


@final
@dataclass(frozen=True)
class Column:
    """The values of one key, and how they are formatted."""

    title: str
    key: str
    cell: cells.Cell
    numeric: bool = True


@final
@dataclass(frozen=True)
class Command:
    """The presentation of a command's results: title, columns, figures; `bounds`: whether they state `rigorous`."""

    title: str
    columns: tuple[Column, ...]
    figures: Callable[[Sequence[Row]], list[Markup | None]] | None = None
    bounds: bool = True


_INDEX = Column("input", "index", cells.count)
_RADIUS = Column("radius", "radius", cells.radius)
_CLASS = Column("class", "class", cells.which)
_METHOD = Column("method", "method", cells.text, numeric=False)
_SECONDS = Column("seconds", "seconds", cells.seconds)
_CURVES = 6
"""Pairs of curves in one chart."""


def _lipschitz(rows: Sequence[Row]) -> list[Markup | None]:
    """Curves against the radius if an input has several radii, otherwise bars."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((str(row["index"]), cells.which(row["class"])), []).append(row)
    drawn = {k: g for k, g in groups.items() if len({_drawn_radius(r) for r in g} - {None}) > 1}
    if not drawn:
        spans = [Span(_who(r), cells.number(r["lower"]), cells.number(r["upper"])) for r in rows]
        caption = "Lipschitz constants of each input and radius: attained (bar), certified upper bound (cross)."
        return [bars(spans, "Lipschitz constant", caption)]
    series = []
    for i, ((index, target), group) in enumerate(list(drawn.items())[:_CURVES]):
        who = f"input {index}" if target == "all" else f"input {index}, class {target}"
        series.append(_series(f"{who}: certified", group, "upper", i, dashed=False))
        series.append(_series(f"{who}: attained", group, "lower", i, dashed=True))
    more = f" The first {_CURVES} of {len(drawn)} are drawn." if len(drawn) > _CURVES else ""
    caption = "Lipschitz constants: certified upper bounds and the largest attained." + more
    return [curves(series, "radius of the ball", "Lipschitz constant", caption)]


def _who(row: Row) -> str:
    """The input of a row, with its class and radius if it has them."""
    target = "" if row["class"] is None else f", class {cells.which(row['class'])}"
    return f"{row['index']}{target}, {cells.radius(row['radius'])}"


def _demo(rows: Sequence[Row]) -> list[Markup | None]:
    methods = dict.fromkeys(str(r["method"]) for r in rows)
    of = {m: [r for r in rows if r["method"] == m] for m in methods}
    series = [_series(m, group, "upper", i, dashed=False) for i, (m, group) in enumerate(of.items())]
    series += [_series("attained", group, "lower", len(of), dashed=True) for group in list(of.values())[:1]]
    caption = "Certified upper bounds of every method, and the largest attained constant."
    return [curves(series, "radius of the l∞ ball", "local l∞ Lipschitz constant", caption)]


def _certify(rows: Sequence[Row]) -> list[Markup | None]:
    spans = [Span(f"input {r['index']}", cells.number(r["radius"]), cells.number(r["attack"])) for r in rows]
    caption = "Radii: certified (bar) and the nearest adversary found (cross); the true distance lies between them."
    return [bars(spans, "distance", caption)]


def _landscape(rows: Sequence[Row]) -> list[Markup | None]:
    spans = [Span(f"{r['index']}, class {r['class']}", cells.number(r["radius"]), None) for r in rows]
    return [bars(spans, "radius", "Radii around each input within which the output has no stationary point (proved).")]


def _series(title: str, rows: Sequence[Row], key: str, colour: int, dashed: bool) -> Series:
    points = [(r["radius"], cells.number(r[key])) for r in rows if r["radius"] is not None]
    return Series(title, tuple((cells.number(x), y) for x, y in points), colour, dashed)


def _drawn_radius(row: Row) -> float | None:
    radius = 0.0 if row["radius"] is None else cells.number(row["radius"])
    return radius if 0 < radius < inf else None


COMMANDS: Mapping[str, Command] = {
    "lipschitz": Command("Lipschitz constants", (
        _INDEX, _RADIUS, _CLASS, Column("attained", "lower", cells.lower), Column("certified", "upper", cells.upper),
        _METHOD, _SECONDS), _lipschitz),
    "demo": Command("Lipschitz constants of the bundled digits network", (
        _RADIUS, _METHOD, Column("attained", "lower", cells.lower), Column("certified", "upper", cells.upper),
        Column("digit", "index", cells.count), _SECONDS), _demo),
    "certify": Command("Certified radii", (
        _INDEX, Column("label", "label", cells.count), Column("target", "target", cells.count),
        Column("certified radius", "radius", cells.lower), Column("nearest adversary", "attack", cells.upper),
        Column("by integral", "by_integral", cells.lower_if_any), Column("by margin", "by_margin", cells.lower_if_any),
        Column("margin at the input", "margin", cells.plain), _METHOD,
        Column("remark", "remark", cells.text, numeric=False), _SECONDS), _certify),
    "landscape": Command("Balls without a stationary point", (
        _INDEX, _CLASS, Column("radius", "radius", cells.lower),
        Column("witness", "witness", cells.count_if_any), Column("its smallest derivative", "lower", cells.lower),
        Column("its largest", "upper", cells.upper), _METHOD, _SECONDS), _landscape),
    "jacobian": Command("Bounds of the Jacobian", (
        _INDEX, _RADIUS, _CLASS, Column("smallest", "smallest", cells.lower), Column("largest", "largest", cells.upper),
        Column("widest", "widest", cells.upper), Column("sign known", "sign_known", cells.percent), _METHOD, _SECONDS)),
    "monotone": Command("Features with which each output rises or falls", (
        _INDEX, _RADIUS, _CLASS, *(Column(w, "features", trend_count(w)) for w in trend_words()), _METHOD, _SECONDS),
        of_features),
    "hessian": Command("Bounds of second derivatives", (
        _INDEX, _RADIUS, _CLASS, Column("quantity", "quantity", cells.text, numeric=False),
        Column("smallest", "lower", cells.lower), Column("largest", "upper", cells.upper),
        Column("widest", "widest", cells.upper), _METHOD, _SECONDS)),
    "contraction": Command("Matrix measures of the Jacobian", (
        _INDEX, _RADIUS, Column("measure", "measure", cells.norm), Column("at most", "upper", cells.upper),
        Column("contracting", "contracting", cells.proved, numeric=False), _METHOD, _SECONDS)),
    "inspect": Command("Stages of the network", (
        Column("stage", "stage", cells.count), Column("reads", "reads", cells.text, numeric=False),
        Column("operators", "operators", cells.text, numeric=False),
        Column("activation", "activation", cells.text, numeric=False),
        Column("shape", "shape", cells.text, numeric=False), Column("parameters", "parameters", cells.count),
        Column("multiply-adds", "multiply_adds", cells.count)), bounds=False),
}  # fmt: skip
"""Every command whose results a page can show."""
