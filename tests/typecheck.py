"""The type checker that `conftest` puts around every function of the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintException

_F = TypeVar("_F", bound=Callable[..., Any])
_CHECKED = beartype(conf=BeartypeConf(is_pep484_tower=True))


def typecheck(function: _F) -> _F:
    """`function` with its annotations checked at every call; as it is where beartype cannot read one of them.

    `Self` is one: beartype understands it on whole classes only, and jaxtyping's hook decorates functions.
    """
    try:
        return _CHECKED(function)
    except BeartypeDecorHintException:
        return function
