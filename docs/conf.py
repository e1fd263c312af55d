"""How Sphinx builds these pages (`make docs`).  Nothing is fetched, neither in building nor by the reader's browser."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_extensions"), str(HERE.parent / "src")]

from recurjac.version import __version__  # noqa: E402  # (found by the line above)

project = "recurjac"
author = "The recurjac developers"
project_copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "mathml", "docstrings", "command_help"]
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "attrs_inline"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore_regex = [
    # other projects' objects: their inventories would have to be fetched
    ("py:.*", r"(torch|numpy|np|nn|pathlib|collections|typing|fractions|jaxtyping|argparse|torch\.nn)\..*"),
    ("py:.*", r"Tensor|Path|Mapping|Sequence|Iterable|Generator|Any|ClassVar|inf|optional"),
    # parts of signatures that are no pages of this reference
    ("py:.*", r"recurjac\..*"),
    ("py:.*", r"Shape|Numbers|Source|ActivationLike|LinearMap|Edge|Constant|Stage|Watched|MoveTensor|_.*"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_inherit_docstrings = False  # what a method of a base class does is said there
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"recurjac {release}"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["recurjac.css"]
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
templates_path: list[str] = []
html_theme_options: dict[str, object] = {"footer_icons": []}
