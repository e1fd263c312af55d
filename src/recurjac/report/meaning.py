"""What numbers hold for that cover rounding: the network in real arithmetic, or programs in floating point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_DEPLOYED = "deployed "


def meaning(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the certified numbers of these rows hold for, from the name of their arithmetic in `provenance`."""
    named = {_arithmetic(row) for row in rows}
    programs = sorted(name.removeprefix(_DEPLOYED) for name in named if name.startswith(_DEPLOYED))
    if not programs:
        return "in real arithmetic"
    reals = "in real arithmetic and " if len(named) > len(programs) else ""
    return f"{reals}for programs in {' and '.join(programs)}, in any order of summation"


def _arithmetic(row: Mapping[str, Any]) -> str:
    made = row.get("provenance")
    return str(made.get("arithmetic", "")) if isinstance(made, Mapping) else ""
