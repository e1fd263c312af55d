"""Reading the folder of an experiment: manifest.json, .csv and .md tables, figures, panels.npz."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recurjac.errors import UnreadableFile
from recurjac.loading.decimals import read_text
from recurjac.report import markdown, panels
from recurjac.report.markup import Markup, element, folded
from recurjac.report.numbers import show_lower, show_upper
from recurjac.report.pixels import data_uri
from recurjac.report.runs import flat, read_json
from recurjac.report.section import Rounding, Section
from recurjac.report.tables import Table, facts

MANIFEST = "manifest.json"
_PANELS = "panels.npz"
_TIMES = "times.csv"
_FIGURES = {".svg": ("image/svg+xml", (b"<?xml", b"<svg")), ".png": ("image/png", (b"\x89PNG\r\n\x1a\n",))}
"""The media type of a figure and the first bytes of its file, by suffix."""
_WHEN = ("when", "date", "time", "started", "created", "finished")
_DIGITS = 10
"""The number of characters up to which a number in a .csv file is shown unchanged."""


def read_experiment(folder: Path) -> Section:
    """The section of a folder.  Raises UnreadableFile if the manifest is missing or a file is not what its name says.

    Shows the manifest, all .md and .csv files, all figures (.svg before a .png of the same name) and panels.npz.
    """
    manifest = _manifest(folder)
    names = sorted(p for p in folder.iterdir() if p.is_file())
    tables = {p: _table(p) for p in names if p.suffix == ".csv"}
    times = tables.pop(folder / _TIMES, None)
    remarks = [markdown.convert(read_text(p), p.stem) for p in names if p.suffix == ".md"]
    parts = [*remarks, *_figures(names)]
    parts += [folded("All rows", t.markup()) if remarks else t.markup() for t in tables.values()]
    if folder / _PANELS in names:
        maps = panels.markup(panels.read_panels(folder / _PANELS))
        parts += [element("h3", "Signs and widths of gradient bounds"), maps]
    if times is not None:
        parts.append(folded("Times", times.markup()))
    parts.append(folded("Manifest", facts(flat(manifest))))
    return Section(
        title=_stated(manifest, ("name", "experiment")) or folder.resolve().name, source=str(folder), network="",
        digest="", version=_version(manifest), when=_stated(manifest, _WHEN),
        seconds=_stated(manifest, ("seconds",)), rounding=_rounding(manifest, list(tables.values())),
        parts=tuple(parts),
    )  # fmt: skip


def _manifest(folder: Path) -> Mapping[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise UnreadableFile(
            f"{folder} holds no {MANIFEST}; give the folder of one experiment, or a file that --json wrote"
        )
    manifest = read_json(path)
    if not isinstance(manifest, dict):
        raise UnreadableFile(f"{path} is not a JSON object; give the unchanged folder of one experiment")
    return manifest


def _stated(manifest: Mapping[str, Any], keys: Sequence[str]) -> str:
    """The first of these that the manifest states as a string or a number, or ""."""
    values = (manifest.get(key) for key in keys)
    return next((str(v) for v in values if isinstance(v, str | int | float) and not isinstance(v, bool)), "")


def _version(manifest: Mapping[str, Any]) -> str:
    versions = manifest.get("versions")
    return _stated(versions if isinstance(versions, dict) else manifest, ("recurjac",))


def _rounding(manifest: Mapping[str, Any], tables: Sequence[Table]) -> Rounding:
    """The statement of the manifest or, if there is none, of the columns `rigorous` in its tables."""
    if isinstance(manifest.get("rigorous"), bool):
        reason = _stated(manifest, ("reason",))
        return Rounding(manifest["rigorous"], (reason,) if reason else ())
    said = [v.lower() for t in tables for v in _column(t, "rigorous")]
    if not said or not set(said) <= {"true", "1", "false", "0"}:
        return Rounding(None)
    reasons = dict.fromkeys(v for t in tables for v in _column(t, "reason") if v)
    return Rounding(not {"false", "0"} & set(said), tuple(reasons))


def _column(table: Table, name: str) -> list[str]:
    return [row[table.columns.index(name)] for row in table.rows] if name in table.columns else []


def _table(path: Path) -> Table:
    """The table in a .csv file with a header line."""
    try:
        rows = [r for r in csv.reader(io.StringIO(read_text(path), newline=""), strict=True) if r]
    except csv.Error as error:
        raise UnreadableFile(f"{path} is not a readable .csv file: {error}; write it again") from error
    if not rows:
        raise UnreadableFile(f"{path} is empty; write it again, or leave it out")
    names, body = rows[0], rows[1:]
    for i, row in enumerate(body, 2):
        if len(row) != len(names):
            raise UnreadableFile(f"{path}: row {i} has {len(row)} cells, the first has {len(names)}; make them agree")
    numeric = tuple(bool(body) and all(_is_number(r[i]) or not r[i] for r in body) for i in range(len(names)))
    shown = [tuple(_shown(name, cell) for name, cell in zip(names, row, strict=True)) for row in body]
    return Table(path.name, tuple(names), numeric, tuple(shown))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _shown(name: str, cell: str) -> str:
    """A long number in six digits, if its column's name says which way to round; anything else unchanged."""
    words = set(name.lower().replace("-", "_").split("_"))
    if len(cell) <= _DIGITS or not _is_number(cell) or float(cell) != float(cell):
        return cell
    if "upper" in words:
        return show_upper(float(cell))
    if "lower" in words:
        return show_lower(float(cell))
    return f"{float(cell):.2f}" if "seconds" in words else cell


def _figures(names: Sequence[Path]) -> list[Markup]:
    vector = {p.stem for p in names if p.suffix == ".svg"}
    files = [p for p in names if p.suffix in _FIGURES and not (p.suffix == ".png" and p.stem in vector)]
    return [_figure(p) for p in files]


def _figure(path: Path) -> Markup:
    """The file as a data URI; used as an image of a page, a picture runs no script and loads nothing."""
    kind, begins = _FIGURES[path.suffix]
    content = path.read_bytes()
    if not content.startswith(begins):
        raise UnreadableFile(f"{path} is not a {path.suffix} picture; write it again, or leave it out")
    image = element("img", src=data_uri(kind, content), alt=f"figure {path.stem}", class_="drawn")
    return element("figure", image, element("figcaption", f"{path.name}"))
