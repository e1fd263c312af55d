"""Panels: an input next to the signs and the widths of gradient bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import final

import numpy as np

from recurjac.errors import InvalidRequest, UnreadableFile
from recurjac.loading.arrays import open_npz
from recurjac.report.markup import Markup, element, joined
from recurjac.report.numbers import show, show_lower, show_upper
from recurjac.report.pixels import Array, data_uri, picture, png, signs, tiles, widths

SHOWN = 64
"""The largest number of panels that a page shows."""
_KEYS = ("x", "image", "lower", "upper", "title")


@final
@dataclass(frozen=True)
class Panel:
    """Bounds of the derivative of one output with respect to every entry of one input.

    image, lower, upper: float64, all in the shape of the input; image: None if the input is unknown.
    Raises InvalidRequest for invalid bounds and for an input that is not finite.
    """

    title: str
    image: Array | None
    lower: Array
    upper: Array

    def __post_init__(self) -> None:
        if not bool((self.lower <= self.upper).all()):  # NaN, too
            raise InvalidRequest(f"{self.title}: a lower bound is above its upper bound, or NaN; write them again")
        if self.image is not None and not bool(np.isfinite(self.image).all()):
            raise InvalidRequest(f"{self.title}: the input is not finite; write it again")

    def markup(self) -> Markup:
        """The pictures side by side, each with a description in words."""
        lower, upper = tiles(self.lower), tiles(self.upper)
        of = {1: "", 3: " for red, green, blue"}.get(len(lower), f" for {len(lower)} channels")
        rises, falls = int((lower > 0).sum()), int((upper < 0).sum())
        with np.errstate(over="ignore"):
            width = np.subtract(upper, lower, where=lower < upper, out=np.zeros_like(lower))
        parts = [
            self._map(f"signs{of}: {rises} rise, {falls} fall, {lower.size - rises - falls} open", signs(lower, upper)),
            self._map(f"widths{of}: {_range(width)}", widths(width)),
        ]
        if self.image is not None:
            low, high = float(self.image.min()), float(self.image.max())
            parts.insert(0, self._map(f"input: {show(low)} to {show(high)}", picture(tiles(self.image))))
        return element("figure", element("figcaption", self.title), element("div", *parts, class_="maps"),
                       class_="panel")  # fmt: skip

    def _map(self, words: str, colours: Array) -> Markup:
        height, width, _ = colours.shape
        shape = "strip" if height == 1 else "wide" if width > 2 * height else "map"
        alt = f"{self.title}, {words}"
        image = element("img", src=data_uri("image/png", png(colours)), alt=alt, width=str(width), height=str(height))
        return element("div", image, element("p", words), class_=shape)


def _range(width: Array) -> str:
    finite = width[np.isfinite(width)]
    endless = f"{width.size - finite.size} unbounded" if finite.size < width.size else ""
    span = f"{show_lower(float(finite.min()))} to {show_upper(float(finite.max()))}" if finite.size else ""
    return ", ".join(text for text in (span, endless) if text)


def markup(panels: Sequence[Panel]) -> Markup:
    """The first `SHOWN` panels below their legend."""
    keys = [
        ("rises", "proved to rise with this entry"), ("falls", "proved to fall"), ("unsure", "sign not proved"),
        ("scale", "width of the bounds, from the panel's smallest to its largest"),
    ]  # fmt: skip
    if not all(np.isfinite(ends).all() for p in panels[:SHOWN] for ends in (p.lower, p.upper)):
        keys.append(("endless", "unbounded width"))
    legend = [element("li", element("span", class_=f"swatch {look}", aria_hidden="true"), text) for look, text in keys]
    grid = element("div", *(p.markup() for p in panels[:SHOWN]), class_="panels")
    parts = [element("ul", *legend, class_="legend"), grid]
    if len(panels) > SHOWN:
        parts.append(element("p", f"The first {SHOWN} panels are shown; there are {len(panels) - SHOWN} more."))
    return joined(parts)


def read_panels(path: Path) -> tuple[Panel, ...]:
    """The panels in a .npz file: image, lower, upper (n, *input) and title (n,), or what `jacobian --output` writes.

    Raises UnreadableFile for other files, InvalidRequest for invalid bounds.
    """
    arrays = _arrays(path)
    if "image" in arrays:
        image, lower, upper = (_numbers(path, arrays, key) for key in ("image", "lower", "upper"))
        titles = _titles(path, arrays, len(image) if image.ndim else 0)
        shapes = (lower.shape, upper.shape)
        if image.ndim < 2 or shapes != (image.shape, image.shape) or image.size == 0:
            raise UnreadableFile(f"{path}: image has shape {image.shape}, lower and upper have {shapes}; all three "
                                 "must be (panels, *input)")  # fmt: skip
        return tuple(Panel(*p) for p in zip(titles, image, lower, upper, strict=True))
    x, lower, upper = (_numbers(path, arrays, key) for key in ("x", "lower", "upper"))
    outputs = lower.shape[1 : max(1, lower.ndim - x.ndim + 1)]
    fits = x.ndim > 1 and lower.shape == upper.shape == (len(x), *outputs, *x.shape[1:])
    if not fits or lower.size == 0:
        raise UnreadableFile(
            f"{path}: x has shape {x.shape}, lower {lower.shape} and upper {upper.shape}; they must be "
            "(samples, *input) and (samples, *outputs, *input)"
        )
    flat = [a.reshape(len(x), prod(outputs), *x.shape[1:]) for a in (lower, upper)]
    return tuple(
        Panel(f"sample {i}, output {k}" if outputs else f"sample {i}", x[i], flat[0][i, k], flat[1][i, k])
        for i in range(len(x))
        for k in range(prod(outputs))
    )


def _arrays(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file:
            alone = file.read(6) == b"\x93NUMPY"
        if alone:
            raise UnreadableFile(f"{path} holds a single array; give a .npz file with x (or image), lower and upper")
        with open_npz(path) as archive:
            return {key: archive[key] for key in _KEYS if key in archive.keys}
    except UnreadableFile:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise UnreadableFile(f"{path} is not a readable .npz file: {reason}; save the arrays again") from error


def _numbers(path: Path, arrays: dict[str, Array], key: str) -> Array:
    if key not in arrays:
        raise UnreadableFile(
            f"{path} holds no array {key!r}; give the file that `recurjac jacobian --output` writes (x, lower, upper), "
            "or image, lower and upper"
        )
    array = arrays[key]
    if array.dtype.kind not in "biuf":
        raise UnreadableFile(f"{path}: {key} is of type {array.dtype}; save real numbers")
    return array.astype(np.float64)


def _titles(path: Path, arrays: dict[str, Array], count: int) -> list[str]:
    if "title" not in arrays:
        return [f"panel {i}" for i in range(count)]
    titles = arrays["title"]
    if titles.dtype.kind != "U" or titles.shape != (count,):
        raise UnreadableFile(
            f"{path}: title is of type {titles.dtype} and shape {titles.shape}; save {count} strings, one per panel"
        )
    return [str(t) for t in titles]
