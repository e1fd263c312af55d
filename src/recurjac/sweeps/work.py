"""What a sweep does: independent tasks with stable names, each of which gives rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar, final

Scalar: TypeAlias = str | int | float | bool | None
"""The content of one cell of a result; never NaN."""
Row: TypeAlias = dict[str, Scalar]
"""One flat result, by column name."""

T = TypeVar("T")


@final
@dataclass(frozen=True)
class Done:
    """A finished task: its rows, and the seconds that it took."""

    rows: list[Row]
    seconds: float


class AbstractWork(ABC, Generic[T]):
    """Independent tasks, each of which gives rows.

    The work is sent to other processes, so its content must be small and picklable.
    """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything that the rows depend on, as JSON: rows with different identities do not belong together."""

    @abstractmethod
    def tasks(self) -> Mapping[str, T]:
        """The tasks by stable names, in the order of the results."""

    @abstractmethod
    def worker(self) -> Callable[[T], list[Row]]:
        """A function that does tasks; it may cache what several tasks need, such as networks."""
