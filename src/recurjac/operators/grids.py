"""Boxes of positions in grids (channels, *spatial), and tables from one grid to a part of another."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from recurjac._types import Shape
from recurjac.operators.gather import Gather


def box_around(index: Tensor, spatial: Shape) -> tuple[list[int], list[int], Tensor]:
    """The first and last coordinates of flat positions in (channels, *spatial), and their positions in that box."""
    channel, rest = index // prod(spatial), index % prod(spatial)
    coordinates = torch.unravel_index(rest, spatial)
    first, last = [int(c.min()) for c in coordinates], [int(c.max()) for c in coordinates]
    place = channel
    for c, a, b in zip(coordinates, first, last, strict=True):
        place = place * (b - a + 1) + (c - a)
    return first, last, place


def cropped(
    channels: int, spatial: Shape, start: Sequence[int], stop: Sequence[int], device: torch.device
) -> tuple[Gather, Tensor]:
    """The operator from the entries read to the box from `start` to `stop`, and the entries read.

    The box is 0 outside the input.
    """
    ranges = [torch.arange(a, b, device=device) for a, b in zip(start, stop, strict=True)]
    inside = [(r >= 0) & (r < n) for r, n in zip(ranges, spatial, strict=True)]
    flat = torch.arange(channels, device=device)
    known = torch.ones(channels, dtype=torch.bool, device=device)
    for r, ok, n in zip(ranges, inside, spatial, strict=True):
        flat = flat.unsqueeze(-1) * n + r.clamp(0, n - 1)
        known = known.unsqueeze(-1) & ok
    read = flat[known]  # ascending, because the box is in row-major order
    table = torch.full_like(flat, -1)
    table[known] = torch.arange(len(read), device=device)
    return Gather(table.reshape(1, -1), (len(read),), tuple(flat.shape)), read


def moved_within(
    place: Tensor, first: Sequence[int], last: Sequence[int], shift: Sequence[int], channels: int, size: Shape
) -> Tensor:
    """A table of positions in (channels, *size) for the positions `place` in a box, moved by `shift`; -1 outside."""
    box = tuple(b - a + 1 for a, b in zip(first, last, strict=True))
    channel, *coordinates = torch.unravel_index(place, (channels, *box))
    known = torch.ones_like(place, dtype=torch.bool)
    flat = channel
    for c, s, n in zip(coordinates, shift, size, strict=True):
        known &= (c + s >= 0) & (c + s < n)
        flat = flat * n + (c + s).clamp(0, n - 1)
    return torch.where(known, flat, -1).unsqueeze(0)
