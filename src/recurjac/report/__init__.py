"""Results as one self-contained HTML page with tables, figures and panels."""

from __future__ import annotations

from recurjac.report.page import render
from recurjac.report.sources import check_kept, read_source

__all__ = ["check_kept", "read_source", "render"]
