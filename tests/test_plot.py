"""Plots: what is drawn is what was given, in the format asked for, or one sentence says why not."""

from __future__ import annotations

import sys
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from recurjac.errors import InvalidRequest, MissingDependency
from recurjac.plot.figures import Curve, check_format, log_log

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

X = (0.0, 0.01, 0.1, 1.0, inf)
CURVES = [
    Curve("upper", (1.0, 2.0, 30.0, inf, inf), dotted=True),
    Curve("attained", (1.0, 0.0, 2.5, 4.0, nan), dotted=False),
]
MAGIC = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml", ".pdf": b"%PDF", ".PNG": b"\x89PNG\r\n\x1a\n"}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are saved, kept."""
    figures: list[Any] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: Any, **kwargs: Any) -> None:
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


@pytest.mark.parametrize("suffix", MAGIC)
def test_the_suffix_chooses_the_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    check_format(path)
    log_log(path, X, CURVES, "radius", "constant")
    assert path.read_bytes().startswith(MAGIC[suffix])


def test_points_that_a_logarithm_shows_are_drawn(tmp_path: Path, drawn: list[Any]) -> None:
    log_log(tmp_path / "a.png", X, CURVES, "the radius", "the constant")
    (axes,) = drawn[0].axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("the radius", "the constant")
    upper, attained = axes.lines
    assert upper.get_xydata().tolist() == [[0.01, 2.0], [0.1, 30.0]]
    assert attained.get_xydata().tolist() == [[0.1, 2.5], [1.0, 4.0]]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["upper", "attained"]
    assert (upper.get_linestyle(), attained.get_linestyle()) == (":", "-")


def test_curves_are_told_apart_without_colour(tmp_path: Path, drawn: list[Any]) -> None:
    log_log(
        tmp_path / "a.png", (1.0, 2.0), [Curve(str(i), (i + 1.0, i + 2.0), dotted=False) for i in range(9)], "x", "y"
    )
    looks = [(line.get_marker(), line.get_color()) for line in drawn[0].axes[0].lines]
    assert len({marker for marker, _ in looks[:7]}) == 7
    assert len({colour for _, colour in looks[:7]}) == 7
    assert len(looks) == 9


def test_one_point_is_enough(tmp_path: Path, drawn: list[Any]) -> None:
    log_log(
        tmp_path / "a.png",
        (0.1, inf),
        [Curve("a", (2.0, 3.0), dotted=False), Curve("b", (0.0, inf), dotted=True)],
        "x",
        "y",
    )
    assert [len(line.get_xdata()) for line in drawn[0].axes[0].lines] == [1, 0]


def test_no_point_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(InvalidRequest, match=r"^no point is positive and finite.*; give other radii$"):
        log_log(path, (0.0, inf), [Curve("a", (1.0, 1.0), dotted=False)], "x", "y")
    assert not path.exists()


@pytest.mark.parametrize("name", ["a.xyz", "a", ".png", "a.png.", "a.txt"])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for draw in (check_format, lambda p: log_log(p, X, CURVES, "x", "y")):
        with pytest.raises(InvalidRequest) as caught:
            draw(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        assert ".svg" in str(caught.value)
    assert not path.exists()


def test_without_matplotlib_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for draw in (check_format, lambda p: log_log(p, X, CURVES, "x", "y")):
        with pytest.raises(MissingDependency, match="pip install matplotlib"):
            draw(tmp_path / "a.png")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        log_log(tmp_path / "none" / "a.png", X, CURVES, "x", "y")
