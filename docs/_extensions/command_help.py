"""`{command-help} NAME`: the help of a command, as argparse prints it."""

from __future__ import annotations

import argparse
import os
from unittest.mock import patch

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from recurjac.cli.grammar.parser import parser


def commands() -> dict[str, argparse.ArgumentParser]:
    """The parser of every command by its name; that of the whole command line by the empty one."""
    return _below("", parser())


def _below(name: str, top: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """A parser and those of its subcommands, `experiments table1` for one."""
    found = {name: top}
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, sub in action.choices.items():
                found |= _below(f"{name} {word}".strip(), sub)
    return found


def help_of(name: str) -> str:
    """What `recurjac NAME --help` prints on a terminal of 80 columns without colours."""
    with patch.dict(os.environ, {"COLUMNS": "80", "NO_COLOR": "1"}):
        return commands()[name].format_help().rstrip()


class CommandHelp(SphinxDirective):
    """A block of text; without an argument that of the whole command line."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0] if self.arguments else ""
        if name not in commands():
            raise self.error(f"there is no command {name!r}")
        body = help_of(name)
        return [nodes.literal_block(body, body, language="text")]


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
