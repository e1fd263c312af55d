"""HTML: anything that is not `Markup` is escaped, so that text from a file always remains text."""

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
    """A fragment of HTML whose elements are all closed."""

    text: str


Content: TypeAlias = Markup | str
"""The content of an element: HTML, or text, which is escaped."""


def element(name: str, /, *content: Content, **attributes: str) -> Markup:
    """The element `name`; in attributes, a final _ is dropped (`class_`) and other _ become - (`aria_label`)."""
    opening = "".join([f"<{name}", *(f' {_name(k)}="{_text(v)}"' for k, v in attributes.items()), ">"])
    if name in _VOID:
        return Markup(opening)
    return Markup(f"{opening}{joined(content).text}</{name}>")


def joined(content: Iterable[Content]) -> Markup:
    """The concatenation of the pieces."""
    return Markup("".join(c.text if isinstance(c, Markup) else _text(c) for c in content))


def folded(title: str, *content: Content) -> Markup:
    """Content that is shown by a click on its title."""
    return element("details", element("summary", title), *content)


def _name(attribute: str) -> str:
    return attribute.rstrip("_").replace("_", "-")


def _text(text: str) -> str:
    """The text, escaped; characters that HTML or UTF-8 cannot represent become a replacement character."""
    whole = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates, as in file names that are not UTF-8
    return html.escape(_CONTROL.sub("\ufffd", whole))
