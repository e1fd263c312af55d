"""Maps: bounds of every entry, and an output over two inputs."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recurjac.applications.krawczyk import StationaryKind
from recurjac.applications.stationary import StationaryPoint, StationaryPoints
from recurjac.errors import InvalidRequest, expect
from recurjac.plot.figures import blank
from recurjac.problem import Problem
from recurjac.provenance import AbstractResult

Array = np.ndarray[Any, Any]
_GRID = 120
"""The number of points along each axis of a map of an output."""
_MARKERS = {StationaryKind.MINIMUM: "v", StationaryKind.MAXIMUM: "^", StationaryKind.SADDLE: "X"}
_FREE = "#D9D9D9"
"""The colour of entries without a finite bound."""


def entries(result: AbstractResult, *, sample: int = 0, stage: int | None = None) -> Any:
    """Heat maps of the lower bounds, the upper bounds and their difference for one sample, as a Figure.

    result: with `lower` and `upper` of every entry, such as `JacobianBounds`, or of every stage, such as
    `PreactivationBounds`, of which `stage` (from 1, by default the last) is drawn.
    Rows are the first axis, such as the outputs, columns all others; one image is drawn as such.  Entries without a
    finite bound are grey, and counted.
    Raises MissingDependency without matplotlib; InvalidRequest for results without entries, and for samples and stages
    that do not exist.
    """
    lower, upper = (_matrix(_field(result, name, stage), sample) for name in ("lower", "upper"))
    finite = np.isfinite(lower) & np.isfinite(upper)
    gap = np.where(finite, upper - np.where(finite, lower, 0.0), inf)
    ends = np.concatenate([lower[np.isfinite(lower)], upper[np.isfinite(upper)]])
    size = float(np.abs(ends).max()) if ends.size and np.abs(ends).max() > 0 else 1.0
    figure, axes = blank(3, width=3.6)
    _heat(figure, axes[0], lower, "lower bound", "RdBu_r", -size, size)
    _heat(figure, axes[1], upper, "upper bound", "RdBu_r", -size, size)
    most = float(gap[finite].max()) if finite.any() else 1.0
    _heat(figure, axes[2], gap, "difference", "Greys", 0.0, most or 1.0)
    signs = int(((lower > 0) | (upper < 0)).sum())
    infinite = f", {int((~finite).sum())} without a finite bound" if not finite.all() else ""
    figure.suptitle(f"{type(result).__name__} by {result.method}: {signs} of {lower.size} signs known{infinite}",
                    fontsize="medium")  # fmt: skip
    return figure


def landscape(result: StationaryPoints, *, sample: int = 0) -> Any:
    """The output over the region of one sample, with the stationary points that were proved, as a Figure.

    A point is alone in the box around it.  The region must be bounded, with a width in one or two inputs.  The map is
    sampled, and proves nothing.
    Raises MissingDependency without matplotlib; InvalidRequest for other results and regions.
    """
    expect(result, StationaryPoints, "the result", "give that of stationary_points")
    problem = result.provenance.asked
    if not isinstance(problem, Problem):
        raise InvalidRequest("the result does not know its network any more; give it as stationary_points returned it")
    _check_sample(sample, len(result.points))
    box = problem.samples()[sample].bound.box(problem.arithmetic)
    low, high = box.lower[0].flatten().cpu(), box.upper[0].flatten().cpu()
    free = [i for i in range(len(low)) if float(low[i]) < float(high[i])]
    if not 1 <= len(free) <= 2 or not bool((low.isfinite() & high.isfinite()).all()):
        raise InvalidRequest(
            f"the region is bounded in {int((low.isfinite() & high.isfinite()).sum())} of {len(low)} inputs and has a "
            f"width in {len(free)}; a landscape is drawn of a bounded region with a width in one or two"
        )
    figure, (axes,) = blank(1, width=6.0)
    lines = [torch.linspace(float(low[i]), float(high[i]), _GRID, dtype=torch.float64) for i in free]
    grid = torch.meshgrid(*lines, indexing="ij")
    x = low.double().repeat(grid[0].numel(), 1)
    for i, values in zip(free, grid, strict=True):
        x[:, i] = values.flatten()
    network = problem.network
    with torch.no_grad():
        y = network(x.to(network.device, network.dtype).reshape(-1, *network.input_shape)).flatten().cpu()
    if len(free) == 1:
        axes.plot(lines[0].numpy(), y.numpy(), color="#000000", linewidth=1.6)
    else:
        filled = axes.contourf(*(v.numpy() for v in lines), y.reshape(_GRID, _GRID).numpy().T, levels=24, cmap="Greys")
        figure.colorbar(filled, ax=axes, label="output")
    for point in result.points[sample]:
        _mark(axes, point, free, network)
    axes.set_xlabel(f"input {free[0]}")
    axes.set_ylabel("output" if len(free) == 1 else f"input {free[1]}")
    axes.set_title(f"output {result.output}: {len(result.points[sample])} stationary points proved", fontsize="medium")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(*_once(axes), frameon=True, fontsize="small")
    return figure


def _field(result: AbstractResult, name: str, stage: int | None) -> Tensor:
    """The lower or upper bounds of every entry (batch, …)."""
    value = getattr(result, name, None)
    if isinstance(value, tuple) and value:
        k = len(value) if stage is None else stage
        if not 1 <= k <= len(value):
            raise InvalidRequest(f"there is no stage {stage}; give one from 1 to {len(value)}")
        value = value[k - 1]
    elif stage is not None:
        raise InvalidRequest(f"a {type(result).__name__} has no stages; leave stage={stage} out")
    if not isinstance(value, Tensor) or value.dim() < 2:
        raise InvalidRequest(
            f"a {type(result).__name__} has no bounds of entries; use plot.constants, plot.radii or plot.landscape"
        )
    return value.detach().cpu().double()


def _check_sample(sample: int, batch: int) -> None:
    if not 0 <= sample < batch:
        raise InvalidRequest(f"there is no sample {sample}; give one from 0 to {batch - 1}")


def _matrix(bounds: Tensor, sample: int) -> Array:
    """The bounds of one sample as a matrix: an image as it is, otherwise the first axis against all others."""
    _check_sample(sample, len(bounds))
    shape = [n for n in bounds.shape[1:] if n > 1]
    one: Array = bounds[sample].numpy()
    if len(shape) < 2:
        return one.reshape(1, -1)
    return one.reshape(shape[0], -1)


def _heat(figure: Any, axes: Any, values: Array, title: str, colours: str, least: float, most: float) -> None:
    from matplotlib import colormaps

    cmap = colormaps[colours].with_extremes(bad=_FREE)
    shown = np.ma.masked_invalid(values)
    image = axes.imshow(shown, cmap=cmap, vmin=least, vmax=most, aspect="auto", interpolation="nearest")
    axes.set_title(title, fontsize="medium")
    for axis, count in ((axes.xaxis, values.shape[1]), (axes.yaxis, values.shape[0])):
        if count <= 12:
            axis.set_ticks(range(count))
    figure.colorbar(image, ax=axes, shrink=0.85)


def _mark(axes: Any, point: StationaryPoint, free: list[int], network: Any) -> None:
    """A marker at the point; the box in which it is alone, as a rectangle or an interval."""
    from matplotlib.patches import Rectangle

    at, low, high = (t.detach().flatten().cpu() for t in (point.point, point.box.lower, point.box.upper))
    x = float(at[free[0]])
    if len(free) == 2:
        y = float(at[free[1]])
        corner = (float(low[free[0]]), float(low[free[1]]))
        sizes = (float(high[i] - low[i]) for i in free)
        axes.add_patch(Rectangle(corner, *sizes, fill=False, edgecolor="#0072B2", linewidth=1.0))
    else:
        with torch.no_grad():
            y = float(network(point.point.detach().unsqueeze(0).to(network.device, network.dtype)).flatten()[0])
        axes.axvspan(float(low[free[0]]), float(high[free[0]]), color="#56B4E9", alpha=0.3, linewidth=0)
    axes.plot([x], [y], linestyle="", marker=_MARKERS.get(point.kind, "o"), color="#E69F00", markersize=9,
              markeredgecolor="#000000", label=point.kind.value)  # fmt: skip


def _once(axes: Any) -> tuple[list[Any], list[str]]:
    """The handles and labels of a legend, each label once."""
    found = {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    return list(found.values()), list(found)
