"""What the experiments do if nothing else is asked for."""

from __future__ import annotations

RADII = tuple(10 ** (-3 + 3 * i / 11) for i in range(12))
"""From 1e-3 to 1, evenly spaced on a logarithmic axis."""
BUDGET = 5e10
"""Multiply-adds of a bound: about ten seconds on one core."""
