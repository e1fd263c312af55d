"""Figures that notebooks show by themselves.  It needs matplotlib, so it is imported where a figure is made."""

from __future__ import annotations

from io import BytesIO
from typing import final

from matplotlib.figure import Figure


@final
class ShownFigure(Figure):
    """A figure that a notebook shows, also where `matplotlib.pyplot`, which tells notebooks how, is not imported."""

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()
