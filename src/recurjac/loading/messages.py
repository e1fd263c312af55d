"""Quoting what other software says, in one line."""

from __future__ import annotations


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
