"""What docs/design.md shows of the imports is what the code says, and the picture is legible."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest

from scripts.draw_imports import PAGE, PICTURE, Drawing, reduced, svg, width, with_table
from scripts.layout import LEVELS, level, room_imports

GRAPH = room_imports()
SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_and_the_table_are_those_of_the_code() -> None:
    """If not, run `make design`."""
    assert PICTURE.read_text(encoding="utf-8") == svg(GRAPH)
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_table(page, GRAPH)


def test_no_import_goes_up() -> None:
    assert [(a, b) for a, targets in GRAPH.items() for b in targets if level(b) > level(a)] == []


def test_the_picture_leaves_out_what_follows_and_nothing_else() -> None:
    def reached(graph: dict[str, list[str]], name: str) -> set[str]:
        return set(graph[name]).union(*(reached(graph, n) for n in graph[name]))

    every = {a: sorted(targets) for a, targets in GRAPH.items()}
    few = reduced(GRAPH)
    for a in every:
        assert reached(every, a) == reached(few, a)
        assert not any(b in reached(few, c) for b in few[a] for c in few[a])


def test_every_arrow_points_down_and_nothing_overlaps() -> None:
    drawing = Drawing.of(GRAPH)
    row = {n: i for i, names in enumerate(drawing.rows) for n in names}
    assert all(row[b] == row[a] + 1 for arrow in drawing.arrows for a, b in pairwise(arrow))
    for names in drawing.rows:
        for a, b in combinations(names, 2):
            assert abs(drawing.x[a] - drawing.x[b]) > (width(a) + width(b)) / 2
    picture = ElementTree.parse(PICTURE).getroot()  # noqa: S314  # our own file
    wide = float(picture.attrib["width"])
    assert all(0 <= float(box.attrib.get("x", 0)) < wide for box in picture.iter(f"{SVG}rect"))
    assert sum(1 for _ in picture.iter(f"{SVG}text")) == len(GRAPH) + len(LEVELS)


@pytest.mark.parametrize("number", range(len(LEVELS)))
def test_every_level_has_a_section_that_names_its_rooms(number: int) -> None:
    sections = re.split(r"^###? ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (section,) = [s for s in sections if s.startswith(f"Level {number}:")]
    for name in LEVELS[number]:
        assert f"`{name}`" in section or f"`{name.capitalize()}`" in section or name == "__main__", name
