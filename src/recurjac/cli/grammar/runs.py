"""What a command does, which is imported when it is done."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from importlib import import_module
from typing import final


@final
@dataclass(frozen=True)
class Runs:
    """The function of a module in `recurjac.cli` that carries out a command and returns its exit code."""

    module: str
    function: str

    def __call__(self, args: argparse.Namespace) -> int:
        return int(getattr(import_module(f"recurjac.cli.{self.module}"), self.function)(args))
