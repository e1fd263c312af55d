"""An assertion that no setting of Python leaves out."""

from __future__ import annotations

from torch import Tensor


def require(condition: bool | Tensor, otherwise: str) -> None:
    """Raise AssertionError with a sentence unless the condition is true."""
    if not bool(condition):
        raise AssertionError(otherwise)
