"""Certificates: what was proved of a network, with numbers from which another program can check it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from recurjac.errors import InvalidRequest

FORMAT = "recurjac-certificate/1"
"""The format of the files; docs/certificates.md describes it."""


@final
@dataclass(frozen=True)
class Certificate:
    """What is proved for one sample of a result, as data for a file that `recurjac check` verifies.

    document: the JSON data.  claim: in words, what is claimed.  value: the number that the certificate proves; result:
    that of the result, which may be better, because it may come from methods whose proofs are not written down.
    """

    document: Mapping[str, Any]
    claim: str
    value: float
    result: float

    def __repr__(self) -> str:
        return f"Certificate({self.statement})"

    @property
    def statement(self) -> str:
        """The claim, the number that is proved by the certificate, and that of the result, in one line."""
        return f"{self.claim}: {self.value:.6g} by the certificate, {self.result:.6g} by the result"

    @property
    def proves(self) -> bool:
        """Whether something is claimed; not if nothing was proved, as for a radius of 0."""
        return bool(self.document["claims"])

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(self.document, allow_nan=False, separators=(",", ":"))

    def save(self, path: str | Path) -> None:
        """Write the file.  Raises OSError if that is not possible."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")


def write_certificates(path: Path, certificates: Sequence[Certificate]) -> None:
    """Write certificates into one file: one object, or a list of several.  Raises OSError if that is not possible."""
    texts = [c.to_json() for c in certificates]
    text = texts[0] if len(texts) == 1 else "[" + ",\n".join(texts) + "]"
    path.write_text(text + "\n", encoding="utf-8")


Maker = Callable[[Any, Path, float], Sequence[Certificate]]
"""A function that makes the certificates of a result: (result, ONNX file, seconds)."""

_MAKERS: dict[type, Maker] = {}
_M = TypeVar("_M", bound=Maker)


def certifies(kind: type) -> Callable[[_M], _M]:
    """A decorator that says which function makes the certificates of results of this class."""

    def record(maker: _M) -> _M:
        _MAKERS[kind] = maker
        return maker

    return record


def certificates_of(result: object, model: str | Path, seconds: float) -> tuple[Certificate, ...]:
    """The certificates of a result, one for each sample.

    Raises InvalidRequest for results of a kind that has none, and for anything but an ONNX file.
    """
    maker, path = _MAKERS.get(type(result)), Path(model)
    if maker is None:
        kinds = ", ".join(sorted(kind.__name__ for kind in _MAKERS))
        raise InvalidRequest(f"there are no certificates of {type(result).__name__}; there are of {kinds}")
    if path.suffix != ".onnx":
        raise InvalidRequest(
            f"{path} is not an .onnx file; the checker reads ONNX only: export the network (torch.onnx.export), read "
            "the file with load(…), and ask again"
        )
    if not seconds > 0:
        raise InvalidRequest(f"seconds={seconds!r} is no time; give a positive number")
    return tuple(maker(result, path, seconds))
