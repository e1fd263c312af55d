"""Figures: curves and bars of bounds, readable in greyscale and by colour-blind readers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from math import inf
from pathlib import Path
from typing import Any, final

from recurjac.errors import InvalidRequest, MissingDependency

# Okabe and Ito's palette, in order of decreasing contrast to white; each curve also has its own marker
_COLOURS = ("#000000", "#E69F00", "#0072B2", "#56B4E9", "#CC79A7", "#009E73", "#D55E00")
_MARKERS = ("", "s", "o", "v", "^", "D", "x")


_HATCHES = ("//", "", "..", "xx")
_LIMIT = "nearest adversary found"
_ACROSS = 3
"""The number of panels in a row."""


@final
@dataclass(frozen=True)
class Curve:
    """A named curve with one value for each abscissa."""

    title: str
    values: Sequence[float]
    dotted: bool


@final
@dataclass(frozen=True)
class Panel:
    """Curves over the same abscissae."""

    title: str
    x: Sequence[float]
    curves: Sequence[Curve]


@final
@dataclass(frozen=True)
class BarPanel:
    """Bars over `groups`: the height for every name in each group, and a limit for each group."""

    title: str
    groups: Sequence[str]
    bars: Sequence[Sequence[float]]
    limits: Sequence[float]


def blank(count: int, width: float) -> tuple[Any, list[Any]]:
    """A figure with `count` axes beside each other, each so many inches wide.  Raises MissingDependency."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency("plots need matplotlib; install it with: pip install matplotlib") from error
    figure: Any = Figure(figsize=(width * count, 3.6 if count > 1 else 4.2), layout="constrained")
    figure._repr_png_ = partial(_as_png, figure)  # notebooks show it, also where pyplot has not told them how
    return figure, [figure.add_subplot(1, count, i + 1) for i in range(count)]


def _as_png(figure: Any) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def check_format(path: Path) -> None:
    """Raise InvalidRequest for a format that figures cannot be written in, MissingDependency without matplotlib."""
    figure, _ = blank(1, width=1.0)
    if path.suffix.lstrip(".").lower() not in figure.canvas.get_supported_filetypes():
        raise InvalidRequest(f"a plot cannot be written to {str(path)!r}; use a name that ends in .png, .svg or .pdf")


def log_log(path: Path, x: Sequence[float], curves: Sequence[Curve], x_label: str, y_label: str) -> None:
    """Write a log-log figure to `path` (the suffix selects the format: .png, .svg, .pdf).

    Points that a logarithmic axis cannot show (0, infinity) are omitted.
    Raises MissingDependency without matplotlib, InvalidRequest for an unsupported format or if no point remains.
    """
    check_format(path)
    from matplotlib.figure import Figure

    if not any(finite_points(x, c) for c in curves):
        raise InvalidRequest("no point is positive and finite, as a logarithmic plot needs; give other radii")
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.add_subplot()
    draw_log_log(axes, x, curves, x_label)
    axes.set_ylabel(y_label)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def log_log_panels(paths: Sequence[Path], panels: Sequence[Panel], x_label: str, y_label: str) -> None:
    """Write panels of log-log curves with one legend; a panel without any point says so.

    Raises MissingDependency without matplotlib, InvalidRequest for an unsupported format.
    """
    figure, axes = _grid(paths, len(panels))
    for i, (panel, ax) in enumerate(zip(panels, axes, strict=True)):
        ax.set_title(panel.title, fontsize="medium")
        if any(finite_points(panel.x, c) for c in panel.curves):
            draw_log_log(ax, panel.x, panel.curves, x_label)
        else:
            ax.text(0.5, 0.5, "no value", transform=ax.transAxes, ha="center")
        ax.set_ylabel(y_label if i % _ACROSS == 0 else "")
    _legend(figure, axes, [c.title for panel in panels for c in panel.curves])
    _save(figure, paths)


def depth_panels(
    paths: Sequence[Path], panels: Sequence[tuple[Panel, Sequence[float]]], x_label: str, y_label: str
) -> None:
    """Write curves on a logarithmic axis over integers; the share of infinite values is written above each integer.

    Raises MissingDependency without matplotlib, InvalidRequest for an unsupported format.
    """
    figure, axes = _grid(paths, len(panels))
    for i, ((panel, shares), ax) in enumerate(zip(panels, axes, strict=True)):
        ax.set_title(panel.title, fontsize="medium", pad=16)
        for k, curve in enumerate(panel.curves):
            _curve(ax, k + 1, curve, finite_points(panel.x, curve))
        ax.set_yscale("log")
        ax.set_xticks(list(panel.x))
        ax.set_xlim(min(panel.x) - 0.5, max(panel.x) + 0.5)
        ax.set_xlabel(x_label)
        ax.grid(visible=True, which="major", linewidth=0.5, alpha=0.5)
        for x, share in zip(panel.x, shares, strict=True):
            if share > 0:
                ax.text(x, 1.01, f"{100 * share:.0f} % ∞", transform=ax.get_xaxis_transform(), ha="center", va="bottom",
                        fontsize="x-small")  # fmt: skip
        ax.set_ylabel(y_label if i % _ACROSS == 0 else "")
    _legend(figure, axes, [c.title for panel, _ in panels for c in panel.curves])
    _save(figure, paths)


