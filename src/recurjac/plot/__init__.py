"""Figures of results, as `matplotlib.figure.Figure`, which `figure.savefig(file)` writes.

entries(result)                  bounds of every entry: Jacobians, Hessians, ranges, monotonicity
constants(radii, results)        bounds of constants, curvatures or measures over the radius
radii(result)                    certified radii, and radii without stationary points
landscape(result)                an output over a region of one or two inputs, with its stationary points

They need matplotlib: `pip install '.[plot]'`.
"""

from __future__ import annotations

from recurjac.plot.maps import entries, landscape
from recurjac.plot.over import constants, radii

__all__ = ["constants", "entries", "landscape", "radii"]
