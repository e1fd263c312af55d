"""The command line: it reads options, loops over applications and reports; it contains no mathematics."""

from __future__ import annotations

from recurjac.cli.main import main

__all__ = ["main"]
