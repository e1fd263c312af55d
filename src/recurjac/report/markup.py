"""HTML: what is no `Markup` yet is escaped, so that no text from a file can be anything but text."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias, final

_VOID = frozenset({"img", "meta", "link", "br"})
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@final
@dataclass(frozen=True)
class Markup:
    """A piece of HTML whose elements are all closed."""

    text: str


Content: TypeAlias = Markup | str
"""What an element holds: HTML, or text, which is escaped."""


def element(name: str, /, *content: Content, **attributes: str) -> Markup:
    """The element `name`; attributes that Python cannot spell end in _ (`class_`) or have _ for - (`aria_label`)."""
    opening = "".join([f"<{name}", *(f' {_name(k)}="{_text(v)}"' for k, v in attributes.items()), ">"])
    if name in _VOID:
        return Markup(opening)
    return Markup(f"{opening}{joined(content).text}</{name}>")


def joined(content: Iterable[Content]) -> Markup:
    """One piece after the other."""
    return Markup("".join(c.text if isinstance(c, Markup) else _text(c) for c in content))


def folded(title: str, *content: Content) -> Markup:
    """Content that a click on its title shows."""
    return element("details", element("summary", title), *content)


def _name(attribute: str) -> str:
    return attribute.rstrip("_").replace("_", "-")


def _text(text: str) -> str:
    """The text, escaped; what HTML or UTF-8 cannot hold becomes a replacement character."""
    whole = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates, as of names that are no UTF-8
    return html.escape(_CONTROL.sub("\ufffd", whole))
