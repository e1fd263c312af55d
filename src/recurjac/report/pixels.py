"""Arrays of numbers as PNG images in data URIs."""

from __future__ import annotations

import base64
import struct
import zlib
from math import isqrt, prod
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]

RISES, FALLS, OPEN, ENDLESS = (230, 159, 0), (0, 114, 178), (216, 216, 216), (204, 121, 167)
"""Colours of signs and of unbounded widths, from Okabe and Ito's palette; they also differ in lightness."""
SCALE = ((0, 32, 77), (49, 68, 107), (102, 105, 112), (149, 143, 120), (202, 185, 105), (255, 234, 70))
"""Colours from the smallest to the largest number: dark blue to light yellow, safe for colour-blind readers."""


def tiles(values: Array) -> Array:
    """The numbers of one input as (channels, height, width): a row if they are not an image.

    A flat input is treated as a square image if its number of features is a square, 4 or more.
    """
    shape = values.shape
    if len(shape) == 2:
        return values[None]
    if len(shape) == 3:
        return values
    count = prod(shape)
    side = isqrt(count)
    if len(shape) == 1 and side > 1 and side * side == count:
        return values.reshape(1, side, side)
    return values.reshape(1, 1, count)


def picture(values: Array) -> Array:
    """Finite numbers (channels, height, width) as colours (height, width', 3); three channels are red, green and blue.

    Black to white is 0 to 1, or the smallest to the largest number if one is outside this range.
    """
    low, high = min(0.0, float(values.min())), max(1.0, float(values.max()))
    if (low, high) != (0.0, 1.0):
        low, high = float(values.min()), float(values.max())
    with np.errstate(over="ignore", invalid="ignore"):
        part = np.nan_to_num((values - low) / (high - low if high > low else 1.0), nan=0.5)
    grey = np.round(255 * np.clip(part, 0, 1)).astype(np.uint8)
    if len(grey) == 3:
        return np.ascontiguousarray(grey.transpose(1, 2, 0))
    return _beside(np.repeat(grey[..., None], 3, axis=3))


def signs(lower: Array, upper: Array) -> Array:
    """Colours (height, width', 3) that show where the numbers are proved positive, proved negative, or neither."""
    shown = np.empty((*lower.shape, 3), np.uint8)
    shown[:] = OPEN
    shown[lower > 0] = RISES
    shown[upper < 0] = FALLS
    return _beside(shown)


def widths(width: Array) -> Array:
    """Colours (height, width', 3) of numbers ≥ 0, scaled from the smallest to the largest finite one."""
    finite = np.isfinite(width)
    low, high = (width[finite].min(), width[finite].max()) if finite.any() else (0.0, 0.0)
    part = np.where(finite, width - low if high > low else 0.0, 0.0) / (high - low if high > low else 1.0)
    at = part * (len(SCALE) - 1)
    colours = [np.interp(at, np.arange(len(SCALE)), [c[i] for c in SCALE]) for i in range(3)]
    shown = np.round(np.stack(colours, axis=-1)).astype(np.uint8)
    shown[~finite] = ENDLESS
    return _beside(shown)


def _beside(colours: Array) -> Array:
    """Channels (channels, height, width, 3) side by side, separated by white lines."""
    line = np.full((colours.shape[1], 1, 3), 255, np.uint8)
    parts = [part for channel in colours for part in (line, channel)]
    return np.ascontiguousarray(np.concatenate(parts[1:], axis=1))


def data_uri(kind: str, content: bytes) -> str:
    """The content of a file as a data URI; kind: the media type, such as image/png."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def png(colours: Array) -> bytes:
    """A PNG file with 8-bit colours (height, width, 3)."""
    height, width, _ = colours.shape
    lines = b"".join(b"\0" + row.tobytes() for row in colours)  # each line begins with its filter type: none
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
