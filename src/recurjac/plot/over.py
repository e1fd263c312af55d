"""Constants over the radius, and radii over the samples."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite
from typing import Any

from torch import Tensor

from recurjac.applications.contraction import MatrixMeasure
from recurjac.applications.landscape import StationaryFree
from recurjac.applications.robustness import CertifiedRadius
from recurjac.applications.second_derivatives import Curvature
from recurjac.errors import InvalidRequest, expect
from recurjac.lipschitz_constants import Lipschitz
from recurjac.plot.figures import Curve, blank, draw_log_log, finite_points

_Constant = Lipschitz | Curvature | MatrixMeasure
_NAMES: dict[type, str] = {Lipschitz: "Lipschitz constant", Curvature: "curvature", MatrixMeasure: "matrix measure"}


def constants(radii: Sequence[float], results: Sequence[_Constant], *, sample: int = 0) -> Any:
    """What is certified, and what is attained, over the radius, for one sample, as a Figure with logarithmic axes.

    radii, results: as many of both, all results of one kind; those of a batch have a sample each.
    Points that a logarithmic axis cannot show (0, negative numbers, infinity) are omitted.
    Raises MissingDependency without matplotlib; InvalidRequest for other results, and if nothing can be shown.
    """
    if not results or len(radii) != len(results):
        raise InvalidRequest(f"there are {len(radii)} radii and {len(results)} results; give as many, at least one")
    kinds = {type(result) for result in results}
    for result in results:
        expect(result, (Lipschitz, Curvature, MatrixMeasure), "a result", "give those of lipschitz or curvature")
        if len(kinds) > 1 or not 0 <= sample < len(result.upper):
            raise InvalidRequest(f"the results are of {len(kinds)} kinds; give one kind, and a sample that all have")
    curves = [Curve("certified", [float(r.upper[sample].detach()) for r in results], dotted=False)]
    lower = [r.lower for r in results if not isinstance(r, MatrixMeasure)]
    if lower:
        curves.append(Curve("attained", [float(v[sample]) for v in lower], dotted=True))
    if not any(finite_points(radii, c) for c in curves):
        raise InvalidRequest("no point is positive and finite, as a logarithmic plot needs; give other radii")
    figure, (axes,) = blank(1, width=6.4)
    draw_log_log(axes, radii, curves, "radius")
    axes.set_ylabel(_NAMES[kinds.pop()])
    axes.set_title(f"by {results[0].method}", fontsize="medium")
    axes.legend(frameon=False)
    return figure


def radii(result: CertifiedRadius | StationaryFree) -> Any:
    """The proved radius of each sample as a bar, with the distance of the nearest adversary where one is known.

    Infinite radii are marked ∞.  Raises MissingDependency without matplotlib, InvalidRequest for other results.
    """
    expect(result, (CertifiedRadius, StationaryFree), "the result", "give that of certified_radius")
    attacks = result.attack if isinstance(result, CertifiedRadius) else None
    heights = _numbers(result.radius)
    limits = [inf] * len(heights) if attacks is None else _numbers(attacks)
    tallest = max([v for v in (*heights, *limits) if isfinite(v)], default=0.0) or 1.0
    figure, (axes,) = blank(1, width=max(4.8, 0.45 * len(heights) + 2.4))
    axes.bar(range(len(heights)), [v if isfinite(v) else tallest for v in heights], 0.7, color="#56B4E9",
             edgecolor="#000000", linewidth=0.6, label="proved",
             hatch=["" if isfinite(v) else "//" for v in heights])  # fmt: skip
    for i, height in enumerate(heights):
        if not isfinite(height):
            axes.text(i, tallest, "∞", ha="center", va="bottom")
    known = [(i, v) for i, v in enumerate(limits) if isfinite(v)]
    if known:
        axes.hlines([v for _, v in known], [i - 0.35 for i, _ in known], [i + 0.35 for i, _ in known],
                    colors="#000000", linewidth=1.8, linestyles=":", label="nearest adversary found")  # fmt: skip
    axes.set_xticks(range(len(heights)))
    axes.set_xlabel("sample")
    axes.set_ylabel(f"l{result.p:g} radius")
    axes.set_ylim(0, 1.12 * tallest)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=2)
    return figure


def _numbers(values: Tensor) -> list[float]:
    return [float(v) for v in values.detach().cpu()]
