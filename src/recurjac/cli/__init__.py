"""The command line: it reads options, runs applications and reports results; it contains no mathematics."""

from __future__ import annotations

from recurjac.cli.main import main

__all__ = ["main"]
