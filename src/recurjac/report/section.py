"""The section of a page about one result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from recurjac.report.markup import Markup, element, joined
from recurjac.report.tables import facts


@final
@dataclass(frozen=True)
class Rounding:
    """Whether the certified numbers cover rounding: all of them, not all for these reasons, or not stated (None).

    meaning: what numbers that cover it hold for.
    """

    covered: bool | None
    reasons: tuple[str, ...] = ()
    meaning: str = "in real arithmetic"

    @property
    def short(self) -> str:
        return {True: "covered", False: "not covered", None: "not stated"}[self.covered]

    def markup(self) -> Markup:
        if self.covered:
            return _note(f"Rounding is covered: the certified numbers hold {self.meaning}.", "good")
        if self.covered is None:
            return _note("Whether rounding is covered is not stated.", "plain")
        because = f": {'; '.join(self.reasons)}" if self.reasons else ""
        return _note(f"Floating-point rounding is not covered{because}.", "bad")


@final
@dataclass(frozen=True)
class Section:
    """One result: its source, its subject and its content; "" stands for what the result does not state."""

    title: str
    source: str
    network: str
    digest: str
    version: str
    when: str
    seconds: str
    rounding: Rounding | None
    parts: tuple[Markup, ...]

    def markup(self, anchor: str) -> Markup:
        """The section as a foldable element, with its parts in order."""
        known = [
            ("file", self.source), ("network", self.network), ("SHA-256", self.digest),
            ("recurjac", self.version), ("when", self.when), ("seconds", self.seconds),
        ]  # fmt: skip
        body = [facts([(name, value) for name, value in known if value])]
        if self.rounding is not None:
            body.append(self.rounding.markup())
        title = element("summary", element("h2", self.title))
        return element("section", element("details", title, *body, *self.parts, open=""), id=anchor)


def _note(text: str, look: str) -> Markup:
    return element("p", text, class_=f"rounding {look}")


def notes(texts: Sequence[str]) -> Markup:
    """The notes without repetitions, in order."""
    return joined(element("p", text, class_="note") for text in dict.fromkeys(texts))
