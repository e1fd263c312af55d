"""Charts as inline SVG in the colours of the page; curves also differ in marker and dash pattern."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import final

from recurjac.report.axes import Axis, linear_axis, log_axis
from recurjac.report.markup import Markup, element

COLOURS = 7
"""The number of colours in the style sheet, `c0` to `c6`."""
_MARKERS = ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", "M-4-4h8v8h-8z", "M0-5L5 4H-5z", "M0-5L5 0L0 5L-5 0z",
            "M0 5L5-4H-5z", "M-4-4L4 4M-4 4L4-4", "M-5 0H5M0-5V5")  # fmt: skip
_WIDTH, _HEIGHT = 560, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 12, 48
_BAR = 24
"""The height of one row of bars."""
_LETTER = 8
"""An upper bound of the width of a letter."""
BARS = 40
"""The largest number of rows of bars that are drawn."""


@final
@dataclass(frozen=True)
class Series:
    """Points (x, y) of one curve; those that a logarithmic axis cannot show are not drawn."""

    title: str
    points: tuple[tuple[float, float], ...]
    colour: int
    dashed: bool

    @property
    def shown(self) -> list[tuple[float, float]]:
        return sorted((x, y) for x, y in self.points if 0 < x < inf and 0 < y < inf)


@final
@dataclass(frozen=True)
class Span:
    """A bar from 0 to `low` and, if `high` is known, a thin line from there to `high`."""

    title: str
    low: float
    high: float | None


def curves(series: Sequence[Series], x_label: str, y_label: str, caption: str) -> Markup | None:
    """Log-log curves with their legend, or None if there is no point to draw."""
    points = [p for s in series for p in s.shown]
    if not points:
        return None
    x_axis = log_axis(min(x for x, _ in points), max(x for x, _ in points))
    y_axis = log_axis(min(y for _, y in points), max(y for _, y in points))
    parts = [*_x_axis(x_axis, x_label, _HEIGHT), *_y_axis(y_axis, y_label)]
    for s in series:
        at = [(_x(x_axis, x), _y(y_axis, y)) for x, y in s.shown]
        path = element("polyline", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in at), class_=_look(s))
        parts += [path, *(_marker(s.colour, a, b) for a, b in at)]
    drawing = _svg(_HEIGHT, f"{caption}: {', '.join(s.title for s in series)}", parts)
    return _figure(drawing, element("ul", *(_key(s) for s in series), class_="legend"), caption)


def bars(spans: Sequence[Span], x_label: str, caption: str) -> Markup | None:
    """One row for each span, with the legend in the caption, or None if there is no number to draw."""
    drawn = spans[:BARS]
    numbers = [v for s in drawn for v in (s.low, s.high) if v is not None and 1e-300 < v < inf]
    if not numbers:
        return None
    axis, height = linear_axis(max(numbers)), _TOP + _BAR * len(drawn) + _BOTTOM
    left = 16 + _LETTER * max(len(s.title) for s in drawn)
    parts = _x_axis(axis, x_label, height, left)
    for i, span in enumerate(drawn):
        parts += _bar(axis, span, _TOP + _BAR * (i + 0.5), left)
    more = f" The first {BARS} of {len(spans)} are drawn." if len(spans) > BARS else ""
    return _figure(_svg(height, caption, parts), None, caption + more)


def _bar(axis: Axis, span: Span, y: float, left: int) -> list[Markup]:
    """The row of one span; an arrow marks what extends to infinity."""
    end, low = _WIDTH - _RIGHT, _x(axis, max(0.0, min(span.low, axis.end)), left)
    parts = [
        _words(span.title, left - 8, y + 4, "end"),
        element("rect", x=f"{left}", y=f"{y - 5:.1f}", width=f"{low - left:.1f}", height="10", class_="bar"),
    ]
    if span.high is not None and span.high > span.low:
        high = _x(axis, min(span.high, axis.end), left)
        parts.append(element("line", x1=f"{low:.1f}", y1=f"{y:.1f}", x2=f"{high:.1f}", y2=f"{y:.1f}", class_="open"))
    if span.high is not None and 0 <= span.high < inf:
        parts.append(_marker(6, _x(axis, span.high, left), y))
    if inf in (span.low, span.high):
        parts.append(element("path", d="M0-5L8 0L0 5", transform=f"translate({end} {y:.1f})", class_="arrow"))
    return parts


def _x_axis(axis: Axis, label: str, height: int, left: int = _LEFT) -> list[Markup]:
    bottom = height - _BOTTOM
    parts = [_words(label, (left + _WIDTH - _RIGHT) / 2, height - 10, "middle")]
    for at, text in axis.ticks:
        x = left + at * (_WIDTH - left - _RIGHT)
        parts.append(element("line", x1=f"{x:.1f}", y1=f"{_TOP}", x2=f"{x:.1f}", y2=f"{bottom}", class_="grid"))
        parts.append(_words(text, x, bottom + 17, "middle"))
    return parts


def _y_axis(axis: Axis, label: str) -> list[Markup]:
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    turned = element("text", label, transform=f"translate(14 {middle}) rotate(-90)", text_anchor="middle")
    parts = [turned]
    for at, text in axis.ticks:
        y = _HEIGHT - _BOTTOM - at * (_HEIGHT - _BOTTOM - _TOP)
        line = element("line", x1=f"{_LEFT}", y1=f"{y:.1f}", x2=f"{_WIDTH - _RIGHT}", y2=f"{y:.1f}", class_="grid")
        parts += [line, _words(text, _LEFT - 6, y + 4, "end")]
    return parts


def _x(axis: Axis, value: float, left: int = _LEFT) -> float:
    return left + axis.place(value) * (_WIDTH - left - _RIGHT)


def _y(axis: Axis, value: float) -> float:
    return _HEIGHT - _BOTTOM - axis.place(value) * (_HEIGHT - _BOTTOM - _TOP)


def _words(text: str, x: float, y: float, anchor: str) -> Markup:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _marker(colour: int, x: float, y: float) -> Markup:
    look = f"marker c{colour % COLOURS}"
    return element("path", d=_MARKERS[colour % COLOURS], transform=f"translate({x:.1f} {y:.1f})", class_=look)


def _look(series: Series) -> str:
    return f"curve c{series.colour % COLOURS}" + (" dashed" if series.dashed else "")


def _key(series: Series) -> Markup:
    line = element("line", x1="0", y1="8", x2="36", y2="8", class_=_look(series))
    sample = element("svg", line, _marker(series.colour, 18, 8), viewBox="0 0 36 16", class_="key", aria_hidden="true")
    return element("li", sample, series.title)


def _svg(height: int, title: str, parts: Sequence[Markup]) -> Markup:
    return element(
        "svg", element("title", title), *parts, viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=title,
        class_="chart",
    )  # fmt: skip


def _figure(drawing: Markup, legend: Markup | None, caption: str) -> Markup:
    inside = [drawing] if legend is None else [drawing, legend]
    return element("figure", *inside, element("figcaption", caption))
