"""Figures of results show the numbers of the results."""

from __future__ import annotations

import sys
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recurjac as rj
from recurjac import plot

pytest.importorskip("matplotlib")

NET = rj.load([([[1.0, -2.0], [0.5, 1.0], [0.0, 3.0]], None), ([[1.0, 1.0, -1.0], [2.0, 0.0, 1.0]], None)],
              activation="tanh")  # fmt: skip
X = torch.tensor([[0.1, 0.2], [0.5, -0.2]])


def drawn(axes: Any) -> np.ndarray[Any, Any]:
    """The numbers of a heat map."""
    return np.ma.filled(axes.images[0].get_array().astype(float), np.nan)


def test_entries_are_the_bounds(tmp_path: Path) -> None:
    bounds = rj.jacobian_bounds(NET, X, radius=0.2, method=rj.FastLip())
    figure = plot.entries(bounds, sample=1)
    lower, upper, gap = (drawn(a) for a in figure.axes[:3])
    assert np.array_equal(lower, bounds.lower[1].numpy())
    assert np.array_equal(upper, bounds.upper[1].numpy())
    assert np.array_equal(gap, upper - lower)
    known = int(((lower > 0) | (upper < 0)).sum())
    assert f"{known} of 4 signs known" in figure.get_suptitle()
    figure.savefig(tmp_path / "entries.png")
    assert (tmp_path / "entries.png").stat().st_size > 1000


def test_stages_infinite_bounds_and_images() -> None:
    ranges = rj.preactivation_bounds(NET, X, radius=0.1)
    assert drawn(plot.entries(ranges, stage=1).axes[0]).shape == (1, 3)
    assert drawn(plot.entries(ranges).axes[0]).shape == (1, 2)
    bounds = rj.jacobian_bounds(NET, X, radius=0.1, method=rj.FastLip())
    wide = replace(bounds, upper=torch.full_like(bounds.upper, inf))
    figure = plot.entries(wide)
    assert np.isnan(drawn(figure.axes[1])).all()
    assert np.isnan(drawn(figure.axes[2])).all()
    assert "4 without a finite bound" in figure.get_suptitle()
    image = replace(bounds, lower=torch.zeros(2, 1, 4, 5), upper=torch.zeros(2, 1, 4, 5))
    assert drawn(plot.entries(image).axes[2]).shape == (4, 5)
    plot.entries(rj.jacobian_bounds(NET, X, radius=0.0))


def test_constants_are_drawn_over_the_radius() -> None:
    radii = (0.0, 0.1, 1.0)
    found = [rj.lipschitz(NET, X, radius=r, method=rj.FastLip(), search=rj.Search(work=0)) for r in radii]
    lines = {line.get_label(): line for line in plot.constants(radii, found, sample=1).axes[0].lines}
    assert lines["certified"].get_xdata().tolist() == [0.1, 1.0]
    assert lines["certified"].get_ydata().tolist() == [float(f.upper[1]) for f in found[1:]]
    assert lines["attained"].get_ydata().tolist() == [float(f.lower[1]) for f in found[1:]]
    measures = [rj.matrix_measure(rj.jacobian_bounds(NET, X, radius=r), p=2) for r in radii]
    assert plot.constants(radii, measures).axes[0].get_ylabel() == "matrix measure"
    with pytest.raises(rj.InvalidRequest, match="3 radii and 2 results"):
        plot.constants(radii, found[:2])
    with pytest.raises(rj.InvalidRequest, match="of 2 kinds"):
        plot.constants(radii, [*found[:2], measures[0]])
    with pytest.raises(rj.InvalidRequest, match="no point is positive"):
        plot.constants([0.0], found[:1])
    with pytest.raises(rj.InvalidRequest, match="a sample that all have"):
        plot.constants(radii, found, sample=2)


def test_radii_are_bars() -> None:
    search = rj.RadiusSearch(intervals=2, attack=rj.Attack(2, 1, 2))
    found = rj.certified_radius(NET, X, proofs=(rj.MarginBound(),), search=search)
    (axes,) = plot.radii(found).axes
    assert [bar.get_height() for bar in axes.patches] == [float(r) for r in found.radius]
    free = rj.stationary_free_radius(rj.load([([[1.0, 0.0]], None)], activation=()), X, output=0)
    assert bool(free.everywhere.all())
    (axes,) = plot.radii(free).axes
    assert [text.get_text() for text in axes.texts] == ["∞", "∞"]


def test_notebooks_show_figures() -> None:
    figure = plot.entries(rj.jacobian_bounds(NET, X, radius=0.1))
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_landscape_marks_what_was_proved() -> None:
    one = rj.load([([[2.0]], None), ([[1.0]], None)], activation="sin")
    found = rj.stationary_points(one, rj.Box([[-2.0]], [[2.0]]), output=0)
    (axes,) = plot.landscape(found).axes
    curve, *marks = axes.lines
    assert np.allclose(curve.get_ydata(), np.sin(2 * curve.get_xdata()))
    assert sorted(float(m.get_xdata()[0]) for m in marks) == pytest.approx([-np.pi / 4, np.pi / 4])
    assert {m.get_label() for m in marks} == {"minimum", "maximum"}
    two = rj.load([([[2.0, 0.0], [0.0, 2.0]], None), ([[1.0, 1.0]], None)], activation="sin")
    found = rj.stationary_points(two, rj.Box([[-1.0, -1.0]], [[1.0, 1.0]]), output=0)
    axes = plot.landscape(found).axes[0]
    assert len(axes.lines) == len(found.points[0]) == 4
    with pytest.raises(rj.InvalidRequest, match="no sample 1; give one from 0 to 0"):
        plot.landscape(found, sample=1)
    point = rj.stationary_points(one, rj.LpBall([[0.0]], 0.0), output=0)
    with pytest.raises(rj.InvalidRequest, match="has a width in 0"):
        plot.landscape(point)
    with pytest.raises(rj.InvalidRequest, match="does not know its network"):
        plot.landscape(replace(found, provenance=replace(found.provenance, asked=None)))


def test_other_results_are_refused() -> None:
    constant = rj.lipschitz(NET, X, radius=0.1, method=rj.FastLip(), search=rj.Search(work=0))
    with pytest.raises(rj.InvalidRequest, match=r"a Lipschitz has no bounds of entries; use plot\.constants"):
        plot.entries(constant)
    bounds = rj.jacobian_bounds(NET, X, radius=0.1)
    with pytest.raises(rj.InvalidRequest, match="no sample 2"):
        plot.entries(bounds, sample=2)
    with pytest.raises(rj.InvalidRequest, match="has no stages"):
        plot.entries(bounds, stage=1)
    with pytest.raises(rj.InvalidRequest, match="no stage 3; give one from 1 to 2"):
        plot.entries(rj.preactivation_bounds(NET, X, radius=0.1), stage=3)


def test_without_matplotlib_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = rj.jacobian_bounds(NET, X, radius=0.1)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(rj.MissingDependency, match="pip install matplotlib"):
        plot.entries(bounds)
