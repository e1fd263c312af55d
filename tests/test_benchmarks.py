"""The benchmarks: the opponent computes the same bounds, and a row says all that it should."""

from __future__ import annotations

import io
import json
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

import recurjac as rj
from benchmarks import textbook
from benchmarks.cases import AbstractOpponent, Case, Generated, radius_with, unstable
from benchmarks.measure import Effort, counted
from benchmarks.plot import draw
from benchmarks.report import Row, growth, read_rows, report, show, show_comparison, show_growth, write
from benchmarks.run import measure
from benchmarks.tables import FAST, RIGOROUS, TEXTBOOK
from recurjac.activations import ReLU
from recurjac.jacobian import Gradients
from recurjac.network import chain
from recurjac.norms import JacobianNorm, SignSum

PRE = rj.Alone(rj.Crown())
SIZES = (6, 12, 12, 12, 3)
CLOSE = 1e-9


def layers() -> list[tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(0)
    return [
        (torch.randn(b, a, generator=g, dtype=torch.float64) * (2 / a) ** 0.5, torch.randn(b, generator=g).double() / 5)
        for a, b in pairwise(SIZES)
    ]


@pytest.mark.parametrize("radius", [0.01, 0.1, 1.0])
def test_the_textbook_computes_the_same_bounds(radius: float) -> None:
    """To 1e-9 of the largest entry, for pre-activations, the Jacobian's entries and the l∞ constant."""
    net = chain(layers(), [ReLU()] * (len(SIZES) - 2))
    x = torch.rand(1, SIZES[0], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ball = rj.LpBall(x, radius)
    dense = textbook.Dense(tuple(W.numpy() for W, _ in layers()), tuple(b.numpy() for _, b in layers()))
    pre = textbook.preactivations(dense, x[0].numpy(), radius)
    problem = rj.Problem(net, ball, pre=PRE, arithmetic=rj.Fast())
    prefix = problem.preactivations()
    for k, z in enumerate(pre, 1):
        same(prefix.pre(k), z)
    assert any(bool(prefix.unstable(k, prefix.pre(k)).any()) for k in range(1, net.depth))
    found, _ = textbook.gradients(dense, pre)
    bounds = rj.jacobian_bounds(net, ball, method=rj.RecurJac(), pre=PRE, arithmetic=rj.Fast())
    same(bounds, found)
    norm = JacobianNorm(rj.RecurJac(), SignSum()).norm(Gradients(problem), np.inf, np.inf)
    assert textbook.constant(dense, x[0].numpy(), radius) == pytest.approx(float(norm), rel=CLOSE)


def same(ours: rj.JacobianBounds | rj.Interval, theirs: textbook.Bounds) -> None:
    for a, b in ((ours.lower, theirs.lower), (ours.upper, theirs.upper)):
        np.testing.assert_allclose(a[0].numpy(), b, rtol=CLOSE, atol=CLOSE * float(a.abs().max()))


CASE = Case("growth", "depth", 3, Generated(6, 12, 3, 2), 0.1, FAST)


@pytest.mark.parametrize("opponent", [FAST, RIGOROUS, TEXTBOOK], ids=lambda o: ", ".join(o.titles))
def test_a_row_says_all_and_is_read_as_written(opponent: AbstractOpponent, tmp_path: Path) -> None:
    row = measure(replace(CASE, opponent=opponent), Effort(2, 2, 0.0))
    assert row.network == "6-2×12-2"
    assert (row.outputs, row.batch, row.threads, row.neurons) == (2, 1, 1, 24)
    assert 0 < row.best_seconds <= row.seconds
    assert row.units == pytest.approx(row.seconds / row.unit_seconds)
    assert row.floor_seconds == pytest.approx(row.multiply_adds / 800**3 * row.unit_seconds)
    assert row.over_floor == pytest.approx(row.seconds / row.floor_seconds)
    run = report([row], quick=True, threads=1, numpy_unit_seconds=1.0)
    write(tmp_path / "new" / "run.json", run)
    assert read_rows(tmp_path / "new" / "run.json") == [row]
    record = json.loads((tmp_path / "new" / "run.json").read_text(encoding="utf-8"))
    assert {"recurjac", "torch", "numpy", "commit", "threads", "unit_seconds", "rows"} <= record.keys()
    assert record["rows"][0].keys() == {f.name for f in fields(Row)}


def test_products_with_vectors_are_counted() -> None:
    matrix, vector = torch.ones(3, 5), torch.ones(5)
    work = counted(lambda: (matrix @ matrix.mT, matrix @ vector, vector @ vector))
    assert work.multiply_adds == 45 + 15 + 5
    assert work.calls is not None
    assert work.calls >= 3


def test_products_are_counted_as_torch_counts_them() -> None:
    job = replace(CASE, opponent=RIGOROUS).job()
    vectors = {torch.ops.aten.mv: lambda a, *_, **__: 2 * a[0] * a[1], torch.ops.aten.dot: lambda a, *_, **__: 2 * a[0]}
    with FlopCounterMode(display=False, custom_mapping=vectors) as counter:
        job()
    assert counted(job).multiply_adds == counter.get_total_flops() / 2


def test_the_exponent_is_that_of_a_power() -> None:
    row = measure(CASE, Effort(2, 2, 0.0))
    curve = [replace(row, value=float(n), units=3.0 * n**1.5) for n in (1, 2, 7)]
    (fit,) = growth(curve)
    assert [fit.exponent, fit.last] == pytest.approx([1.5, 1.5])
    assert fit.points == 3


def test_the_radius_leaves_so_many_neurons_unstable() -> None:
    source = Generated(20, 40, 4, 3)
    region = rj.LpBall(source.centre(1), radius_with(source, 20))
    assert abs(unstable(source.network(), region) - 20) <= 1


def test_a_run_is_printed_compared_and_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    row = measure(CASE, Effort(2, 2, 0.0))
    rows = [row, replace(row, value=6.0, units=2 * row.units), replace(row, table="wide", peak_mib=9.0, before_mib=5.0)]
    console = Console(file=io.StringIO(), width=120, record=True)
    show(console, rows[:2])
    show(console, rows[2:])
    show_growth(console, growth(rows))
    show_comparison(console, rows, [replace(row, units=row.units / 2)])
    text = console.export_text()
    assert "Geometric mean of units, new / old: 2.000 over 1 rows." in text
    assert "2 of 3 rows are not in the old run." in text
    draw(tmp_path / "run.png", report(rows, quick=True, threads=1, numpy_unit_seconds=1.0))
    assert (tmp_path / "run.png").stat().st_size > 10_000
