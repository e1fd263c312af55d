"""Digests of frozen objects that hold tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


def digest(value: Any) -> str:
    """The SHA-256 digest of a dataclass, sequence or tensor: the names of classes, and every number's bytes."""
    total = hashlib.sha256()
    for part in _parts(value):
        total.update(part)
    return total.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield value.detach().cpu().numpy().tobytes()
    elif is_dataclass(value):
        yield type(value).__name__.encode()
        for f in fields(value):
            yield from _parts(getattr(value, f.name))
    elif isinstance(value, list | tuple):
        yield f"({len(value)}".encode()
        for v in value:
            yield from _parts(v)
    else:
        yield f"{value!r};".encode()
