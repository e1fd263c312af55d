"""How numbers, rows and regions are written in a certificate (docs/certificates.md)."""

from __future__ import annotations

import hashlib
import json
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor

from recurjac.arithmetic import Rigorous
from recurjac.errors import InvalidRequest
from recurjac.region import BoundBall, BoundBox, BoundRegion

Json = dict[str, Any]
"""An object of a certificate."""


def number(value: float) -> str:
    """A number in hexadecimal notation.  Raises ValueError for NaN."""
    if value != value:
        raise ValueError("NaN is never part of a certificate")
    return float(value).hex() if isfinite(value) else ("inf" if value > 0 else "-inf")


def numbers(tensor: Tensor) -> list[str]:
    """All entries in C order."""
    return [number(v) for v in tensor.detach().double().flatten().tolist()]


def row(combination: Tensor) -> list[list[Any]]:
    """A linear function of the outputs, by its coefficients."""
    flat = combination.flatten().tolist()
    return [[i, number(c)] for i, c in enumerate(flat) if c != 0]


def norm(p: float) -> str:
    """The name of a norm."""
    return "inf" if p == inf else str(int(p))


def region(bound: BoundRegion) -> Json:
    """A region of one sample.  Raises InvalidRequest for regions that certificates do not describe."""
    if bool(bound.unbounded.any()):
        raise InvalidRequest("there are no certificates for unbounded regions; give a finite radius or a clip box")
    if isinstance(bound, BoundBall):
        return _ball(bound.x, float(bound.radius), bound.p, bound.low, bound.high)
    if not isinstance(bound, BoundBox):
        raise InvalidRequest(f"there are no certificates for {bound!r}; give an LpBall or a Box")
    radii = bound.radius.flatten()
    if bool((radii == radii[0]).all()) and isfinite(float(radii[0])):
        return _ball(bound.x, float(radii[0]), inf, bound.low, bound.high)
    box = bound.box(Rigorous())
    return {"kind": "box", "lower": numbers(box.lower), "upper": numbers(box.upper)}


def _ball(x: Tensor, radius: float, p: float, low: Tensor, high: Tensor) -> Json:
    open_ended = bool(low.isinf().all() and high.isinf().all())
    clip = None if open_ended else {"lower": numbers(low), "upper": numbers(high)}
    return {"kind": "ball", "norm": norm(p), "center": numbers(x), "radius": number(radius), "clip": clip}


def digest(data: Json) -> str:
    """The SHA-256 digest of JSON data with sorted keys and without spaces."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def unclipped(bound: BoundRegion) -> BoundRegion:
    """An l1 or l2 ball without its clip box, over which the checker's bounds are at least as tight; others as they are.

    The checker takes the lesser of the maxima over the ball and over the box, not that over their intersection.
    """
    if not isinstance(bound, BoundBall):
        return bound
    ends = torch.full_like(bound.x, inf)
    return BoundBall(bound.x, bound.radius, bound.p, -ends, ends)
