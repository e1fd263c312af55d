"""Formulas as MathML, made at build time: browsers show them without a script and without a network."""

from __future__ import annotations

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator

_BARS = re.compile(r"<mo[^>]*>(&#x0007C;|&#x02016;)</mo>")
"""Bars of magnitudes and norms, which without this would be spaced as operators and grow with what they hold."""


def mathml(formula: str, display: str) -> str:
    """A formula of LaTeX as MathML."""
    return _BARS.sub(r'<mo stretchy="false" lspace="0.06em" rspace="0.06em">\1</mo>', convert(formula, display=display))


def inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def block(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(f'<div class="formula">{mathml(node.astext(), "block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
