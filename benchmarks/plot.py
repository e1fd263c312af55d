"""The figure of a run: growth curves above, bars of units below."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report import Growth, Report, Row
from recurjac.plot.figures import check_format

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.gridspec import GridSpec

COLOURS = {
    ("Chords", "Fast"): "#56B4E9",
    ("Chords", "Rigorous"): "#0072B2",
    ("RecurJac-B", "Fast"): "#E69F00",
    ("RecurJac-B", "Rigorous"): "#D55E00",
    ("textbook", "NumPy"): "#000000",
}
MARKERS = {"Fast": "o", "Rigorous": "s", "NumPy": "x"}
ACROSS = 3


def check(path: Path) -> None:
    """Raise unless a figure can be written to `path`."""
    check_format(path)


def draw(path: Path, run: Report) -> None:
    """Write the figure of a run to `path`; folders are created."""
    from matplotlib.figure import Figure

    curves = [list(part) for _, part in groupby((r for r in run.rows if r.table == "growth"), lambda r: r.variable)]
    bars = [r for r in run.rows if r.table != "growth"]
    down = -(-len(curves) // ACROSS)
    figure = Figure(figsize=(11, 3.2 * down + (4.2 if bars else 0)), layout="constrained")
    grid: GridSpec = figure.add_gridspec(down + bool(bars), ACROSS, height_ratios=[1] * down + [1.4] * bool(bars))
    for i, rows in enumerate(curves):
        _curves(figure.add_subplot(grid[i // ACROSS, i % ACROSS]), rows, run.growth)
    if bars:
        _bars(figure.add_subplot(grid[down, :]), bars)
    title = f"recurjac {run.recurjac}, {run.commit[:12] if run.commit else 'no commit'}, torch {run.torch}"
    figure.suptitle(f"{title}; one unit: one 800×800 float64 product, {1000 * run.unit_seconds:.1f} ms", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _curves(axes: Axes, rows: Sequence[Row], fits: Sequence[Growth]) -> None:
    """Units against the varied size, log-log; the legend shows the fitted exponents."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    variable = rows[0].variable
    for name in dict.fromkeys((r.method, r.arithmetic) for r in rows):
        mine = [r for r in rows if (r.method, r.arithmetic) == name]
        fit = [g.exponent for g in fits if (g.variable, g.method, g.arithmetic) == (variable, *name)]
        label = " ".join(name) + (f": {fit[0]:.2f}" if fit else "")
        axes.plot(
            [r.value for r in mine], [r.units for r in mine], label=label, color=COLOURS[name], marker=MARKERS[name[1]],
            markersize=4, linewidth=1.3,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    values = sorted({r.value for r in rows})
    axes.set_xticks(values, [f"{v:g}" for v in values])
    axes.minorticks_off()
    axes.set_xlabel(variable)
    axes.set_ylabel("units")
    axes.grid(visible=True, linewidth=0.5, alpha=0.5)
    axes.legend(frameon=False, fontsize=7, loc="lower left", bbox_to_anchor=(0, 1))


def _bars(axes: Axes, rows: Sequence[Row]) -> None:
    """One group of bars for each network, radius, number of outputs and of threads; white ticks are floors."""
    groups = [list(part) for _, part in groupby(rows, _group)]
    names = list(dict.fromkeys((r.method, r.arithmetic) for r in rows))
    width = 0.8 / len(names)
    for j, name in enumerate(names):
        found = [(i, r) for i, group in enumerate(groups) for r in group if (r.method, r.arithmetic) == name]
        where = [i + (j - (len(names) - 1) / 2) * width for i, _ in found]
        axes.bar(where, [r.units for _, r in found], width, label=" ".join(name), color=COLOURS[name])
        floors = [r.floor_seconds / r.unit_seconds for _, r in found]
        axes.scatter(where, floors, marker="_", s=60, color="white", zorder=3, linewidth=1.6)
    axes.set_yscale("log")
    axes.set_ylabel("units (white: floor)")
    axes.set_xticks(range(len(groups)), [_group(group[0]) for group in groups], fontsize=7)
    axes.grid(visible=True, axis="y", linewidth=0.5, alpha=0.5)
    axes.legend(frameon=False, fontsize=7, ncols=len(names))


def _group(row: Row) -> str:
    outputs = "1 output" if row.outputs == 1 else f"{row.outputs} outputs"
    threads = "1 thread" if row.threads == 1 else f"{row.threads} threads"
    return f"{row.table.split(',')[0]}\nradius {row.radius:g}\n{outputs}\n{threads}"