def bar_panels(paths: Sequence[Path], panels: Sequence[BarPanel], names: Sequence[str], y_label: str) -> None:
    """Write groups of bars, one bar per name, with a dash at the limit of each group where that is finite.

    Raises MissingDependency without matplotlib, InvalidRequest for an unsupported format.
    """
    figure, axes = _grid(paths, len(panels))
    width = 0.8 / len(names)
    for i, (panel, ax) in enumerate(zip(panels, axes, strict=True)):
        ax.set_title(panel.title, fontsize="medium")
        places = range(len(panel.groups))
        for k, (name, heights) in enumerate(zip(names, panel.bars, strict=True)):
            shown = [h if 0 <= h < inf else 0.0 for h in heights]
            ax.bar([x + (k + 0.5) * width - 0.4 for x in places], shown, 0.92 * width, label=name,
                   color=_COLOURS[(k + 1) % len(_COLOURS)], edgecolor="black", linewidth=0.5,
                   hatch=_HATCHES[k % len(_HATCHES)])  # fmt: skip
        known = [(x, limit) for x, limit in zip(places, panel.limits, strict=True) if 0 < limit < inf]
        ax.hlines([y for _, y in known], [x - 0.4 for x, _ in known], [x + 0.4 for x, _ in known],
                  colors=_COLOURS[0], linewidth=1.6, linestyles=":", label=_LIMIT)  # fmt: skip
        ax.set_xticks(list(places), list(panel.groups))
        ax.grid(visible=True, axis="y", linewidth=0.5, alpha=0.5)
        ax.set_axisbelow(True)
        ax.set_ylabel(y_label if i % 2 == 0 or len(panels) <= _ACROSS else "")
    _legend(figure, axes, [*names, _LIMIT])
    _save(figure, paths)


def finite_points(x: Sequence[float], curve: Curve) -> list[tuple[float, float]]:
    """The points that a logarithmic axis can show."""
    return [(a, b) for a, b in zip(x, curve.values, strict=True) if 0 < a < inf and 0 < b < inf]


def draw_log_log(axes: Any, x: Sequence[float], curves: Sequence[Curve], x_label: str) -> None:
    """Draw curves on two logarithmic axes."""
    for i, curve in enumerate(curves):
        _curve(axes, i, curve, finite_points(x, curve))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(x_label)
    axes.grid(visible=True, which="major", linewidth=0.5, alpha=0.5)


def _curve(axes: Any, i: int, curve: Curve, shown: Sequence[tuple[float, float]]) -> None:
    """Draw curve number i, in its own colour and with its own marker."""
    axes.plot(
        [a for a, _ in shown], [b for _, b in shown], label=curve.title, color=_COLOURS[i % len(_COLOURS)],
        marker=_MARKERS[i % len(_MARKERS)], markersize=5, fillstyle="none", linewidth=1.6,
        linestyle=":" if curve.dotted else "-",
    )  # fmt: skip


def _grid(paths: Sequence[Path], count: int) -> tuple[Any, list[Any]]:
    """A figure of `count` panels, in rows of at most three; four panels are arranged two by two."""
    for path in paths:
        check_format(path)
    from matplotlib.figure import Figure

    across = 2 if count == 4 else min(count, _ACROSS)
    down = -(-count // across)
    figure = Figure(figsize=(max(7.2, 4.4 * across), 3.6 * down + 1.0), layout="constrained")
    return figure, [figure.add_subplot(down, across, i + 1) for i in range(count)]


def _legend(figure: Any, axes: Sequence[Any], labels: Sequence[str]) -> None:
    """One legend for all panels, below them."""
    found = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    shown = [label for label in dict.fromkeys(labels) if label in found]
    columns = len(shown) if len(shown) <= 5 else 4
    handles = [found[label] for label in shown]
    figure.legend(handles, shown, loc="outside lower center", ncols=columns, frameon=False)


def _save(figure: Any, paths: Sequence[Path]) -> None:
    """Write the figure to every path; the same figure gives the same bytes."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "recurjac"}):
        for path in paths:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(path, dpi=150, metadata=metadata)
