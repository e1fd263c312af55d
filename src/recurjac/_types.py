"""Aliases of types that the whole library shares."""

from __future__ import annotations

Shape = tuple[int, ...]
"""The sizes of a tensor's dimensions."""
