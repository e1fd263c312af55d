"""Figures: log-log curves of bounds against the radius, readable in grey and by colour-blind eyes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import final

from recurjac.errors import InvalidRequest, MissingDependency

# Okabe and Ito's palette, in an order of falling contrast to white; each curve has its own marker, too
_COLOURS = ("#000000", "#E69F00", "#0072B2", "#56B4E9", "#CC79A7", "#009E73", "#D55E00")
_MARKERS = ("", "s", "o", "v", "^", "D", "x")


@final
@dataclass(frozen=True)
class Curve:
    """A named curve, one value for each abscissa."""

    title: str
    values: Sequence[float]
    dotted: bool


def check_format(path: Path) -> None:
    """Raise InvalidRequest for a format that a figure is not written in, MissingDependency without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency("plots need matplotlib; install it with: pip install 'recurjac[plot]'") from error
    if path.suffix.lstrip(".").lower() not in Figure().canvas.get_supported_filetypes():
        raise InvalidRequest(f"a plot cannot be written to {str(path)!r}; use a name that ends in .png, .svg or .pdf")


def log_log(path: Path, x: Sequence[float], curves: Sequence[Curve], x_label: str, y_label: str) -> None:
    """Write a log-log figure to `path` (its suffix chooses the format: .png, .svg, .pdf).

    Points that a logarithm cannot show (0, infinity) are left out.
    Raises MissingDependency without matplotlib, InvalidRequest for a format that it does not write or without a point.
    """
    check_format(path)
    from matplotlib.figure import Figure

    kept = [[(a, b) for a, b in zip(x, c.values, strict=True) if 0 < a < inf and 0 < b < inf] for c in curves]
    if not any(kept):
        raise InvalidRequest("no point is positive and finite, as a logarithmic plot needs; give other radii")
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for i, (curve, shown) in enumerate(zip(curves, kept, strict=True)):
        axes.plot(
            [a for a, _ in shown], [b for _, b in shown], label=curve.title, color=_COLOURS[i % len(_COLOURS)],
            marker=_MARKERS[i % len(_MARKERS)], markersize=5, fillstyle="none", linewidth=1.6,
            linestyle=":" if curve.dotted else "-",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(visible=True, which="major", linewidth=0.5, alpha=0.5)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
