"""An assertion that is checked with every setting of Python."""

from __future__ import annotations

from torch import Tensor


def require(condition: bool | Tensor, otherwise: str) -> None:
    """Raise AssertionError with the message `otherwise` unless the condition is true."""
    if not bool(condition):
        raise AssertionError(otherwise)
