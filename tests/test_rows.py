"""Every result as arrays, rows, a DataFrame, JSON and HTML."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from math import inf
from typing import Any

import numpy as np
import pytest
import torch

import recurjac as rj
from recurjac.provenance import AbstractResult
from recurjac.rows import gap
from tests.helpers import concrete_classes

torch.manual_seed(0)
LAYERS = [(torch.randn(3, 3, dtype=torch.float64), None), (torch.randn(3, 3, dtype=torch.float64), torch.zeros(3))]
NET = rj.load(LAYERS, activation="tanh")
BALL = rj.LpBall(torch.tensor([[0.1, 0.2, 0.3], [0.5, -0.2, 0.0], [0.0, 0.0, 0.0]]), 0.1)
"""As many samples as inputs and outputs, so that shapes agree by chance."""
RESULTS: dict[str, Callable[[], Any]] = {
    "Lipschitz": lambda: rj.lipschitz(NET, BALL, method=rj.FastLip(), search=rj.Search(work=0)),
    "JacobianBounds": lambda: rj.jacobian_bounds(NET, BALL, method=rj.FastLip()),
    "PreactivationBounds": lambda: rj.preactivation_bounds(NET, BALL),
    "Monotonicity": lambda: rj.monotone(NET, BALL, method=rj.FastLip(), limit=rj.Limit(parts=1)),
    "DirectionalBounds": lambda: rj.directional_bounds(NET, BALL, direction=torch.eye(3)),
    "HessianBounds": lambda: rj.hessian_bounds(NET, BALL, output=1),
    "ResidualBounds": lambda: rj.residual_bounds(NET, BALL, residuals=rj.laplacian(0, 1)),
    "SecondDerivatives": lambda: rj.second_derivative(NET, BALL, directions=torch.eye(3)),
    "Curvature": lambda: rj.curvature(NET, BALL),
    "MatrixMeasure": lambda: rj.matrix_measure(rj.jacobian_bounds(NET, BALL), p=2, weights=torch.ones(3)),
    "DeployedError": lambda: rj.deployed_error(NET, BALL),
    "StationaryFree": lambda: rj.stationary_free_radius(NET, BALL, output=0, method=rj.FastLip()),
    "CertifiedRadius": lambda: rj.certified_radius(
        NET, BALL, proofs=(rj.MarginBound(),), search=rj.RadiusSearch(intervals=2, attack=rj.Attack(2, 1, 1))
    ),
    "StationaryPoints": lambda: rj.stationary_points(
        rj.load([(torch.eye(1), None), ([[1.0]], None)], activation="sin"), rj.LpBall([[1.5], [0.0]], 0.3), output=0
    ),
}


def test_every_class_of_results_is_tried() -> None:
    ours = {c.__name__ for c in concrete_classes(AbstractResult) if c.__module__.startswith("recurjac.")}
    assert ours - {"AbstractResult"} == set(RESULTS)


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_arrays_rows_and_html(name: str) -> None:
    result = RESULTS[name]()
    assert type(result).__name__ == name
    arrays, rows = result.numpy(), result.rows()
    for field in fields(result):
        value = getattr(result, field.name)
        if isinstance(value, torch.Tensor):
            assert np.array_equal(arrays[field.name], value.detach().numpy())
    assert rows
    assert all(row.keys() == rows[0].keys() for row in rows)
    assert all(isinstance(v, str | int | float | list) for row in rows for v in row.values())
    if "upper" in arrays and "radius" not in arrays:
        assert len(rows) == arrays["upper"].size
        assert [row["upper"] for row in rows] == arrays["upper"].flatten().tolist()
    assert not {"direction", "weights", "witness_1", "provenance"} & rows[0].keys()
    html = result._repr_html_()
    assert html.count("<tr>") == 1 + min(len(rows), 12)
    assert ("more rows" in html) == (len(rows) > 12)
    assert "<script" not in html
    assert result.provenance.method in html
    assert json.loads(result.to_json())["provenance"]["method"] == result.method


def test_rows_say_where_they_are() -> None:
    bounds = rj.jacobian_bounds(NET, BALL)
    row = next(r for r in bounds.rows() if (r["sample"], r["axis_1"], r["axis_2"]) == (1, 2, 0))
    assert (row["lower"], row["upper"]) == (float(bounds.lower[1, 2, 0]), float(bounds.upper[1, 2, 0]))
    stages = rj.preactivation_bounds(NET, BALL)
    row = next(r for r in stages.rows() if (r["sample"], r["stage"], r["axis_1"]) == (2, 1, 1))
    assert row["lower"] == float(stages.lower[0][2, 1])
    assert gap(stages) == max(float((u - low).max()) for low, u in zip(stages.lower, stages.upper, strict=True))


def test_infinite_bounds_and_nothing_found() -> None:
    everywhere = rj.lipschitz(
        rj.load([([[1.0]], None), ([[1.0]], None)], activation="square"),
        rj.LpBall([[0.0]], inf),
        method=rj.FastLip(),
        search=rj.Search(work=0),
    )
    assert everywhere.rows()[0]["upper"] == inf
    assert gap(everywhere) == inf
    assert "difference of the bounds: inf" in everywhere._repr_html_()
    point = rj.jacobian_bounds(NET, rj.LpBall([0.0, 0.0, 0.0], 0.0))
    assert gap(point) == pytest.approx(0, abs=1e-12)
    none = rj.stationary_points(rj.load([([[1.0]], None)], activation=()), rj.LpBall([[0.0]], 1.0), output=0)
    assert none.rows() == []
    assert "<table>" not in none._repr_html_()


def test_markup_in_names_is_text() -> None:
    result = rj.jacobian_bounds(NET, BALL)
    marked = replace(result, provenance=replace(result.provenance, method="<script>alert(1)</script>"))
    assert "<script" not in marked._repr_html_()


def test_a_dataframe_has_the_rows() -> None:
    pandas = pytest.importorskip("pandas")
    result = rj.jacobian_bounds(NET, BALL)
    frame = result.to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["upper"].tolist() == result.upper.flatten().tolist()
    assert list(frame.columns) == ["sample", "axis_1", "axis_2", "lower", "upper"]


def test_without_pandas_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(rj.MissingDependency, match="pip install pandas"):
        rj.jacobian_bounds(NET, BALL).to_dataframe()
