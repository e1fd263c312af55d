"""One page of HTML of results: tables, figures and panels, in a file that needs no other."""

from __future__ import annotations

from recurjac.report.page import render
from recurjac.report.sources import check_kept, read_source

__all__ = ["check_kept", "read_source", "render"]
