"""Which part of a graph is the network: an output by its name, or everything up to a node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import final

from recurjac.errors import InvalidRequest, UnsupportedLayer


@final
@dataclass(frozen=True)
class Wanted:
    """The output called `output_name`, or the first result of the node `cut_at`, or the only output.

    Raises InvalidRequest if both are given.
    """

    output_name: str | None
    cut_at: str | None

    def __post_init__(self) -> None:
        if self.output_name is not None and self.cut_at is not None:
            raise InvalidRequest("output_name and cut_at are two ends of the network; give one of them")

    @property
    def anything(self) -> bool:
        """Whether a part is asked for."""
        return self.output_name is not None or self.cut_at is not None

    @classmethod
    def all(cls) -> Wanted:
        """The only output."""
        return cls(None, None)

    def refused_by(self, what: str) -> None:
        """Raise InvalidRequest if a part is asked for of something that has no graph."""
        if self.anything:
            raise InvalidRequest(f"{what} has one output and no nodes; leave output_name and cut_at out")

    def output(self, names: list[str], whose: str, likely: str | None = None) -> int:
        """The place of the output among all.  Raises InvalidRequest if there is none, UnsupportedLayer if several.

        likely: the name that the message for several suggests.
        """
        if self.output_name is not None:
            if self.output_name not in names:
                raise InvalidRequest(f"{whose} has no output {self.output_name!r}; {_listed('output', names)}")
            return names.index(self.output_name)
        if len(names) != 1:
            shown = ", ".join(repr(n) for n in names[:5]) or "none"
            pick = f"; choose one: {option('output-name', likely or names[0])}" if names else ""
            raise UnsupportedLayer(f"{whose} has {len(names)} outputs ({shown}){pick}")
        return 0

    def unknown(self, names: Sequence[str]) -> InvalidRequest:
        """The error for a node that does not exist."""
        near = get_close_matches(str(self.cut_at), names, 3, 0.4) or list(names)[-3:]
        return InvalidRequest(f"there is no node {self.cut_at!r} to cut at; {_listed('node', near)}")


def _listed(what: str, names: list[str]) -> str:
    shown = ", ".join(repr(n) for n in names[:6])
    return f"it has the {what}s {shown}" if shown else f"it has no {what}s"


def option(name: str, value: str) -> str:
    """An option with its value, on the command line and in Python."""
    return f"--{name} {value} (in Python, {name.replace('-', '_')}={value!r})"
